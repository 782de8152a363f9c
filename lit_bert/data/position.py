"""Where in the data training stands: what a checkpoint says of it, and how training goes on from there."""

from typing import Any, cast

from lightning.pytorch import Trainer

from lit_bert.errors import UserError

OTHER_ROWS = (
    "the file is not as it was, or other rows are held out of it than when the checkpoint was written, so that rows it "
    "was trained on may be among them; predict with --input, or give a file for each split"
)


def position(trainer: Trainer, batch_size: int, order: dict[str, Any]) -> dict[str, Any]:
    """Return the `epoch`, its `batches` that each rank has done, what a `step` is, and what decides on row `order`.

    `broken_off` tells whether the epoch counts as ended for Lightning, though not all of it was trained on.
    """
    loop = trainer.fit_loop
    done = cast(Any, loop.epoch_loop.batch_progress.current).processed
    epoch, ended = trainer.current_epoch, cast(Any, loop.epoch_progress.current).processed
    if done >= trainer.num_training_batches:
        epoch, done = epoch + 1, 0
    step = [batch_size * trainer.world_size, trainer.accumulate_grad_batches]
    return {"epoch": epoch, "batches": done, "step": step, "order": order, "broken_off": ended > epoch}


def resume(trainer: Trainer, batch_size: int, order: dict[str, Any], state: dict[str, Any]) -> tuple[int, int]:
    """Return the epoch to go on with, and how many of its batches are done, of what `position` returned.

    Within an epoch this works only if steps have the same rows, and Lightning does not count that epoch as ended.
    """
    rows, accumulate = state["step"]
    ranks, own_accumulate = trainer.world_size, trainer.accumulate_grad_batches
    if state["broken_off"]:
        raise UserError("--ckpt_path: it was written when the run ended within an epoch; go on from last.ckpt instead")
    if state["batches"] and (rows, accumulate) != (batch_size * ranks, own_accumulate):
        raise UserError(
            f"--data.batch_size {batch_size} on {ranks} devices, --trainer.accumulate_grad_batches {own_accumulate}: "
            f"the checkpoint was written within an epoch, with {rows} rows a batch on all devices together and "
            f"{accumulate} batches a step; set --data.batch_size {max(1, rows // ranks)} "
            f"--trainer.accumulate_grad_batches {accumulate}"
        )
    other = [name for name, value in order.items() if state["order"].get(name) != value]
    if state["batches"] and other:
        raise UserError(
            f"--ckpt_path: the checkpoint was written within an epoch, with other training data ({', '.join(other)}); "
            "go on with the same, or from a checkpoint of an epoch's end"
        )
    return state["epoch"], state["batches"]
