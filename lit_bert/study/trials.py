"""The trials of a study in an Optuna storage, which workers share, here and on other machines."""

import functools
import hashlib
import signal
import sys
import time
import uuid
import zlib
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import event

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.files import atomic_write
from lit_bert.study.runner import RunFailed, Runner, RunStopped, pruner
from lit_bert.study.space import Plan, suggest

PLACE, BEGUN, REASON = "place", "begun", "reason"
"""Attributes of a trial: its place in the plan, its number once it has begun, and why it failed.

A trial without a place came when all places were taken."""

LOCK = ".study.lock"
"""File in a study's folder: its lock is held where two workers must not do the same."""

HEARTBEAT, GRACE = 5, 30
"""Seconds between a trial's signs of life, and without one until it counts as lost."""

MAX_RETRIES = 2
"""Number of times that a run is started again after something killed its process."""

GIVE_UP_AFTER = 3
"""The study ends if so many trials, the first ones, failed: the next would fail, too."""

PRUNE_AFTER = 5
"""Number of trials that end before any is given up."""


def open_study(folder: Path, url: str | None, plan: Plan, config: str = "") -> optuna.Study:
    """Return a study, a new one or the one that there is; its trials that failed or were lost wait to be run again.

    Args:
        folder: The study's folder.
        url: Optuna storage; None is a file in the folder.
        plan: What is to be run.
        config: The settings of the first candidate.

    Raises:
        UserError: The folder has another study.
    """
    with FileLock(folder / LOCK):
        study = optuna.create_study(
            storage=_storage(url or f"sqlite:///{folder / 'study.db'}"),
            study_name=_study_name(folder, f"{url} {replace(plan, trials=0)} {config}"),
            direction="maximize",
            load_if_exists=True,
            sampler=PlaceSampler(multivariate=False),  # otherwise it draws before the trial has its place
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNE_AFTER),
        )
    _fail_lost_trials(study)
    with FileLock(folder / LOCK):
        for trial in latest_trials(study).values():
            if trial.state == TrialState.FAIL:
                RetryHeartbeatStaleTrialCallback()(study, trial)
    return study


