"""The trials of a study: an Optuna storage that workers share, here and on other machines."""

import statistics
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial, TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_bert.errors import UserError, reason
from lit_bert.study import runner
from lit_bert.study.plan import Plan, Run

REASON = "reason"
"""Attribute of a trial that failed: why."""

GIVEN_UP_AFTER = 3
"""Trials that failed, before any has results, after which the study ends: the next would fail, too."""

PRUNED_AFTER = 5
"""Trials that are done before any is given up."""


def open_study(folder: Path, storage: str | None, plan: Plan) -> optuna.Study:
    """Return a study, a new one or the one that there is.

    Args:
        folder: The study's; its name is the study's name.
        storage: URL of an Optuna storage; None keeps it in a file of the folder.
        plan: What is to be done.

    Raises:
        UserError: The storage cannot be reached, or holds another study of this name.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    url = storage or f"sqlite:///{folder / 'study.db'}"
    try:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNED_AFTER)
        with FileLock(folder / ".study.lock"):
            study = optuna.create_study(
                storage=url, study_name=folder.name, direction="maximize", load_if_exists=True, pruner=pruner
            )
            known = study.user_attrs.get("plan")
            if known is None:
                study.set_user_attr("plan", plan.identity())
    except Exception as error:  # whatever a database raises
        raise UserError(f"--storage {url}: cannot be used ({reason(error)})") from error
    if known not in (None, plan.identity()):
        raise UserError(
            f"--name {folder.name}: there is another study of this name, with other options; give the options it "
            "was begun with, or choose another name"
        )
    return study


class Worker(threading.Thread):
    """Does trials, one after the other, until all are done.

    A trial belongs to the worker that holds its lock; where a worker was killed, the lock is free, and another one
    takes the trial up.

    Args:
        study: The study.
        plan: What is to be done.
        folder: The study's.
        variables: Of the environment of its runs, such as the GPU that they see.
        stop: Set when the study is to stop.
    """

    def __init__(
        self, study: optuna.Study, plan: Plan, folder: Path, variables: Mapping[str, str], stop: threading.Event
    ) -> None:
        super().__init__(daemon=True)
        self.study, self.plan, self.folder, self.variables, self.stop = study, plan, folder, variables, stop
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do trials, until none is left."""
        try:
            while not self.stop.is_set() and self._do_next():
                pass
        except BaseException as error:
            self.error = error
            self.stop.set()

    def _do_next(self) -> bool:
        """Do a trial that was left, or else a new one; return whether there was any."""
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if self._do(trial.number):
                return True
        with FileLock(self.folder / ".study.lock"):
            number = len(self.study.get_trials(deepcopy=False))
            if number >= self.plan.size:
                return False
            states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
            if states.count(TrialState.FAIL) >= GIVEN_UP_AFTER and TrialState.COMPLETE not in states:
                why = next(iter(failures(self.study, self.plan).values()))
                raise UserError(f"the first {GIVEN_UP_AFTER} trials failed: {why}")
            # Its own seed for each, so that a study that was stopped asks for what it would have asked for.
            self.study.sampler = optuna.samplers.TPESampler(seed=number, constant_liar=True)
            number = self.study.ask(dict(self.plan.space)).number
        self._do(number)
        return True

    def _do(self, number: int) -> bool:
        try:
            with FileLock(self.folder / f".trial{number:03}.lock", timeout=0):
                trial = self.study.get_trials(deepcopy=False)[number]
                if trial.state == TrialState.RUNNING:  # still
                    self._finish(trial)
                    return True
        except Timeout:
            pass  # another worker does it
        return False

    def _finish(self, trial: FrozenTrial) -> None:
        scores = []
        live = Trial(self.study, trial._trial_id)
        try:
            for place, run in enumerate(self.plan.runs(trial.number, trial.params)):
                hopeless = self._pruning(trial, live, place) if self.plan.space else _never
                arguments = self.plan.arguments(run)
                results = runner.fit(run, arguments, self.folder, self.variables, self.stop, hopeless)
                if "val" not in results:
                    raise runner.RunFailed("nothing was validated")
                scores.append(float(results["val"]["acc"]))
        except runner.Stopped:
            return
        except runner.RunPruned:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        except runner.RunFailed as error:
            live.set_user_attr(REASON, str(error))
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, statistics.fmean(scores))

    def _pruning(self, trial: FrozenTrial, live: Trial, place: int) -> Callable[[Path], bool]:
        """Return what reports a run's validation accuracies, as TensorBoard has them, and tells whether to prune."""
        reported = 0

        def is_hopeless(target: Path) -> bool:
            nonlocal reported
            accuracies = _accuracies(target)
            for epoch in range(reported, len(accuracies)):
                if (step := 1000 * place + epoch) not in trial.intermediate_values:  # by a worker that was killed
                    live.report(accuracies[epoch], step)
            new, reported = len(accuracies) > reported, len(accuracies)
            return new and live.should_prune()

        return is_hopeless


def _never(_: Path) -> bool:
    return False


def _accuracies(target: Path) -> list[float]:
    if not any(target.glob("events.*")):
        return []
    events = EventAccumulator(str(target), {"scalars": 0}).Reload()
    tag = "val/acc"
    return [event.value for event in events.Scalars(tag)] if tag in events.Tags()["scalars"] else []


def done(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have ended, whatever their end."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])


def completed_runs(study: optuna.Study, plan: Plan) -> dict[str, list[Run]]:
    """Return the runs that have results, by the name of their candidate, in their order."""
    runs: dict[str, list[Run]] = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        for run in plan.runs(trial.number, trial.params):
            runs.setdefault(run.candidate.name, []).append(run)
    return runs


def failures(study: optuna.Study, plan: Plan) -> dict[str, str]:
    """Return why trials failed, by the name of their first run."""
    trials: list[Any] = study.get_trials(deepcopy=False, states=[TrialState.FAIL])
    return {plan.runs(trial.number, trial.params)[0].name: trial.user_attrs.get(REASON, "?") for trial in trials}
