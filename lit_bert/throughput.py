"""How fast training goes, and what share of it is spent on padding."""

import time
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_bert import machine
from lit_bert.batching import LengthGroupedSampler, padded_length


class Throughput(Callback):
    """Logs, each epoch, sentences and tokens per second, padding, and arithmetic done per second.

    Everything is counted from the lengths that the sampler knows, so that no step waits for a device. Validation,
    and the checkpoints written after it, are left out of the time.

    `train/tokens_per_s` counts real tokens, of all ranks; `train/padding_waste` is the share of computed tokens that
    are padding, in [0, 1]; `train/gflops` is 6 x parameters outside the embeddings x real tokens / seconds / 1e9 (2 for
    the forward pass, 4 for the backward; Kaplan et al. 2020, section 2.1), on each device.
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self._seconds = 0.0
        self._since: float | None = None  # None while something else than training goes on

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._seconds, self._since = 0.0, time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Go on, after a validation and the checkpoints that follow it."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause."""
        self._pause(trainer)

    def _pause(self, trainer: Trainer) -> None:
        if self._since is not None:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's figures."""
        self._pause(trainer)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        sampler = trainer.train_dataloader.sampler  # type: ignore[union-attr]
        if not isinstance(sampler, LengthGroupedSampler):  # `--trainer.overfit_batches` replaces it
            return
        epoch, before = sampler.resumed
        before *= epoch == sampler.epoch
        batches = trainer.fit_loop.epoch_loop.batch_idx + 1
        lengths = sampler.lengths[sampler.rows()][: batches * sampler.batch_size]
        starts = np.arange(0, len(lengths), sampler.batch_size)
        longest = [
            padded_length(length, data.padded_lengths) for length in np.maximum.reduceat(lengths, starts).tolist()
        ]
        computed = (np.diff([*starts, len(lengths)]) * longest).sum()
        waste = 1 - lengths.sum() / computed
        self.last = {"train/padding_waste": waste}
        lengths, seconds = lengths[before * sampler.batch_size :], self._seconds  # of these rows it knows the time
        if seconds:  # there is none if the epoch was resumed at its very end
            weights = sum(p.numel() for name, p in pl_module.named_parameters() if "embeddings" not in name)
            self.last |= {
                "train/sentences_per_s": len(lengths) * trainer.world_size / seconds,
                "train/tokens_per_s": lengths.sum() * trainer.world_size / seconds,
                "train/gflops": 6 * weights * lengths.sum() / seconds / 1e9,
            }
        cast(Any, pl_module).log_now(self.last, trainer.global_step - 1)

    def summary(self, trainer: Trainer) -> dict[str, float]:
        """Return the last epoch's figures, and `share_of_matmul_rate`: of what this device does with large matrices.

        It is empty if no batch was trained on, or no epoch ended.
        """
        if "train/gflops" not in self.last:
            return {}
        rate = machine.matmul_rate(trainer.strategy.root_device.type, bf16="bf16" in str(trainer.precision))
        share = self.last["train/gflops"] / rate
        return {
            **{name.removeprefix("train/"): float(v) for name, v in self.last.items()},
            "share_of_matmul_rate": share,
        }
