"""Whether one of two prediction files is better, as far as their rows can tell."""

import math
from operator import eq
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch
from rich.console import Console

from lit_bert.errors import UserError
from lit_bert.evaluation.metrics import accuracy_metrics
from lit_bert.evaluation.report import format_interval, make_table
from lit_bert.inference.predictions import LabelledPredictions, read_predictions

_Z95 = NormalDist().inv_cdf(0.975)


def paired_interval(only_a: int, only_b: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies on the same rows, both ends in [-1, 1].

    `only_a` and `only_b` are numbers of rows that the first or the second alone predicts right.

    Source: Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data" (Journal of Educational and Behavioral Statistics 37).
    """
    a, b = (only_a + 1) / (rows + 2), (only_b + 1) / (rows + 2)
    half = _Z95 * math.sqrt((a + b - (a - b) ** 2) / (rows + 2))
    return max(-1.0, a - b - half), min(1.0, a - b + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: of a division as uneven, if each way were as likely.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions"; the exact form
    is the binomial test on the rows that only one predicts right.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def compare(a: LabelledPredictions, b: LabelledPredictions) -> dict[str, Any]:
    """Return the comparison of two files of the same rows.

    It has `a` and `b`, as `accuracy_metrics` makes them; `only_a`, `only_b`, `both` and `neither`, rows predicted right
    by these; `difference` of the accuracies, a minus b, with `difference_low` and `difference_high`; and `p`.
    """
    if sorted(a.class_names) != sorted(b.class_names):
        raise UserError(
            f"{b.path}: its classes are {', '.join(b.class_names)}, those of {a.path} {', '.join(a.class_names)}"
        )
    if len(a.index) != len(b.index):
        raise UserError(f"{b.path} has {len(b.index):,} rows, {a.path} {len(a.index):,}; give files of the same rows")
    rows_a, rows_b = (zip(file.index, file.labels, strict=True) for file in (a, b))
    for number, (in_a, in_b) in enumerate(zip(rows_a, rows_b, strict=True), 1):
        if in_a != in_b:
            raise UserError(
                f"{b.path}, row {number}: index {in_b[0]}, label {in_b[1]}; in {a.path} it is {in_a[0]}, {in_a[1]}; "
                "give files of the same rows"
            )
    correct_a, correct_b = (torch.tensor(list(map(eq, file.preds, file.labels))) for file in (a, b))
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    low, high = paired_interval(only_a, only_b, len(a.index))
    return {
        "a": accuracy_metrics(correct_a),
        "b": accuracy_metrics(correct_b),
        "only_a": only_a,
        "only_b": only_b,
        "both": int((correct_a & correct_b).sum()),
        "neither": int((~correct_a & ~correct_b).sum()),
        "difference": (only_a - only_b) / len(a.index),
        "difference_low": low,
        "difference_high": high,
        "p": mcnemar(only_a, only_b),
    }


def print_comparison(a: Path, b: Path) -> None:
    """Read two prediction files, and print how they compare.

    Raises:
        UserError: One cannot be read, or they are not of the same rows.
    """
    result = compare(read_predictions(a), read_predictions(b))
    console = Console(highlight=False, soft_wrap=True)
    table = make_table("", "rows", "accuracy", "95 % interval", "alone right")
    for name, path in (("a", a), ("b", b)):
        console.print(f"{name.upper()}           {path}", markup=False)
        metrics, alone = result[name], f"{result[f'only_{name}']:,}"
        table.add_row(name.upper(), f"{metrics['rows']:,}", f"{metrics['acc']:.4f}", format_interval(metrics), alone)
    console.print(table)
    points = [100 * result[name] for name in ("difference", "difference_low", "difference_high")]
    console.print("A - B       {:+.2f} points, 95 % interval {:+.2f} to {:+.2f} (paired)".format(*points))
    console.print(f"p           {result['p']:.3g} (McNemar's exact test)")
    better = "A" if result["difference"] > 0 else "B"
    verdict = f"{better} is better" if result["p"] < 0.05 else "these rows do not tell which is better"
    console.print(f"so          {verdict}")
