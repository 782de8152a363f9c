"""What a person sees while it runs: a few lines on what is about to be done, then a progress bar."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console


class Opening(Callback):
    """Says, before training starts, with which data, model and device.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the lines; the data are read and the model is built by now."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        model: Any = pl_module
        train, val, test = (f"{len(data.splits[name]):,}" for name in ("train", "val", "test"))
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        config = model.model.config
        if trainer.strategy.root_device.type == "cuda":
            device = torch.cuda.get_device_name(trainer.strategy.root_device)
        else:
            device = f"{trainer.strategy.root_device.type}, {torch.get_num_threads()} threads"
        self._say(
            "data", f"{train} training, {val} validation, {test} test rows; classes {', '.join(data.class_names)}"
        )
        self._say(
            "model",
            f"{model.pretrained}: {config.model_type}, {config.num_hidden_layers} layers, {millions:.1f} M parameters",
        )
        self._say("device", f"{trainer.world_size} x {device}; precision {trainer.precision}")

    def _say(self, topic: str, line: str) -> None:
        self.console.print(f"{topic:8} {line}", markup=False)


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with the validation accuracy and without the run's version number.

    Its metrics are read as often as they are logged: to read one waits for the GPU.
    """

    def __init__(self) -> None:
        super().__init__(leave=True)
        self._shown: dict[str, Any] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics to show."""
        if trainer.training and self._shown and trainer.global_step % (cast(Any, trainer).log_every_n_steps or 10):
            return self._shown
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if "val/acc" in trainer.callback_metrics:
            metrics["val/acc"] = float(trainer.callback_metrics["val/acc"])
        self._shown = metrics
        return metrics
