"""The lines that `fit` ends with: where the results are, and what to do with them."""

import shlex
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from lit_bert.console import status
from lit_bert.files import display_path
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.run import run_dir
from lit_bert.run.best_checkpoint import BestCheckpoint
from lit_bert.run.help import call

C = TypeVar("C", bound=Callback)


def find_callback(trainer: Trainer, kind: type[C]) -> C | None:
    """Return a Trainer's first callback of a class."""
    return next((item for item in trainer.callbacks if isinstance(item, kind)), None)  # type: ignore[attr-defined]


def print_best(trainer: Trainer, best: str | None) -> None:
    """Print which checkpoint is the best, and its score."""
    callback = find_callback(trainer, ModelCheckpoint)
    if best and callback and callback.monitor and callback.best_model_score is not None:
        score = f"{callback.monitor} {float(callback.best_model_score):.4f}"
        if isinstance(callback, BestCheckpoint) and callback.tied:
            score += ", as others have, and the lowest val/loss of them"
        status("best", f"epoch {Checkpoint.read(best).epoch} has {score}: {display_path(best)}")


def print_summary(trainer: Trainer, results: dict[str, Any], folder: Path, averaged: bool) -> None:
    """Print speed, calibration, and the commands that go on from here.

    `results` is what metrics.json holds, and `averaged` whether the weights are an average that no checkpoint has.
    """
    if results["throughput"]:
        speed = "{samples_per_sec:,.0f} sentences/s, {tokens_per_sec:,.0f} tokens/s, {padding_waste:.1%} padding"
        status("speed", speed.format(**results["throughput"]))
    calibration = results["calibration"]
    better = calibration and calibration["helps"] and calibration["test_ece_calibrated"] < calibration["test_ece"]
    if results["checkpoint"] and better:
        calib = "test ECE {test_ece:.3f}, {test_ece_calibrated:.3f} after temperature scaling: "
        path, to = display_path(folder / results["checkpoint"]), display_path(folder / "calibrated")
        options = shlex.join(["export", "--ckpt_path", path, "--to", to, "--calibrate"])
        status("calib", f"{calib.format(**calibration)}{call()} {options}")
    status("run", f"{display_path(folder)} (trained in {results['fit_seconds']:.0f} s)")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            inside = Path(logger.log_dir).absolute().is_relative_to(folder.absolute())
            status("look", f"tensorboard --logdir {display_path(folder.parent if inside else logger.root_dir)}")
        else:
            place = getattr(logger, "log_dir", logger.save_dir)
            status("look", f"{type(logger).__name__}: {place}")
    labels = folder / run_dir.LABELS
    if labels.is_file():
        status("labels", f"{display_path(labels)}: training rows whose labels may be wrong, the likeliest first")
    if results["checkpoint"]:
        path = shlex.quote(display_path(folder / results["checkpoint"]))
        status("test", f"{call()} test --ckpt_path {path}")
        status("predict", f"{call()} predict --ckpt_path {path}")
    elif averaged:
        status("best", "the average of weights is in no checkpoint of an epoch")
    elif not find_callback(trainer, ModelCheckpoint):
        status("best", "there is no best checkpoint: --trainer.enable_checkpointing is false")
    elif "val" not in results:
        status("best", "there is no best checkpoint: training ended before a validation")
    else:
        status("best", "there is no best checkpoint: --checkpoint.save_top_k is 0, or it was removed")
