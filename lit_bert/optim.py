"""Parameter groups and the learning rate's schedule: pure functions."""

from typing import Any

from torch import nn


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those that decay and those that do not: biases and LayerNorm weights, all vectors.

    Args:
        module: Parameters that require no gradient are left out.
        weight_decay: AdamW's decoupled decay of the first group, per unit of learning rate, at least 0.

    Source: Devlin et al. 2019, appendix A.2, as its released optimizer does it.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def linear_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return what the peak learning rate is multiplied by at an optimizer step, in [0, 1].

    It rises linearly from 0 over `warmup_steps`, then falls linearly to 0 at `total_steps`: the schedule of the
    Hugging Face `Trainer` (`lr_scheduler_type="linear"`).

    Args:
        step: Optimizer steps done so far, from 0.
        warmup_steps: Optimizer steps of warm-up.
        total_steps: Optimizer steps of the whole run.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
