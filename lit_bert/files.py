"""Files written whole or not at all, and CSV without limits."""

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def csv_reader(lines: Iterable[str]) -> Any:
    """Return a `csv.reader` that takes fields of any length, and no quote that is left open."""
    csv.field_size_limit(2**31 - 1)
    return csv.reader(lines, strict=True)
