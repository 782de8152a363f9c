"""What a command starts from: a checkpoint, an exported folder, or a recipe."""

from pathlib import Path
from typing import Any, NamedTuple

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.run.recipe import default_recipe
from lit_bert.run.resume import find_checkpoint, set_checkpoint_defaults


class Start(NamedTuple):
    """The checkpoint, the folder that was exported, and the name of the recipe, where there is one."""

    checkpoint: Checkpoint | None
    folder: str | None
    recipe: str


def find_start(command: str, settings: Any, configs: list[Any], parser: Any) -> Start:
    """Find what a command starts from, and make the settings that it brings the parser's defaults.

    Args:
        command: "fit", "validate", "test" or "predict".
        settings: What the command line says, on its own.
        configs: The config files that it names.
        parser: The command's.
    """
    is_folder = command == "predict" and settings.input is not None and Path(settings.ckpt_path or "").is_dir()
    pretrained_is_given = settings.model.pretrained != parser.get_defaults(skip_validation=True)["model.pretrained"]
    if command != "fit" and not settings.ckpt_path and (not (configs or pretrained_is_given) or settings.get("input")):
        what = f"{command} --input {settings.input}" if settings.get("input") else command
        advice = "best is that of the newest run in runs/"
        raise UserError(f"{what}: give a checkpoint with --ckpt_path ({advice})")
    if is_folder:
        return Start(None, settings.ckpt_path, "export")
    root = Path(settings.trainer.default_root_dir or "runs")
    checkpoint, config = find_checkpoint(settings.ckpt_path, command, root), None
    if checkpoint:
        config = set_checkpoint_defaults(parser, checkpoint)
    elif not configs:
        config, why = default_recipe(settings.data.dataset, settings.model.pretrained if pretrained_is_given else None)
        status("recipe", f"{config.name}: {why}; choose with --config configs/NAME.yaml", err=True)
    if config and not configs:
        parser.default_config_files = [str(config)]
    return Start(checkpoint, None, Path(str(configs[-1])).stem if configs else config.stem if config else "run")
