"""The trials of a study in an Optuna storage."""

import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, fail_stale_trials
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from lit_bert.errors import UserError
from lit_bert.run.run_dir import METRICS
from lit_bert.study.runner import RunFailed, Runner
from lit_bert.study.space import Plan, suggest

JOURNAL = "optuna.log"
GIVEN_UP_AFTER = 3
"""The study ends if so many trials, the first ones, failed."""

PLACE, REASON, SETTINGS = "place", "reason", "settings"
"""Attributes of a trial, its place in the plan and why it failed, and of a study, what it was begun with."""


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
        file = folder / JOURNAL
        if file.is_file():
            os.truncate(file, file.read_bytes().rfind(b"\n") + 1)  # a full disk or a crash can cut its last line short
        storage = JournalStorage(JournalFileBackend(str(file)))  # unlike SQLite, it gives no trial to two threads
    study = optuna.create_study(
        storage=storage,
        study_name=folder.name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        pruner=optuna.pruners.MedianPruner(),
    )
    settings = f"{url and folder} {replace(plan, trials=0)}\n{config}"
    begun_with = study.user_attrs.get(SETTINGS)
    if begun_with != settings and (begun_with or any(folder.glob(f"*/{METRICS}"))):
        raise UserError(
            f"--name {folder.name}: there is another study of this name, with other options; give the options it "
            "was begun with, or choose another name"
        )
    study.set_user_attr(SETTINGS, settings)
    trials = latest_trials(study)
    for place in range(len(trials), plan.size):
        study.enqueue_trial({}, {PLACE: place})
    fail_stale_trials(study)
    for trial in trials.values():
        is_lost = trial.state == TrialState.RUNNING and not url  # no other process is there to run it
        if is_lost:
            study.tell(trial.number, state=TrialState.FAIL)
        if is_lost or trial.state == TrialState.FAIL:
            retry(study, trial)
    return study


def latest_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """Return the last trial at each place of the plan: one that was lost or failed has others after it."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if PLACE in trial.user_attrs]
    return {trial.user_attrs[PLACE]: trial for trial in trials}


def run_trials(study: optuna.Study, plan: Plan, runner: Runner, workers: int) -> None:
    """Run the trials that wait, so many at a time, until none is left or a signal comes.

    Raises:
        SystemExit: With 128 and the signal's number after a signal.
    """

    def stop(number: int, frame: Any) -> None:
        runner.stopped_by = number
        signal.signal(number, signal.SIG_DFL)  # another one ends the study at once, but not its runs

    def stop_early(study: optuna.Study, trial: FrozenTrial) -> None:
        if runner.stopped_by or _first_failed(study):
            study.stop()

    waiting = plan.size - sum(trial.state != TrialState.WAITING for trial in latest_trials(study).values())
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        study.optimize(
            partial(_run_trial, plan=plan, runner=runner),
            n_trials=max(0, waiting),
            n_jobs=workers,
            catch=(RunFailed,),
            callbacks=[stop_early],
            show_progress_bar=True,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if runner.stopped_by:
        sys.stderr.write(f"stopped by {signal.Signals(runner.stopped_by).name}; the same command goes on\n")
        raise SystemExit(128 + runner.stopped_by)
    if failed := _first_failed(study):
        raise UserError(f"the first {GIVEN_UP_AFTER} trials failed: {failed}; the same command tries them again")


def _first_failed(study: optuna.Study) -> str | None:
    """Return why the first trial failed if those after it did, too: the others would be as hopeless."""
    trials = list(latest_trials(study).values())
    first = trials[:GIVEN_UP_AFTER]
    hopeless = len(first) == GIVEN_UP_AFTER and all(trial.state == TrialState.FAIL for trial in first)
    hopeless &= not any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
    return str(first[0].user_attrs.get(REASON, "its process was lost")) if hopeless else None


def _run_trial(trial: Trial, plan: Plan, runner: Runner) -> float:
    """Return the mean validation accuracy of a trial's runs."""
    if PLACE not in trial.user_attrs:  # other machines have taken all that waited
        trial.study.stop()
        raise RunFailed
    accuracies: list[float] = []
    for run in plan.runs(trial.user_attrs[PLACE], suggest(trial, plan.space)):
        try:
            accuracies.append(runner.fit(run, plan.arguments(run), trial if plan.space and not accuracies else None))
            if run.fold is not None:
                runner.predict_fold(run)
        except RunFailed as error:
            trial.set_user_attr(REASON, f"{run.name}: {error}")
            raise
    return fmean(accuracies)
