"""A study: what is asked for, its workers, and what they come to."""

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_bert.console import status
from lit_bert.errors import UserError, exit_on_user_error, reason
from lit_bert.evaluation.report import write_json
from lit_bert.files import display_path
from lit_bert.study import report, runner
from lit_bert.study.plan import BASELINE, Candidate, Plan, Run, check_names, read_space, read_variants
from lit_bert.study.trials import Worker, completed_runs, done, explained, failures, open_study, pruned

RESERVED = {
    *("ckpt_path", "checkpoint.dirpath", "seed_everything", "trainer.default_root_dir"),
    *("data.folds", "data.fold", "test_after_fit", "export_after_fit"),
}
"""Options of `fit` that a study sets for its runs."""

POLL_SECONDS = 1.0
"""Between two looks at how many trials are done."""


def run_study(options: argparse.Namespace, shared: Sequence[str]) -> dict[str, Any]:
    """Run a study; returns what `study.json` holds, or nothing of it if other workers are not done yet.

    Args:
        options: Its own, of the command line.
        shared: Options of `fit` that all its runs get.

    Raises:
        SystemExit: With status 2 after a user's mistake, with 130 or 143 after a signal.
    """
    with exit_on_user_error():
        plan = _plan(options, tuple(shared))
        folder = Path(options.root).absolute() / options.name
        config = _check(plan)
        study = open_study(folder, options.storage, plan, config)
        environments = _environments(options.workers)
        with explained(options.storage or "of the study's folder"):
            _work(study, plan, folder, environments)
            if len(done(study)) < plan.size:
                status("study", "others work on the trials that are left; the same command reports when they are done")
                return {}
            with FileLock(folder / ".study.lock"):  # where several end at a time, one tests
                return _conclude(study, plan, folder, environments)


