"""A file of texts, predicted by all ranks of a Trainer into one file, in its order."""

from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed

from lit_bert.errors import UserError
from lit_bert.inference.predictions import STDOUT, open_output
from lit_bert.inference.texts import Counts, TextJob, Window


class TextFilePredictor(LightningModule):
    """Predicts a file, which is read through first: a fault in it shows before any work is done.

    Args:
        job: What is predicted.
        console: Gets a progress bar and a summary.

    Raises:
        UserError: The file cannot be read, has no rows, or is the output; or the output is a folder.
    """

    def __init__(self, job: TextJob, console: Console) -> None:
        super().__init__()
        source, output = (Path(name).expanduser() for name in (job.source, job.output))
        if source.is_file() and output.is_file() and source.samefile(output):
            raise UserError(f"--output {job.output}: this is the input; give another file")
        if output.is_dir() or not output.name:
            raise UserError(f"--output {job.output}: this is a folder; give a file in it")
        self.job = job
        self.console = console
        self.rows = sum(1 for _ in job.read())
        if not self.rows:
            raise UserError(f"--input {job.source}: the file has no rows")

    def configure_callbacks(self) -> list[Callback]:
        return [OrderedWriter(self.job, self.rows, self.console)]

    def predict_dataloader(self) -> Iterator[Window]:
        return self.job.windows(self.trainer.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(self, batch: Window, device: torch.device, dataloader_idx: int) -> Window:
        return batch  # texts, through which Lightning would look for tensors

    def predict_step(self, batch: Window, batch_idx: int) -> tuple[str, Counts]:
        """Return what is to be written of a window, and its counts."""
        text = StringIO(newline="")
        counts = self.job.predict(batch, text)
        return text.getvalue(), counts


class OrderedWriter(Callback):
    """Writes what ranks predict in the order of the file, which is there when all of it is.

    With several ranks, each writes its windows into a file beside the output; rank 0 joins these, and removes them.
    """

    def __init__(self, job: TextJob, rows: int, console: Console) -> None:
        self.job = job
        self.rows = rows
        self.console = console
        self.counts = Counts()
        self.lengths: list[int] = []  # of the text of each of this rank's windows, in characters
        self.opened = ExitStack()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank, world_size, size = trainer.global_rank, trainer.world_size, self.job.window
        path = self.job.output if world_size == 1 else str(self._part(rank))
        self.file = self.opened.enter_context(open_output(path))
        columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = rank > 0 or (self.job.output == STDOUT and self.file.isatty())  # it would run through the answers
        self.progress = self.opened.enter_context(Progress(*columns, console=self.console, disable=hidden))
        starts = range(rank * size, self.rows, world_size * size)
        self.task = self.progress.add_task("", total=sum(min(size, self.rows - start) for start in starts))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: object, **__: object
    ) -> None:
        text, counts = outputs
        self.file.write(text)
        self.file.flush()
        self.lengths.append(len(text))
        self.counts.add(counts)
        self.progress.advance(self.task, counts.rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.opened.close()
        shares = [(self.lengths, self.counts)] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(shares, shares[0])
        if not trainer.is_global_zero:
            return
        if trainer.world_size > 1:
            self._join([lengths for lengths, _ in shares])
        for _, counts in shares[1:]:
            self.counts.add(counts)
        self.job.print_summary(self.counts, self.console)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what was written."""
        self.opened.__exit__(type(exception), exception, exception.__traceback__)
        if trainer.world_size > 1:
            self._part(trainer.global_rank).unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        output = Path(self.job.output)
        return output.with_name(f".{output.name}.rank{rank}")

    def _join(self, lengths: list[list[int]]) -> None:
        """Write the output, window by window, from the files of all ranks."""
        parts = [self._part(rank) for rank in range(len(lengths))]
        try:
            with open_output(self.job.output) as output, ExitStack() as opened:
                files = [opened.enter_context(part.open(newline="", encoding="utf-8")) for part in parts]
                for turn in zip_longest(*lengths, fillvalue=0):
                    for file, length in zip(files, turn, strict=True):
                        output.write(file.read(length))
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
