"""What `train.py predict` does: predictions of a split of the data set, or of texts from a file or a pipe.

`settings` are the command line's, and `run_dir` is where the file goes if `--output` does not say. Texts are read and
predicted window by window: memory stays flat.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from io import StringIO
from itertools import repeat
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from lit_bert.console import status
from lit_bert.data.formats import STDIN, TableFormat
from lit_bert.data.readers import Row, read_texts
from lit_bert.errors import UserError
from lit_bert.evaluation.metrics import wilson_interval
from lit_bert.files import display_path, next_free_path
from lit_bert.inference.parts import Counts, Parts, fingerprint
from lit_bert.inference.predictions import (
    STDOUT,
    PredictionWriter,
    RowFormat,
    is_special,
    open_output,
    write_predictions,
)
from lit_bert.inference.predictor import WINDOW, Predictor
from lit_bert.modeling.outputs import gather_outputs
from lit_bert.run import ranks

EXPLAINED_WINDOW = 64
"""Sentences that are explained before any is written: each takes some hundred times as long as its prediction."""


@dataclass(frozen=True)
class TextJob:
    """Which texts are predicted, and how.

    Args:
        source: A file, or "-" for lines of standard input.
        output: A file, or "-" for standard output.
        format: How rows are written.
        table: Which columns of a table are read.
        streamed: Whether each text is answered on its own, before the next is predicted.
    """

    source: str
    output: str
    format: RowFormat = field(default_factory=RowFormat)
    table: TableFormat = field(default_factory=TableFormat)
    streamed: bool = False

    @property
    def is_in_parts(self) -> bool:
        """Whether it is from a file to a file, which can be shared by ranks, and taken up again."""
        return self.source != STDIN and not is_special(self.output)

    @property
    def window(self) -> int:
        """Rows that are predicted together."""
        return 1 if self.streamed else EXPLAINED_WINDOW if self.format.explained else WINDOW

    def read(self) -> Iterator[Row]:
        """Yield the rows of the source."""
        return read_texts(self.source, self.table, self.format.kept)


def predict_split(trainer: Trainer, module: LightningModule, data: Any, settings: Any, run_dir: Path) -> None:
    """Predict the rows of the data module's `predict_split`, on all ranks, into one file in their order."""
    for option in ("explain", "keep", "stream", "backend"):
        if (value := getattr(settings, option)) not in (None, False, "torch"):
            shown = str(value).lower() if value is True else value
            raise UserError(f"--{option} {shown}: it is for texts of a file or a pipe; name it with --input")
    batches = trainer.predict(module, datamodule=data, ckpt_path=settings.ckpt_path) or []
    outputs = gather_outputs(batches, deduplicate=True)  # type: ignore[arg-type]
    if not outputs:
        raise UserError("--trainer.limit_predict_batches: nothing was predicted")
    if trainer.is_global_zero and not settings.trainer.fast_dev_run:
        output, kind = _output(settings, run_dir)
        write_predictions(output, kind, outputs, data.rows("predict"), settings.safe_csv)
        if output != STDOUT:
            status("predict", f"{len(outputs['index']):,} predictions are in {display_path(output)}")


def predict_texts(trainer: Trainer, settings: Any, run_dir: Path) -> None:
    """Predict the texts of `--input`, on all of the trainer's devices and with its precision."""
    ranks.check_launched_processes(trainer.world_size)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    with ranks.rank_zero_first():
        device, precision, data = str(trainer.strategy.root_device), str(trainer.precision), settings.data
        predictor = Predictor(settings.ckpt_path, device, precision, data.max_length, settings.backend)
        job = _make_job(settings, run_dir, predictor)
        if trainer.world_size > 1 and not job.is_in_parts:
            place = f"--input {job.source}" if job.source == STDIN else f"--output {job.output}"
            raise UserError(f"{place}: a pipe is for one device; set --trainer.devices 1")
        parts = FilePrediction(predictor, job, console) if job.is_in_parts else None
    if parts is None:
        predict_stream(predictor, job, console)
    elif trainer.world_size == 1:
        parts.predict()
        parts.finish()
    else:
        trainer.predict(_OnEachRank(parts), DataLoader([0]), return_predictions=False)  # type: ignore[arg-type]


