"""The processes of a study's runs: `fit`, resumed if it was stopped, then `test` and `predict`."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any, BinaryIO

import yaml
from optuna import TrialPruned
from optuna.trial import Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_bert.errors import reason
from lit_bert.run.run_dir import CHECKPOINTS, CONFIG, LAST, METRICS
from lit_bert.study.space import Run, as_options

SECONDS = 1.0
"""Time between two looks at a process."""


class RunFailed(Exception):
    """A run ended without results; the message says why."""


class RunStopped(RunFailed):
    """The process of a run was stopped or killed; the run can go on from its checkpoint."""


class Runner:
    """Starts the processes of a study's runs, and reads their results.

    Args:
        folder: The study's folder.
        environments: Environment variables, one mapping for each process that may run at a time.
        should_stop: Tells whether the study is to stop. Processes then save a checkpoint and end.
    """

    def __init__(
        self, folder: Path, environments: Sequence[Mapping[str, str]], should_stop: Callable[[], bool]
    ) -> None:
        self.folder, self.should_stop = folder, should_stop
        self._environments: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for environment in environments:
            self._environments.put(environment)

    def results(self, run: Run) -> dict[str, Any]:
        """Return the content of a run's `metrics.json`; it is empty before the run's end."""
        file = self.folder / run.name / METRICS
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}

    def fit(self, run: Run, options: Sequence[str], should_prune: Callable[[Path], bool]) -> float:
        """Train a run from where it stands, and return its validation accuracy.

        Args:
            run: The run, whose folder is `folder/<its name>`.
            options: Options of `fit`.
            should_prune: Tells from the run's folder, while it trains, whether to give it up.

        Raises:
            RunFailed: It ended without results.
            TrialPruned: It was given up.
        """
        target = self.folder / run.name
        last = target / CHECKPOINTS / LAST
        with self._log(run) as log:
            if not (target / METRICS).is_file():
                words = [f"--ckpt_path={last}"]
                if not last.is_file():
                    rmtree(target, ignore_errors=True)
                    words = [*options, f"--trainer.default_root_dir={self.folder}", f"--name={run.name}"]
                words += ["--test_after_fit=false", "--export_after_fit=false", "--trainer.enable_progress_bar=false"]
                self._call(["fit", *words], log, target / METRICS, lambda: should_prune(target))
        if "val" not in self.results(run):
            raise RunFailed("nothing was validated")
        return float(self.results(run)["val"]["acc"])

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
        with self._log(run) as log:
            if not (target / output).is_file():
                try:
                    trainer = yaml.safe_load((target / CONFIG).read_text("utf-8"))["trainer"]
                    device = as_options({f"trainer.{name}": trainer[name] for name in ("accelerator", "devices")})
                except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
                    raise RunFailed(f"its config cannot be read ({reason(error)})") from error
                best = target / (self.results(run)["checkpoint"] or f"{CHECKPOINTS}/{LAST}")
                self._call([*words, f"--ckpt_path={best}", *device], log, target / output)
        return target / output

    @contextmanager
    def _log(self, run: Run) -> Iterator[BinaryIO]:
        """Open a run's log and lock it.

        The run's process inherits the lock, and holds it until its end even if the study that started it is killed.
        """
        with (self.folder / f"{run.name}.log").open("a+b") as log:
            while True:
                try:
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self.should_stop():
                        raise RunStopped from None
                    time.sleep(SECONDS)
            yield log

    def _call(
        self, words: Sequence[str], log: BinaryIO, output: Path, should_prune: Callable[[], bool] = lambda: False
    ) -> None:
        """Run a command that writes a file; SIGTERM lets it save first if it is to end before."""
        start, pruned = log.seek(0, os.SEEK_END), False
        environment = self._environments.get()
        variables = {**os.environ, "SLURM_RESTART_COUNT": "0", **environment}  # or a requeued job's runs go on as one
        command: list[str] = [sys.executable, "-m", "lit_bert", *words]
        options: dict[str, Any] = {"stdin": DEVNULL, "stdout": log, "stderr": log, "env": variables}
        with Popen(command, **options, start_new_session=True) as process:  # out of reach of the terminal's Ctrl-C
            try:
                while process.poll() is None and not self.should_stop() and not (pruned := should_prune()):
                    with suppress(TimeoutExpired):
                        process.wait(SECONDS)
            finally:
                process.terminate()
                self._environments.put(environment)
        if output.is_file():
            return
        if pruned:
            raise TrialPruned
        if self.should_stop() or not 0 <= process.returncode < 128:
            raise RunStopped(f"its process ended with status {process.returncode}")
        log.seek(start)
        lines = [line for line in log.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise RunFailed([*(lines or ["it printed nothing"]), *errors][-1])


def pruner(trial: Trial) -> Callable[[Path], bool]:
    """Return a function that reports a run's new validation accuracies, and tells whether to prune the trial."""
    reported = 0

    def should_prune(folder: Path) -> bool:
        nonlocal reported
        new = _val_accuracies(folder)[reported:]
        for accuracy in new:
            trial.report(accuracy, reported)
            reported += 1
        return bool(new) and trial.should_prune()

    return should_prune


def _val_accuracies(folder: Path) -> list[float]:
    """Return the validation accuracy of each epoch, as TensorBoard has it."""
    if not any(folder.glob("events.*")):
        return []
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return [scalar.value for scalar in events.Scalars("val/acc")] if "val/acc" in events.Tags()["scalars"] else []
