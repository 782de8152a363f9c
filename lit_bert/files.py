"""Files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_bert.errors import UserError


@contextmanager
def replacing(path: Path, advice: str = "make room, or choose another folder") -> Iterator[Path]:
    """Yield a path beside `path` to write to; what is there at the end replaces `path`, on the disk and at once.

    Args:
        path: The file; its folder is made if need be.
        advice: What to do if it cannot be written.

    Raises:
        UserError: The disk is full, or the folder cannot be written; an older file at `path` is intact.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the new name, too
            finally:
                os.close(folder)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError that hides the errno.
        cause = error if isinstance(error, OSError) else error.__context__
        reason = (cause.strerror if isinstance(cause, OSError) else None) or str(error).splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}; {advice}") from error
