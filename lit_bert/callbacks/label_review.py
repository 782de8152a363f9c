"""Training rows whose labels are likely wrong: those that a model learns last, or never."""

import csv
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_bert.callbacks.loggers import log_table
from lit_bert.files import atomic_write

MAX_LISTED, MAX_LOGGED = 1000, 20
"""Rows in the file, and in TensorBoard's table."""


class LabelReview(Callback):
    """Ranks training rows by their mean loss over the epochs, each before the model was trained on the row in it.

    A wrong label contradicts what other rows teach, so that its loss stays high while that of others falls (Arpit et
    al. 2017, "A closer look at memorization in deep networks"; Arazo et al. 2019, "Unsupervised label noise modeling
    and loss correction"). With `BertClassifier` and `TextClassificationDataModule`; with others it does nothing.

    Args:
        path: A CSV file, written when training ends, the likeliest first: `row` (from 1, as in the training split),
            `label`, `predicted` (in the last epoch), `mean_loss`, `text`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._module: Any = None
        self._counted: Any = None
        self._epochs = 0
        self._losses = torch.zeros(0)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._module = pl_module
        self._counted = getattr(pl_module, "epoch_outputs", {}).get("train")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count()

    def _count(self) -> None:
        """Add the losses of the last whole epoch, unless that is done."""
        outputs: Any = getattr(self._module, "epoch_outputs", {}).get("train", {})
        if outputs is not self._counted and {"index", "loss"} <= outputs.keys():
            self._counted = outputs
            size = max(len(self._losses), int(outputs["index"].max()) + 1)
            self._losses = torch.cat([self._losses, self._losses.new_zeros(size - len(self._losses))])
            self._losses.index_add_(0, outputs["index"], outputs["loss"].float())
            self._epochs += 1

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._count()
        if not self._epochs or self._counted is None or not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows = self._ranking(self._counted, data, pl_module.class_names)
        with atomic_write(self.path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "label", "predicted", "mean_loss", "text"])
            writer.writerows(rows)
        table = [[*cells[:-1], cells[-1][:400]] for cells in rows[:MAX_LOGGED]]
        columns = ["row", "label", "predicted", "mean loss", "sentence"]
        log_table(trainer, "train/likely wrong labels", columns, table, trainer.global_step)

    def _ranking(self, outputs: dict[str, Tensor], data: Any, names: list[str]) -> list[list[str]]:
        losses = self._losses[outputs["index"]] / self._epochs
        order = losses.argsort(descending=True, stable=True)[:MAX_LISTED]
        index, labels, preds = (outputs[name][order] for name in ("index", "labels", "preds"))
        texts, _ = data.texts("train", index)
        cells = zip(index.tolist(), labels.tolist(), preds.tolist(), losses[order].tolist(), texts, strict=True)
        return [
            [str(row + 1), names[label], names[pred], f"{loss:.4f}", text] for row, label, pred, loss, text in cells
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the losses of the epochs that are over, for a run to be resumed."""
        self._count()
        return {"epochs": self._epochs, "losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._epochs, self._losses = state_dict["epochs"], state_dict["losses"]
