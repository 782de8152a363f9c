"""What `train.py predict` does: predictions of a split of the data set, or of texts from a file or a pipe.

`settings` are the command line's, and `run_dir` is where the file goes if `--output` does not say. Texts are read and
predicted window by window: memory stays flat.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_bert.console import status
from lit_bert.data.formats import STDIN, TableFormat
from lit_bert.data.readers import Row, read_texts
from lit_bert.errors import UserError
from lit_bert.evaluation.metrics import wilson_interval
from lit_bert.files import display_path, next_free_path
from lit_bert.inference.predictions import STDOUT, PredictionWriter, open_output, write_predictions
from lit_bert.inference.predictor import WINDOW, Predictor
from lit_bert.modeling.outputs import gather_outputs

EXPLAINED_WINDOW = 64
"""Sentences that are explained before any is written: each takes some hundred times as long as its prediction."""


def predict_split(trainer: Trainer, module: LightningModule, data: Any, settings: Any, run_dir: Path) -> None:
    """Predict the rows of the data module's `predict_split`, on all ranks, into one file in their order."""
    if settings.backend == "onnx":
        raise UserError("--backend onnx: it predicts texts of a file or a pipe; name it with --input")
    if settings.explain:
        raise UserError("--explain true: it explains texts of a file or a pipe; name it with --input")
    batches = trainer.predict(module, datamodule=data, ckpt_path=settings.ckpt_path) or []
    outputs = gather_outputs(batches, deduplicate=True)  # type: ignore[arg-type]
    if not outputs:
        raise UserError("--trainer.limit_predict_batches: nothing was predicted")
    if trainer.is_global_zero and not settings.trainer.fast_dev_run:
        output, format = _output(settings, run_dir)
        write_predictions(output, format, outputs, data.rows("predict"))
        if output != STDOUT:
            status("predict", f"{len(outputs['index']):,} predictions are in {display_path(output)}")


def predict_texts(trainer: Trainer, settings: Any, run_dir: Path) -> None:
    """Predict the texts of `--input`, on the trainer's device and with its precision."""
    if trainer.world_size > 1:
        raise UserError(f"--input {settings.input}: it is read on one device; set --trainer.devices 1")
    device, precision, data = str(trainer.strategy.root_device), str(trainer.precision), settings.data
    predictor = Predictor(settings.ckpt_path, device, precision, data.max_length, settings.backend)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    output, format = _output(settings, run_dir)
    pair_column = data.text_pair_column or predictor.text_pair_column
    table = TableFormat(data.text_column, data.label_column, pair_column, data.delimiter)
    if settings.explain and format == "csv":
        raise UserError("--explain true: CSV has no cell for a list of words; set --format jsonl")
    predict_stream(predictor, settings.input, output, format, table, console, settings.explain)


def _output(settings: Any, run_dir: Path) -> tuple[str, str]:
    """Return where predictions go, and in which format."""
    output = settings.output
    if output is None and settings.input == STDOUT:
        output = STDOUT
    elif output is None:
        stem = "predictions" if settings.input is None else f"predictions-{Path(settings.input).stem}"
        output = str(next_free_path(run_dir / f"{stem}.{settings.format or 'csv'}"))
    return output, settings.format or ("jsonl" if Path(output).suffix == ".jsonl" else "csv")


def predict_stream(
    predictor: Predictor,
    source: str,
    output: str,
    format: str,
    table: TableFormat,
    console: Console,
    explained: bool = False,
) -> None:
    """Predict the rows of a source, and write them in their order; `console` gets a progress bar and a summary.

    A file is read through first, so that a fault in it shows before any work is done. Lines of standard input are
    predicted as soon as they are there, and those before a fault are written. `format` is "csv" or "jsonl"; only the
    latter has room for what is `explained`.
    """
    files = [Path(name).expanduser().absolute() for name in (output, source)]
    if all(file.is_file() for file in files) and files[0].samefile(files[1]):
        raise UserError(f"--output {output}: this is the input; give another file")
    rows, total, size = read_texts(source, table), None, EXPLAINED_WINDOW if explained else WINDOW
    if source == STDIN:
        pending: Queue[Row | Exception | None] = Queue(WINDOW)
        windows = _windows(_read_ahead(rows, pending), pending.empty, size)
    else:
        total = sum(1 for _ in rows)
        if not total:
            raise UserError(f"--input {source}: the file has no rows")
        windows = _windows(read_texts(source, table), lambda: False, size)
    classes = {str(number): name for number, name in enumerate(predictor.class_names)}
    classes |= {name: name for name in predictor.class_names}
    counts: Counter[str] = Counter()
    unknown: set[str] = set()
    stopped: BaseException | None = None
    columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = output == STDOUT and sys.stdout is not None and sys.stdout.isatty()  # it would run through the answers
    with open_output(output) as file, Progress(*columns, console=console, disable=hidden) as progress:
        task = progress.add_task("", total=total)
        writer = PredictionWriter(file, predictor.class_names, format, table.text_pair_column is not None, explained)
        try:
            for window in windows:
                filled = [row.content for row in window if row.is_filled]
                probabilities = [probs.tolist() for probs in predictor.stream(filled)]
                whys = predictor.explain_classes(filled, probabilities) if explained else repeat(None)
                answers = zip(probabilities, whys, strict=False)
                for row in window:
                    label = row.label and classes.get(row.label, row.label)
                    probs, why = next(answers) if row.is_filled else (None, None)
                    pred = writer.write(counts["rows"], row.content, label, probs, why)
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
    if not counts["rows"]:
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
        console.print(f"without a prediction, because they are empty: {counts['empty']:,}")
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


def _windows(rows: Iterator[Row], is_idle: Callable[[], bool], size: int) -> Iterator[list[Row]]:
    """Yield windows of at most `size` rows, which end early while no other row is there yet.

    Of a source with a fault, those before it are yielded, then it is raised.
    """
    window: list[Row] = []
    try:
        for row in rows:
            window.append(row)
            if len(window) == size or is_idle():
                yield window
                window = []
    except UserError:
        if window:
            yield window
        raise
    if window:
        yield window
