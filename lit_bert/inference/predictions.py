"""Predictions as a file of one row per sentence, in the order of the data: written and read."""

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from torch import Tensor

from lit_bert.errors import UserError, reason
from lit_bert.files import atomic_write

if TYPE_CHECKING:
    from datasets import Dataset

STDOUT = "-"
"""The output that stands for standard output."""


class PredictionWriter:
    """Writes `index,text,label,pred,score,prob_<class>...`, a row at a time; `score` is the probability of `pred`.

    The format is "csv", or "jsonl" for an object a line.
    """

    def __init__(self, file: TextIO, class_names: Sequence[str], format: str) -> None:
        self.file = file
        self.class_names = class_names
        self.columns = ["index", "text", "label", "pred", "score", *(f"prob_{name}" for name in class_names)]
        self.csv = csv.writer(file) if format == "csv" else None
        if self.csv:
            self.csv.writerow(self.columns)

    def write(self, index: int, text: str, label: str | None, probs: Sequence[float] | None) -> str | None:
        """Write a row, and return the predicted class; what is None is left empty (in JSON null)."""
        pred: str | None = None
        numbers: list[float | None] = [None] * (1 + len(self.class_names))
        if probs is not None:
            best = max(range(len(probs)), key=probs.__getitem__)
            pred, numbers = self.class_names[best], [probs[best], *probs]
        if self.csv:
            self.csv.writerow([index, text, label, pred, *("" if n is None else f"{n:.6f}" for n in numbers)])
        else:
            row = (index, text, label, pred, *(n if n is None else round(n, 6) for n in numbers))
            self.file.write(json.dumps(dict(zip(self.columns, row, strict=True)), ensure_ascii=False) + "\n")
        return pred


@contextmanager
def open_output(output: str) -> Iterator[TextIO]:
    """Open a file, which takes its name when all is written, or standard output ("-").

    What is not a plain file is written to and never replaced; of a symbolic link, the target is replaced.

    Raises:
        UserError: It is a folder, or cannot be written.
        SystemExit: The reader of a pipe left early: with status 141, as a shell reports it.
    """
    path = Path(output)
    if output != STDOUT and (path.is_dir() or not path.name):
        raise UserError(f"--output {output}: this is a folder; give a file in it")
    if output != STDOUT and not _is_special(path):
        path = path.resolve() if path.is_symlink() else path
        with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        return
    if output == STDOUT and sys.stdout is None:
        raise UserError("--output -: standard output is closed; name a file")
    try:
        if output == STDOUT:
            sys.stdout.reconfigure(newline="", encoding="utf-8")  # type: ignore[union-attr]
            yield sys.stdout
            sys.stdout.flush()
        else:
            with path.open("a", newline="", encoding="utf-8") as file:
                yield file
    except OSError as error:
        if output == STDOUT:  # or Python would write the rest when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None
        raise UserError(
            f"--output {output}: cannot be written ({error.strerror or error}); name another file"
        ) from error


def _is_special(path: Path) -> bool:
    """Tell whether a path is a device, a pipe or the like, or names an open file of this process."""
    opened = str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return opened or (path.exists() and not path.is_file())


def write_predictions(output: str, format: str, outputs: Mapping[str, Tensor], rows: "Dataset") -> None:
    """Write the predictions of a split: `outputs` has `index` (N,) and `probs` (N, C), the rows `text` and `label`."""
    class_names = rows.features["label"].names
    place = {index: row for row, index in enumerate(rows["index"])}
    texts, labels = rows["text"], rows["label"]
    with open_output(output) as file:
        writer = PredictionWriter(file, class_names, format)
        for index, probs in zip(outputs["index"].tolist(), outputs["probs"].tolist(), strict=True):
            writer.write(index, texts[place[index]], class_names[labels[place[index]]], probs)


@dataclass(frozen=True)
class LabelledPredictions:
    """A predictions file: names of its classes, and place in the data, true and predicted class of each row."""

    path: Path
    class_names: list[str]
    index: list[int]
    labels: list[str]
    preds: list[str]


def read_predictions(path: Path) -> LabelledPredictions:
    """Read a predictions file: JSONL if its name ends in `.jsonl`, else CSV.

    Raises:
        UserError: It cannot be read, is not such a file, or has a row without label or prediction.
    """
    rows: list[tuple[int, str, str]] = []
    class_names: list[str] = []
    number = 0
    try:
        for number, row in enumerate(_read_rows(path), 1):
            if number == 1:
                class_names = [name.removeprefix("prob_") for name in row if name.startswith("prob_")]
            for name in ("label", "pred"):
                if not row[name]:
                    raise UserError(f"{path}, row {number}: no {name}; only rows with label and prediction compare")
            "".join([row["label"], row["pred"], *class_names]).encode()  # neither numbers nor halves of characters
            rows.append((int(row["index"]), row["label"], row["pred"]))
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path}: no column {error}; give a file that `train.py predict` wrote") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8; give a file that `train.py predict` wrote") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}, row {max(1, number)}: cannot be read ({reason(error)})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    index, labels, preds = (list(column) for column in zip(*rows, strict=True))
    return LabelledPredictions(path, class_names, index, labels, preds)


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix == ".jsonl":
            yield from map(json.loads, file)
        else:
            csv.field_size_limit(2**31 - 1)
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            yield from (dict(zip(header, values, strict=False)) for values in lines)
