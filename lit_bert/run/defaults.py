"""Settings that depend on the machine or on other settings: filled in, so that the saved config says what was done."""

import math
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule

from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.run import hardware, ranks

TRAINER: dict[str, Any] = {
    "default_root_dir": "runs",
    "max_epochs": 3,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}
CHECKPOINT: dict[str, Any] = {
    "monitor": "val/acc",
    "mode": "max",
    "auto_insert_metric_name": False,  # a metric's name has a slash, which would make a folder
    "enable_version_counter": False,  # a resumed run writes the same files again
}


LOWEST, HIGHEST = ("loss", "ece"), ("acc", "f1", "auroc")
"""Metrics of this project of which the lowest value is the best, or the highest."""


def follow_metrics(settings: Namespace, words: Sequence[str]) -> None:
    """Let checkpoints, early stopping and schedules take the lowest or highest value, as the metric they watch has it.

    Raises:
        UserError: A mode among the words of the command line contradicts a metric.
    """
    callbacks = settings.trainer.callbacks or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    for name, watcher in (
        ("checkpoint", settings.checkpoint),
        *(("trainer.callbacks", item.get("init_args")) for item in callbacks if isinstance(item, Namespace)),
        *(("lr_scheduler", (part.get("lr_scheduler") or {}).get("init_args")) for part in (settings, settings.model)),
    ):
        metric = str(watcher.get("monitor")) if watcher and watcher.get("mode") else ""
        kind = metric.rpartition("/")[2]
        mode = "min" if kind in LOWEST else "max" if kind in HIGHEST else None
        if mode and watcher["mode"] != mode:
            if any(re.match(rf"--{name}(\.init_args)?\.mode\b", word) for word in words):
                what = f"--{name}.mode {watcher['mode']}: of {metric} the {'lowest' if mode == 'min' else 'highest'}"
                raise UserError(f"{what} is the best; set --{name}.mode {mode}")
            watcher["mode"] = mode


def complete_epochs(settings: Namespace, data: LightningDataModule) -> None:
    """Let training see 3,000 rows, in 3 to 20 epochs, where nothing limits it.

    With few rows the best of many epochs is better than the third (Mosbach et al. 2021, "On the stability of
    fine-tuning BERT").
    """
    trainer = settings.trainer
    for limit in ("max_epochs", "max_steps"):
        if trainer[limit] == 0:
            raise UserError(f"--trainer.{limit} 0: nothing would be trained; give at least 1, or evaluate with `test`")
    if trainer.max_epochs is None and trainer.max_steps == -1:
        epochs = 3
        if isinstance(data, TextClassificationDataModule):
            data.prepare_data()
            data.setup("fit")
            epochs = math.ceil(3000 / len(data.rows("train")))
        trainer.max_epochs = min(20, max(3, epochs))


def complete(settings: Namespace) -> None:
    """Fill in the Trainer's processes and precision, and the names of checkpoints."""
    trainer, checkpoint = settings.trainer, settings.checkpoint
    ranks.join_launched_processes(trainer)
    if trainer.barebones:  # it refuses any value of these
        trainer.log_every_n_steps = trainer.num_sanity_val_steps = trainer.enable_model_summary = None
    if trainer.precision is None:
        trainer.precision = "bf16-mixed" if hardware.has_fast_bf16(trainer.accelerator) else "32-true"
    if checkpoint.filename is None:
        monitor = checkpoint.monitor
        score = f"-{monitor.replace('/', '_')}={{{monitor}:.4f}}" if monitor else ""
        often = trainer.val_check_interval not in (None, 1, 1.0) or checkpoint.every_n_train_steps
        step = "-step={step}" if often or checkpoint.train_time_interval else ""
        checkpoint.filename = f"epoch={{epoch}}{step}{score}"
