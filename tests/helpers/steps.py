"""What each training step sees, and signals that are sent as steps begin."""

import os
from typing import Any

import pytest
from conftest import Patch

from lit_bert import BertClassifier

Rows = list[tuple[int, list[int]]]
SIGNALS: dict[int, int] = {}
"""Numbers of signals, each by the step that it is sent at."""


@pytest.fixture(name="rows")
def rows_of_steps(monkeypatch: Patch) -> Rows:
    """Which rows each training step sees, with the step's number; and `SIGNALS`, which are sent as steps begin."""
    seen: Rows = []
    original = BertClassifier.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        seen.append((self.trainer.global_step, batch["index"].tolist()))
        if (number := SIGNALS.pop(self.trainer.global_step, None)) is not None:
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(BertClassifier, "training_step", training_step)
    SIGNALS.clear()
    return seen
