"""Which checkpoint a command starts from, and which settings that brings."""

import json
import warnings
from pathlib import Path
from typing import Any

import yaml

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.files import display_path
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.run import run_dir
from lit_bert.run.checkpoint_io import find_named_checkpoint, find_newest_checkpoint


def find_checkpoint(ckpt_path: str | None, subcommand: str, root: Path) -> Checkpoint | None:
    """Return the checkpoint that is named; the newest for "last", the best of its run for "best"; or that of a job.

    A SLURM job that runs again goes on from its own.

    If training is to go on from a `last.ckpt` that is damaged or gone, the newest whole one beside it is taken.

    Args:
        ckpt_path: What `--ckpt_path` says.
        subcommand: "fit", "validate", "test" or "predict".
        root: The folder of all runs.

    Raises:
        UserError: It cannot be read, or there is none to evaluate.
    """
    newest, requeued = None, subcommand == "fit" and run_dir.is_requeued()
    if requeued:
        newest = find_newest_checkpoint(run / run_dir.CHECKPOINTS for run in run_dir.runs_of_this_job(root))
    if ckpt_path in ("best", "last") and newest is None:
        newest = find_named_checkpoint(ckpt_path, root)
        if newest is None and (subcommand != "fit" or ckpt_path == "best"):
            raise UserError(f"--ckpt_path {ckpt_path}: there is no such checkpoint in {root}; name its file")
    if subcommand == "fit" and (newest or ckpt_path == "last" or (requeued and not ckpt_path)):
        where = f"from {display_path(newest.path)}" if newest else f"no checkpoint in {root} yet: from scratch"
        status("resume", where, err=True)
    if newest or not ckpt_path or ckpt_path == "last":
        return newest
    try:
        return Checkpoint.read(ckpt_path)
    except UserError as error:
        other = find_newest_checkpoint([Path(ckpt_path).parent])
        if other is None or subcommand != "fit" or Path(ckpt_path).name != run_dir.LAST:
            raise
        status("resume", f"{str(error).partition(';')[0]}; from {display_path(other.path)} instead", err=True)
        return other


def set_checkpoint_defaults(parser: Any, checkpoint: Checkpoint) -> Path | None:
    """Make what a checkpoint stored the parser's defaults; to train on, return the config of the run whose it is.

    That config may name classes to call, as any config may: to evaluate and to predict, its precision alone is taken.
    Options and config files beat both. LightningCLI lets the checkpoint win (Lightning-AI/pytorch-lightning#21455).
    """
    stored = {f"model.{key}": value for key, value in checkpoint.hyper_parameters.items()}
    stored |= {f"data.{key}": value for key, value in checkpoint.data_hyper_parameters.items()}
    stored |= _optimizers(parser, checkpoint)
    links = {"model.class_names", "data.tokenizer", "model.optimizer", "model.lr_scheduler"}
    known = set(parser.get_defaults(skip_validation=True).keys()) - links
    parser.set_defaults({key: stored[key] for key in stored.keys() & known})
    run = run_dir.run_dir_of(checkpoint.path)
    config = run_dir.newest_config(run) if run else None
    if parser.command == "fit":
        if config is not None:
            run_dir.verify_config(config)
        return config
    # Lightning would miss the callbacks of training, whose states mean nothing to weights that are evaluated.
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
    if config is None:
        return None
    try:
        precision = yaml.safe_load(config.read_text("utf-8"))["trainer"]["precision"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None
    parser.set_defaults({"trainer.precision": str(precision)})
    return None


def _optimizers(parser: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint says of optimizer and schedule, if it is to be trained on and they are PyTorch's own.

    A default that names a class is imported, and a checkpoint must not decide what is.
    """
    specs = {name: checkpoint.hyper_parameters.get(name) for name in ("optimizer", "lr_scheduler")}
    if parser.command != "fit" or run_dir.run_dir_of(checkpoint.path):  # that run's config names them
        return {}
    for name, spec in specs.items():
        path = spec.get("class_path", "") if isinstance(spec, dict) else "torch.optim."
        if not str(path).startswith("torch.optim."):
            raise UserError(f"--ckpt_path {checkpoint.path}: it was trained with {path}; name it with --{name}")
    return specs


def exit_if_finished(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Say that a run is finished, and how to go on, if it ended with this checkpoint and is to end there again.

    Args:
        checkpoint: What `fit` is to go on from.
        settings: Those of the command, as a run's config has them.

    Raises:
        SystemExit: With status 0: it is finished.
    """
    run, trainer = run_dir.run_dir_of(checkpoint.path), settings["trainer"]
    if run is None:
        return
    try:
        results = json.loads((run / run_dir.METRICS).read_text("utf-8"))
        stored = yaml.safe_load(run_dir.newest_config(run).read_text("utf-8"))
        ends = ("max_epochs", "max_steps", "max_time", "callbacks")
        same = all(stored["trainer"][end] == trainer[end] for end in ends)
        same &= all(stored[after] == settings[after] for after in ("test_after_fit", "export_after_fit"))
        exported = not settings["export_after_fit"] or not results["checkpoint"] or (run / run_dir.EXPORT).is_dir()
        if results["steps"] != checkpoint.global_step or not same or not exported:
            return
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return
    limit = "max_epochs" if trainer["max_steps"] == -1 else "max_steps"
    advice = f"to train on, raise --trainer.{limit} above {trainer[limit]}"
    if "EarlyStopping" in str(trainer["callbacks"]):
        advice += ", or leave out early stopping with --trainer.callbacks null"
    status("finished", f"{display_path(str(run))} ended after {checkpoint.global_step:,} steps; {advice}")
    raise SystemExit(0)
