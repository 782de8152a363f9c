"""A run whose loss is no longer a number is stopped, and never overwrites a good checkpoint."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_bert.errors import UserError

CHECK_STEPS = 10
"""Optimizer steps between two looks at whether losses are finite: each look waits for a GPU."""


class FiniteGuard(Callback):
    """Stops training after a loss or a weight that is not a finite number, on all ranks at the same step.

    It looks every few steps, before a validation, and whenever a checkpoint is about to be written: the UserError that
    it raises keeps that one from being written.
    """

    def __init__(self) -> None:
        self._finite = torch.tensor(True)
        self._step = 0  # looked at last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finite = torch.tensor(True, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._finite = self._finite & loss.detach().isfinite()
        if trainer.global_step % CHECK_STEPS == 0 and trainer.global_step != self._step:
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._check(trainer, pl_module.parameters())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer, checkpoint["state_dict"].values())

    def _check(self, trainer: Trainer, weights: Iterable[Tensor] = ()) -> None:
        """Look at the losses, and at weights as well: an infinite gradient shows in the next loss only."""
        self._step = trainer.global_step
        finite = bool(self._finite) and all(bool(value.isfinite().all()) for value in weights)
        if not trainer.strategy.reduce_boolean_decision(finite, all=True):
            raise UserError(
                f"the loss or its gradient is not a finite number, at step {trainer.global_step} or up to {CHECK_STEPS}"
                " steps before; lower --model.learning_rate, or raise --model.warmup_ratio or the precision "
                f"(--trainer.precision {trainer.precision} now); checkpoints written before are intact"
            )