def _plan(options: argparse.Namespace, shared: tuple[str, ...]) -> Plan:
    for name, least in (("seeds", 1), ("folds", 2), ("trials", 1), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: it must be at least {least}")
    if options.search and (options.variant or options.variants):
        raise UserError("--search and variants: a study either searches or compares; leave one of the two out")
    if not options.name or Path(options.name).name != options.name or options.name.startswith("."):
        raise UserError(f"--name {options.name}: give a name for a folder, without / and not beginning with a dot")
    variants = read_variants(options.variants) if options.variants else ()
    variants += tuple(Candidate(name, _split(name, words)) for name, words in options.variant)
    check_names(variants)
    space = read_space(options.search) if options.search else {}
    words = [*shared, *(word for variant in variants for word in variant.options), *(f"--{name}" for name in space)]
    if reserved := RESERVED.intersection(word.removeprefix("--").partition("=")[0] for word in words):
        raise UserError(f"--{min(reserved)}: a study sets it for each of its runs; leave it out")
    return Plan(shared, options.seeds, options.folds, variants, space, options.trials)


def _split(name: str, options: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(options))
    except ValueError as error:
        raise UserError(f"--variant {name} {options.strip()!r}: {reason(error)}") from error


def _check(plan: Plan) -> str:
    """Let `fit` parse what runs are to be started with, so that a mistake ends the study before it begins.

    Returns:
        The settings of the baseline, as a run's config has them.
    """
    from lit_bert.cli import main as lit_bert

    if plan.space:
        runs = plan.runs(0, {name: plan.first_value(name) for name in plan.space})[:1]
    else:
        runs = [Run(candidate, 1, plan.folds and 1) for candidate in (Candidate(BASELINE), *plan.variants)]
    configs = []
    for run in runs:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                lit_bert(["fit", *plan.arguments(run), "--print_config"])
        except SystemExit as stop:
            if stop.code:
                where = f"--variant {run.candidate.name}" if run.candidate.name != BASELINE else "options of fit"
                sys.stderr.write(f"in {'--search' if plan.space else where}\n")
                raise
        configs.append(printed.getvalue())
        chooses = plan.space or plan.variants
        if chooses and yaml.safe_load(configs[-1])["data"].get("val_split") == "test":
            raise UserError("--data.val_split test: what is best must not be chosen on test rows; leave it out")
    return configs[0]


def _work(study: optuna.Study, plan: Plan, folder: Path, environments: Sequence[Mapping[str, str]]) -> None:
    """Do all trials, with a bar."""
    stop = threading.Event()
    received: list[int] = []

    def end(number: int, frame: Any) -> None:
        if received:  # runs go on, to their checkpoint
            raise SystemExit(128 + number)
        received.append(number)
        stop.set()

    threads = [Worker(study, plan, folder, variables, stop) for variables in environments]
    columns = (TextColumn("Trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=plan.size)
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                threads[0].join(POLL_SECONDS) if threads[0].is_alive() else time.sleep(POLL_SECONDS)
                ended = done(study)
                best = max((trial.value for trial in ended if trial.value is not None), default=None)
                said = "" if best is None else f"best {best:.4f}"
                progress.update(task, completed=len(ended), description=said)
    finally:
        stop.set()
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        sys.stderr.write(f"stopped by {signal.Signals(received[0]).name}; the same command goes on\n")
        raise SystemExit(128 + received[0])
    for thread in threads:
        if thread.error is not None:
            raise thread.error


def _environments(workers: int) -> list[dict[str, str]]:
    """Return what each worker's runs have in their environment: a GPU of its own, or its share of the cores."""
    import torch

    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[:gpus]
        names = visible if visible[0] else [str(number) for number in range(gpus)]
        return [{"CUDA_VISIBLE_DEVICES": names[number % gpus]} for number in range(workers)]
    share = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    return [{} if workers == 1 or "OMP_NUM_THREADS" in os.environ else share] * workers


def _conclude(
    study: optuna.Study, plan: Plan, folder: Path, environments: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """Test the final choice, report, and draw."""
    runs, failed = completed_runs(study, plan), failures(study)
    val = {}
    for run in (run for of_one in runs.values() for run in of_one):
        if found := runner.results(folder / run.name):
            val[run.name] = found["val"]["acc"]
        else:
            failed.append(f"{run.name}: its folder is gone")
    runs = {name: [run for run in of_one if run.name in val] for name, of_one in runs.items()}
    runs = {name: of_one for name, of_one in runs.items() if of_one}
    if not runs:
        for line in failed:
            sys.stderr.write(f"failed   {line}\n")
        raise UserError("no run has results")
    best = report.best_candidate(runs, val)
    chosen = [run for name in dict.fromkeys((BASELINE, best)) for run in runs.get(name, [])]
    test = _test(chosen, folder, environments)
    candidates = report.summarise(runs, val, test)
    report.print_table(candidates, failed, Console(highlight=False, soft_wrap=True))
    content = {"command": shlex.join(sys.argv), "best": best, "candidates": candidates, "failed": failed}
    if plan.space:
        content["given_up"] = pruned(study, plan)
    write_json(folder / "study.json", content)
    if plan.folds:
        _join_folds(plan, runs, folder, environments[0])
    if plan.space and len(runs) > 1:
        for file in report.draw(study, folder):
            status("figure", display_path(file))
    said = shlex.join(candidates[best]["options"]) or "the options as they are"
    status("best", f"{best}: {said}")
    status("study", display_path(folder / "study.json"))
    status("look", f"tensorboard --logdir {display_path(folder)}")
    return content


def _test(runs: Sequence[Run], folder: Path, environments: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return the test accuracy of each run by its name, of as many at a time as there are environments."""

    def test(place: int, run: Run) -> float | None:
        try:
            return float(runner.evaluate(run, folder, environments[place % len(environments)])["acc"])
        except runner.RunFailed as error:
            status("test", f"{run.name} was not tested: {error}")
            return None

    with ThreadPoolExecutor(len(environments)) as pool:
        found = list(pool.map(test, range(len(runs)), runs))
    return {run.name: accuracy for run, accuracy in zip(runs, found, strict=True) if accuracy is not None}


def _join_folds(plan: Plan, runs: Mapping[str, list[Run]], folder: Path, variables: Mapping[str, str]) -> None:
    """Write, of each candidate and seed, what the runs of its folds predict of the rows they were not trained on."""
    for name, of_one in runs.items():
        for seed in range(1, plan.seeds + 1):
            of_seed = [run for run in of_one if run.seed == seed]
            if len(of_seed) != plan.folds:
                continue
            output = folder / f"out_of_fold-{name}-seed{seed}.csv"
            try:
                report.join_folds([runner.predict_fold(run, folder, variables) for run in of_seed], output)
            except runner.RunFailed as error:
                status("folds", f"{output.name} was not written: {error}")
            else:
                status("folds", f"each row as predicted by the run not trained on it: {display_path(output)}")
