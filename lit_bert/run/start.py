"""What a command starts from: a checkpoint, an exported folder, or a recipe."""

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.files import display_path
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.tokenizer import find_tokenizer
from lit_bert.run import run_dir
from lit_bert.run.help import COMMANDS
from lit_bert.run.recipe import default_recipe
from lit_bert.run.resume import exit_if_finished, find_checkpoint, stored_settings

_OPTIONS = ("ckpt_path", "input", "data.dataset", "model.pretrained", "trainer.default_root_dir", "data.max_length")


@dataclass(frozen=True)
class Start:
    """What a command starts from: a `checkpoint`, or for predictions an exported `folder`.

    `config` is a config file that the command line does not name: that of the checkpoint's run, or a recipe. A new run
    is called by `recipe`. `max_length` is that of the command line.
    """

    command: str
    checkpoint: Checkpoint | None = None
    folder: str | None = None
    config: Path | None = None
    recipe: str = "run"
    max_length: str | None = None

    def set_defaults(self, parser: LightningArgumentParser) -> None:
        """Let a parser take its defaults from the checkpoint and the config file."""
        if self.checkpoint:
            stored = stored_settings(self.checkpoint, self.command)
            known = set(parser.get_defaults(skip_validation=True).keys())
            parser.set_defaults({key: stored[key] for key in stored.keys() & known})
        if self.config:
            parser.default_config_files = [str(self.config)]

    def complete(self, settings: Namespace, dump: Callable[[], str]) -> None:
        """Fill in the checkpoint and its tokenizer; exit if the run is finished, by the YAML that `dump` returns."""
        settings.ckpt_path = str(self.checkpoint.path) if self.checkpoint else self.folder
        if self.checkpoint and self.command == "fit":
            exit_if_finished(self.checkpoint, yaml.safe_load(dump()))
        if self.checkpoint and self.checkpoint.tokenizer_files:
            settings.data.tokenizer = settings.ckpt_path

    def limit_length(self, settings: Namespace) -> None:
        """Let a config's `max_length` give way to what the encoder takes; one that was typed is refused later."""
        length, name = settings.data.get("max_length"), settings.data.get("tokenizer")
        if length and name and not self.max_length and (limit := find_tokenizer(name).model_max_length) < length:
            status("length", f"--data.max_length {length} of the config is lowered to the encoder's {limit} tokens")
            settings.data.max_length = limit

    def make_model(self, kind: type[LightningModule], *args: Any, **kwargs: Any) -> LightningModule:
        """Make a module; from a checkpoint with the encoder that it describes, so that no other one is fetched."""
        encoder = {"encoder_config": self.checkpoint.encoder_config} if self.checkpoint else {}
        return kind(*args, **kwargs, **encoder)


def find_start(words: Sequence[str]) -> Start:
    """Find what a command line starts from, before its options are parsed."""
    command = next((word for word in words if word in COMMANDS), "fit")
    if any(word in ("-h", "--help") or word.startswith("--help=") for word in words):
        return Start(command)
    typed, stored, configs = _first_look(words)
    given = stored | typed
    ckpt_path, source, dataset, pretrained, root, _ = (given.get(option) for option in _OPTIONS)
    start = Start(command, max_length=typed.get("data.max_length"))
    if command != "fit" and not ckpt_path and (source or not (configs or pretrained)):
        what = f"{command} --input {source}" if source else command
        raise UserError(f"{what}: give a checkpoint with --ckpt_path (best is that of the newest run in runs/)")
    if command == "predict" and source and Path(ckpt_path or "").is_dir():
        return replace(start, folder=ckpt_path, recipe="export")
    checkpoint = find_checkpoint(ckpt_path, command, Path(root or "runs"))
    run = run_dir.run_dir_of(checkpoint.path) if checkpoint else None
    if configs:
        return replace(start, checkpoint=checkpoint, recipe=Path(configs[-1]).stem)
    if checkpoint:
        config = run / run_dir.CONFIG if run and command == "fit" else None
        return replace(start, checkpoint=checkpoint, config=config)
    config, why = default_recipe(dataset, pretrained)
    status("recipe", f"{config.name}: {why}; choose with --config {display_path(config.parent)}/NAME.yaml", err=True)
    return replace(start, config=config, recipe=config.stem)


def _first_look(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return those of `_OPTIONS` that the command line sets, those that its config files set, and these files."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", action="append", default=[])
    for option in _OPTIONS:
        parser.add_argument(f"--{option}", nargs="?")
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--data.dataset.{split}", nargs="?", dest="data.dataset", action="append")
    found = vars(parser.parse_known_args([word for word in words if not word.startswith("--print_config")])[0])
    configs = found.pop("config")
    stored: dict[str, Any] = {}
    for config in configs:
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # the parser explains it
            content = yaml.safe_load(Path(config).read_text("utf-8"))
            stored |= {option: value for option in _OPTIONS if (value := _lookup(content, option)) is not None}
    return found, stored, configs


def _lookup(content: object, option: str) -> object:
    for name in option.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    return content
