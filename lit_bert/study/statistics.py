"""What the accuracies of runs say about their candidates: means, intervals, paired differences, and their table."""

import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from scipy import stats

from lit_bert.evaluation.report import make_table
from lit_bert.study.space import BASELINE, Run

Scores = Mapping[tuple[int, int | None], float]
"""Accuracies by seed and fold."""


def mean_interval(scores: Scores) -> dict[str, float | None]:
    """Return `mean`, `sd` (of a sample), the ends `low` and `high` of the mean's 95 % interval, and `p` that it is 0.

    Interval and two-sided test are Student's. The values of folds are each fold's mean over the seeds, which share its
    validation rows. Their variance is corrected for the training rows that folds share (Nadeau & Bengio 2003). A
    single value has a mean alone.
    """
    values, correction = list(scores.values()), 0.0
    if folds := sorted({fold for _, fold in scores if fold is not None}):
        values = [fmean(score for (_, each), score in scores.items() if each == fold) for fold in folds]
        correction = 1 / max(1, len(folds) - 1)  # validation rows per training row
    mean = fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "p": None}
    sd, student = stdev(values), stats.t(len(values) - 1)
    standard_error = sd * math.sqrt(1 / len(values) + correction)
    half = float(student.ppf(0.975)) * standard_error
    p = float(2 * student.sf(abs(mean) / standard_error)) if standard_error else None
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "p": p}


def summarise(results: Mapping[Run, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the results of each candidate, the best first, from the accuracies of its runs on "val" and "test".

    Differences from the baseline are those at the same seed and fold, so that their `p` is that of the paired t-test.
    """

    def scores(name: str, split: str) -> Scores:
        runs = [run for run in results if run.candidate == name and split in results[run]]
        return {(run.seed, run.fold): results[run][split] for run in runs}

    candidates: dict[str, dict[str, Any]] = {}
    for run, accuracies in results.items():
        entry = candidates.setdefault(run.candidate, {"options": list(run.options), "runs": {}})
        entry["runs"][run.name] = dict(accuracies)
    for name, entry in candidates.items():
        for split in ("val", "test"):
            own, baseline = scores(name, split), scores(BASELINE, split)
            if own:
                entry[split] = mean_interval(own)
                del entry[split]["p"]  # no accuracy is 0
            pairs = {key: own[key] - baseline[key] for key in own if key in baseline}
            if pairs and name != BASELINE:
                entry[f"{split}_difference"] = mean_interval(pairs)
    return dict(sorted(candidates.items(), key=lambda item: -item[1]["val"]["mean"]))


def best_candidate(candidates: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the candidate with the highest mean validation accuracy, of those with the most runs."""
    return max(candidates, key=lambda name: (len(candidates[name]["runs"]), candidates[name]["val"]["mean"]))


def print_table(candidates: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """Print the accuracies of candidates, and their differences from the baseline."""
    table = make_table("", "runs", "accuracy", "sd", "95 % interval", "p")
    for name, entry in candidates.items():
        table.add_row(name, str(len(entry["runs"])), *_cells(entry["val"], ".4f"))
        for key in ("val_difference", "test", "test_difference"):
            if key in entry:
                title, form = ("  test", ".4f") if key == "test" else ("  minus baseline", "+.4f")
                table.add_row(title, "", *_cells(entry[key], form), style="dim")
    console.print(table)


def _cells(interval: Mapping[str, Any], form: str) -> list[str]:
    sd, p = interval["sd"], interval.get("p")
    ends = "" if interval["low"] is None else f"{interval['low']:{form}} to {interval['high']:{form}}"
    return [f"{interval['mean']:{form}}", "" if sd is None else f"{sd:.4f}", ends, "" if p is None else f"{p:.2g}"]
