"""How fast training goes, and what share of it is spent on padding."""

import time
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_bert.callbacks.step_logging import log_immediately
from lit_bert.data.collate import padded_length
from lit_bert.data.sampler import LengthGroupedSampler
from lit_bert.run.hardware import measure_matmul_gflops


class Throughput(Callback):
    """Logs, each epoch, sentences and tokens per second, padding, and arithmetic done per second.

    Everything is counted from the lengths that the sampler of `TextClassificationDataModule` knows, so that no step
    waits for a device; of other loaders it logs nothing. Validation, and the checkpoints written after it, are left
    out of the time. (Lightning's ThroughputMonitor waits for the device at each batch.)

    `train/tokens_per_sec` counts real tokens, of all ranks; `train/padding_waste` is the share of computed tokens that
    are padding, in [0, 1]; `train/gflops` is 6 x parameters outside the embeddings x real tokens / seconds / 1e9 (2 for
    the forward pass, 4 for the backward; Kaplan et al. 2020, section 2.1), on each device. Those that are not trained
    count 4 times, as below them gradients go on; of the first `frozen_layers`, where none do, that is too much.
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self._seconds = 0.0
        self._since: float | None = None  # None while something else than training goes on

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds, self._since = 0.0, time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Go on, after a validation and the checkpoints that follow it."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)

    def _pause(self, trainer: Trainer) -> None:
        if self._since is not None:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause(trainer)
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if not isinstance(sampler, LengthGroupedSampler):  # `--trainer.overfit_batches` replaces it, too
            return
        epoch, before = sampler.resumed
        before *= epoch == sampler.epoch
        batches = trainer.fit_loop.epoch_loop.batch_idx + 1
        lengths = sampler.lengths[sampler.rows()][: batches * sampler.batch_size]
        starts = np.arange(0, len(lengths), sampler.batch_size)
        padded_lengths = trainer.datamodule.padded_lengths  # type: ignore[attr-defined]
        rows = np.diff([*starts, len(lengths)])
        longest = np.maximum.reduceat(lengths, starts).tolist()
        computed = (rows * [padded_length(length, padded_lengths) for length in longest]).sum()
        self.last = {"train/padding_waste": float(1 - lengths.sum() / computed)}
        lengths, seconds = lengths[before * sampler.batch_size :], self._seconds  # of these rows it knows the time
        if seconds:  # there is none if the epoch was resumed at its very end
            weights = [p for name, p in pl_module.named_parameters() if "embeddings" not in name]
            flops = sum((6 if weight.requires_grad else 4) * weight.numel() for weight in weights)  # of a token
            self.last |= {
                "train/samples_per_sec": len(lengths) * trainer.world_size / seconds,
                "train/tokens_per_sec": float(lengths.sum()) * trainer.world_size / seconds,
                "train/gflops": flops * float(lengths.sum()) / seconds / 1e9,
            }
        log_immediately(trainer.loggers, self.last, trainer.global_step - 1)

    def summary(self, trainer: Trainer) -> dict[str, float]:
        """Return the last epoch's figures, and `mfu`: the share of what this device does with large matrices.

        It is empty if no batch was trained on, or no epoch ended.
        """
        if "train/gflops" not in self.last:
            return {}
        bf16 = "bf16" in str(trainer.precision)
        peak = measure_matmul_gflops(trainer.strategy.root_device.type, bf16)
        figures = {name.removeprefix("train/"): value for name, value in self.last.items()}
        return {**figures, "mfu": figures["gflops"] / peak}