def _make_job(settings: Any, run_dir: Path, predictor: Predictor) -> TextJob:
    """Return what the options say.

    Raises:
        UserError: Options do not go together.
    """
    data = settings.data
    output, kind = _output(settings, run_dir)
    pair_column = data.text_pair_column or predictor.text_pair_column
    kept = tuple(name.strip() for name in (settings.keep or "").split(",") if name.strip())
    if len(set(kept)) < len(kept):
        raise UserError(f"--keep {settings.keep}: a column comes twice; leave out one")
    if settings.explain and kind == "csv":
        raise UserError("--explain true: CSV has no cell for a list of words; set --format jsonl")
    if settings.stream and not is_special(output):
        raise UserError(f"--stream true: --output {output} is a file, which is written as a whole; give -, or a pipe")
    format = RowFormat(kind, pair_column is not None, kept, settings.explain, settings.safe_csv)
    table = TableFormat(data.text_column, data.label_column, pair_column, data.delimiter)
    job = TextJob(settings.input, output, format, table, settings.stream)
    PredictionWriter(StringIO(), predictor.class_names, format)  # it refuses columns to keep that it has itself
    return job


def _output(settings: Any, run_dir: Path) -> tuple[str, str]:
    """Return where predictions go, and in which format.

    Raises:
        UserError: Cells are to be harmless in a format that has none.
    """
    output = settings.output
    if output is None and settings.input == STDOUT:
        output = STDOUT
    elif output is None:
        stem = "predictions" if settings.input is None else f"predictions-{Path(settings.input).stem}"
        output = str(next_free_path(run_dir / f"{stem}.{settings.format or 'csv'}"))
    kind = settings.format or ("jsonl" if Path(output).suffix == ".jsonl" else "csv")
    if settings.safe_csv and kind != "csv":
        raise UserError(f"--safe_csv true: {kind} has no cells; leave it out, or set --format csv")
    return output, kind


