"""Training rows whose labels are likely wrong: those that a model learns last, or never."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from lit_bert.data.collate import IGNORED
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.files import atomic_write
from lit_bert.module import BertClassifier
from lit_bert.run.rooms import import_if_present

MAX_LISTED, MAX_LOGGED = 1000, 20
"""Rows in the file, and in TensorBoard's table."""


class LabelReview(Callback):
    """Ranks training rows by their mean loss over the epochs, each before the model was trained on the row in it.

    A wrong label contradicts what other rows teach, so that its loss stays high while that of others falls (Arazo et
    al. 2019, "Unsupervised label noise modeling and loss correction"). It does nothing with other modules and data
    modules than this project's.

    Args:
        path: A CSV file, written when training ends, the likeliest first: `row` (from 1, as in the training split),
            `label`, `pred` (in the last epoch), `mean_loss`, `text`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._losses = torch.zeros(0, 2)  # the sum of a row's losses, and how many there were, by its index
        self._last = torch.zeros(0, dtype=torch.int64)  # number of classes x epoch + last prediction

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TextClassificationDataModule) or not isinstance(pl_module, BertClassifier):
            return
        size = max(data.rows("train")["index"][:]) + 1
        # Rank 0 goes on with the sums of all ranks that a checkpoint brought.
        if len(self._losses) != size or not trainer.is_global_zero:
            self._losses, self._last = torch.zeros(size, 2), torch.zeros(size, dtype=torch.int64)
        self._losses, self._last = self._losses.to(pl_module.device), self._last.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        if len(self._losses) and isinstance(pl_module, BertClassifier):
            counts = (batch["labels"] != IGNORED).float()
            self._losses.index_add_(0, batch["index"], torch.stack([outputs["losses"].float() * counts, counts], dim=1))
            base = pl_module.model.config.num_labels * (trainer.current_epoch + 1)
            self._last[batch["index"]] = base + outputs["preds"]

    def state_dict(self) -> dict[str, Any]:
        """Return what all ranks have seen."""
        losses, last = self._losses.clone(), self._last.clone()
        if len(losses) and distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(losses)
            distributed.all_reduce(last, distributed.ReduceOp.MAX)
        return {"losses": losses.cpu(), "last": last.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "last" in state_dict:  # checkpoints of before this callback was rewritten have another state
            self._losses, self._last = state_dict["losses"], state_dict["last"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = self.state_dict()
        losses, last = state["losses"], state["last"]
        if not (trainer.is_global_zero and len(last) and isinstance(pl_module, BertClassifier)):
            return
        data, names = trainer.datamodule, pl_module.class_names  # type: ignore[attr-defined]
        means = losses[:, 0] / losses[:, 1]
        order = means.nan_to_num(-1.0).argsort(descending=True, stable=True)[:MAX_LISTED]
        order = order[losses[order, 1] > 0]  # rows that were trained on
        label_of = dict(zip(*data.splits["train"].select_columns(["index", "label"])[:].values(), strict=True))
        preds, (texts, _) = last[order] % len(names), data.texts("train", order)
        cells = zip(order.tolist(), preds.tolist(), means[order].tolist(), texts, strict=True)
        rows = [
            [str(row + 1), names[label_of[row]], names[pred], f"{mean:.4f}", text] for row, pred, mean, text in cells
        ]
        with atomic_write(self.path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["row", "label", "pred", "mean_loss", "text"], *rows])
        if tensorboard := import_if_present("callbacks.tensorboard"):
            table = [[*cells, text[:400]] for *cells, text in rows[:MAX_LOGGED]]
            columns = ["row", "label", "pred", "mean loss", "text"]
            tensorboard.log_table(trainer, "train/likely wrong labels", columns, table, trainer.global_step)
