"""Whether two runs came out alike."""

from pathlib import Path
from typing import Any

import torch
from conftest import events

from lit_bert.modeling.checkpoint import read_safely


def same(one: Any, other: Any, where: str = "") -> None:
    """Assert that two nested values are equal to the last bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or one != one, where


def equal_runs(one: Path, other: Path) -> None:
    """Assert that two runs end with the same checkpoints and have the same curves."""
    first, second = (read_safely(run / "checkpoints" / "last.ckpt") for run in (one, other))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "val_outputs", "global_step", "epoch"):
        same(first[part], second[part], part)
    same(first["callbacks"]["PreemptionCheckpoint"], second["callbacks"]["PreemptionCheckpoint"])
    names = [sorted(file.name for file in run.glob("*/*.ckpt")) for run in (one, other)]
    assert names[0] == names[1]
    curves, again = events(one), events(other)
    timed = {"train/samples_per_sec", "train/tokens_per_sec", "train/gflops"}
    assert curves.keys() == again.keys()
    for tag in curves.keys() - timed:
        assert curves[tag] == again[tag], f"{tag}: {curves[tag]} and {again[tag]}"
