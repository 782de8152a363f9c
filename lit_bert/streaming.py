"""Sentences from a file or a pipe to a file or a pipe of predictions, window by window: memory stays flat."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_bert import predictions, report, run_folder, texts
from lit_bert.errors import UserError
from lit_bert.predictor import WINDOW, Predictor


class Stream:
    """Predicts the rows of a source, and writes them where they are wanted.

    Args:
        predictor: Predicts.
        source: What `texts.read` takes.
        text_column: Column of the sentences.
        label_column: Column of the labels, which need not be there.
        console: Where a progress bar and a few last lines go.
    """

    def __init__(
        self, predictor: Predictor, source: str, text_column: str, label_column: str, console: Console
    ) -> None:
        self.predictor = predictor
        self.source = source
        self.columns = text_column, label_column
        self.console = console
        self.done = self.empty = self.right = self.labelled = 0
        self.unknown: set[str] = set()

    def write(self, output: str, format: str) -> None:
        """Predict all rows. A file is read through first, so that a fault in it shows before any work is done.

        Args:
            output: A file, or "-" for standard output.
            format: "csv" or "jsonl".

        Raises:
            UserError: A row cannot be read, or the output not be written; rows before it have been written.
        """
        files = [Path(name).expanduser().absolute() for name in (output, self.source)]
        if all(file.is_file() for file in files) and files[0].samefile(files[1]):
            raise UserError(f"--output {output}: this is the input; give another file")
        total = None
        if self.source != texts.STDIN:
            total = sum(1 for _ in texts.read(self.source, *self.columns))
            if not total:
                raise UserError(f"--input {self.source}: the file has no rows")
        bar = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        stopped: BaseException | None = None
        with predictions.opened(output) as file, Progress(*bar, console=self.console) as progress:
            task = progress.add_task("", total=total)
            writer = predictions.Writer(file, self.predictor.class_names, format)
            try:
                for window in self._windows():
                    self._predict(window, writer)
                    file.flush()
                    progress.advance(task, len(window))
            except (UserError, KeyboardInterrupt, RuntimeError) as error:  # the last for want of memory
                if not self.done:
                    raise
                stopped = error
        if not self.done and stopped is None:
            raise UserError("--input -: standard input has no lines")
        self._tell(output)
        if stopped is not None:
            raise stopped

    def _windows(self) -> Iterator[list[texts.Row]]:
        """Yield windows of rows; those before a fault, then the fault."""
        window: list[texts.Row] = []
        fault = None
        try:
            for row in texts.read(self.source, *self.columns):
                window.append(row)
                if len(window) == WINDOW:
                    yield window
                    window = []
        except UserError as error:
            fault = error
        if window:
            yield window
        if fault:
            raise fault

    def _predict(self, window: list[texts.Row], writer: predictions.Writer) -> None:
        found = self.predictor.stream(row.text for row in window if row.text.strip())
        for row in window:
            label = self._named(row.label)
            probs = next(found).tolist() if row.text.strip() else None
            pred = writer.write(self.done, row.text, label, probs)
            self.done += 1
            self.empty += probs is None
            if label in self.predictor.class_names and pred is not None:
                self.right += pred == label
                self.labelled += 1
            elif label is not None and pred is not None and len(self.unknown) < 5:
                self.unknown.add(label)

    def _named(self, label: str | None) -> str | None:
        """Return the class that a label names or numbers; else the label as it is."""
        names = self.predictor.class_names
        if label is None or label in names or not label.isdecimal() or int(label) >= len(names):
            return label
        return names[int(label)]

    def _tell(self, output: str) -> None:
        lines = [f"{self.done:,} predictions"] + [f"are in {run_folder.shown(output)}"] * (output != predictions.STDOUT)
        self._say(" ".join(lines))
        if self.empty:
            self._say(f"{self.empty:,} empty texts have their rows, without a prediction")
        if self.labelled:
            low, high = report.wilson_interval(self.right, self.labelled)
            interval = f"95 % interval {low:.4f} to {high:.4f}"
            self._say(f"accuracy {self.right / self.labelled:.4f} on {self.labelled:,} labelled rows, {interval}")
        if self.unknown:
            classes = ", ".join(self.predictor.class_names)
            self._say(f"some labels are none of {classes}: {', '.join(sorted(self.unknown))}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)
