"""Where Lightning's training loop stands, and what it does next, by its public attributes."""

from typing import Any, cast

from lightning.pytorch import Trainer


def is_last_batch(trainer: Trainer) -> bool:
    """Tell whether this batch is the epoch's last."""
    return bool(trainer.is_last_batch) or trainer.fit_loop.batch_idx + 1 >= trainer.num_training_batches


def stops_early(trainer: Trainer) -> bool:
    """Tell whether a callback has told training to stop, and enough of it is done."""
    epochs = cast(Any, trainer.fit_loop.epoch_progress.current).processed
    enough = trainer.global_step >= (trainer.min_steps or 0) and epochs >= (trainer.min_epochs or 0)
    return trainer.should_stop and bool(enough)


def correct_restart(trainer: Trainer) -> None:
    """Let a run that goes on from an epoch's end begin the next one, also where its length is given in steps.

    Lightning takes every resumed run with `max_steps` for one that goes on within an epoch, and skips its rows.
    """
    loop = trainer.fit_loop
    progress = cast(Any, loop.epoch_progress.current)
    steps = loop.epoch_loop.max_steps
    whole = progress.ready == progress.started == progress.processed
    if loop.restarting and whole and steps != -1:
        loop.epoch_loop.max_steps = -1
        loop.restarting = False
        loop.reset()
        loop.epoch_loop.max_steps = steps
