"""What came out of a study: a table, `study.json`, out-of-fold predictions, Optuna's figures."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from scipy import stats

from lit_bert.evaluation.report import make_table
from lit_bert.files import atomic_write
from lit_bert.study.plan import BASELINE, Run

Scores = Mapping[tuple[int, int | None], float]
"""Accuracies by seed and fold."""

MAX_ROWS = 15
"""Candidates in the table, the best; study.json has them all."""


def mean_interval(scores: Scores) -> dict[str, float | None]:
    """Return `mean`, `sd` (of a sample), and the ends `low` and `high` of the mean's 95 % interval by Student's t.

    Of folds, the values are each fold's mean over the seeds, which share its validation rows, and the variance is
    corrected for the training rows that folds share (Nadeau & Bengio 2003). Of a single value there is a mean alone.
    """
    values, error_of_mean = _independent(scores)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error_of_mean
    return {"mean": mean, "sd": statistics.stdev(values), "low": mean - half, "high": mean + half}


def paired_difference(scores: Scores, baseline: Scores) -> dict[str, float | None] | None:
    """Return the `mean_interval` of differences at the same seed and fold, and `p` of the paired t-test (two-sided).

    None if there are none.
    """
    differences = {key: scores[key] - baseline[key] for key in scores if key in baseline}
    if not differences:
        return None
    values, error_of_mean = _independent(differences)
    p = float(2 * stats.t.sf(abs(statistics.fmean(values)) / error_of_mean, len(values) - 1)) if error_of_mean else None
    return {**mean_interval(differences), "p": p}


def _independent(scores: Scores) -> tuple[list[float], float]:
    """Return the values that a mean is taken of, and its standard error, 0 of a single value."""
    values, correction = list(scores.values()), 0.0
    if folds := {fold for _, fold in scores if fold is not None}:
        values = [statistics.fmean(score for (_, of), score in scores.items() if of == fold) for fold in sorted(folds)]
        correction = 1 / max(1, len(folds) - 1)  # rows of a fold over those it is trained on
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return values, sd * math.sqrt(1 / len(values) + correction)


def best_candidate(runs: Mapping[str, Sequence[Run]], val: Mapping[str, float]) -> str:
    """Return the candidate with the highest mean validation accuracy, of those with the most seeds and folds."""
    most = max(map(len, runs.values()))
    means = {name: statistics.fmean(val[run.name] for run in of_one) for name, of_one in runs.items()}
    return max((name for name in runs if len(runs[name]) == most), key=means.__getitem__)


def summarise(
    runs: Mapping[str, Sequence[Run]], val: Mapping[str, float], test: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return what is to be said of each candidate, the best first.

    Args:
        runs: That have results, by the candidate's name.
        val: Validation accuracies by the run's name.
        test: Test accuracies by the run's name, of runs that were tested.
    """
    scores = {name: {(run.seed, run.fold): val[run.name] for run in of_one} for name, of_one in runs.items()}
    tested = {
        name: {(run.seed, run.fold): test[run.name] for run in of_one if run.name in test}
        for name, of_one in runs.items()
    }
    found = {}
    for name in sorted(runs, key=lambda name: -statistics.fmean(scores[name].values())):
        entry: dict[str, Any] = {
            "options": list(runs[name][0].candidate.options),
            "val": mean_interval(scores[name]),
            "runs": {run.name: {"val": val[run.name], "test": test.get(run.name)} for run in runs[name]},
        }
        if name != BASELINE and BASELINE in scores:
            entry["val_difference"] = paired_difference(scores[name], scores[BASELINE])
        if tested[name]:
            entry["test"] = mean_interval(tested[name])
            if name != BASELINE and tested.get(BASELINE):
                entry["test_difference"] = paired_difference(tested[name], tested[BASELINE])
        found[name] = entry
    return found


def print_table(candidates: Mapping[str, Mapping[str, Any]], failed: Sequence[str], console: Console) -> None:
    """Print the validation accuracy of each candidate, its difference from the baseline, and the same of test rows."""
    table = make_table("", "runs", "accuracy", "sd", "95 % interval", "p")
    for name, entry in list(candidates.items())[:MAX_ROWS]:
        table.add_row(name, str(len(entry["runs"])), *_cells(entry["val"], ".4f"))
        for title, key in (
            ("minus baseline", "val_difference"),
            ("test", "test"),
            ("minus baseline", "test_difference"),
        ):
            if entry.get(key):
                table.add_row(f"  {title}", "", *_cells(entry[key], ".4f" if key == "test" else "+.4f"), style="dim")
    console.print(table)
    if len(candidates) > MAX_ROWS:
        console.print(f"the best {MAX_ROWS} of {len(candidates)}; study.json has them all")
    for line in failed:
        console.print(f"failed   {line}", markup=False)


def _cells(found: Mapping[str, Any], form: str) -> list[str]:
    interval = "" if found["low"] is None else f"{found['low']:{form}} to {found['high']:{form}}"
    sd, p = found["sd"], found.get("p")
    return [
        *(f"{found['mean']:{form}}", "" if sd is None else f"{sd:.4f}", interval, "" if p is None else f"{p:.2g}"),
    ]


def join_folds(files: Sequence[Path], output: Path) -> None:
    """Join the predictions of all folds, in the order of their rows, as one file that `lit_bert.compare` reads."""
    csv.field_size_limit(2**31 - 1)  # a text may be long
    rows: list[dict[str, str]] = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as source:
            rows += csv.DictReader(source)
    with atomic_write(output) as partial, partial.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: int(row["row"])))


def draw(study: optuna.Study, folder: Path) -> list[Path]:
    """Draw Optuna's figures of a search that has at least two results: history, parallel coordinates, importances."""
    import warnings

    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    mpl.use("Agg")
    figures: dict[str, Any] = {
        "history": plots.plot_optimization_history,
        "parallel_coordinate": plots.plot_parallel_coordinate,
        "importances": plots.plot_param_importances,
    }
    files = []
    for name, plot in figures.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are experimental
            try:
                axes = plot(study)
            except (ValueError, RuntimeError):  # all values are the same
                continue
        figure = axes.figure
        figure.set_size_inches(9, 6)
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=110, bbox_inches="tight")
        plt.close(figure)
        files.append(file)
    return files
