"""A study: the runs of a recipe over seeds, folds and variants, or in search of better options; what they come to."""

import argparse
import contextlib
import csv
import io
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import optuna
import yaml
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from lit_bert.console import status
from lit_bert.errors import UserError, reason
from lit_bert.evaluation.report import write_json
from lit_bert.files import atomic_write, display_path
from lit_bert.run.run_dir import LOCK, lock
from lit_bert.study.runner import RunFailed, Runner
from lit_bert.study.space import BASELINE, Plan, Run, read_plan, suggest
from lit_bert.study.statistics import best_candidate, print_table, summarise
from lit_bert.study.trials import JOURNAL, REASON, latest_trials, open_study, run_trials


def run_study(options: argparse.Namespace, shared: Sequence[str]) -> dict[str, Any]:
    """Run a study with its own options, and those of `fit` that its runs share.

    Returns:
        The content of `study.json`, or nothing if other machines are not done yet.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats, the progress bar
    plan = read_plan(options, shared)
    config = check(plan)
    folder = Path(options.root).absolute() / options.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: there can be no folder ({reason(error)}); see --root and --name") from error
    runner = Runner(folder, environments(options.workers))
    alone = FileLock(folder / LOCK) if options.storage else lock(folder)
    try:
        with alone:
            study = open_study(folder, options.storage, plan, config)
        run_trials(study, plan, runner, options.workers)
        trials = latest_trials(study)
        if not all(trial.state.is_finished() for place, trial in trials.items() if place < plan.size):
            status("study", "others work on the trials that are left; the same command reports when they are done")
            return {}
        with alone:
            content = _conclude(trials, plan, runner, options.workers)
        if plan.space and len(content["candidates"]) > 1:
            _draw(study, folder)
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError) as error:
        storage = f"--storage {options.storage}" if options.storage else str(folder / JOURNAL)
        raise UserError(f"{storage}: cannot be used ({reason(error)}); the same command goes on") from error
    finally:
        alone.release(force=True)
    status("study", display_path(folder / "study.json"))
    status("look", f"tensorboard --logdir {display_path(folder)}")
    return content


def check(plan: Plan) -> str:
    """Let `fit` parse the options of each candidate, which ends the study at a mistake, and return their settings."""
    from lit_bert.cli import main

    params = suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(), plan.space)
    runs = [run for place in range(1 if plan.space else plan.size) for run in plan.runs(place, params)]
    configs = ""
    for run in {run.candidate: run for run in runs}.values():
        try:
            with contextlib.redirect_stdout(io.StringIO()) as config:
                main(["fit", *plan.arguments(run), "--print_config"])
        except SystemExit as stop:
            if stop.code:
                source = "--search" if plan.space else f"--variant {run.candidate}" if run.options else "all runs"
                sys.stderr.write(f"the mistake is in the options of {source}: {shlex.join(plan.arguments(run))}\n")
                raise
        configs += config.getvalue()
        if (plan.space or plan.variants) and yaml.safe_load(config.getvalue())["data"].get("val_split") == "test":
            raise UserError("--data.val_split test: what is best must not be chosen on test rows; leave it out")
    return configs


def environments(workers: int) -> list[dict[str, str]]:
    """Return the environment variables of each worker's runs: a GPU of its own, or its share of the cores."""
    import torch

    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        return [{"CUDA_VISIBLE_DEVICES": visible.split(",")[number % gpus]} for number in range(workers)]
    share = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    return [{} if workers == 1 or "OMP_NUM_THREADS" in os.environ else share] * workers


def _conclude(trials: dict[int, FrozenTrial], plan: Plan, runner: Runner, workers: int) -> dict[str, Any]:
    """Test the best candidate and the baseline, and write and return the results."""
    failed = [
        trial.user_attrs.get(REASON, f"trial {n}") for n, trial in trials.items() if trial.state == TrialState.FAIL
    ]
    runs: dict[str, list[Run]] = {}
    val: dict[str, float] = {}
    for place, trial in trials.items():
        for run in plan.runs(place, trial.params) if trial.state == TrialState.COMPLETE else ():
            if results := runner.results(run):
                val[run.name] = float(results["val"]["acc"])
                runs.setdefault(run.candidate, []).append(run)
            else:
                failed.append(f"{run.name}: its folder is gone")
    if not runs:
        raise UserError(f"no run has results: {'; '.join(failed)}")

    def test(run: Run) -> float | None:
        try:
            return runner.test(run)
        except RunFailed as error:
            failed.append(f"{run.name} was not tested: {error}")
            return None

    best = best_candidate(runs, val)
    chosen = [run for name in dict.fromkeys((BASELINE, best)) for run in runs.get(name, [])]
    with ThreadPoolExecutor(workers) as pool:
        tested = zip(chosen, pool.map(test, chosen), strict=True)
        accuracies = {run.name: accuracy for run, accuracy in tested if accuracy is not None}
    candidates = summarise(runs, val, accuracies)
    pruned = [number for number, trial in trials.items() if trial.state == TrialState.PRUNED]
    content: dict[str, Any] = {"command": shlex.join(sys.argv), "best": best, "candidates": candidates}
    content |= {"failed": failed, "pruned": pruned}
    write_json(runner.folder / "study.json", content)
    print_table(candidates, Console(highlight=False, soft_wrap=True))
    status("best", f"{best}: {shlex.join(candidates[best]['options']) or 'without other options'}")
    for line in failed:
        status("failed", line)
    for name, seed in {(run.candidate, run.seed): None for listed in runs.values() for run in listed}:
        folds = [run for run in runs[name] if run.seed == seed]
        if len(folds) == plan.folds:
            output = runner.folder / f"out_of_fold-{name}-seed{seed}.csv"
            try:
                join_folds([runner.predict_fold(run) for run in folds], output)
            except RunFailed as error:
                status("failed", f"{output.name}: {error}")
                continue
            status("folds", f"each row as predicted by the run not trained on it: {display_path(output)}")
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
    mpl.use("Agg")
    for draw, name in ((plots.plot_optimization_history, "history"), (plots.plot_param_importances, "importances")):
        with contextlib.suppress(ValueError, RuntimeError):  # all accuracies are the same
            draw(study)
            plt.savefig(folder / f"{name}.png", bbox_inches="tight")
            status("figure", display_path(folder / f"{name}.png"))
        plt.close()