class FilePrediction:
    """Predicts a file into another one, in parts: those of windows that a run before has left are kept.

    The file is read through first, so that a fault in it shows before any work is done; `console` gets a progress bar
    and a summary.
    """

    def __init__(self, predictor: Predictor, job: TextJob, console: Console) -> None:
        files = [Path(name).expanduser().absolute() for name in (job.output, job.source)]
        if all(file.is_file() for file in files) and files[0].samefile(files[1]):
            raise UserError(f"--output {job.output}: this is the input; give another file")
        if files[0].is_dir() or not Path(job.output).name:
            raise UserError(f"--output {job.output}: this is a folder; give a file in it")
        self.predictor, self.job, self.console = predictor, job, console
        self.rows = sum(1 for _ in job.read())
        if not self.rows:
            raise UserError(f"--input {job.source}: the file has no rows")
        self.windows = -(-self.rows // job.window)
        self.parts = Parts(job.output, self._depends_on())

    def _depends_on(self) -> dict[str, Any]:
        """Return all that the predictions depend on."""
        of, source = self.predictor, Path(self.job.source).expanduser()
        model: dict[str, Any] = {"model": fingerprint(Path(of.source)), "backend": of.backend, "dtype": str(of.dtype)}
        model |= {"max_length": of.max_length, "device": of.device.type, "class_names": of.class_names}
        format, table = asdict(self.job.format), list(self.job.table)
        return {"input": fingerprint(source), "window": self.job.window, **model, "format": format, "table": table}

    def predict(self, rank: int = 0, world_size: int = 1) -> None:
        """Predict the windows of a rank that are not done yet: of each `world_size` windows it has one."""
        done = self.parts.done()
        missing = set(range(rank, self.windows, world_size)) - done
        if done:
            status("predict", f"going on: {self._rows_of(done):,} rows are done already", err=True)
        with _progress(self.console, hidden=rank > 0) as progress:
            task = progress.add_task("", total=self._rows_of(missing))
            try:
                for number, window in enumerate(_windows(self.job.read(), lambda: False, self.job.window)):
                    if number in missing:
                        self._predict_part(number, window)
                        progress.advance(task, len(window))
            except BaseException:
                if self.parts.done():
                    self.console.print("what is predicted is kept; the same command goes on from there")
                raise

    def _rows_of(self, windows: set[int]) -> int:
        return sum(min(self.job.window, self.rows - number * self.job.window) for number in windows)

    def _predict_part(self, number: int, window: list[Row]) -> None:
        with self.parts.write(number) as (file, counts):
            writer = PredictionWriter(file, self.predictor.class_names, self.job.format, header=False)
            write_window(self.predictor, window, number * self.job.window, writer, counts)

    def finish(self) -> None:
        """Join the parts of all ranks, and say what they hold."""
        header = StringIO(newline="")
        PredictionWriter(header, self.predictor.class_names, self.job.format)
        counts = self.parts.join(self.windows, header.getvalue())
        _print_counts(self.console, counts, self.job.output, self.predictor.class_names)


class _OnEachRank(LightningModule):
    """Lets Lightning start and connect the ranks, each of which predicts its windows in one step."""

    def __init__(self, parts: FilePrediction) -> None:
        super().__init__()
        self.parts = parts

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        self.parts.predict(self.global_rank, self.trainer.world_size)
        self.trainer.strategy.barrier("all windows are predicted")
        if self.trainer.is_global_zero:
            self.parts.finish()
        return batch  # or Lightning would warn


def predict_stream(predictor: Predictor, job: TextJob, console: Console) -> None:
    """Predict rows as they come, and write them in their order; `console` gets a progress bar and a summary.

    Lines of standard input are predicted as soon as they are there, and those before a fault are written; a file is
    read through first.
    """
    rows, total = job.read(), None
    if job.source == STDIN:
        pending: Queue[Row | Exception | None] = Queue(WINDOW)
        windows = _windows(_read_ahead(rows, pending), pending.empty, job.window)
    else:
        total = sum(1 for _ in rows)
        if not total:
            raise UserError(f"--input {job.source}: the file has no rows")
        windows = _windows(job.read(), lambda: False, job.window)
    counts = Counts()
    stopped: BaseException | None = None
    hidden = job.output == STDOUT and sys.stdout is not None and sys.stdout.isatty()  # it would run through the answers
    with open_output(job.output) as file, _progress(console, hidden) as progress:
        task = progress.add_task("", total=total)
        writer = PredictionWriter(file, predictor.class_names, job.format)
        try:
            for window in windows:
                write_window(predictor, window, counts.rows, writer, counts)
                file.flush()
                progress.advance(task, len(window))
        except (UserError, KeyboardInterrupt, RuntimeError) as error:  # the last for want of memory
            if not counts.rows:
                raise
            stopped = error
    if not counts.rows:
        raise UserError("--input -: standard input has no lines")
    _print_counts(console, counts, job.output, predictor.class_names)
    if stopped is not None:
        raise stopped


def write_window(predictor: Predictor, window: list[Row], start: int, writer: PredictionWriter, counts: Counts) -> None:
    """Predict rows, of which the first is row `start` of the source, from 0; write them, and add to the counts."""
    names = {str(number): name for number, name in enumerate(predictor.class_names)}
    names |= {name: name for name in predictor.class_names}
    filled = [row.content for row in window if row.is_filled]
    probabilities = [probs.tolist() for probs in predictor.stream(filled)]
    whys = predictor.explain_classes(filled, probabilities) if writer.format.explained else repeat(None)
    answers = zip(probabilities, whys, strict=False)
    for index, row in enumerate(window, start):
        label = row.label and names.get(row.label, row.label)
        probs, why = next(answers) if row.is_filled else (None, None)
        pred = writer.write(index, row.content, label, probs, row.kept, why)
        is_known = pred is not None and label in names
        unknown = [label] if label and pred is not None and not is_known else []
        counts.add(Counts(1, probs is None, is_known, is_known and pred == label, unknown))


def _progress(console: Console, hidden: bool) -> Progress:
    columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=hidden)


def _print_counts(console: Console, counts: Counts, output: str, class_names: list[str]) -> None:
    place = "" if output == STDOUT else f" are in {display_path(output)}"
    console.print(f"{counts.rows:,} predictions{place}", markup=False)
    if counts.empty:
        console.print(f"without a prediction, because they are empty: {counts.empty:,}")
    if rows := counts.labelled:
        low, high = wilson_interval(counts.correct, rows)
        interval = f"95 % interval {low:.4f} to {high:.4f}"
        console.print(f"accuracy {counts.correct / rows:.4f} on {rows:,} labelled rows, {interval}")
    if counts.unknown:
        names, labels = ", ".join(class_names), ", ".join(counts.unknown)
        console.print(f"some labels are none of {names}: {labels}", markup=False)


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
