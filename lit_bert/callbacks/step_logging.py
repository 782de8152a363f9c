"""When and how values of training reach the loggers."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from lightning.pytorch import Trainer


def is_logged_step(trainer: Trainer) -> bool:
    """Tell whether this step's values are logged: those of the first, and of each `--trainer.log_every_n_steps`."""
    step, every = trainer.global_step, cast(Any, trainer).log_every_n_steps
    return every > 0 and (step == 0 or (step + 1) % every == 0)


def log_immediately(loggers: Iterable[Any], values: Mapping[str, Any], step: int) -> None:
    """Hand values to the loggers before the hooks in which checkpoints are written; Lightning would do it after them.

    Then a run that was killed in between and resumed would lack them.
    """
    for logger in loggers:
        logger.log_metrics({name: float(value) for name, value in values.items()}, step)
