"""What a run tells at its end: metrics with their uncertainty, as a table and as JSON."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

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


def summary(metrics: Mapping[str, Any], split: str, rows: int) -> dict[str, Any]:
    """Return the record of a split: `rows`, `acc`, `acc_low`, `acc_high`, `f1`, `auroc`, `ece` and `loss`.

    Args:
        metrics: Values by name, such as "test/acc".
        split: The prefix: "val" or "test".
        rows: Rows evaluated.
    """
    values = {name: float(metrics[f"{split}/{name}"]) for name in ("acc", "f1", "auroc", "ece", "loss")}
    low, high = wilson_interval(round(values["acc"] * rows), rows)
    return {"rows": rows, "acc": values.pop("acc"), "acc_low": low, "acc_high": high, **values}


def show(console: Console, records: dict[str, dict[str, Any]]) -> None:
    """Print a row for each split.

    Args:
        console: Where to.
        records: What `summary` returned, by the split's title.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("split", "rows", "accuracy", "95 % interval", "macro F1", "loss"):
        table.add_column(title, justify="left" if title == "split" else "right", no_wrap=True)
    for title, record in records.items():
        accuracy, low, high, f1, loss = (f"{record[name]:.4f}" for name in ("acc", "acc_low", "acc_high", "f1", "loss"))
        table.add_row(title, f"{record['rows']:,}", accuracy, f"{low} to {high}", f1, loss)
    console.print(table)


def save(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    with files.replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
