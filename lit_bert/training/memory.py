"""What to do if a device's memory does not suffice."""

from typing import Any

from lit_bert.errors import UserError


def explain_out_of_memory(data: Any, training: bool) -> UserError:
    """Return an error that names what takes the memory.

    Args:
        data: The data module; without rows, texts of `--input` were predicted.
        training: Whether a training batch was too large; else it was one of evaluation.
    """
    splits = getattr(data, "splits", {})
    if not splits:
        return UserError("out of memory predicting texts; lower --data.max_length, or use --trainer.accelerator cpu")
    option = "batch_size" if training else "eval_batch_size"
    longest = max(max(map(len, rows["input_ids"])) for rows in splits.values())
    return UserError(
        f"out of memory with --data.{option} {getattr(data, option)} and sentences of up to {longest} tokens: "
        f"halve the batch{' and set --trainer.accumulate_grad_batches 2' if training else ''}, or lower "
        "--data.max_length; checkpoints written before are intact"
    )
