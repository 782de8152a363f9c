"""Predictions of a file in parts, one for each window of its rows.

Ranks write theirs side by side; a run that was killed keeps those that are done; in the end they are joined in order.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

from lit_bert.errors import UserError
from lit_bert.files import atomic_write
from lit_bert.inference.predictions import open_output

_JOB = "job.json"


@dataclass
class Counts:
    """Rows that are predicted; those of them that are empty, have a label that is a class, and are then right.

    `unknown` has up to 5 labels that are no class.
    """

    rows: int = 0
    empty: int = 0
    labelled: int = 0
    correct: int = 0
    unknown: list[str] = field(default_factory=list)

    def add(self, other: "Counts") -> None:
        """Add those of other rows."""
        for name in ("rows", "empty", "labelled", "correct"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.unknown = sorted({*self.unknown, *other.unknown})[:5]


class Parts:
    """A folder beside an output, with a file for each window that is done: its counts in a line, then its rows.

    Args:
        output: The file that they become.
        job: What the parts depend on; those of another job are dropped.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, output: str, job: Mapping[str, Any]) -> None:
        self.output = Path(output)
        self.folder = self.output.with_name(f".{self.output.name}.parts")
        text = json.dumps(job, indent=2, default=str)
        try:
            is_same = (self.folder / _JOB).read_text("utf-8") == text
        except (OSError, UnicodeDecodeError):
            is_same = False
        if is_same:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            problem = f"cannot write {output}: {error.strerror or error}"
            raise UserError(f"{problem}; make room, or choose another folder") from error
        with atomic_write(self.folder / _JOB) as partial:
            partial.write_text(text, encoding="utf-8")

    def done(self) -> set[int]:
        """Return the windows that are there, counted from 0."""
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()}

    def path(self, number: int) -> Path:
        """Return the file of a window."""
        return self.folder / f"{number:08}"

    @contextmanager
    def write(self, number: int) -> Iterator[tuple[TextIO, Counts]]:
        """Yield a file for the rows of a window, and counts to add to; at the end they are there, at once."""
        rows, counts = StringIO(newline=""), Counts()
        yield rows, counts
        with atomic_write(self.path(number)) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            file.write(json.dumps(asdict(counts)) + "\n")
            file.write(rows.getvalue())

    def join(self, windows: int, header: str) -> Counts:
        """Write the output, of a header and the rows of all windows in order, drop the parts, and return the counts."""
        total = Counts()
        with open_output(str(self.output)) as file:
            file.write(header)
            for number in range(windows):
                with self.path(number).open(newline="", encoding="utf-8") as part:
                    total.add(Counts(**json.loads(part.readline())))
                    shutil.copyfileobj(part, file)
        shutil.rmtree(self.folder, ignore_errors=True)
        return total


def fingerprint(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of a file, or of each file of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(str(file.absolute()), os.stat(file)) for file in files]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]
