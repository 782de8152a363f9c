"""How fast training goes, and what share of it is spent on padding."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_bert.run.hardware import measure_matmul_gflops


class Throughput(Callback):
    """Logs, each epoch, sentences and tokens per second, padding, and arithmetic done per second.

    For batches with `input_ids` and, where they are padded, an `attention_mask`. Unlike Lightning's ThroughputMonitor,
    it waits for no device. Validation, and the checkpoints written after it, are left out of the time.

    `train/tokens_per_sec` counts real tokens, on all ranks; `train/padding_waste` is the share of computed tokens that
    are padding; `train/gflops` is 6 x parameters outside the embeddings x real tokens / seconds / 1e9, on each device
    (Kaplan et al. 2020, section 2.1). Parameters that are not trained count 4 times: gradients pass through them.
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        """Figures of the last epoch, by the names under which they are logged."""
        self._counted = [0, 0]  # computed and real tokens of the epoch, from before the run was resumed
        self._begin()

    def _begin(self) -> None:
        self._rows = self._computed = 0
        self._tokens = torch.zeros((), dtype=torch.int64)
        self._seconds = 0.0
        self._since: float | None = time.perf_counter()  # None while something other than training goes on

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()
        self._counted = [0, 0]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if self._since is None:  # training goes on after a validation
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Any, batch_idx: int
    ) -> None:
        ids = batch["input_ids"] if isinstance(batch, dict) and "input_ids" in batch else None
        if isinstance(ids, Tensor):
            mask = batch.get("attention_mask")
            self._rows, self._computed = self._rows + len(ids), self._computed + ids.numel()
            self._tokens = self._tokens.to(ids.device) + (ids.numel() if mask is None else mask.sum())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._since is not None:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_start(trainer, pl_module)
        computed, tokens = self.state_dict()["counted"]
        if not computed:
            return
        self.last = {"train/padding_waste": 1 - tokens / computed}
        if self._rows:  # none if the run was resumed at the very end of the epoch
            weights = [p for name, p in pl_module.named_parameters() if "embeddings" not in name]
            flops_per_token = sum((6 if weight.requires_grad else 4) * weight.numel() for weight in weights)
            per_second = 1 / self._seconds
            self.last |= {
                "train/samples_per_sec": self._rows * trainer.world_size * per_second,
                "train/tokens_per_sec": int(self._tokens) * trainer.world_size * per_second,
                "train/gflops": flops_per_token * int(self._tokens) * per_second / 1e9,
            }
        pl_module.log_dict(self.last)

    def state_dict(self) -> dict[str, Any]:
        """Return how many tokens of the epoch were computed, and how many of them were real."""
        return {"counted": [self._counted[0] + self._computed, self._counted[1] + int(self._tokens)]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._counted = state_dict["counted"]

    def summary(self, trainer: Trainer) -> dict[str, float]:
        """Return the last epoch's figures, and `mfu`: the share of what this device does with large matrices."""
        if "train/gflops" not in self.last:
            return {}
        peak = measure_matmul_gflops(trainer.strategy.root_device.type, "bf16" in str(trainer.precision))
        figures = {name.removeprefix("train/"): value for name, value in self.last.items()}
        return {**figures, "mfu": figures["gflops"] / peak}
