"""`python -m lit_bert compare A B`: whether one of two prediction files is better, as far as their rows can tell."""

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from lit_bert.errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from lit_bert.inference.predictions import LabelledRow

_Z95 = NormalDist().inv_cdf(0.975)


def compare(a: "Sequence[LabelledRow]", b: "Sequence[LabelledRow]") -> tuple[int, int, int, int]:
    """Return how many rows of two files are predicted right by both, by `a` alone, by `b` alone, and by neither.

    Raises:
        UserError: They are not of the same rows with the same labels.
    """
    if len(a) != len(b):
        raise UserError(f"B has {len(b):,} rows, A {len(a):,}; give files of the same rows")
    outcomes: Counter[tuple[bool, bool]] = Counter()
    for in_a, in_b in zip(a, b, strict=True):
        if in_a[:2] != in_b[:2]:
            fault = f"row {in_b.row}, label {in_b.label}, where A has row {in_a.row}, label {in_a.label}"
            raise UserError(f"B has {fault}; give files of the same rows")
        outcomes[in_a.pred == in_a.label, in_b.pred == in_b.label] += 1
    return outcomes[True, True], outcomes[True, False], outcomes[False, True], outcomes[False, False]


def paired_interval(only_a: int, only_b: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies on the same rows, both ends in [-1, 1].

    Source: Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data" (Journal of Educational and Behavioral Statistics 37).
    """
    a, b = (only_a + 1) / (rows + 2), (only_b + 1) / (rows + 2)
    half = _Z95 * math.sqrt((a + b - (a - b) ** 2) / (rows + 2))
    return max(-1.0, a - b - half), min(1.0, a - b + half)


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: the binomial test on rows that only one predicts right."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; None takes the process's arguments.

    Raises:
        SystemExit: With status 2 after a user's mistake.
    """
    description = "Compare two prediction files of the same labelled rows, as `predict` writes them."
    parser = argparse.ArgumentParser(prog="python -m lit_bert compare", description=description)
    parser.add_argument("a", metavar="A", type=Path, help="a predictions file, .csv or .jsonl")
    parser.add_argument("b", metavar="B", type=Path, help="another")
    options = parser.parse_args(args)
    with exit_on_user_error():
        _print_comparison(options.a, options.b)


def _print_comparison(a: Path, b: Path) -> None:
    from rich.console import Console

    from lit_bert.evaluation.metrics import wilson_interval  # takes seconds: torch
    from lit_bert.evaluation.report import make_table
    from lit_bert.inference.predictions import read_predictions

    both, only_a, only_b, neither = compare(read_predictions(a), read_predictions(b))
    rows = both + only_a + only_b + neither
    console = Console(highlight=False, soft_wrap=True)
    table = make_table("", "rows", "accuracy", "95 % interval", "alone right")
    for name, path, alone in (("A", a, only_a), ("B", b, only_b)):
        console.print(f"{name}           {path}", markup=False)
        interval = "{:.4f} to {:.4f}".format(*wilson_interval(both + alone, rows))
        table.add_row(name, f"{rows:,}", f"{(both + alone) / rows:.4f}", interval, f"{alone:,}")
    console.print(table)
    p, (low, high) = mcnemar(only_a, only_b), paired_interval(only_a, only_b, rows)
    points = f"{100 * (only_a - only_b) / rows:+.2f} points"
    console.print(f"A - B       {points}, 95 % interval {100 * low:+.2f} to {100 * high:+.2f} (paired)")
    console.print(f"p           {p:.3g} (McNemar's exact test)")
    better = "A" if only_a > only_b else "B"
    console.print(f"so          {f'{better} is better' if p < 0.05 else 'these rows do not tell which is better'}")


if __name__ == "__main__":
    main()
