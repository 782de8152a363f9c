"""Sentences from a file or a pipe to a file or a pipe of predictions, window by window: memory stays flat."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_bert.data.readers import STDIN, Row, read_texts
from lit_bert.errors import UserError
from lit_bert.evaluation.metrics import wilson_interval
from lit_bert.files import display_path
from lit_bert.inference.predictions import STDOUT, PredictionWriter, open_output
from lit_bert.inference.predictor import WINDOW, Predictor


def predict_stream(
    predictor: Predictor, source: str, output: str, format: str, text_column: str, label_column: str, console: Console
) -> None:
    """Predict the rows of a source, and write them in their order.

    A file is read through first, so that a fault in it shows before any work is done. Lines of standard input are
    predicted as soon as they are there.

    Args:
        predictor: The classifier.
        source: What `read_texts` takes: a file, or "-" for standard input.
        output: A file, or "-" for standard output.
        format: "csv" or "jsonl".
        text_column: Column of the sentences.
        label_column: Column of the labels, which need not be there.
        console: Where a progress bar and a few last lines go.

    Raises:
        UserError: A row cannot be read, or the output not be written; rows before it have been written.
    """
    files = [Path(name).expanduser().absolute() for name in (output, source)]
    if all(file.is_file() for file in files) and files[0].samefile(files[1]):
        raise UserError(f"--output {output}: this is the input; give another file")
    rows, total = read_texts(source, text_column, label_column), None
    if source == STDIN:
        pending: Queue[Row | Exception | None] = Queue(WINDOW)
        windows = _windows(_read_ahead(rows, pending), pending.empty)
    else:
        total = sum(1 for _ in rows)
        if not total:
            raise UserError(f"--input {source}: the file has no rows")
        windows = _windows(read_texts(source, text_column, label_column), lambda: False)
    classes = {str(number): name for number, name in enumerate(predictor.class_names)}
    classes |= {name: name for name in predictor.class_names}
    counts: Counter[str] = Counter()
    unknown: set[str] = set()
    stopped: BaseException | None = None
    columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = output == STDOUT and sys.stdout is not None and sys.stdout.isatty()  # it would run through the answers
    with open_output(output) as file, Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task("", total=total)
        writer = PredictionWriter(file, predictor.class_names, format)
        try:
            for window in windows:
                probabilities = predictor.stream(row.text for row in window if row.text.strip())
                for row in window:
                    label = row.label and classes.get(row.label, row.label)
                    probs = next(probabilities).tolist() if row.text.strip() else None
                    pred = writer.write(counts["rows"], row.text, label, probs)
                    known = pred is not None and label in classes
                    counts.update(rows=1, empty=probs is None, labelled=known, correct=known and pred == label)
                    if label and pred is not None and not known and len(unknown) < 5:
                        unknown.add(label)
                file.flush()
                progress.advance(task, len(window))
        except (UserError, KeyboardInterrupt, RuntimeError) as error:  # the last for want of memory
            if not counts["rows"]:
                raise
            stopped = error
    if not counts["rows"] and stopped is None:
        raise UserError("--input -: standard input has no lines")
    _print_counts(console, counts, output)
    if unknown:
        names = ", ".join(predictor.class_names)
        console.print(f"some labels are none of {names}: {', '.join(sorted(unknown))}", markup=False)
    if stopped is not None:
        raise stopped


def _print_counts(console: Console, counts: Counter[str], output: str) -> None:
    place = "" if output == STDOUT else f" are in {display_path(output)}"
    console.print(f"{counts['rows']:,} predictions{place}", markup=False)
    if counts["empty"]:
        console.print(f"{counts['empty']:,} empty texts have their rows, without a prediction")
    if rows := counts["labelled"]:
        low, high = wilson_interval(counts["correct"], rows)
        interval = f"95 % interval {low:.4f} to {high:.4f}"
        console.print(f"accuracy {counts['correct'] / rows:.4f} on {rows:,} labelled rows, {interval}")


def _read_ahead(rows: Iterator[Row], pending: "Queue[Row | Exception | None]") -> Iterator[Row]:
    """Yield rows that a thread reads into a bounded queue, which is empty while the next row is not there yet."""

    def read(_stdin: object) -> None:  # holds it, or Python could not exit while the thread waits for a line
        try:
            for row in rows:
                pending.put(row)
            pending.put(None)
        except Exception as error:
            pending.put(error)

    Thread(target=read, args=(sys.stdin,), daemon=True).start()
    while isinstance(item := pending.get(), Row):
        yield item
    if item is not None:
        raise item


def _windows(rows: Iterator[Row], is_idle: Callable[[], bool]) -> Iterator[list[Row]]:
    """Yield windows of rows, which end early while no other row is there yet; those before a fault, then the fault."""
    window: list[Row] = []
    try:
        for row in rows:
            window.append(row)
            if len(window) == WINDOW or is_idle():
                yield window
                window = []
    except UserError:
        if window:
            yield window
        raise
    if window:
        yield window
