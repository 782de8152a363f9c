"""A recipe over seeds, folds and variants, or in search of better options: trials in an Optuna storage."""

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import yaml
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from lit_bert.console import status
from lit_bert.errors import UserError, reason
from lit_bert.run.run_dir import LOCK, METRICS, lock
from lit_bert.study.results import conclude, latest_trials
from lit_bert.study.runner import Runner
from lit_bert.study.space import Plan, read_plan, suggest

GIVEN_UP_AFTER = 3
"""The study ends if so many trials, the first ones, failed."""


def run_study(options: argparse.Namespace, shared: Sequence[str]) -> dict[str, Any]:
    """Run a study with its own options, and those of `fit` that its runs share.

    Returns:
        The content of `study.json`, or nothing if other machines are not done yet.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats, the progress bar
    warnings.filterwarnings("ignore", "The reported value is ignored")
    plan = read_plan(options, shared)
    config = check(plan)
    folder = Path(options.root).absolute() / options.name
    runner = Runner(folder, options.workers)
    alone = FileLock(folder / LOCK) if options.storage else lock(folder)
    try:
        with alone:
            study = open_study(folder, options.storage, plan, config)
        run_trials(study, plan, runner, options.workers)
        unfinished = [trial for trial in latest_trials(study).values() if not trial.state.is_finished()]
        if any(trial.user_attrs["place"] < plan.size for trial in unfinished) and not is_hopeless(study):
            status("study", "others work on the trials that are left; the same command reports when they are done")
            return {}
        with alone:
            return conclude(study, plan, runner, options.workers)
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError, OSError) as error:
        storage = f"--storage {options.storage}" if options.storage else folder
        raise UserError(f"{storage}: cannot be used ({reason(error)}); the same command goes on") from error
    finally:
        alone.release(force=True)


def check(plan: Plan) -> str:
    """Let `fit` parse the options of each candidate, which ends the study at a mistake, and return their settings."""
    from lit_bert.cli import main

    params = suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(), plan.space)
    configs = ""
    for run in {run.candidate: run for run in (plan.runs_of(0, params) if plan.space else plan.runs)}.values():
        try:
            with contextlib.redirect_stdout(io.StringIO()) as config:
                main(["fit", *plan.arguments(run), "--print_config"])
        except SystemExit as stop:
            if stop.code:
                sys.stderr.write(f"the mistake is in the options of {run.candidate}: {shlex.join(run.options)}\n")
                raise
        configs += config.getvalue()
        if (plan.space or run.options) and yaml.safe_load(config.getvalue())["data"].get("val_split") == "test":
            raise UserError("--data.val_split test: what is best must not be chosen on test rows; leave it out")
    return configs


def open_study(folder: Path, url: str | None, plan: Plan, config: str = "") -> optuna.Study:
    """Return a study, a new one or the one that there is; its trials that failed or were lost wait to be run again.

    Without the `url` of a storage that machines share, it is for this process alone, which has locked the folder.

    Raises:
        UserError: There is another study of this name: its plan or its candidates' settings differ from these.
    """
    storage: BaseStorage
    retry = Retry()
    if url:
        storage = RDBStorage(url, heartbeat_interval=60, heartbeat_stale_trial_callback=retry)
    else:
        journal = folder / "optuna.log"
        if journal.is_file():  # a full disk or a crash can cut its last line short
            os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
        storage = JournalStorage(JournalFileBackend(str(journal)))  # unlike SQLite, it gives no trial to two threads
    sampler = optuna.samplers.TPESampler(constant_liar=True)
    study = optuna.create_study(
        storage=storage, sampler=sampler, study_name=folder.name, direction="maximize", load_if_exists=True
    )
    settings = f"{url and folder} {plan.runs} {plan.space}\n{config}"
    begun_with = study.user_attrs.get("settings")
    if begun_with != settings and (begun_with or any(folder.glob(f"*/{METRICS}"))):
        problem = f"--name {folder.name}: there is another study of this name, with other options"
        raise UserError(f"{problem}; give the options it was begun with, or choose another name")
    study.set_user_attr("settings", settings)
    trials = latest_trials(study)
    for place in range(len(trials), plan.size):
        study.enqueue_trial({}, {"place": place})
    fail_stale_trials(study)
    ended = [TrialState.FAIL] if url else [TrialState.FAIL, TrialState.RUNNING]  # no other process can be running it
    for trial in trials.values():
        if trial.state in ended:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            retry(study, trial)
    return study


def run_trials(study: optuna.Study, plan: Plan, runner: Runner, workers: int) -> None:
    """Run the trials that wait, so many at a time, until none is left, all failed, or a signal comes.

    Raises:
        SystemExit: With 128 and the signal's number after a signal.
    """

    def stop(number: int, frame: Any) -> None:
        runner.stopped_by = number
        signal.signal(number, signal.SIG_DFL)  # another one ends the study at once, but not its runs

    def stop_early(study: optuna.Study, trial: FrozenTrial) -> None:
        if runner.stopped_by or is_hopeless(study):
            study.stop()

    begun = [trial for trial in latest_trials(study).values() if trial.state != TrialState.WAITING]
    waiting = max(0, plan.size - len(begun))
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            stack.callback(signal.signal, number, signal.signal(number, stop))
        study.optimize(
            lambda trial: _run_trial(trial, plan, runner),
            n_trials=waiting,
            n_jobs=workers,
            catch=(UserError,),
            callbacks=[stop_early],
            show_progress_bar=True,
        )
    if runner.stopped_by:
        sys.stderr.write(f"stopped by {signal.Signals(runner.stopped_by).name}; the same command goes on\n")
        raise SystemExit(128 + runner.stopped_by)


def is_hopeless(study: optuna.Study) -> bool:
    """Tell whether the first trials failed, and none had a result: those that wait would fail, too."""
    states = [trial.state for trial in latest_trials(study).values()]
    has_result = TrialState.COMPLETE in states or TrialState.PRUNED in states
    return states.count(TrialState.FAIL) >= GIVEN_UP_AFTER and not has_result


def _run_trial(trial: Trial, plan: Plan, runner: Runner) -> float:
    """Return the mean validation accuracy of a trial's runs."""
    if "place" not in trial.user_attrs:  # other machines have taken all that waited
        trial.study.stop()
        raise UserError
    accuracies: list[float] = []
    for run in plan.runs_of(trial.user_attrs["place"], suggest(trial, plan.space)):
        try:
            accuracies.append(runner.fit(run, plan.arguments(run), trial if plan.space and not accuracies else None))
            if run.fold is not None:
                runner.predict_fold(run)
        except UserError as error:
            trial.set_user_attr("reason", f"{run.name}: {error}")
            raise
        trial.set_user_attr(run.name, accuracies[-1])
    return fmean(accuracies)
