"""How the command line ends after an error or a signal."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import DistError

from lit_bert.data.tokenized import lengths
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import Interrupted, UserError, as_user_error, reason
from lit_bert.files import display_path
from lit_bert.run.help import call
from lit_bert.run.ranks import launched_environment


def exit_on_sigterm() -> None:
    """Let SIGTERM clean up before training, too: by itself it ends Python at once."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    # Ranks wait for each other outside Python, where no handler runs.
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
            sys.stderr.write(f"stopped by {name}; go on with\n{call()} fit --ckpt_path {path}\n")
        raise SystemExit(128 + error.signal_number) from None
    by_gloo = isinstance(error, RuntimeError) and "/gloo/" in str(error)
    if by_gloo or isinstance(error, DistError):
        line = str(error).partition("] ")[2].partition(". ")[0] or reason(error)
        sys.stderr.write(f"error: rank {rank} lost another rank, whose message says why ({line})\n")
        raise SystemExit(1) from error
    if explained := as_user_error(error):
        sys.stderr.write(f"error: {explained}\n")
        raise SystemExit(2) from error


def explain_out_of_memory(data: LightningDataModule | None, training: bool) -> UserError:
    """Return an error that names what takes the memory: batches of training or evaluation, or texts of `--input`."""
    if data is None:
        return UserError("out of memory predicting texts; lower --data.max_length, or use --trainer.accelerator cpu")
    what = "--data.batch_size" if training else "--data.eval_batch_size"
    advice = "halve the batch and set --trainer.accumulate_grad_batches 2" if training else "halve the batch"
    if isinstance(data, TextClassificationDataModule) and data.splits:
        longest = max(int(max(lengths(rows))) for rows in data.splits.values())
        what += f" {data.batch_size if training else data.eval_batch_size} and sentences of up to {longest} tokens"
    advice += ", or lower --data.max_length; checkpoints written before are intact"
    return UserError(f"out of memory with {what}: {advice}")
