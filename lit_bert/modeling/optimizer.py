"""Parameter groups, optimizers and schedules."""

import math
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from lit_bert.errors import UserError


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split trainable parameters into those that decay and those that do not: vectors, such as biases and LayerNorm.

    Source: Devlin et al. 2019, appendix A.2, as its released optimizer does it.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def linear_schedule(optimizer: Optimizer, warmup_ratio: float, total_steps: int) -> LambdaLR:
    """Return the schedule of the Hugging Face Trainer: the learning rate rises linearly from 0, then falls to 0.

    `warmup_ratio` is the fraction of `total_steps` spent rising, in [0, 1]; that number of steps is rounded up.
    """
    from transformers import get_linear_schedule_with_warmup

    warmup_steps = -int(-warmup_ratio * total_steps // 1)
    return get_linear_schedule_with_warmup(optimizer, warmup_steps, total_steps)  # type: ignore[no-any-return]


OWN_GROUPS = 2
"""What `decay_groups` returns; a callback such as BackboneFinetuning may add more to an optimizer."""


def refresh(
    schedule: LambdaLR, groups: list[dict[str, Any]], learning_rate: float, warmup_ratio: float, total_steps: int
) -> None:
    """Let a schedule and its optimizer go on, where they stand, with today's options and not with a checkpoint's."""
    factor = linear_schedule(schedule.optimizer, warmup_ratio, total_steps).lr_lambdas[0]
    schedule.lr_lambdas = [factor] * len(schedule.optimizer.param_groups)
    schedule.base_lrs[:OWN_GROUPS] = [learning_rate] * OWN_GROUPS
    for group, today in zip(schedule.optimizer.param_groups, groups, strict=False):
        rate = learning_rate * factor(schedule.last_epoch)
        group.update(initial_lr=learning_rate, lr=rate, weight_decay=today["weight_decay"])


def include_added_groups(schedule: LambdaLR) -> None:
    """Let groups that a callback added to the optimizer follow the schedule from the learning rate that it gave them.

    PyTorch's schedulers refuse an optimizer with more groups than they know.
    """
    factor = schedule.lr_lambdas[0]
    now = factor(schedule.last_epoch)
    added = schedule.optimizer.param_groups[OWN_GROUPS:]
    schedule.base_lrs = [*schedule.base_lrs[:OWN_GROUPS], *(group["lr"] / (now or 1.0) for group in added)]
    schedule.lr_lambdas = [factor] * len(schedule.base_lrs)


def clip_gradients(parameters: Iterable[nn.Parameter], value: float | None, algorithm: str | None) -> Tensor:
    """Clip gradients by the Trainer's `gradient_clip_val` and `gradient_clip_algorithm`; return their norm before.

    Lightning's own clipping refuses a fused optimizer under any autocast, though only fp16's gradient scaler would be
    in its way.
    """
    listed = list(parameters)
    by_value = algorithm == "value"
    norm = nn.utils.clip_grad_norm_(listed, value if value and not by_value else float("inf"))
    if value and by_value:
        nn.utils.clip_grad_value_(listed, value)
    return norm


def make(kind: type, spec: dict[str, Any], *args: Any) -> Any:
    """Return an instance of what the command line names, such as `--optimizer torch.optim.SGD --optimizer.lr 0.1`.

    Its class must be derived from `kind`; `args`, before its `init_args`, are parameter groups or an optimizer.
    """
    path = str(spec["class_path"])
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
        if not (isinstance(found, type) and issubclass(found, kind)):
            raise UserError(f"{path}: this is not a subclass of {kind.__name__}")
        return found(*args, **spec.get("init_args", {}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{path}: {error}") from error


def scheduler_config(scheduler: LRScheduler | ReduceLROnPlateau) -> dict[str, Any]:
    """Return how Lightning is to step a scheduler: after each optimizer step, or a plateau's after each epoch."""
    if isinstance(scheduler, ReduceLROnPlateau):
        return {"scheduler": scheduler, "interval": "epoch", "monitor": getattr(scheduler, "monitor", "val/loss")}
    return {"scheduler": scheduler, "interval": "step"}


def total_steps(trainer: Trainer) -> int:
    """Return the optimizer steps of a whole run."""
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        raise UserError("--trainer.max_epochs -1: the learning rate falls to 0 at a last step; give a number")
    return int(steps)
