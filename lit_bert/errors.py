"""The one exception that means "you can fix this", and how exceptions of other libraries become one."""

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL_ADVICE = "checkpoints written before are intact: make room, and resume from the newest with --ckpt_path"


class UserError(ValueError):
    """A mistake its reader can correct: the message gives the bad value, where it stands, and the fix."""


class Interrupted(Exception):
    """Training stopped at a signal, after a checkpoint was written to resume from."""

    def __init__(self, signal_number: int, checkpoint: Path) -> None:
        super().__init__(signal_number, checkpoint)
        self.signal_number = signal_number
        self.checkpoint = checkpoint


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a `UserError` on standard error, and exit with status 2; after Ctrl-C with 130."""
    try:
        yield
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        sys.stderr.write("stopped by SIGINT\n")
        raise SystemExit(130) from None


def reason(error: BaseException) -> str:
    """Return the first line of what an exception says, or its type's name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def as_user_error(error: Exception) -> UserError | None:
    """Return what a user can do about an exception of another library; None if it is a fault of the program."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # takes seconds

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
        if "No supported gpu" in text or "can not run on your system" in text:
            text = f"{text.split('!')[0].split('. ')[0]}; --trainer.accelerator auto takes the best device there is"
        return UserError(text.strip() or type(error).__name__)
    return None


def _raised_in(error: Exception) -> str:
    """Return the name of the module that raised an exception."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else ""


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether PyTorch could not allocate memory, which on a CPU only the text of a RuntimeError says."""
    import torch

    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError)
