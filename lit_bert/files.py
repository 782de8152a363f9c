"""Files that are written whole or not at all, and their names."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_bert.errors import UserError


@contextmanager
def atomic_write(path: Path, advice: str = "make room, or choose another folder") -> Iterator[Path]:
    """Yield a path beside `path` to write to; what is there at the end replaces `path`, on the disk and at once.

    Its folder is made if need be.

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
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def next_free_path(path: Path) -> Path:
    """Return `path`, or the first of name-2, name-3 ... that does not exist: older results are kept."""
    names = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([path], names) if not name.exists())


def display_path(path: str | Path) -> str:
    """Return a path as one types it: relative if it lies below the current folder."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
