"""What `predict` does: predictions of a split of the data set, or of texts from a file or a pipe.

`settings` are the command line's, and `run_dir` is where the file goes if `--output` does not say.
"""

import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from lit_bert.console import status
from lit_bert.data.formats import STDIN, TableFormat
from lit_bert.data.readers import Row
from lit_bert.errors import UserError
from lit_bert.files import display_path, next_free_path
from lit_bert.inference.predictions import STDOUT, RowFormat, is_special, open_output, write_predictions
from lit_bert.inference.predictor import Predictor
from lit_bert.inference.text_file import TextFilePredictor
from lit_bert.inference.texts import Counts, TextJob
from lit_bert.modeling.outputs import gather_outputs
from lit_bert.run import ranks

if TYPE_CHECKING:
    from lit_bert.datamodule import TextClassificationDataModule


def predict_split(
    trainer: Trainer, module: LightningModule, data: "TextClassificationDataModule", settings: Namespace, run_dir: Path
) -> None:
    """Predict the rows of the data module's `predict_split`, on all ranks, into one file in their order."""
    for option, value in (("explain", "true" if settings.explain else None), ("keep", settings.keep)):
        if value is not None:
            raise UserError(f"--{option} {value}: it is for texts of a file or a pipe; name it with --input")
    batches = trainer.predict(module, datamodule=data, ckpt_path=settings.ckpt_path) or []
    outputs = gather_outputs(batches, deduplicate=True)  # type: ignore[arg-type]
    if not outputs:
        raise UserError("--trainer.limit_predict_batches: nothing was predicted")
    if trainer.is_global_zero and not settings.trainer.fast_dev_run:
        output, kind = _output(settings, run_dir)
        write_predictions(output, kind, outputs, data.rows("predict"))
        if output != STDOUT:
            status("predict", f"{len(outputs['index']):,} predictions are in {display_path(output)}")


def predict_texts(trainer: Trainer, settings: Namespace, run_dir: Path) -> None:
    """Predict the texts of `--input`, on all of the trainer's devices and with its precision."""
    ranks.check_launched_processes(trainer.world_size)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    with ranks.rank_zero_first():
        job = _make_job(trainer, settings, run_dir)
        module = None if job.source == STDIN else TextFilePredictor(job, console)
    if module is None:
        predict_stream(job, console)
    else:
        trainer.predict(module, return_predictions=False)


def _make_job(trainer: Trainer, settings: Namespace, run_dir: Path) -> TextJob:
    """Return what the options say.

    Raises:
        UserError: Options do not go together.
    """
    data, device = settings.data, str(trainer.strategy.root_device)
    predictor = Predictor(settings.ckpt_path, device, str(trainer.precision), data.max_length)
    output, kind = _output(settings, run_dir)
    if trainer.world_size > 1 and (settings.input == STDIN or is_special(output)):
        place = f"--input {STDIN}" if settings.input == STDIN else f"--output {output}"
        raise UserError(f"{place}: a pipe is for one device; set --trainer.devices 1")
    pair_column = data.text_pair_column or predictor.text_pair_column
    kept = tuple(name.strip() for name in (settings.keep or "").split(",") if name.strip())
    if len(set(kept)) < len(kept):
        raise UserError(f"--keep {settings.keep}: a column comes twice; leave out one")
    if settings.explain and kind == "csv":
        raise UserError("--explain true: CSV has no cell for a list of words; set --format jsonl")
    format = RowFormat(kind, pair_column is not None, kept, settings.explain)
    table = TableFormat(data.text_column, data.label_column, pair_column, data.delimiter)
    job = TextJob(predictor, settings.input, output, format, table)
    job.writer(StringIO())  # it refuses columns to keep that it has itself
    return job


def _output(settings: Namespace, run_dir: Path) -> tuple[str, str]:
    """Return where predictions go, and in which format."""
    output = settings.output
    if output is None and settings.input == STDIN:
        output = STDOUT
    elif output is None:
        stem = "predictions" if settings.input is None else f"predictions-{Path(settings.input).stem}"
        output = str(next_free_path(run_dir / f"{stem}.{settings.format or 'csv'}"))
    return output, settings.format or ("jsonl" if Path(output).suffix == ".jsonl" else "csv")


def predict_stream(job: TextJob, console: Console) -> None:
    """Predict lines of standard input as soon as they are there; those before a fault are written, then it is raised.

    Args:
        job: What is predicted.
        console: Gets a summary.
    """
    counts = Counts()
    stopped: BaseException | None = None
    with open_output(job.output) as file:
        try:
            for rows in _waiting_rows(job.read(), job.window):
                counts.add(job.predict((counts.rows, rows), file))
                file.flush()
        except (UserError, KeyboardInterrupt, RuntimeError) as error:  # the last for want of memory
            stopped = error
        if not counts.rows:
            raise stopped or UserError("--input -: standard input has no lines")
    job.print_summary(counts, console)
    if stopped is not None:
        raise stopped


def _waiting_rows(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows that are there, at most `size` at a time; a thread reads on meanwhile."""
    pending: Queue[Row | Exception | None] = Queue(size)

    def read(_stdin: object) -> None:  # holds it, or Python could not exit while the thread waits for a line
        try:
            for row in rows:
                pending.put(row)
            pending.put(None)
        except Exception as error:
            pending.put(error)

    Thread(target=read, args=(sys.stdin,), daemon=True).start()
    window: list[Row] = []
    while isinstance(item := pending.get(), Row):
        window.append(item)
        if len(window) == size or pending.empty():
            yield window
            window = []
    if window:
        yield window
    if item is not None:
        raise item
