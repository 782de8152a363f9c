"""Which epoch is the best."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import QUIET
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from lit_bert.evaluation.summary import print_best
from lit_bert.run.best_checkpoint import BestCheckpoint


class Scripted(BoringModel):
    """Has these scores and losses, an epoch each."""

    epochs = ((0.5, 0.9), (0.8, 0.5), (0.8, 0.25), (0.8, 0.75), (0.7, 0.125))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        score, loss = self.epochs[self.current_epoch]
        self.log_dict({"val/f1": score, "val/loss": loss})


def test_of_epochs_with_the_same_score_that_of_the_lowest_loss_is_the_best_and_this_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = BestCheckpoint(tmp_path, filename="{epoch}", monitor="val/f1", mode="max")
    steps = {"limit_train_batches": 1, "limit_val_batches": 1}
    trainer = Trainer(max_epochs=5, callbacks=[best], **QUIET | {"enable_checkpointing": True} | steps)
    trainer.fit(Scripted())
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=2.ckpt"]
    assert (best.loss, best.lowest_loss, best.tied) == (0.25, 0.125, True)
    monkeypatch.setattr("lit_bert.evaluation.summary.Checkpoint.read", lambda path: SimpleNamespace(epoch=2))
    print_best(trainer, best.best_model_path)
    assert "epoch 2 has val/f1 0.8000, as others have, and the lowest val/loss of them: " in capsys.readouterr().out
    again = BestCheckpoint(tmp_path, monitor="val/f1", mode="max")
    again.load_state_dict(best.state_dict())
    trainer.callback_metrics["val/loss"] = torch.tensor(0.2)
    assert again.check_monitor_top_k(trainer, torch.tensor(0.8))
    assert not again.check_monitor_top_k(trainer, torch.tensor(0.8))
    assert (again.loss, again.lowest_loss) == (pytest.approx(0.2), 0.125)
    assert math.isnan(BestCheckpoint().loss)
