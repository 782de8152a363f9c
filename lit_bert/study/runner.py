"""The processes of a study's runs: `fit`, resumed if it was stopped, then `test` and `predict`."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

import yaml
from filelock import FileLock, Timeout
from optuna import TrialPruned
from optuna.trial import Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_bert.errors import reason
from lit_bert.run.run_dir import CHECKPOINTS, CONFIG, LAST, LOCK, METRICS
from lit_bert.study.space import Run, as_options


class RunFailed(Exception):
    """A run ended without results; the message says why."""


class Runner:
    """Starts the processes of a study's runs, and reads their results.

    Args:
        folder: The study's folder.
        environments: Environment variables, one mapping for each process that may run at a time.
    """

    def __init__(self, folder: Path, environments: Sequence[Mapping[str, str]]) -> None:
        self.folder = folder
        self.stopped_by: int | None = None
        """Number of the signal that the study got. Processes then save a checkpoint and end."""
        self._environments: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for environment in environments:
            self._environments.put(environment)

    def results(self, run: Run) -> dict[str, Any]:
        """Return the content of a run's `metrics.json`; it is empty before the run's end."""
        file = self.folder / run.name / METRICS
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}

    def fit(self, run: Run, options: Sequence[str], trial: Trial | None = None) -> float:
        """Train a run from where it stands, unless its trial is pruned, and return its validation accuracy.

        Raises:
            RunFailed: It ended without results.
            TrialPruned: It fell behind other trials.
        """
        target = self.folder / run.name
        last = target / CHECKPOINTS / LAST
        if target.is_dir():
            self._wait_for(target)
        if not (target / METRICS).is_file():
            words = [f"--ckpt_path={last}"]
            if not last.is_file():
                rmtree(target, ignore_errors=True)
                words = [*options, f"--trainer.default_root_dir={self.folder}", f"--name={run.name}"]
            words += ["--test_after_fit=false", "--export_after_fit=false", "--trainer.enable_progress_bar=false"]
            self._call(["fit", *words], target / METRICS, _pruner(trial, target) if trial else lambda: False)
        if "val" not in self.results(run):
            raise RunFailed("nothing was validated")
        return float(self.results(run)["val"]["acc"])

    def _wait_for(self, target: Path) -> None:
        """Wait until a process ends that a killed study left in a run's folder, or a signal comes."""
        while not self.stopped_by:
            with suppress(Timeout), FileLock(target / LOCK, timeout=1):
                return
        raise RunFailed("stopped")

    def test(self, run: Run) -> float:
        """Test a run's best checkpoint, once, and return the accuracy."""
        results = self._evaluate(run, "metrics-test.json", "test")
        return float(json.loads(results.read_text("utf-8"))["test"]["acc"])

    def predict_fold(self, run: Run) -> Path:
        """Predict the rows that a fold's run was validated on, once, and return the file."""
        output = self.folder / run.name / "out_of_fold.csv"
        return self._evaluate(run, output.name, "predict", "--data.predict_split=val", f"--output={output}")

    def _evaluate(self, run: Run, output: str, *words: str) -> Path:
        """Run a command with the best checkpoint, on the device that the run was trained on."""
        target = self.folder / run.name
        if not (target / output).is_file():
            try:
                trainer = yaml.safe_load((target / CONFIG).read_text("utf-8"))["trainer"]
                device = as_options({f"trainer.{name}": trainer[name] for name in ("accelerator", "devices")})
            except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
                raise RunFailed(f"{target / CONFIG} cannot be used ({reason(error)})") from error
            best = target / (self.results(run)["checkpoint"] or f"{CHECKPOINTS}/{LAST}")
            self._call([*words, f"--ckpt_path={best}", *device], target / output)
        return target / output

    def _call(self, words: Sequence[str], output: Path, should_prune: Callable[[], bool] = lambda: False) -> None:
        """Run a command that writes a file; SIGTERM lets it save first if it is to end before."""
        pruned = False
        command: list[str] = [sys.executable, "-m", "lit_bert", *words]
        with output.parent.with_name(f"{output.parent.name}.log").open("a+", encoding="utf-8", errors="replace") as log:
            start = log.tell()
            with self._environment() as variables:
                options: dict[str, Any] = {"stdin": DEVNULL, "stdout": log, "stderr": log, "env": variables}
                with Popen(command, **options, start_new_session=True) as process:  # the terminal's Ctrl-C is ours
                    try:
                        while process.poll() is None and not self.stopped_by and not (pruned := should_prune()):
                            with suppress(TimeoutExpired):
                                process.wait(1)
                    finally:
                        process.terminate()
            log.seek(start)
            lines = [line for line in log.read().splitlines() if line.strip()]
        if output.is_file():
            return
        if pruned:
            raise TrialPruned
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        said = [*lines[-1:], *errors] if process.returncode > 0 else []
        raise RunFailed([f"its process ended with status {process.returncode}", *said][-1])

    @contextmanager
    def _environment(self) -> Iterator[dict[str, str]]:
        """Lend the environment variables of a process, so that no two processes share a GPU."""
        environment = self._environments.get()
        try:
            yield {**os.environ, "SLURM_RESTART_COUNT": "0", **environment}  # or a requeued job's runs go on as one
        finally:
            self._environments.put(environment)


def _pruner(trial: Trial, folder: Path) -> Callable[[], bool]:
    """Return a function that reports a run's new validation accuracies, and tells whether to prune the trial."""
    reported: list[float] = []

    def should_prune() -> bool:
        for accuracy in _val_accuracies(folder)[len(reported) :]:
            trial.report(accuracy, len(reported))
            reported.append(accuracy)
        return trial.should_prune()

    return should_prune


def _val_accuracies(folder: Path) -> list[float]:
    """Return the validation accuracy of each epoch, as TensorBoard has it."""
    if not any(folder.glob("events.*")):
        return []
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return [scalar.value for scalar in events.Scalars("val/acc")] if "val/acc" in events.Tags()["scalars"] else []
