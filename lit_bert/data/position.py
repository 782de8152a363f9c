"""Where in the data training stands: what a checkpoint says of it, and how training goes on from there."""

import os
from typing import Any, cast

from lightning.pytorch import Trainer

from lit_bert.errors import UserError


def seed() -> int:
    """Return the seed that `seed_everything` has set; 0 if there is none."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def order(digest: str, grouping: bool) -> dict[str, Any]:
    """Return what decides which training rows come when: a digest of the rows, and whether they are grouped."""
    return {"rows": digest, "seed": seed(), "grouping": grouping}


def position(trainer: Trainer, batch_size: int, order: dict[str, Any], held_out: str, val: str) -> dict[str, Any]:
    """Return where training stands, as a checkpoint holds it: the `epoch` to go on with, and its `batches` done.

    `order` is what decides on the order of rows; `held_out` and `val` are digests of the rows held out of the training
    rows and of the validation rows. An epoch is `broken_off` if Lightning counts it as ended, though not all of its
    batches were trained on.
    """
    loop = trainer.fit_loop
    epochs, batches = cast(Any, loop.epoch_progress.current), cast(Any, loop.epoch_loop.batch_progress.current)
    epoch, done = max(0, epochs.started - 1), batches.processed
    broken_off = epochs.processed > epoch and done < trainer.num_training_batches
    if done >= trainer.num_training_batches:
        epoch, done = epoch + 1, 0
    step = [batch_size * trainer.world_size, trainer.accumulate_grad_batches]
    progress = {"epoch": epoch, "batches": done, "step": step, "broken_off": broken_off}
    return {**progress, "order": order, "held_out": held_out, "val": val}


def check_held_out(state: dict[str, Any], held_out: str, dataset: str | dict[str, str]) -> None:
    """Raise a UserError if rows may be evaluated that a checkpoint was trained on: others are held out than then."""
    if held_out and state.get("held_out") not in ("", None, held_out):
        raise UserError(
            f"--data.dataset {dataset}: the file is not as it was, or other rows are held out of it than when the "
            "checkpoint was written, so that rows it was trained on may be among them; predict with --input, or give a "
            "file for each split"
        )


def resume(
    trainer: Trainer, batch_size: int, order: dict[str, Any], val: str, state: dict[str, Any]
) -> tuple[int, int]:
    """Return the epoch to go on with and how many of its batches are done, from what `position` returned.

    Raises:
        UserError: The checkpoint was written within an epoch, of which the steps have other rows now; or what is best
            so far was chosen on other validation rows.
    """
    if state.get("val", val) != val:
        raise UserError(
            "--ckpt_path: there are other validation rows than those by which the run's best checkpoint was chosen, or "
            "they are cut otherwise (--data.max_length, --data.long_text); go on with the same, or begin a new run "
            "with what `export` makes of it (--model.pretrained)"
        )
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
