"""The rows of an epoch with their predictions, joined from all ranks."""

from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_bert.modeling.outputs import SplitOutputs, gather_outputs
from lit_bert.module import BertClassifier

_COLUMNS = {"labels": "labels", "preds": "preds", "probs": "probs", "losses": "loss"}  # a step's name: ours


class RowRecorder(Callback):
    """Keeps what the steps return of each row, and lets a run that is resumed within an epoch have all of its rows.

    For modules whose steps return `labels`, `preds` and `losses` of a batch, and in evaluation `probs`, as
    `BertClassifier` does; batches may have an `index`. Rows with label -100 are left out. The `train_metrics` of a
    `BertClassifier` are updated with the rows that were trained on before the run was resumed.
    """

    def __init__(self) -> None:
        self.rows: dict[str, SplitOutputs] = {}
        """Rows of the last whole epoch of "train", "val" and "test", from all ranks, in the order of their `index`."""
        self._batches: dict[str, list[dict[str, Tensor]]] = {}
        self._validated_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Discard outputs of an interrupted run; a checkpoint that is loaded later may bring some of its own."""
        self._batches = {"train": [], "val": [], "test": []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the metrics of a resumed epoch begin with the rows before."""
        for rows in self._batches["train"]:
            rows.update({name: value.to(pl_module.device) for name, value in rows.items()})
            if isinstance(pl_module, BertClassifier):
                pl_module.train_metrics.update(preds=rows["preds"], target=rows["labels"])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard outputs of an interrupted epoch."""
        self._batches[_split(trainer)] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, dict) and {"labels", "preds"} <= outputs.keys():
            columns = {name: outputs[key].detach() for key, name in _COLUMNS.items() if key in outputs}
            index = {"index": batch["index"]} if "index" in batch else {}
            self._batches[_split(trainer)].append(index | columns)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        split = _split(trainer)
        self.rows[split] = cast(SplitOutputs, gather_outputs(self._batches[split]))
        self._batches[split] = []
        if split == "val":
            self._validated_step = trainer.global_step

    on_test_start = on_validation_start
    on_train_batch_end = on_test_batch_end = on_validation_batch_end
    on_train_epoch_end = on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add this epoch's training rows so far, and the validation rows if they were predicted by these weights."""
        is_validated = self._validated_step == trainer.global_step
        checkpoint["val_outputs"] = self.rows.get("val", {}) if is_validated else {}
        checkpoint["train_outputs"] = gather_outputs(self._batches["train"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not trainer.training:
            return
        self.rows["val"], self._validated_step = checkpoint.get("val_outputs", {}), checkpoint["global_step"]
        rows = checkpoint.get("train_outputs", {})
        self._batches["train"] = [rows] if rows and trainer.is_global_zero else []


def _split(trainer: Trainer) -> str:
    return "train" if trainer.training else "test" if trainer.testing else "val"
