"""What a person sees during a run: a few lines on what is about to be done, then a progress bar."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from rich.progress import ProgressColumn, TimeRemainingColumn

from lit_bert.console import status
from lit_bert.data.audit import describe
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.module import BertClassifier


class RunSummary(Callback):
    """Prints, before training starts, with which data, model and device; and why `EarlyStopping` has ended it."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, TextClassificationDataModule):
            counts = {name: f"{len(rows):,}" for name, rows in data.splits.items()}
            names, audit = data.class_names, data.content.audit
            classes = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            test = f"{counts.get('test', 'no')} test rows"
            if "unlabelled" in counts:
                test += f" ({counts['unlabelled']} more without a label)" if "test" in counts else " with a label"
            train = f"{counts['train']} training"
            if "train_unlabelled" in counts:
                train += f" ({counts['train_unlabelled']} more without a label)"
            status("data", f"{train}, {counts['val']} validation, {test}; classes {classes}")
            if audit["held_out"]:
                which = " and ".join(f"{rows:,} {split}" for split, rows in audit["held_out"].items())
                status("held out", f"{which} rows, drawn from the training rows class by class (--data.holdout)")
            for line in describe(audit):
                status("audit", line)
        if isinstance(pl_module, BertClassifier):
            config, parameters = pl_module.model.config, list(pl_module.parameters())
            total = sum(parameter.numel() for parameter in parameters)
            trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
            size = f"{config.num_hidden_layers} layers, {total / 1e6:.1f} M parameters"
            size += "" if trained == total else f", of which training starts with {trained:,}"
            status("model", f"{pl_module.pretrained}: {config.model_type}, {size}")
        root, threads = trainer.strategy.root_device, torch.get_num_threads()
        name = torch.cuda.get_device_name(root) if root.type == "cuda" else f"{root.type}, {threads} threads"
        status("device", f"{trainer.world_size} x {name}; precision {trainer.precision}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and trainer.should_stop and callback.stopping_reason_message:
                why = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
                status("stop", f"EarlyStopping, after epoch {callback.stopped_epoch}: {why}")


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar in 80 columns: a batch's loss, and of validation the loss and the monitored metric.

    Its metrics are read as often as they are logged, because reading one waits for the GPU.
    """

    def __init__(self) -> None:
        super().__init__(leave=True)
        self._metrics: dict[str, Any] = {}

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        description, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = 6
        return [description, bar, batches, TimeRemainingColumn(compact=True, elapsed_when_finished=True)]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        every: int = trainer.log_every_n_steps or 10  # type: ignore[attr-defined]
        if trainer.training and self._metrics and trainer.global_step % every:
            return self._metrics
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        loss = {"batch loss": metrics.pop("train/loss")} if "train/loss" in metrics else {}
        known, checkpoint = trainer.callback_metrics, trainer.checkpoint_callback
        monitor = str(checkpoint.monitor or "val/acc") if isinstance(checkpoint, ModelCheckpoint) else "val/acc"
        names = ("val/loss", "val/acc" if monitor == "val/loss" else monitor)
        self._metrics = {**loss, **metrics, **{key: float(known[key]) for key in names if key in known}}
        return self._metrics
