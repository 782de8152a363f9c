"""Predictions: joined from all ranks, and as a file of one row per sentence, in the order of the data."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from torch import Tensor, distributed

from lit_bert import files
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

STDOUT = "-"
"""The output that stands for standard output."""


def gather(batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join batches from all ranks, each row once, in the order of `index`.

    Args:
        batches: Of this rank, with the same names, among them `index`; each value's first dimension is the rows'.

    Returns:
        The batches as one, in the main memory of every rank; nothing if no rank has any.
    """
    listed = list(batches)
    mine = {name: torch.cat([batch[name] for batch in listed]).cpu() for name in (listed[0] if listed else ())}
    shares = [mine]
    if distributed.is_available() and distributed.is_initialized():
        shares *= distributed.get_world_size()
        distributed.all_gather_object(shares, mine)
    shares = [share for share in shares if share]
    if not shares:
        return {}
    joined = {name: torch.cat([share[name] for share in shares]) for name in shares[0]}
    order = joined["index"].argsort(stable=True)
    index = joined["index"][order]
    order = order[torch.cat([index[:1] >= 0, index[1:] > index[:-1]])]
    return {name: value[order] for name, value in joined.items()}


class Writer:
    """Writes `index,text,label,pred,score,prob_<class>...`, a row at a time; `score` is the probability of `pred`.

    Args:
        file: Where to.
        class_names: Names of the classes.
        format: "csv", or "jsonl" for an object a line.
    """

    def __init__(self, file: TextIO, class_names: Sequence[str], format: str) -> None:
        self.file = file
        self.class_names = class_names
        self.csv = csv.writer(file) if format == "csv" else None
        self.names = ["index", "text", "label", "pred", "score", *(f"prob_{name}" for name in class_names)]
        if self.csv:
            self.csv.writerow(self.names)

    def write(self, index: int, text: str, label: str | None, probs: Sequence[float] | None) -> str | None:
        """Write a row, and return the predicted class; what is None is left empty (in JSON null).

        Args:
            index: Its place in the data, from 0.
            text: The sentence.
            label: Its true class, if that is known.
            probs: Probabilities of the classes, if there is a prediction.
        """
        pred: str | None = None
        numbers: list[float | None] = [None] * (1 + len(self.class_names))
        if probs is not None:
            best = max(range(len(probs)), key=probs.__getitem__)
            pred, numbers = self.class_names[best], [probs[best], *probs]
        if self.csv:
            self.csv.writerow([index, text, label, pred, *("" if n is None else f"{n:.6f}" for n in numbers)])
        else:
            row = (index, text, label, pred, *(n if n is None else round(n, 6) for n in numbers))
            self.file.write(json.dumps(dict(zip(self.names, row, strict=True)), ensure_ascii=False) + "\n")
        return pred


@contextmanager
def opened(output: str) -> Iterator[TextIO]:
    """Open a file, which takes its name when all is written, or standard output ("-"), whose reader may leave early.

    Raises:
        UserError: It is a folder, or cannot be written.
    """
    if output != STDOUT:
        if Path(output).is_dir() or not Path(output).name:
            raise UserError(f"--output {output}: this is a folder; give a file in it")
        with files.replacing(Path(output)) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        return
    sys.stdout.reconfigure(newline="", encoding="utf-8")  # type: ignore[union-attr]
    try:
        yield sys.stdout
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # as a shell reports it


def write(output: str, format: str, predictions: Mapping[str, Tensor], rows: "Dataset") -> None:
    """Write the predictions of a split, as `Writer` does.

    Args:
        output: What `opened` takes.
        format: "csv" or "jsonl".
        predictions: What `gather` returned.
        rows: The rows that were predicted, with `index`, `text` and `label`.
    """
    names = rows.features["label"].names
    place = {index: row for row, index in enumerate(rows["index"])}
    texts, labels = rows["text"], rows["label"]
    with opened(output) as file:
        writer = Writer(file, names, format)
        for index, probs in zip(predictions["index"].tolist(), predictions["probs"].tolist(), strict=True):
            writer.write(index, texts[place[index]], names[labels[place[index]]], probs)


@dataclass(frozen=True)
class Labelled:
    """A predictions file whose rows have labels: the columns of `Writer`, without texts and scores.

    Args:
        path: The file.
        class_names: Names of the classes, in the order of their probabilities.
        index: Place of each row in the data.
        label: True class of each row.
        pred: Predicted class of each row.
    """

    path: Path
    class_names: list[str]
    index: list[int]
    label: list[str]
    pred: list[str]


def read(path: Path) -> Labelled:
    """Read a predictions file, told apart by its name: `.jsonl`, or else CSV.

    Raises:
        UserError: It cannot be read, is not such a file, or has a row without label or prediction.
    """
    rows: list[tuple[int, str, str]] = []
    class_names: list[str] = []
    number = 0
    try:
        for number, row in enumerate(_rows(path), 1):
            if number == 1:
                class_names = [name.removeprefix("prob_") for name in row if name.startswith("prob_")]
            for name in ("label", "pred"):
                if not row[name]:
                    raise UserError(f"{path}, row {number}: no {name}; only rows with label and prediction compare")
            rows.append((int(row["index"]), row["label"], row["pred"]))
    except KeyError as error:
        raise UserError(f"{path}: no column {error}; give a file that `train.py predict` wrote") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8; give a file that `train.py predict` wrote") from error
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}, row {max(1, number)}: cannot be read ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not rows:
        raise UserError(f"{path}: the file has no rows")
    index, label, pred = (list(column) for column in zip(*rows, strict=True))
    return Labelled(path, class_names, index, label, pred)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix == ".jsonl":
            yield from map(json.loads, file)
        else:
            lines = files.csv_reader(file)
            header: list[str] = next(lines, [])
            yield from (dict(zip(header, values, strict=False)) for values in lines)
