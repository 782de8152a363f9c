"""Where in the data training stands: what a checkpoint says of it, and how training goes on from there."""

from typing import Any, cast

from lightning.pytorch import Trainer

from lit_bert.errors import UserError


def position(trainer: Trainer, batch_size: int) -> dict[str, Any]:
    """Return the `epoch`, how many of its `batches` each rank has done, and which rows make a `step`.

    `broken_off` tells whether the epoch counts as ended for Lightning, though not all of it was trained on.
    """
    loop = trainer.fit_loop
    done = cast(Any, loop.epoch_loop.batch_progress.current).processed
    epoch, ended = trainer.current_epoch, cast(Any, loop.epoch_progress.current).processed
    if done >= trainer.num_training_batches:
        epoch, done = epoch + 1, 0
    step = [batch_size * trainer.world_size, trainer.accumulate_grad_batches]
    return {"epoch": epoch, "batches": done, "step": step, "broken_off": ended > epoch}


def resume(trainer: Trainer, batch_size: int, state: dict[str, Any]) -> tuple[int, int]:
    """Return the epoch to go on with, and how many of its batches are done.

    Args:
        trainer: Of the run that goes on.
        batch_size: Rows per batch on each device.
        state: What `position` returned.

    Raises:
        UserError: It is within an epoch, and steps have other rows now, or Lightning counts that epoch as ended.
    """
    rows, accumulate = state["step"]
    ranks = trainer.world_size
    if state["broken_off"]:
        raise UserError("--ckpt_path: it was written when the run ended within an epoch; go on from last.ckpt instead")
    if state["batches"] and (rows, accumulate) != (batch_size * ranks, trainer.accumulate_grad_batches):
        raise UserError(
            f"--data.batch_size {batch_size} on {ranks} devices, --trainer.accumulate_grad_batches "
            f"{trainer.accumulate_grad_batches}: the checkpoint was written within an epoch, with {rows} rows "
            f"a batch on all devices together and {accumulate} batches a step; set --data.batch_size "
            f"{max(1, rows // ranks)} --trainer.accumulate_grad_batches {accumulate}"
        )
    return state["epoch"], state["batches"]
