"""Which checkpoint a command starts from, and which settings that brings."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.files import display_path
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.run import run_dir
from lit_bert.run.checkpoint_io import find_named_checkpoint, find_newest_checkpoint


def find_checkpoint(ckpt_path: str | None, command: str, root: Path) -> Checkpoint | None:
    """Return the checkpoint that is named; the newest for "last", the best of its run for "best".

    A SLURM job that runs again goes on from its own checkpoint. If training is to go on from a `last.ckpt` that is
    damaged or gone, the newest whole one beside it is taken. `root` is the folder of all runs.

    Raises:
        UserError: It cannot be read, or there is none to evaluate.
    """
    newest, requeued = None, command == "fit" and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    if requeued:
        job = f'"slurm_job": "{os.environ.get("SLURM_JOB_ID")}"'.encode()
        records = [path for path in root.absolute().glob("*/provenance*.json") if job in path.read_bytes()]
        newest = find_newest_checkpoint(path.parent / run_dir.CHECKPOINTS for path in records)
    if ckpt_path in ("best", "last") and newest is None:
        newest = find_named_checkpoint(ckpt_path, root)
        if newest is None and (command != "fit" or ckpt_path == "best"):
            raise UserError(f"--ckpt_path {ckpt_path}: there is no such checkpoint in {root}; name its file")
    if command == "fit" and (newest or ckpt_path == "last" or (requeued and not ckpt_path)):
        where = f"from {display_path(newest.path)}" if newest else f"no checkpoint in {root} yet: from scratch"
        status("resume", where, err=True)
    elif newest:
        status("model", f"--ckpt_path {ckpt_path} is {display_path(newest.path)}", err=True)
    if newest or not ckpt_path or ckpt_path == "last":
        return newest
    try:
        return Checkpoint.read(ckpt_path)
    except UserError as error:
        other = find_newest_checkpoint([Path(ckpt_path).parent])
        if other is None or command != "fit" or Path(ckpt_path).name != run_dir.LAST:
            raise
        status("resume", f"{str(error).partition(';')[0]}; from {display_path(other.path)} instead", err=True)
        return other


def stored_settings(checkpoint: Checkpoint, command: str) -> dict[str, Any]:
    """Return the options that a checkpoint stores, by name; options on the command line and in config files beat them.

    LightningCLI lets the checkpoint win (Lightning-AI/pytorch-lightning#21455). To evaluate and to predict, the
    precision of the run is added; nothing else of its config, which may name classes to call.

    Raises:
        UserError: Its optimizer is not PyTorch's own: a checkpoint must not decide what is imported.
    """
    stored = {f"model.{key}": value for key, value in checkpoint.hyper_parameters.items()}
    stored |= {f"data.{key}": value for key, value in checkpoint.data_hyper_parameters.items()}
    specs = {name: stored.pop(f"model.{name}", None) for name in ("optimizer", "lr_scheduler")}
    run = run_dir.run_dir_of(checkpoint.path)
    if command == "fit" and not run:  # the config of a run names them
        for name, spec in specs.items():
            path = str(spec.get("class_path", "")) if isinstance(spec, dict) else "torch.optim."
            if not path.startswith("torch.optim."):
                raise UserError(f"--ckpt_path {checkpoint.path}: it was trained with {path}; name it with --{name}")
        stored |= specs
    if command != "fit" and run:
        with suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            stored["trainer.precision"] = str(_read_config(run)["trainer"]["precision"])
    linked = ("model.class_names", "data.tokenizer", "data.unlabelled")
    return {name: value for name, value in stored.items() if name not in linked}


def exit_if_finished(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Say that a run is finished, and how to go on, if it ended with this checkpoint and is to end there again.

    Raises:
        SystemExit: With status 0.
    """
    run, trainer, ended = run_dir.run_dir_of(checkpoint.path), settings["trainer"], False
    if run is None:
        return
    with suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        results = json.loads((run / run_dir.METRICS).read_text("utf-8"))
        exported = not settings["export_after_fit"] or not results["checkpoint"] or (run / run_dir.EXPORT).is_dir()
        same = _ends(_read_config(run)) == _ends(settings)
        ended = same and exported and results["steps"] == checkpoint.global_step
    if not ended:
        return
    limit = "max_epochs" if trainer["max_steps"] == -1 else "max_steps"
    at_limit = checkpoint.global_step == trainer["max_steps"] or checkpoint.epoch + 1 == trainer["max_epochs"]
    if trainer["max_time"] and not at_limit:
        limit = "max_time"
    advice = f"to train on, raise --trainer.{limit} above {trainer[limit]}"
    if "EarlyStopping" in str(trainer["callbacks"]):
        advice += ", or leave out early stopping with --trainer.callbacks null"
    status("finished", f"{display_path(str(run))} ended after {checkpoint.global_step:,} steps; {advice}")
    raise SystemExit(0)


def _ends(settings: dict[str, Any]) -> list[Any]:
    """Return the settings that decide where training ends, and what follows."""
    ends = [settings["trainer"][name] for name in ("max_epochs", "max_steps", "max_time", "callbacks")]
    return [*ends, settings["test_after_fit"], settings["export_after_fit"]]


def _read_config(run: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((run / run_dir.CONFIG).read_text("utf-8")))
