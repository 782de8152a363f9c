"""Each callback of this project with any module, and all of them in any order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET
from equality import same
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from models import weights_of

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.callbacks.cuda_graphs import CudaGraphs
from lit_bert.callbacks.distillation import Distillation
from lit_bert.callbacks.finite_guard import FiniteGuard
from lit_bert.callbacks.label_review import LabelReview
from lit_bert.callbacks.preemption import PreemptionCheckpoint
from lit_bert.callbacks.progress import ProgressBar, RunSummary
from lit_bert.callbacks.row_recorder import RowRecorder
from lit_bert.callbacks.run_record import RunRecord
from lit_bert.callbacks.tensorboard import TensorBoardCallback
from lit_bert.callbacks.throughput import Throughput

CALLBACKS: dict[str, Callable[[], Callback]] = {
    "cuda_graphs": CudaGraphs,
    "distillation": Distillation,
    "finite_guard": FiniteGuard,
    "label_review": lambda: LabelReview(Path("labels.csv")),
    "preemption": PreemptionCheckpoint,
    "progress": ProgressBar,
    "row_recorder": RowRecorder,
    "run_record": lambda: RunRecord(Path("config.yaml"), "seed: 1\n", Path("provenance.json")),
    "summary": RunSummary,
    "tensorboard": TensorBoardCallback,
    "throughput": Throughput,
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_in_a_trainer_of_ones_own_with_any_module(name: str) -> None:
    options: dict[str, Any] = {**QUIET, "enable_progress_bar": name == "progress", "enable_checkpointing": True}
    trainer = Trainer(
        callbacks=[CALLBACKS[name]()], limit_train_batches=3, limit_val_batches=2, max_epochs=2, **options
    )
    trainer.fit(BoringModel())
    trainer.test(BoringModel(), verbose=False)
    assert trainer.global_step == 6


def test_all_callbacks_in_any_order(tiny_bert: str, reviews: Path) -> None:
    weights = []
    for names in (list(CALLBACKS), list(reversed(CALLBACKS))):
        callbacks = {name: CALLBACKS[name]() for name in names}
        torch.manual_seed(0)
        data = TextClassificationDataModule(str(reviews), tiny_bert, batch_size=8)
        model = BertClassifier(tiny_bert, learning_rate=0.003)
        options = QUIET | dict.fromkeys(("enable_progress_bar", "enable_checkpointing"), True)
        trainer = Trainer(callbacks=[*callbacks.values()], max_epochs=2, **options)
        trainer.fit(model, data)
        recorder = callbacks["row_recorder"]
        assert isinstance(recorder, RowRecorder)
        assert {split: len(rows["labels"]) for split, rows in recorder.rows.items()} == {"train": 40, "val": 20}
        assert len(Path("labels.csv").read_text().splitlines()) == 41
        Path("labels.csv").unlink()
        weights.append(weights_of(model))
    same(*weights)
