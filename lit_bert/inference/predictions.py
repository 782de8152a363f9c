"""Predictions as a file of one row per sentence, in the order of the data: written and read."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from lit_bert.data.formats import DEFAULT_FORMAT, TABLE_SUFFIXES, read_rows, suffix_of
from lit_bert.errors import UserError, reason
from lit_bert.files import atomic_write

if TYPE_CHECKING:  # they take seconds
    from datasets import Dataset
    from torch import Tensor

    from lit_bert.inference.explain import Explanation

STDOUT = "-"
"""The output that stands for standard output."""


@dataclass(frozen=True)
class RowFormat:
    """How predictions are written.

    Args:
        kind: "csv", or "jsonl" for an object a line.
        pairs: Whether each row has two texts.
        kept: Columns of the input that are carried along.
        explained: Whether rows end with `words`, their `attributions` and the `attribution_error`: JSONL only.
    """

    kind: str = "csv"
    pairs: bool = False
    kept: tuple[str, ...] = ()
    explained: bool = False


class PredictionWriter:
    """Writes `row,<kept>...,text,label,pred,score,prob_<class>...`, a row at a time; `score` is that of `pred`.

    `row` counts from 1, as messages do; pairs have `text_pair` after `text`.

    Raises:
        UserError: A column is to be kept that predictions have themselves.
    """

    def __init__(self, file: TextIO, class_names: Sequence[str], format: RowFormat, header: bool = True) -> None:
        self.file = file
        self.class_names = list(class_names)
        self.format = format
        texts = ["text", "text_pair"] if format.pairs else ["text"]
        names = [*texts, "label", "pred", "score", *(f"prob_{name}" for name in class_names)]
        names += ["words", "attributions", "attribution_error"] if format.explained else []
        for name in format.kept:
            if name == "row" or name in names or name.startswith("prob_"):
                raise UserError(f"--keep {name}: predictions have a column of that name; rename it in the input")
        self.columns = ["row", *format.kept, *names]
        self.csv = csv.writer(file) if format.kind == "csv" else None
        if self.csv and header:
            self.csv.writerow(self.columns)

    def write(
        self,
        index: int,
        text: str | tuple[str, str],
        label: str | None,
        probs: Sequence[float] | None,
        kept: Sequence[Any] = (),
        explanation: "Explanation | None" = None,
    ) -> str | None:
        """Write a row, whose `index` counts from 0, and return the predicted class; what is None is left empty."""
        texts = (text,) if isinstance(text, str) else text
        pred: str | None = None
        numbers: list[float | None] = [None] * (1 + len(self.class_names))
        if probs is not None:
            score = max(probs)
            pred, numbers = self.class_names[list(probs).index(score)], [score, *probs]
        row = [index + 1, *kept, *texts, label, pred]
        if self.csv:
            self.csv.writerow([*row, *("" if number is None else f"{number:.6f}" for number in numbers)])
            return pred
        row += [number if number is None else round(number, 6) for number in numbers]
        if self.format.explained:
            words = explanation and [word.text for word in explanation.words]
            scores = explanation and [round(word.score, 6) for word in explanation.words]
            row += [words, scores, explanation and round(explanation.error, 6)]
        named = dict(zip(self.columns, row, strict=True))
        self.file.write(json.dumps(named, ensure_ascii=False, default=str) + "\n")
        return pred


@contextmanager
def open_output(output: str) -> Iterator[TextIO]:
    """Open a file, which takes its name when all is written, or standard output ("-").

    What is not a plain file is written to and never replaced; of a symbolic link, the target is replaced. If the
    reader of a pipe leaves early, this process exits with status 141, as a shell reports it.

    Raises:
        UserError: It cannot be written.
    """
    path, is_stdout = Path(output), output == STDOUT
    is_open = is_stdout or str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    if not is_open and (path.is_file() or not path.exists()):
        path = path.resolve() if path.is_symlink() else path
        with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        return
    try:
        with open(1 if is_stdout else path, "a", newline="", encoding="utf-8", closefd=not is_stdout) as file:
            yield file
    except BrokenPipeError:
        raise SystemExit(141) from None
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise UserError(f"--output {output}: {problem}; name another file") from error


def write_predictions(output: str, kind: str, outputs: "Mapping[str, Tensor]", rows: "Dataset") -> None:
    """Write the predictions of a split: `outputs` has `index` (N,) and `probs` (N, C), the rows `text` and `label`."""
    class_names, pairs = rows.features["label"].names, "text_pair" in rows.column_names
    texts = zip(rows["text"][:], rows["text_pair"][:], strict=True) if pairs else rows["text"][:]
    labelled = dict(zip(rows["index"][:], zip(texts, rows["label"][:], strict=True), strict=True))
    with open_output(output) as file:
        writer = PredictionWriter(file, class_names, RowFormat(kind, pairs))
        for index, probs in zip(outputs["index"].tolist(), outputs["probs"].tolist(), strict=True):
            text, label = labelled[index]
            writer.write(index, text, class_names[label] if label >= 0 else None, probs)


class LabelledRow(NamedTuple):
    """A row's number in the data, from 1, its label and its prediction."""

    row: int
    label: str
    pred: str


def read_predictions(path: Path) -> list[LabelledRow]:
    """Read a predictions file that has labels; it is CSV if its name does not say another format.

    Raises:
        UserError: It cannot be read, has no rows, or is no file that `predict` writes for rows with labels.
    """
    rows = []
    suffix = suffix_of(path) if suffix_of(path) in TABLE_SUFFIXES else ".csv"
    for number, row in enumerate(filter(None, read_rows(path, str(path), DEFAULT_FORMAT, {}, suffix=suffix)), 1):
        where = f"{path}, row {number}"
        try:
            found = LabelledRow(int(row["row"]), row["label"], row["pred"])
            "".join([found.label or "", found.pred or ""]).encode()  # neither numbers nor halves of characters
        except KeyError as error:
            raise UserError(f"{where}: no column {error}; give a file that `predict` wrote") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{where}: cannot be read ({reason(error)})") from error
        if not found.label or not found.pred:
            raise UserError(f"{where}: without label or prediction; only rows with both compare")
        rows.append(found)
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    return rows
