"""What a run tells at its end: metrics with their uncertainty, as a table and as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from lit_bert import files

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, both ends in [0, 1].

    Args:
        correct: Rows predicted right.
        rows: Rows predicted, at least 1.

    Source: E. B. Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, z2 = correct / rows, Z95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def accuracy(right: Tensor) -> dict[str, Any]:
    """Return `rows`, `acc` and its 95 % interval `acc_low`, `acc_high`, of which rows are predicted right (rows,)."""
    correct, rows = int(right.sum()), len(right)
    low, high = wilson_interval(correct, rows)
    return {"rows": rows, "acc": correct / rows, "acc_low": low, "acc_high": high}


def interval(record: Mapping[str, Any], key: str = "acc") -> str:
    """Return the interval of a record's figure as one reads it."""
    return f"{record[f'{key}_low']:.4f} to {record[f'{key}_high']:.4f}"


def classes(pred: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return of each class its `rows`, how many are `predicted` to be of it, and precision, recall and F1.

    A figure that has no rows to stand on is None; `recall_low` and `recall_high` are a 95 % interval, as are
    `precision_low` and `precision_high`.
    """
    found = {}
    for number, name in enumerate(names):
        rows, predicted = int((labels == number).sum()), int((pred == number).sum())
        right = int(((labels == number) & (pred == number)).sum())
        record: dict[str, Any] = {"rows": rows, "predicted": predicted}
        for key, of in (("precision", predicted), ("recall", rows)):
            ends = wilson_interval(right, of) if of else (None, None)
            record |= {key: right / of if of else None, f"{key}_low": ends[0], f"{key}_high": ends[1]}
        record["f1"] = 2 * right / (rows + predicted) if rows + predicted else None
        found[name] = record
    return found


def summary(metrics: Mapping[str, Any], rows: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
    """Return the record of a split: that of `accuracy`, then `f1`, `auroc`, `ece`, `loss`, and `classes`.

    Args:
        metrics: What `BertClassifier.measure` returned of the rows.
        rows: Their predictions, among them `pred` and `labels`.
        names: The classes.
    """
    return {
        **accuracy(rows["pred"] == rows["labels"]),
        **{name: float(metrics[name]) for name in ("f1", "auroc", "ece", "loss")},
        "classes": classes(rows["pred"], rows["labels"], names),
    }


def show(console: Console, records: Mapping[str, dict[str, Any]]) -> None:
    """Print a row for each split, those of its `baselines` below it; then one for each class of the last split.

    Args:
        console: Where to.
        records: What `summary` returned, by the split's title, with `baselines` if there are any.
    """
    splits = table("split", "rows", "accuracy", "95 % interval", "macro F1", "loss")
    for title, record in records.items():
        splits.add_row(title, f"{record['rows']:,}", *_accuracy(record), f"{record['loss']:.4f}")
        for name, baseline in record.get("baselines", {}).items():
            splits.add_row(f"  {name}", f"{baseline['rows']:,}", *_accuracy(baseline), "", style="dim")
    console.print(splits)
    for title, record in list(records.items())[-1:]:
        kinds = table(f"class ({title})", "rows", "precision", "recall", "95 % interval", "F1")
        for name, of in record["classes"].items():
            shares = (_shown(of["precision"]), _shown(of["recall"]))
            recall = interval(of, "recall") if of["rows"] else "-"
            kinds.add_row(escape(name), f"{of['rows']:,}", *shares, recall, _shown(of["f1"]))
        console.print(kinds)


def table(*titles: str) -> Table:
    """Return an empty table with these columns, the first of them text and the others numbers."""
    empty = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        empty.add_column(title, justify="left" if title == titles[0] else "right", no_wrap=True)
    return empty


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _accuracy(record: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{record['acc']:.4f}", interval(record), f"{record['f1']:.4f}"


def save(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    with files.replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
