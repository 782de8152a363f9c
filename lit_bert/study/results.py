"""What a study comes to: its table, `study.json`, joined predictions of folds, and figures of a search."""

import contextlib
import csv
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances
from rich.console import Console

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.evaluation.report import write_json
from lit_bert.files import atomic_write, display_path
from lit_bert.study.runner import OUT_OF_FOLD, Runner
from lit_bert.study.space import BASELINE, Plan, Run
from lit_bert.study.statistics import best_candidate, print_table, summarise


def latest_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the last trial at each place of the plan: one that was lost or failed has others after it."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if "place" in trial.user_attrs]
    return {trial.user_attrs["place"]: trial for trial in trials}


def conclude(study: optuna.Study, plan: Plan, runner: Runner, workers: int) -> dict[str, Any]:
    """Test the best candidate and the baseline, and write and return the results."""
    failed, pruned = [], []
    results: dict[Run, dict[str, float]] = {}
    for place, trial in latest_trials(study).items():
        if trial.state == TrialState.COMPLETE:
            results |= {run: {"val": trial.user_attrs[run.name]} for run in plan.runs_of(place, trial.params)}
        elif trial.state == TrialState.FAIL:
            failed.append(trial.user_attrs.get("reason", f"trial {place}: its process was lost"))
        elif trial.state == TrialState.PRUNED:
            pruned.append(place)
    if not results:
        raise UserError(f"no run has results: {'; '.join(failed)}; the same command tries them again")
    best = best_candidate(summarise(results))
    with ThreadPoolExecutor(workers) as pool:
        tests = {run: pool.submit(runner.test, run) for run in results if run.candidate in (BASELINE, best)}
    for run, outcome in tests.items():
        try:
            results[run]["test"] = outcome.result()
        except (UserError, OSError) as error:  # the latter if its folder is gone
            failed.append(f"{run.name} was not tested: {error}")
    candidates = summarise(results)
    content: dict[str, Any] = {"command": shlex.join(sys.argv), "best": best, "candidates": candidates}
    content |= {"failed": failed, "pruned": pruned}
    write_json(runner.folder / "study.json", content)
    print_table(candidates, Console(highlight=False, soft_wrap=True))
    status("best", f"{best}: {shlex.join(candidates[best]['options']) or 'without other options'}")
    for line in failed:
        status("failed", line)
    for first in [run for run in results if run.fold == 1]:
        folds = [run for run in results if (run.candidate, run.seed) == (first.candidate, first.seed)]
        if len(folds) == len({run.fold for run in plan.runs}):
            output = runner.folder / f"out_of_fold-{first.candidate}-seed{first.seed}.csv"
            join_folds([runner.folder / run.name / OUT_OF_FOLD for run in folds], output)
            status("folds", f"each row as predicted by the run not trained on it: {display_path(output)}")
    if plan.space and len(candidates) > 1:
        _draw(study, runner.folder)
    status("study", display_path(runner.folder / "study.json"))
    status("look", f"tensorboard --logdir {display_path(runner.folder)}")
    return content


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


def _draw(study: optuna.Study, folder: Path) -> None:
    plt.switch_backend("agg")
    for draw, name in ((plot_optimization_history, "history"), (plot_param_importances, "importances")):
        with contextlib.suppress(ValueError, RuntimeError):  # all accuracies are the same
            draw(study)
            plt.savefig(folder / f"{name}.png", bbox_inches="tight")
            status("figure", display_path(folder / f"{name}.png"))
        plt.close()
