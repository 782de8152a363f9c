"""What the accuracies of runs say about their candidates: means, intervals, paired differences, and their table."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from scipy import stats

from lit_bert.evaluation.report import make_table
from lit_bert.study.space import BASELINE, Run

Scores = Mapping[tuple[int, int | None], float]
"""Accuracies by seed and fold."""


def mean_interval(scores: Scores) -> dict[str, float | None]:
    """Return `mean`, `sd` (of a sample), and the ends `low` and `high` of the mean's 95 % interval by Student's t.

    The values of folds are each fold's mean over the seeds, which share its validation rows. Their variance is
    corrected for the training rows that folds share (Nadeau & Bengio 2003). A single value has a mean alone.
    """
    values, standard_error = _independent(scores)
    mean = fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * standard_error
    return {"mean": mean, "sd": stdev(values), "low": mean - half, "high": mean + half}


def paired_difference(scores: Scores, baseline: Scores) -> dict[str, float | None] | None:
    """Return the `mean_interval` of differences at the same seed and fold, and `p` of the paired t-test (two-sided).

    Without such pairs it is None.
    """
    differences = {key: scores[key] - baseline[key] for key in scores if key in baseline}
    if not differences:
        return None
    values, standard_error = _independent(differences)
    p = float(2 * stats.t.sf(abs(fmean(values)) / standard_error, len(values) - 1)) if standard_error else None
    return {**mean_interval(differences), "p": p}


def _independent(scores: Scores) -> tuple[list[float], float]:
    """Return the values to take the mean of, and its standard error, which is 0 for a single value."""
    values, correction = list(scores.values()), 0.0
    if folds := {fold for _, fold in scores if fold is not None}:
        values = [fmean(score for (_, each), score in scores.items() if each == fold) for fold in sorted(folds)]
        correction = 1 / max(1, len(folds) - 1)  # validation rows per training row
    sd = stdev(values) if len(values) > 1 else 0.0
    return values, sd * math.sqrt(1 / len(values) + correction)


def best_candidate(runs: Mapping[str, Sequence[Run]], val: Mapping[str, float]) -> str:
    """Return the candidate with the highest mean validation accuracy, of those with the most runs."""
    return max(runs, key=lambda name: (len(runs[name]), fmean(val[run.name] for run in runs[name])))


def summarise(
    runs: Mapping[str, Sequence[Run]], val: Mapping[str, float], test: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the results of each candidate, the best first, from its runs and their accuracies by name.

    Runs that were not tested are not in `test`.
    """

    def scores(name: str, accuracies: Mapping[str, float]) -> Scores:
        return {(run.seed, run.fold): accuracies[run.name] for run in runs.get(name, ()) if run.name in accuracies}

    candidates = {}
    for name in sorted(runs, key=lambda name: -fmean(scores(name, val).values())):
        entry: dict[str, Any] = {"options": list(runs[name][0].options)}
        entry["runs"] = {run.name: {"val": val[run.name], "test": test.get(run.name)} for run in runs[name]}
        for split, accuracies in (("val", val), ("test", test)):
            if values := scores(name, accuracies):
                entry[split] = mean_interval(values)
                if name != BASELINE:
                    entry[f"{split}_difference"] = paired_difference(values, scores(BASELINE, accuracies))
        candidates[name] = entry
    return candidates


def print_table(candidates: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print the accuracies of candidates, and their differences from the baseline."""
    table = make_table("", "runs", "accuracy", "sd", "95 % interval", "p")
    for name, entry in candidates.items():
        table.add_row(name, str(len(entry["runs"])), *_cells(entry["val"], ".4f"))
        for key in ("val_difference", "test", "test_difference"):
            if entry.get(key):
                title, form = ("  test", ".4f") if key == "test" else ("  minus baseline", "+.4f")
                table.add_row(title, "", *_cells(entry[key], form), style="dim")
    console.print(table)


def _cells(interval: Mapping[str, Any], form: str) -> list[str]:
    sd, p = interval["sd"], interval.get("p")
    ends = "" if interval["low"] is None else f"{interval['low']:{form}} to {interval['high']:{form}}"
    return [f"{interval['mean']:{form}}", "" if sd is None else f"{sd:.4f}", ends, "" if p is None else f"{p:.2g}"]
