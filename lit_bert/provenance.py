"""Where a run comes from: with its config, what is needed to repeat it."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_bert import files

PACKAGES = ("lit_bert", "torch", "lightning", "transformers", "tokenizers", "datasets", "torchmetrics", "numpy")


class Provenance(Callback):
    """Writes, when training starts, the command, the code, the data, the versions and the hardware of a run.

    Args:
        path: A JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file; the data are read by now."""
        if trainer.is_global_zero:
            with files.replacing(self.path) as partial:
                partial.write_text(json.dumps(_record(trainer), indent=2) + "\n", encoding="utf-8")


def _record(trainer: Trainer) -> dict[str, Any]:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    cuda = trainer.strategy.root_device.type == "cuda"
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "git": _git("rev-parse", "HEAD"),
        "uncommitted": _git("diff", "HEAD"),
        "data": {"fingerprint": data.fingerprint, "rows": {name: len(rows) for name, rows in data.splits.items()}},
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
        "hardware": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "devices": [torch.cuda.get_device_name(trainer.strategy.root_device) if cuda else "cpu"]
            * trainer.world_size,
            "cuda": torch.version.cuda if cuda else None,
        },
        "resumed_from": trainer.ckpt_path and str(trainer.ckpt_path),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def installed(package: str) -> str | None:
    """Return a package's version, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    """Return what git says of this code, or None if it says nothing."""
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def processor() -> str:
    """Return the processor's name and how many cores it has here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
