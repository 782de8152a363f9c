"""Texts of a file or of standard input, predicted window by window on all ranks, and written in their order."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from itertools import count, islice
from pathlib import Path
from queue import Queue
from threading import Thread

from lightning.pytorch import LightningModule
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed

from lit_bert.data.formats import DEFAULT_FORMAT, STDIN, TableFormat
from lit_bert.data.labels import classes_by_label
from lit_bert.data.readers import Row, read_texts
from lit_bert.errors import UserError
from lit_bert.evaluation.metrics import wilson_interval
from lit_bert.files import display_path
from lit_bert.inference.predictions import STDOUT, PredictionWriter, RowFormat, open_output
from lit_bert.inference.predictor import WINDOW, Predictor

EXPLAINED_WINDOW = 64
"""Rows that are explained before any is written: each takes some hundred times as long as its prediction."""

Window = tuple[int, list[Row]]
"""The number of its first row in the source, from 0, and its rows."""


class TextPredictor(LightningModule):
    """Predicts texts on all ranks of a Trainer: `trainer.predict(TextPredictor(...), dataloaders=range(1))`.

    A file is read through at once, so that a fault in it shows before any work is done. Lines of standard input are
    predicted as soon as they are there; those before a `fault` are written.

    Args:
        predictor: What predicts them.
        source: A file, or "-" for lines of standard input.
        output: A file, or "-" for standard output.
        format: How rows are written.
        table: Which columns of a table are read.

    Raises:
        UserError: The file cannot be read, has no rows, or is the output.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: str,
        output: str,
        format: RowFormat = RowFormat(),  # noqa: B008
        table: TableFormat = DEFAULT_FORMAT,
    ) -> None:
        super().__init__()
        self.predictor, self.source, self.output, self.format, self.table = predictor, source, output, format, table
        self.window = EXPLAINED_WINDOW if format.explained else WINDOW
        self.console = Console(highlight=False, soft_wrap=True, stderr=True)
        self.outcomes: Counter[str] = Counter()
        self.unknown: list[str] = []
        self.fault: BaseException | None = None
        read_from, written_to = (Path(name).expanduser() for name in (source, output))
        if read_from.is_file() and written_to.is_file() and read_from.samefile(written_to):
            raise UserError(f"--output {output}: this is the input; give another file")
        self.rows = None if source == STDIN else sum(1 for _ in self.read())
        if self.rows == 0:
            raise UserError(f"--input {source}: the file has no rows")

    def read(self) -> Iterator[Row]:
        """Yield the rows of the source."""
        return read_texts(self.source, self.table, self.format.kept)

    def windows(self, rank: int, world_size: int) -> Iterator[Window]:
        """Yield one of every `world_size` windows; all ranks get equally many, the last of which may be empty."""
        rows, size = self.read(), self.window
        for start in count(0, size * world_size):
            if not (turn := list(islice(rows, size * world_size))):
                break
            yield start + rank * size, turn[rank * size : (rank + 1) * size]

    def predict_step(self, batch: object, batch_idx: int) -> Counter[str]:
        """Predict all windows, now that the Trainer has connected the ranks; rank 0 writes them."""
        rank, world_size = self.global_rank, self.trainer.world_size
        columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with ExitStack() as opened:
            file = opened.enter_context(open_output(self.output)) if rank == 0 else None
            hidden = not file or not self.rows or (self.output == STDOUT and file.isatty())  # it would run through rows
            progress = opened.enter_context(Progress(*columns, console=self.console, disable=hidden))
            task = progress.add_task("", total=self.rows)
            try:
                for window in self.windows(rank, world_size) if self.rows else _waiting(self.read(), self.window):
                    shares = [self.predict_window(window)] * world_size
                    if world_size > 1:
                        distributed.all_gather_object(shares, shares[0])
                    for text, outcomes, unknown in shares:
                        if file:
                            file.write(text)
                            file.flush()
                        self.outcomes += outcomes
                        self.unknown = sorted({*self.unknown, *unknown})[:5]
                        progress.advance(task, outcomes.total())
            except (UserError, KeyboardInterrupt, RuntimeError) as error:  # the last for want of memory
                self.fault = error
                if self.rows or not self.outcomes:
                    raise
            if not self.outcomes:
                raise UserError("--input -: standard input has no lines")
        return self.outcomes

    def predict_window(self, window: Window) -> tuple[str, Counter[str], set[str]]:
        """Return what is to be written of a window, how many of its rows are right and so on, and unknown labels."""
        start, rows = window
        class_names = self.predictor.class_names
        classes, known = classes_by_label(class_names), set(class_names)
        texts = [row.content for row in rows if row.is_filled]
        answers = iter(list(self.predictor.stream(texts)))
        explanations = iter(self.predictor.explain(texts) if self.format.explained else [])
        file, outcomes, unknown = StringIO(newline=""), Counter[str](), set()
        writer = PredictionWriter(file, class_names, self.format, header=start == 0)
        for index, row in enumerate(rows, start):
            label = row.label and classes.get(row.label, row.label)
            probs = next(answers).tolist() if row.is_filled else None
            explanation = next(explanations, None) if row.is_filled else None
            pred = writer.write(index, row.content, label, probs, row.kept, explanation)
            if pred is None or label not in known:
                outcomes["empty" if pred is None else "without a class"] += 1
                unknown |= {label} if pred and label else set()
            else:
                outcomes["right" if pred == label else "wrong"] += 1
        return file.getvalue(), outcomes, unknown

    def print_summary(self) -> None:
        """Print how many rows were predicted, and the accuracy of those that have a label."""
        outcomes, say = self.outcomes, self.console.print
        place = "" if self.output == STDOUT else f" are in {display_path(self.output)}"
        say(f"{outcomes.total():,} predictions{place}", markup=False)
        if empty := outcomes["empty"]:
            say(f"without a prediction, because they are empty: {empty:,}")
        # The number before the first class, or after the last: labels count otherwise, and others match wrongly.
        counted = [int(key) for key in classes_by_label(self.predictor.class_names) if key.isdigit()]
        miscounted = counted and {str(min(counted) - 1), str(max(counted) + 1)} - {"-1"} & set(self.unknown)
        if (labelled := outcomes["right"] + outcomes["wrong"]) and not miscounted:
            interval = "95 % interval {:.4f} to {:.4f}".format(*wilson_interval(outcomes["right"], labelled))
            say(f"accuracy {outcomes['right'] / labelled:.4f} on {labelled:,} labelled rows, {interval}")
        if self.unknown:
            names, labels = ", ".join(self.predictor.class_names), ", ".join(self.unknown)
            then = "; there is no accuracy of labels that count otherwise" if miscounted else ""
            say(f"some labels are none of {names}: {labels}{then}", markup=False)


def _waiting(rows: Iterator[Row], size: int) -> Iterator[Window]:
    """Yield windows of the rows that are there, at most `size` at a time; a thread reads on meanwhile."""
    pending: Queue[Row | Exception | None] = Queue(size)

    def read(_stdin: object) -> None:  # holds it, or Python could not exit while the thread waits for a line
        try:
            for row in rows:
                pending.put(row)
            pending.put(None)
        except Exception as error:
            pending.put(error)

    Thread(target=read, args=(sys.stdin,), daemon=True).start()
    start, window = 0, []
    while isinstance(item := pending.get(), Row):
        window.append(item)
        if len(window) == size or pending.empty():
            yield start, window
            start, window = start + len(window), []
    if window:
        yield start, window
    if item is not None:
        raise item
