"""Whether one of two prediction files is better, as far as their rows can tell: `python -m lit_bert.compare A B`."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lit_bert import predictions, report
from lit_bert.errors import UserError, explained


def paired_interval(only_a: int, only_b: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies on the same rows, both ends in [-1, 1].

    Args:
        only_a: Rows that the first alone predicts right.
        only_b: Rows that the second alone predicts right.
        rows: All rows.

    Source: Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data" (Journal of Educational and Behavioral Statistics 37).
    """
    a, b = (only_a + 1) / (rows + 2), (only_b + 1) / (rows + 2)
    half = report.Z95 * math.sqrt((a + b - (a - b) ** 2) / (rows + 2))
    return max(-1.0, a - b - half), min(1.0, a - b + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: of a split as uneven, if each way were as likely.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions"; the exact form
    is the binomial test on the rows that only one predicts right.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def compare(a: predictions.Labelled, b: predictions.Labelled) -> dict[str, Any]:
    """Return the comparison of two files of the same rows.

    Returns:
        `a` and `b`, as `report.accuracy` makes them; `only_a`, `only_b`, `both` and `neither`, rows predicted right by
        these; `difference` of the accuracies, a minus b, with `difference_low` and `difference_high`; and `p`.

    Raises:
        UserError: They have other classes, rows or labels.
    """
    if sorted(a.class_names) != sorted(b.class_names):
        raise UserError(
            f"{b.path}: its classes are {', '.join(b.class_names)}, those of {a.path} {', '.join(a.class_names)}"
        )
    if len(a.index) != len(b.index):
        raise UserError(f"{b.path} has {len(b.index):,} rows, {a.path} {len(a.index):,}; give files of the same rows")
    rows = zip(a.index, b.index, a.label, b.label, strict=True)
    for number, (index, other, label, its) in enumerate(rows, 1):
        if (index, label) != (other, its):
            raise UserError(
                f"{b.path}, row {number}: index {other}, label {its}; in {a.path} it is {index}, {label}; give files "
                "of the same rows"
            )
    right = [
        torch.tensor([pred == label for pred, label in zip(of.pred, of.label, strict=True)], dtype=torch.bool)
        for of in (a, b)
    ]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    low, high = paired_interval(only_a, only_b, len(a.index))
    return {
        "a": report.accuracy(right[0]),
        "b": report.accuracy(right[1]),
        "only_a": only_a,
        "only_b": only_b,
        "both": int((right[0] & right[1]).sum()),
        "neither": int((~right[0] & ~right[1]).sum()),
        "difference": (only_a - only_b) / len(a.index),
        "difference_low": low,
        "difference_high": high,
        "p": mcnemar(only_a, only_b),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Read two files, and print the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_bert.compare",
        description="Compare two prediction files of the same labelled rows, as `train.py predict` writes them.",
    )
    parser.add_argument("a", metavar="A", type=Path, help="a predictions file, .csv or .jsonl")
    parser.add_argument("b", metavar="B", type=Path, help="another")
    given = parser.parse_args(args)
    with explained():
        found = compare(predictions.read(given.a), predictions.read(given.b))
    _show(Console(highlight=False, soft_wrap=True), found, given.a, given.b)


def _show(console: Console, found: dict[str, Any], a: Path, b: Path) -> None:
    for name, path in (("A", a), ("B", b)):
        console.print(f"{name}           {path}", markup=False)
    table = report.table("", "rows", "accuracy", "95 % interval", "alone right")
    for name in ("a", "b"):
        record = found[name]
        alone = f"{found[f'only_{name}']:,}"
        table.add_row(name.upper(), f"{record['rows']:,}", f"{record['acc']:.4f}", report.interval(record), alone)
    console.print(table)
    points = [100 * found[name] for name in ("difference", "difference_low", "difference_high")]
    console.print("A - B       {:+.2f} points, 95 % interval {:+.2f} to {:+.2f} (paired)".format(*points))
    console.print(f"p           {found['p']:.3g} (McNemar's exact test)")
    better = "A" if found["difference"] > 0 else "B"
    verdict = f"{better} is better" if found["p"] < 0.05 else "these rows do not tell which is better"
    console.print(f"so          {verdict}")


if __name__ == "__main__":
    main()
