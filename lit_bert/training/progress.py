"""What a person sees while a run goes on: a few lines on what is about to be done, then a progress bar."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lit_bert.console import status


class RunSummary(Callback):
    """Prints, before training starts, with which data, model and device."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        splits = getattr(trainer.datamodule, "splits", None)  # type: ignore[attr-defined]
        if isinstance(splits, dict) and {"train", "val", "test"} <= splits.keys():
            train, val, test = (f"{len(splits[name]):,}" for name in ("train", "val", "test"))
            names = getattr(trainer.datamodule, "class_names", [])  # type: ignore[attr-defined]
            classes = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            status("data", f"{train} training, {val} validation, {test} test rows; classes {classes}")
        config = getattr(getattr(pl_module, "model", None), "config", None)
        if config is not None:
            name = getattr(pl_module, "pretrained", type(pl_module).__name__)
            millions = sum(parameter.numel() for parameter in pl_module.parameters()) / 1e6
            layers = getattr(config, "num_hidden_layers", "?")
            status("model", f"{name}: {config.model_type}, {layers} layers, {millions:.1f} M parameters")
        root = trainer.strategy.root_device
        name = (
            torch.cuda.get_device_name(root)
            if root.type == "cuda"
            else f"{root.type}, {torch.get_num_threads()} threads"
        )
        status("device", f"{trainer.world_size} x {name}; precision {trainer.precision}")


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with the validation accuracy and without the run's version number.

    Its metrics are read as often as they are logged: to read one waits for the GPU.
    """

    def __init__(self) -> None:
        super().__init__(leave=True)
        self._metrics: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics to show."""
        every: int = getattr(trainer, "log_every_n_steps", 0) or 10
        if trainer.training and self._metrics and trainer.global_step % every:
            return self._metrics
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if "val/acc" in trainer.callback_metrics:
            metrics["val/acc"] = float(trainer.callback_metrics["val/acc"])
        self._metrics = metrics
        return metrics
