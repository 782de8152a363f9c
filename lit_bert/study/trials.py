"""The trials of a study: an Optuna storage that workers share, here and on other machines."""

import contextlib
import json
import statistics
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_bert.errors import UserError, reason
from lit_bert.evaluation.report import write_json
from lit_bert.study import runner
from lit_bert.study.plan import Plan, Run

REASON = "reason"
"""Attribute of a trial that failed: why."""

GIVEN_UP_AFTER = 3
"""The study ends if so many trials, the first ones, failed: the next would fail, too."""

PRUNED_AFTER = 5
"""Trials that are done before any is given up."""


def open_study(folder: Path, storage: str | None, plan: Plan, config: str = "") -> optuna.Study:
    """Return a study, a new one or the one that there is; what failed in it is to be tried again.

    Args:
        folder: The study's; its name is the study's name.
        storage: URL of an Optuna storage; None keeps it in a file of the folder.
        plan: What is to be done.
        config: The settings of the baseline's runs.

    Raises:
        UserError: The folder or the storage cannot be used, or holds another study of this name.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = storage or f"sqlite:///{folder / 'study.db'}"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNED_AFTER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: there can be no folder ({reason(error)}); see --root and --name") from error
    with FileLock(folder / ".study.lock"), explained(url):
        study = optuna.create_study(
            storage=url, study_name=folder.name, direction="maximize", load_if_exists=True, pruner=pruner
        )
        _check_identity(study, folder, [plan.identity(), config])
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if trial.user_attrs.get(REASON):
                Trial(study, trial._trial_id).set_user_attr(REASON, None)
    return study


def _check_identity(study: optuna.Study, folder: Path, identity: list[str]) -> None:
    """Check that a folder and a storage belong together, and to what is asked for."""
    file = folder / "identity.json"
    in_folder, in_storage = json.loads(file.read_text("utf-8")) if file.is_file() else None, study.user_attrs.get("id")
    if in_folder is None and in_storage is None:
        in_folder = {"id": uuid.uuid4().hex, "identity": identity}
        write_json(file, in_folder)
        study.set_user_attr("id", in_folder["id"])
    elif in_folder is None or in_folder["id"] != in_storage:
        raise UserError(
            f"--name {folder.name}: {folder} is not the folder of the study in the storage; choose another name"
        )
    if in_folder["identity"] != identity:
        raise UserError(
            f"--name {folder.name}: there is another study of this name, with other options; give the options it "
            "was begun with, or choose another name"
        )


@contextlib.contextmanager
def explained(storage: str) -> Iterator[None]:
    """Turn what a database raises into an error that its user can mend."""
    try:
        yield
    except (OptunaError, SQLAlchemyError, ImportError) as error:
        raise UserError(f"--storage {storage}: cannot be used ({reason(error)}); the same command goes on") from error


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
            if not trial.user_attrs.get(REASON) and self._do(trial.number):
                return True
        with FileLock(self.folder / ".study.lock"):
            number = len(self.study.get_trials(deepcopy=False))
            if number >= self.plan.size:
                return False
            first = [trial.user_attrs.get(REASON) for trial in self.study.get_trials(deepcopy=False)[:GIVEN_UP_AFTER]]
            if len(first) == GIVEN_UP_AFTER and all(first):
                raise UserError(f"the first {GIVEN_UP_AFTER} trials failed: {first[0]}")
            # Its own seed for each, so that a study that was stopped asks for what it would have asked for.
            self.study.sampler = optuna.samplers.TPESampler(seed=number, constant_liar=True)
            number = self.study.ask(dict(self.plan.space)).number
        self._do(number)
        return True

    def _do(self, number: int) -> bool:
        try:
            with FileLock(self.folder / f".trial{number:03}.lock", timeout=0):
                trial = self.study.get_trials(deepcopy=False)[number]
                if trial.state == TrialState.RUNNING and not trial.user_attrs.get(REASON):  # still
                    self._finish(trial)
                    return True
        except Timeout:
            pass  # another worker does it
        return False

    def _finish(self, trial: FrozenTrial) -> None:
        scores = []
        live = Trial(self.study, trial._trial_id)
        missing = [name for name in self.plan.space if name not in trial.params]  # of a worker that was killed
        params = {**trial.params, **{name: _suggest(live, name, self.plan.space[name]) for name in missing}}
        try:
            for place, run in enumerate(self.plan.runs(trial.number, params)):
                hopeless = self._pruning(trial, live) if self.plan.space and place == 0 else _never
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
            live.set_user_attr(REASON, f"{run.name}: {error}")  # it stays as it is, and is tried again another time
        else:
            self.study.tell(trial.number, statistics.fmean(scores))

    def _pruning(self, trial: FrozenTrial, live: Trial) -> Callable[[Path], bool]:
        """Return what reports a run's validation accuracies, as TensorBoard has them, and tells whether to prune."""
        reported = 0

        def is_hopeless(target: Path) -> bool:
            nonlocal reported
            accuracies = _accuracies(target)
            for epoch in range(reported, len(accuracies)):
                if epoch not in trial.intermediate_values:  # by a worker that was killed
                    live.report(accuracies[epoch], epoch)
            new, reported = len(accuracies) > reported, len(accuracies)
            return new and live.should_prune()

        return is_hopeless


def _suggest(live: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution():
            return live.suggest_float(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case IntDistribution():
            return live.suggest_int(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case CategoricalDistribution():
            return live.suggest_categorical(name, distribution.choices)


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
    ends = (TrialState.COMPLETE, TrialState.PRUNED)
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state in ends or trial.user_attrs.get(REASON)]


def completed_runs(study: optuna.Study, plan: Plan) -> dict[str, list[Run]]:
    """Return the runs that have results, by the name of their candidate, in their order."""
    runs: dict[str, list[Run]] = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        for run in plan.runs(trial.number, trial.params):
            runs.setdefault(run.candidate.name, []).append(run)
    return runs


def failures(study: optuna.Study) -> list[str]:
    """Return the runs that failed, and why."""
    return [trial.user_attrs[REASON] for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(REASON)]


def pruned(study: optuna.Study, plan: Plan) -> dict[str, list[str]]:
    """Return the options of the candidates that were given up, by name."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.PRUNED])
    candidates = [plan.runs(trial.number, trial.params)[0].candidate for trial in trials]
    return {candidate.name: list(candidate.options) for candidate in candidates}
