"""How the command line ends after an error or a signal."""

import os
import signal
import sys
import threading
from typing import NoReturn

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import DistError

from lit_bert.data.tokenized import lengths
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import Interrupted, UserError, as_user_error, reason
from lit_bert.files import display_path
from lit_bert.run.help import call
from lit_bert.run.ranks import launched_environment


def exit_on_sigterm(trainer: Trainer | None = None) -> None:
    """Let SIGTERM end this process with its clean-up, and those that the trainer started; by itself it ends Python.

    Lightning's own handler starts a collective, at whatever moment, on this rank alone
    (Lightning-AI/pytorch-lightning#20806, #21487); it puts back what stood before when it is done.
    """

    def end(number: int, frame: object) -> NoReturn:
        if trainer is not None and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.Signals(number))
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return
    # Before there is a trainer, ranks wait for each other outside Python, where no handler runs.
    is_rank = "LOCAL_RANK" in os.environ or launched_environment() is not None
    if trainer is not None or (not is_rank and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL):
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