def _storage(url: str) -> RDBStorage:
    is_sqlite = url.startswith("sqlite")
    engine = {"connect_args": {"timeout": 60, "isolation_level": None}} if is_sqlite else None
    retry = RetryHeartbeatStaleTrialCallback()
    storage = RDBStorage(
        url, engine, heartbeat_interval=HEARTBEAT, grace_period=GRACE, heartbeat_stale_trial_callback=retry
    )
    if is_sqlite:  # otherwise two workers can take the same waiting trial: it ignores SELECT ... FOR UPDATE
        event.listen(storage.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def _study_name(folder: Path, options: str) -> str:
    """Return the name of a folder's study in the storage, where others may have folders of the same name."""
    file, checksum = folder / "study.id", hashlib.sha256(options.encode()).hexdigest()
    if not file.is_file():
        with atomic_write(file) as partial:
            partial.write_text(f"{folder.name}-{uuid.uuid4().hex[:8]} {checksum}", "utf-8")
    name, _, begun_with = file.read_text("utf-8").rpartition(" ")
    if begun_with != checksum:
        raise UserError(
            f"--name {folder.name}: there is another study of this name, with other options; give the options it "
            "was begun with, or choose another name"
        )
    return name


def _fail_lost_trials(study: optuna.Study) -> None:
    """Wait for signs of life from running trials, and let those of killed workers fail.

    Otherwise a search would draw its next trial before it has the results of the lost one.
    """
    running = functools.partial(study.get_trials, deepcopy=False, states=[TrialState.RUNNING])
    end = time.monotonic() + GRACE + HEARTBEAT
    if running():
        status("study", f"waits up to {GRACE + HEARTBEAT} s for signs of life from other workers")
    while running() and time.monotonic() < end:
        time.sleep(1)
        fail_stale_trials(study)
    for trial in running():
        if trial.user_attrs.get(BEGUN) != trial.number:  # its worker was killed before the first sign of life
            study.tell(trial.number, state=TrialState.FAIL)


def latest_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the last trial at each place of the plan, in their order: one that was lost has others after it."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if PLACE in trial.user_attrs]
    latest = {trial.user_attrs[PLACE]: trial for trial in trials}
    return {place: latest[place] for place in sorted(latest)}


def failures(trials: dict[int, FrozenTrial]) -> list[str]:
    """Return the reasons of trials that failed."""
    failed = [trial for trial in trials.values() if trial.state == TrialState.FAIL]
    return [trial.user_attrs.get(REASON) or f"trial {trial.user_attrs[PLACE]}: it was killed" for trial in failed]


class PlaceSampler(TPESampler):
    """TPE whose draws depend on the trial's place and the results so far, so that a killed study repeats them."""

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        seed = zlib.crc32(f"{trial.user_attrs[PLACE]} {param_name}".encode())
        sampler = TPESampler(seed=seed, constant_liar=True)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def run_trials(study: optuna.Study, plan: Plan, runner: Runner, workers: int, signals: list[int]) -> None:
    """Run the trials that wait and those that are new, until none is left or a signal comes.

    Args:
        study: What `open_study` returned.
        plan: What is to be run.
        runner: Starts the runs. It is to stop once there are `signals`.
        workers: Number of trials at a time.
        signals: List that a signal to stop is added to.

    Raises:
        UserError: The first trials all failed.
        SystemExit: With 128 and the signal's number after a signal.
    """

    def stop(number: int, frame: Any) -> None:
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)  # another one ends the study at once, but not its runs

    def after_trial(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state == TrialState.FAIL and PLACE in trial.user_attrs and not trial.user_attrs.get(REASON):
            RetryHeartbeatStaleTrialCallback(None if signals else MAX_RETRIES)(study, trial)
        if signals or len(_first_failures(study)) == GIVE_UP_AFTER:
            study.stop()

    objective = functools.partial(_run_trial, plan=plan, runner=runner)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        while not signals and (left := _count_left(study, plan)):
            jobs, callbacks = min(workers, left), [after_trial]
            study.optimize(objective, left, None, jobs, (RunFailed,), callbacks, show_progress_bar=True)
            if len(failed := _first_failures(study)) == GIVE_UP_AFTER:
                raise UserError(f"the first {GIVE_UP_AFTER} trials failed: {failed[0]}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        sys.stderr.write(f"stopped by {signal.Signals(signals[0]).name}; the same command goes on\n")
        raise SystemExit(128 + signals[0])


def _count_left(study: optuna.Study, plan: Plan) -> int:
    states = [trial.state for trial in latest_trials(study).values()]
    return max(0, plan.size - len(states)) + states.count(TrialState.WAITING)


def _first_failures(study: optuna.Study) -> list[str]:
    return failures({place: trial for place, trial in latest_trials(study).items() if place < GIVE_UP_AFTER})


def _run_trial(trial: Trial, plan: Plan, runner: Runner) -> float:
    """Return the mean validation accuracy of a trial's runs."""
    with FileLock(runner.folder / LOCK):
        place = trial.user_attrs.get(PLACE, len(latest_trials(trial.study)))
        if place >= plan.size or runner.should_stop():
            raise RunStopped
        trial.set_user_attr(PLACE, place)
    trial.set_user_attr(BEGUN, trial.number)
    trial.set_user_attr(REASON, None)
    accuracies: list[float] = []
    for run in plan.runs(place, suggest(trial, plan.space)):
        should_prune = pruner(trial) if plan.space and not accuracies else lambda _: False
        try:
            accuracies.append(runner.fit(run, plan.arguments(run), should_prune))
            if run.fold is not None:
                runner.predict_fold(run)
        except RunFailed as error:
            if not isinstance(error, RunStopped):
                trial.set_user_attr(REASON, f"{run.name}: {error}")
            raise
    return fmean(accuracies)
