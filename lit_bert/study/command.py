"""The command line of a study: what is asked for, its workers, and what they come to."""

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_bert.console import status
from lit_bert.errors import UserError, exit_on_user_error
from lit_bert.evaluation.report import write_json
from lit_bert.files import display_path
from lit_bert.study import report, runner
from lit_bert.study.plan import BASELINE, Candidate, Plan, Run, check_names, read_space
from lit_bert.study.trials import Worker, completed_runs, done, failures, open_study

DESCRIPTION = """Train one recipe over seeds and folds, beside variants, or search for better options.

All other options are those of `python train.py fit`, which every run shares. The same command goes on with a study that
was stopped; started twice, here or on another machine, both share its trials. The test rows are looked at once, at the
end, with the runs of the candidate that is best on validation rows, and those of the baseline."""


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Run a study; returns what `study.json` holds, or nothing of it if other workers are not done yet.

    Raises:
        SystemExit: With status 2 after a user's mistake, with 130 or 143 after a signal.
    """
    options, shared = _parser().parse_known_args(args)
    with exit_on_user_error():
        plan = _plan(options, tuple(shared))
        folder = Path(options.root).absolute() / options.name
        _check(plan)
        study = open_study(folder, options.storage, plan)
        _work(study, plan, folder, options.workers)
        if len(done(study)) < plan.size:
            status("study", "others work on the trials that are left; the same command reports when they are done")
            return {}
        with FileLock(folder / ".study.lock"):  # where several end at a time, one tests
            return _finish(study, plan, folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lit_bert.study",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--name", default="study", help="name of the study and its folder (default: study)")
    parser.add_argument("--root", default="runs", help="where its folder is (default: runs)")
    parser.add_argument("--seeds", type=int, default=1, help="run each candidate with seeds 1 to this (default: 1)")
    parser.add_argument("--folds", type=int, help="validate on each of so many folds in turn")
    parser.add_argument(
        "--variant",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "OPTIONS"),
        help="options that differ from the baseline's, in quotes; may be given several times",
    )
    parser.add_argument("--search", type=Path, help="YAML file of ranges, in which better values are searched for")
    parser.add_argument("--trials", type=int, default=30, help="how many of them are tried (default: 30)")
    parser.add_argument("--storage", help="URL of an Optuna storage (default: a file in the study's folder)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; each sees one GPU, if there are any")
    return parser


def _plan(options: argparse.Namespace, shared: tuple[str, ...]) -> Plan:
    for name, least in (("seeds", 1), ("folds", 2), ("trials", 1), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: it must be at least {least}")
    if options.search and options.variant:
        raise UserError("--search and --variant: a study either searches or compares; leave one of the two out")
    if Path(options.name).name != options.name or options.name.startswith("."):
        raise UserError(f"--name {options.name}: give a name for a folder, without / and not beginning with a dot")
    variants = tuple(Candidate(name, tuple(shlex.split(words))) for name, words in options.variant)
    check_names(variants)
    space = read_space(options.search) if options.search else {}
    return Plan(shared, options.seeds, options.folds, variants, space, options.trials)


def _check(plan: Plan) -> None:
    """Let `fit` parse what runs are to be started with, so that a mistake ends the study before it begins."""
    from lit_bert.cli import main as lit_bert

    if plan.space:
        runs = plan.runs(0, {name: plan.first_value(name) for name in plan.space})[:1]
    else:
        runs = [Run(candidate, 1, plan.folds and 1) for candidate in (Candidate(BASELINE), *plan.variants)]
    for run in runs:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                lit_bert(["fit", *plan.arguments(run), "--print_config"])
        except SystemExit as stop:
            if stop.code:
                where = f"--variant {run.candidate.name}" if run.candidate.name != BASELINE else "options of fit"
                sys.stderr.write(f"in {'--search' if plan.space else where}\n")
                raise


def _work(study: optuna.Study, plan: Plan, folder: Path, workers: int) -> None:
    """Do all trials, with a bar."""
    stop = threading.Event()
    received: list[int] = []

    def end(number: int, frame: Any) -> None:
        received.append(number)
        stop.set()

    threads = [Worker(study, plan, folder, variables, stop) for variables in _environments(workers)]
    columns = (TextColumn("Trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=plan.size)
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                best = max((trial.value for trial in done(study) if trial.value is not None), default=None)
                said = "" if best is None else f"best {best:.4f}"
                progress.update(task, completed=len(done(study)), description=said)
                time.sleep(0.2)
            progress.update(task, completed=len(done(study)))
    finally:
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

    if workers == 1:
        return [{}]
    if gpus := torch.cuda.device_count():
        return [{"CUDA_VISIBLE_DEVICES": str(number % gpus)} for number in range(workers)]
    share = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    return [{} if "OMP_NUM_THREADS" in os.environ else share] * workers


def _finish(study: optuna.Study, plan: Plan, folder: Path) -> dict[str, Any]:
    """Test the final choice, report, and draw."""
    runs, failed = completed_runs(study, plan), failures(study, plan)
    results = {run.name: runner.results(folder / run.name) for of_one in runs.values() for run in of_one}
    val = {name: found["val"]["acc"] for name, found in results.items() if found}
    if not runs:
        for name, why in failed.items():
            sys.stderr.write(f"failed   {name}: {why}\n")
        raise UserError("no run has results")
    complete = {name: of_one for name, of_one in runs.items() if len(of_one) == max(map(len, runs.values()))}
    best = next(iter(report.summarise(complete, val, {})))
    chosen = [name for name in dict.fromkeys((BASELINE, best)) if name in runs]
    test: dict[str, float] = {}
    for run in (run for name in chosen for run in runs[name]):
        try:
            test[run.name] = runner.evaluate(run, folder)["acc"]
        except runner.RunFailed as error:
            status("test", f"{run.name} was not tested: {error}")
    candidates = report.summarise(runs, val, test)
    report.print_table(candidates, failed, Console(highlight=False, soft_wrap=True))
    found = {"command": shlex.join(sys.argv), "best": best, "candidates": candidates, "failed": failed}
    write_json(folder / "study.json", found)
    if plan.folds:
        _join_folds(plan, runs, chosen, folder)
    if plan.space and len(runs) > 1:
        for file in report.draw(study, folder):
            status("figure", display_path(file))
    said = shlex.join(candidates[best]["options"]) or "the options as they are"
    status("best", f"{best}: {said}")
    status("study", display_path(folder / "study.json"))
    status("look", f"tensorboard --logdir {display_path(folder)}")
    return found


def _join_folds(plan: Plan, runs: dict[str, list[Run]], chosen: list[str], folder: Path) -> None:
    for name in chosen:
        for seed in range(1, plan.seeds + 1):
            of_seed = [run for run in runs[name] if run.seed == seed]
            if len(of_seed) == plan.folds:
                files = [runner.predict_fold(run, folder) for run in of_seed]
                output = folder / f"out_of_fold-{name}-seed{seed}.csv"
                report.join_folds(files, output)
                status("folds", f"each row as predicted by the run not trained on it: {display_path(output)}")
