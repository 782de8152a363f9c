"""What is needed to repeat a run: its config and where it comes from, in the run's folder."""

import json
import os
import platform
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.loggers import TensorBoardLogger

from lit_bert.console import status
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.files import atomic_write, next_free_path
from lit_bert.run.hardware import package_version, processor_name

PACKAGES = ("lit_bert", "torch", "lightning", "transformers", "tokenizers", "datasets", "torchmetrics", "numpy")


class RunRecord(Callback):
    """Writes a run's files when training starts, not before: a run that cannot be resumed keeps its last config.

    Args:
        config: A YAML file.
        settings: Its content, but for what Lightning's LearningRateFinder and BatchSizeFinder choose.
        provenance: A JSON file of the command, the code, the data, the versions and the hardware; if there is one, the
            next gets a number.
    """

    def __init__(self, config: Path, settings: str, provenance: Path) -> None:
        self.config, self.settings, self.provenance = config, settings, next_free_path(provenance)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write; the finders, which come first among the callbacks, are done by now."""
        for section, name, value in _tuned(trainer):
            status("tuned", f"--{section}.{name} {value:g}")
            content = yaml.safe_load(self.settings)
            content[section][name] = value
            self.settings = yaml.safe_dump(content, sort_keys=False)
        if not trainer.is_global_zero:
            return
        provenance = _provenance(trainer)
        for path, text in ((self.config, self.settings), (self.provenance, json.dumps(provenance, indent=2) + "\n")):
            with atomic_write(path) as partial:
                partial.write_text(text, encoding="utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for tag, text in (("command", provenance["command"]), ("config", self.settings)):
                    logger.experiment.add_text(tag, textwrap.indent(text, "    "), trainer.global_step)


def _tuned(trainer: Trainer) -> Iterator[tuple[str, str, float]]:
    """Yield section, name and value of the options that tuners changed."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LearningRateFinder) and callback.optimal_lr is not None:
            if rate := callback.optimal_lr.suggestion():
                yield "model", "learning_rate", float(rate)
            else:
                status("tuned", "LearningRateFinder had too few steps to suggest a learning rate")
        if isinstance(callback, BatchSizeFinder) and callback.optimal_batch_size:
            yield "data", "batch_size", int(callback.optimal_batch_size)


def _provenance(trainer: Trainer) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    root = trainer.strategy.root_device
    cuda = root.type == "cuda"
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "git": _git("rev-parse", "HEAD"),
        "uncommitted": _git("diff", "HEAD"),
        "data": {
            "fingerprint": data.fingerprint,
            "rows": {name: len(rows) for name, rows in data.splits.items()},
            "held_out": data.content.held_out,
        }
        if isinstance(data, TextClassificationDataModule)
        else None,
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        "hardware": {
            "processor": processor_name(),
            "threads": torch.get_num_threads(),
            "devices": [torch.cuda.get_device_name(root) if cuda else "cpu"] * trainer.world_size,
            "cuda": torch.version.cuda if cuda else None,
        },
        "resumed_from": trainer.ckpt_path and str(trainer.ckpt_path),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _git(*arguments: str) -> str | None:
    """Return what git says of this code, or None if it says nothing."""
    options: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
    try:
        return str(subprocess.run(["git", *arguments], check=True, **options).stdout).strip()
    except (OSError, subprocess.SubprocessError):
        return None
