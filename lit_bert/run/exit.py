"""How the command line ends after an error or a signal."""

import os
import signal
import sys
import threading
from typing import Any, NoReturn

from lightning.pytorch.utilities import rank_zero_only

from lit_bert.errors import Interrupted, UserError, as_user_error, is_lost_rank, reason
from lit_bert.files import display_path
from lit_bert.run.ranks import launched_environment


def exit_on_sigterm() -> None:
    """Let SIGTERM clean up before training, too: by itself it ends Python at once."""

    def end(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    # Not in one of several ranks, which wait for each other outside Python.
    alone = "LOCAL_RANK" not in os.environ and launched_environment() is None
    main_thread = threading.current_thread() is threading.main_thread()
    if alone and main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def explain_and_exit(error: Exception) -> None:
    """Say on standard error what a person can do, and exit; return if the error is a fault of the program.

    Raises:
        SystemExit: With 128 and the signal's number after an interruption, 1 if another rank is gone, else 2.
    """
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    if isinstance(error, Interrupted):
        if rank == 0:
            name, path = signal.Signals(error.signal_number).name, display_path(error.checkpoint)
            sys.stderr.write(f"stopped by {name}; go on with\npython train.py fit --ckpt_path {path}\n")
        raise SystemExit(128 + error.signal_number) from None
    if is_lost_rank(error):
        line = str(error).partition("] ")[2].partition(". ")[0] or reason(error)
        sys.stderr.write(f"error: rank {rank} lost another rank, whose message says why ({line})\n")
        raise SystemExit(1) from error
    if explained := as_user_error(error):
        sys.stderr.write(f"error: {explained}\n")
        raise SystemExit(2) from error


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
