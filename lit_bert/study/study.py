"""A study: the runs of a recipe over seeds, folds and variants, or in search of better options; what they come to."""

import argparse
import contextlib
import csv
import io
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
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
from lit_bert.study.runner import RunFailed, Runner
from lit_bert.study.space import BASELINE, Plan, Run, read_plan, suggest
from lit_bert.study.statistics import best_candidate, print_table, summarise
from lit_bert.study.trials import LOCK, failures, latest_trials, open_study, run_trials


def run_study(options: argparse.Namespace, shared: Sequence[str]) -> dict[str, Any]:
    """Run a study.

    Args:
        options: The study's own options.
        shared: Options of `fit` for all its runs.

    Returns:
        The content of `study.json`, or nothing if other workers are not done yet.

    Raises:
        UserError: Something cannot be used, or no run has results.
        SystemExit: With status 130 or 143 after a signal.
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
    signals: list[int] = []
    runner = Runner(folder, environments(options.workers), lambda: bool(signals))
    with _storage_errors(options.storage or "of the study's folder"):
        study = open_study(folder, options.storage, plan, config)
        run_trials(study, plan, runner, options.workers, signals)
        trials = latest_trials(study)
        if not all(trial.state.is_finished() for trial in trials.values()):
            status("study", "others work on the trials that are left; the same command reports when they are done")
            return {}
        with FileLock(folder / LOCK):  # if several workers end at a time, one of them tests
            content = _conclude(trials, plan, runner, options.workers)
        if plan.space and len(content["candidates"]) > 1:
            _draw(study, folder)
    status("study", display_path(folder / "study.json"))
    status("look", f"tensorboard --logdir {display_path(folder)}")
    return content


def check(plan: Plan) -> str:
    """Let `fit` parse the options of each candidate, so that a mistake ends the study before it begins.

    Returns:
        The settings of the first candidate, as a run's config has them.

    Raises:
        SystemExit: `fit` does not take an option.
        UserError: Candidates would be compared on test rows.
    """
    from lit_bert.cli import main

    sampler = optuna.samplers.RandomSampler(seed=0)
    params = suggest(optuna.create_study(sampler=sampler).ask(), plan.space)
    runs = [run for place in range(1 if plan.space else plan.size) for run in plan.runs(place, params)]
    configs = []
    for run in {run.candidate: run for run in runs}.values():
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                main(["fit", *plan.arguments(run), "--print_config"])
        except SystemExit as stop:
            if stop.code:
                variant = "options of fit" if run.candidate == BASELINE else f"--variant {run.candidate}"
                sys.stderr.write(f"in {'--search' if plan.space else variant}\n")
                raise
        configs.append(printed.getvalue())
        if (plan.space or plan.variants) and yaml.safe_load(configs[-1])["data"].get("val_split") == "test":
            raise UserError("--data.val_split test: what is best must not be chosen on test rows; leave it out")
    return configs[0]


def environments(workers: int) -> list[dict[str, str]]:
    """Return the environment variables of each worker's runs: a GPU of its own, or its share of the cores."""
    import torch

    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        return [{"CUDA_VISIBLE_DEVICES": visible.split(",")[number % gpus]} for number in range(workers)]
    share = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    return [{} if workers == 1 or "OMP_NUM_THREADS" in os.environ else share] * workers


@contextlib.contextmanager
def _storage_errors(storage: str) -> Iterator[None]:
    """Convert errors of a storage to `UserError`."""
    try:
        yield
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError) as error:
        raise UserError(f"--storage {storage}: cannot be used ({reason(error)}); the same command goes on") from error


def _conclude(trials: dict[int, FrozenTrial], plan: Plan, runner: Runner, workers: int) -> dict[str, Any]:
    """Test the best candidate and the baseline, and write and return the results."""
    failed = failures(trials)
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
    best = best_candidate(runs, val)
    chosen = [run for name in dict.fromkeys((BASELINE, best)) for run in runs.get(name, [])]
    with ThreadPoolExecutor(workers) as pool:
        test = dict(tested for tested in pool.map(lambda run: _test(run, runner), chosen) if tested)
    candidates = summarise(runs, val, test)
    content = {"command": shlex.join(sys.argv), "best": best, "candidates": candidates, "failed": failed}
    if plan.space:
        pruned = {place: trial for place, trial in trials.items() if trial.state == TrialState.PRUNED}
        first = [plan.runs(place, trial.params)[0] for place, trial in pruned.items()]
        content["given_up"] = {run.candidate: list(run.options) for run in first}
    write_json(runner.folder / "study.json", content)
    print_table(candidates, Console(highlight=False, soft_wrap=True))
    for line in failed:
        print(f"failed   {line}")
    for name, seed in {(run.candidate, run.seed): None for listed in runs.values() for run in listed}:
        folds = [run for run in runs[name] if run.seed == seed]
        if len(folds) == plan.folds:
            output = runner.folder / f"out_of_fold-{name}-seed{seed}.csv"
            join_folds([runner.predict_fold(run) for run in folds], output)
            status("folds", f"each row as predicted by the run not trained on it: {display_path(output)}")
    return content


def _test(run: Run, runner: Runner) -> tuple[str, float] | None:
    try:
        return run.name, runner.test(run)
    except RunFailed as error:
        status("test", f"{run.name} was not tested: {error}")
        return None


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
    """Draw Optuna's figures of a search."""
    mpl.use("Agg")
    for name in ("optimization_history", "parallel_coordinate", "param_importances"):
        file = folder / f"{name.removeprefix('optimization_').removeprefix('param_')}.png"
        with contextlib.suppress(ValueError, RuntimeError):  # all accuracies are the same
            figure = getattr(plots, f"plot_{name}")(study).figure
            figure.set_size_inches(9, 6)
            figure.savefig(file, dpi=110, bbox_inches="tight")
            plt.close(figure)
            status("figure", display_path(file))
