"""The best checkpoint by a metric, and of equal ones that of the lowest validation loss."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class BestCheckpoint(ModelCheckpoint):
    """ModelCheckpoint that breaks ties by `val/loss`, if it keeps one best checkpoint, in place of by time.

    `loss` is that of the best one, `lowest_loss` that of all, and `tied` whether another one has the best score, too.
    """

    loss = torch.nan  # not known, of a run that was begun with ModelCheckpoint
    lowest_loss = torch.inf
    tied = False

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        loss = float(trainer.callback_metrics.get("val/loss", torch.inf))
        is_better = bool(super().check_monitor_top_k(trainer, current))
        is_equal = self.save_top_k == 1 and current is not None and bool(current == self.best_model_score)
        self.lowest_loss = min(self.lowest_loss, loss)
        self.tied = not is_better and (self.tied or (is_equal and loss != self.loss))
        if is_better or trainer.strategy.reduce_boolean_decision(is_equal and loss < self.loss):
            self.loss = loss
            return True
        return False

    @property
    def state_key(self) -> str:  # by which a run that was begun with ModelCheckpoint finds what was best
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"loss": self.loss, "lowest_loss": self.lowest_loss, "tied": self.tied}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for name in ("loss", "lowest_loss", "tied"):
            setattr(self, name, state_dict.get(name, getattr(self, name)))
