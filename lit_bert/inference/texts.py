"""Texts to predict: where they come from, what is written of each window of them, and a summary."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice, repeat
from typing import TextIO

from rich.console import Console

from lit_bert.data.formats import DEFAULT_FORMAT, TableFormat
from lit_bert.data.readers import Row, read_texts
from lit_bert.evaluation.metrics import wilson_interval
from lit_bert.files import display_path
from lit_bert.inference.predictions import STDOUT, PredictionWriter, RowFormat
from lit_bert.inference.predictor import WINDOW, Predictor

EXPLAINED_WINDOW = 64
"""Sentences that are explained before any is written: each takes some hundred times as long as its prediction."""

Window = tuple[int, list[Row]]
"""The number of its first row in the source, from 0, and its rows."""


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
        self.rows += other.rows
        self.empty += other.empty
        self.labelled += other.labelled
        self.correct += other.correct
        self.unknown = sorted({*self.unknown, *other.unknown})[:5]


@dataclass(frozen=True)
class TextJob:
    """Which texts are predicted, and how.

    Args:
        predictor: What predicts them.
        source: A file, or "-" for lines of standard input.
        output: A file, or "-" for standard output.
        format: How rows are written.
        table: Which columns of a table are read.
    """

    predictor: Predictor
    source: str
    output: str
    format: RowFormat = field(default_factory=RowFormat)
    table: TableFormat = DEFAULT_FORMAT

    @property
    def window(self) -> int:
        """Rows that are predicted together."""
        return EXPLAINED_WINDOW if self.format.explained else WINDOW

    def read(self) -> Iterator[Row]:
        """Yield the rows of the source."""
        return read_texts(self.source, self.table, self.format.kept)

    def windows(self, rank: int = 0, world_size: int = 1) -> Iterator[Window]:
        """Yield the windows of a rank: of each `world_size` it has one, so that all ranks get long texts."""
        rows, size = self.read(), self.window
        windows = iter(lambda: list(islice(rows, size)), [])
        return islice(zip(count(step=size), windows, strict=False), rank, None, world_size)

    def writer(self, file: TextIO, header: bool = True) -> PredictionWriter:
        """Return what writes rows to a file."""
        return PredictionWriter(file, self.predictor.class_names, self.format, header)

    def predict(self, window: Window, file: TextIO) -> Counts:
        """Predict a window, and write its rows to a file."""
        start, rows = window
        names = {str(number): name for number, name in enumerate(self.predictor.class_names)}
        names |= {name: name for name in self.predictor.class_names}
        texts = [row.content for row in rows if row.is_filled]
        probabilities = [probs.tolist() for probs in self.predictor.stream(texts)]
        explained = self.format.explained
        explanations = self.predictor.explain_classes(texts, probabilities) if explained else repeat(None)
        answers = zip(probabilities, explanations, strict=False)
        counts, writer = Counts(len(rows)), self.writer(file, header=start == 0)
        for index, row in enumerate(rows, start):
            label = row.label and names.get(row.label, row.label)
            probs, explanation = next(answers) if row.is_filled else (None, None)
            pred = writer.write(index, row.content, label, probs, row.kept, explanation)
            if pred is None:
                counts.empty += 1
            elif label in names:
                counts.labelled += 1
                counts.correct += pred == label
            elif label:
                counts.unknown.append(label)
        return counts

    def print_summary(self, counts: Counts, console: Console) -> None:
        """Print how many rows were predicted, and the accuracy of those that have a label."""
        place = "" if self.output == STDOUT else f" are in {display_path(self.output)}"
        console.print(f"{counts.rows:,} predictions{place}", markup=False)
        if counts.empty:
            console.print(f"without a prediction, because they are empty: {counts.empty:,}")
        if rows := counts.labelled:
            low, high = wilson_interval(counts.correct, rows)
            interval = f"95 % interval {low:.4f} to {high:.4f}"
            console.print(f"accuracy {counts.correct / rows:.4f} on {rows:,} labelled rows, {interval}")
        if counts.unknown:
            names, labels = ", ".join(self.predictor.class_names), ", ".join(counts.unknown)
            console.print(f"some labels are none of {names}: {labels}", markup=False)
