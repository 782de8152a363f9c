"""The one exception that means "you can fix this", and how exceptions of other libraries become one.

Other libraries are imported when they are needed, so that a mistake on the command line is answered without them.
"""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL_ADVICE = "checkpoints written before are intact: make room, and resume from the newest with --ckpt_path"


class UserError(ValueError):
    """A mistake its reader can correct: the message gives the bad value, where it stands, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


class Interrupted(Exception):
    """Training stopped at a signal, after a checkpoint was written.

    Args:
        signal_number: The signal.
        checkpoint: What to resume from.
    """

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(signal_number, checkpoint)
        self.signal_number = signal_number
        self.checkpoint = checkpoint


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a `UserError` on standard error, and exit with status 2."""
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def reason(error: BaseException) -> str:
    """Return the first line of what an exception says, or its type's name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def as_user_error(error: Exception) -> UserError | None:
    """Return what a user can do about an exception of another library; None if it is a fault of the program."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    while _raised_in(error).startswith("jsonargparse.") and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what a class said that it instantiated
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # TensorBoard's
        return UserError(f"cannot write {error.filename or 'events'}: {error.strerror}; {DISK_FULL_ADVICE}")
    # Lightning raises built-in exceptions at values that it refuses; only the module that raised tells whose they are.
    kinds = (ValueError, TypeError, RuntimeError, KeyError, ModuleNotFoundError, MisconfigurationException)
    if _raised_in(error).startswith("lightning.") and isinstance(error, kinds):
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        return UserError(text.strip() or type(error).__name__)
    return None


def _raised_in(error: Exception) -> str:
    """Return the name of the module that raised an exception."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return str(frame.tb_frame.f_globals.get("__name__", "")) if frame else ""


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether PyTorch could not allocate memory; of a CPU it says so in a plain RuntimeError alone."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def is_lost_rank(error: Exception) -> bool:
    """Tell whether a collective failed because the process of another rank has ended; gloo raises a RuntimeError."""
    from torch import distributed

    if isinstance(error, distributed.DistError):
        return True
    connected = distributed.is_available() and distributed.is_initialized()
    return connected and isinstance(error, RuntimeError) and "/gloo/" in str(error)
