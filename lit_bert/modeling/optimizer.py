"""Parameter groups, optimizers and schedules."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import instantiate_class
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from lit_bert.console import status
from lit_bert.errors import UserError

OWN_GROUPS = 2
"""Number of groups that `decay_groups` returns; a callback such as BackboneFinetuning may add more to an optimizer."""


def check_options(learning_rate: float, warmup_ratio: float, weight_decay: float) -> None:
    """Raise a UserError for a value that is out of range."""
    options = {"learning_rate": learning_rate, "warmup_ratio": warmup_ratio, "weight_decay": weight_decay}
    for option, value in options.items():
        highest = 1.0 if option == "warmup_ratio" else math.inf
        if not 0 <= value <= highest:
            raise UserError(f"--model.{option} {value}: it must be between 0 and {highest:g}")


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those that do not: vectors, such as biases and LayerNorm."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


class LinearSchedule(LambdaLR):
    """The schedule of the Hugging Face Trainer: the learning rate rises linearly from 0, then falls to 0.

    It rises for a fraction of all steps, rounded up; where their number is infinite, it is constant. Groups that a
    callback adds to the optimizer follow it too;
    PyTorch's schedulers refuse an optimizer with more groups than they know.
    """

    def __init__(self, optimizer: Optimizer, warmup_ratio: float, total_steps: float) -> None:
        self.shape = warmup_ratio, total_steps
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Return the learning rate after so many steps, as a fraction of its peak."""
        ratio, total = self.shape
        if total == math.inf:
            return 1.0
        warmup = math.ceil(ratio * total)
        return step / max(1, warmup) if step < warmup else max(0.0, (total - step) / max(1, total - warmup))

    def step(self, epoch: int | None = None) -> None:
        added = self.optimizer.param_groups[len(self.base_lrs) :]
        self.base_lrs += [group["lr"] / (self.factor(self.last_epoch) or 1.0) for group in added]
        self.lr_lambdas = [self.factor] * len(self.base_lrs)
        super().step(epoch)

    def refresh(self, learning_rate: float, warmup_ratio: float, weight_decay: float, total_steps: float) -> None:
        """Go on from where the schedule stands with these options, in place of those that a checkpoint brought."""
        self.shape = warmup_ratio, total_steps
        self.base_lrs[:OWN_GROUPS] = [learning_rate] * OWN_GROUPS
        for group, decay in zip(self.optimizer.param_groups, (weight_decay, 0.0), strict=False):
            rate = learning_rate * self.factor(self.last_epoch)
            group.update(initial_lr=learning_rate, lr=rate, weight_decay=decay)


def make_optimizer(module: nn.Module, spec: Mapping[str, Any], weight_decay: float) -> Optimizer:
    """Return the optimizer that a spec of `class_path` and `init_args` names, over two decay groups."""
    groups = decay_groups(module, spec.get("init_args", {}).get("weight_decay", weight_decay))
    optimizer: Optimizer = _instantiate(Optimizer, spec, groups)
    return optimizer


def make_schedule(
    optimizer: Optimizer, spec: Mapping[str, Any] | None, warmup_ratio: float, trainer: Trainer
) -> dict[str, Any]:
    """Return a schedule, linear if there is no spec, and how Lightning is to step it, as `configure_optimizers` does.

    It is stepped after each optimizer step, or if it is a ReduceLROnPlateau after each epoch.
    """
    if spec is None:
        linear = LinearSchedule(optimizer, warmup_ratio, total_steps(trainer))
        if linear.shape[1] == math.inf:
            status(
                "rate", "the learning rate is constant, because --trainer.max_time tells no last step; see max_epochs"
            )
        return {"scheduler": linear, "name": "train/lr", "interval": "step"}
    scheduler = _instantiate(LRScheduler, spec, optimizer)
    interval = "epoch" if isinstance(scheduler, ReduceLROnPlateau) else "step"
    monitor = spec.get("init_args", {}).get("monitor", "val/loss")
    return {"scheduler": scheduler, "name": "train/lr", "interval": interval, "monitor": monitor}


def _instantiate(kind: type, spec: Mapping[str, Any], argument: Any) -> Any:
    try:
        made = instantiate_class(argument, dict(spec))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{spec['class_path']}: {error}") from error
    if not isinstance(made, kind):
        raise UserError(f"{spec['class_path']}: this is not a subclass of {kind.__name__}")
    return made


def total_steps(trainer: Trainer) -> float:
    """Return the optimizer steps of a whole run; infinity if its time alone is limited."""
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps) and not any(isinstance(callback, Timer) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise UserError("--trainer.max_epochs -1: the learning rate falls to 0 at a last step; give a number")
    return steps


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the 2-norm of all gradients together."""
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def clip_gradients(parameters: Sequence[nn.Parameter], value: float | None, algorithm: str | None) -> None:
    """Clip gradients by the Trainer's `gradient_clip_val` and `gradient_clip_algorithm`."""
    if value and algorithm == "value":
        nn.utils.clip_grad_value_(parameters, value)
    elif value:
        nn.utils.clip_grad_norm_(parameters, value)
