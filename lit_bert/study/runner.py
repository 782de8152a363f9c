"""The processes of a study's runs: `fit`, resumed if it was stopped, then `test` and `predict`."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from subprocess import DEVNULL, Popen, TimeoutExpired

import torch
import yaml
from filelock import FileLock, Timeout
from optuna import TrialPruned
from optuna.trial import Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_bert.errors import UserError
from lit_bert.run.run_dir import CHECKPOINTS, CONFIG, LAST, LOCK, METRICS
from lit_bert.study.space import Run, as_options

OUT_OF_FOLD = "out_of_fold.csv"
"""Predictions of the rows that a fold's run was validated on."""


class Runner:
    """Starts the processes of a study's runs, each of them once, and reads their results.

    Args:
        folder: The study's folder.
        workers: How many processes may run at a time.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.stopped_by: int | None = None
        """Number of the signal that the study got, at which processes save a checkpoint and end."""
        self._environments: SimpleQueue[dict[str, str]] = SimpleQueue()
        for environment in environments(workers):
            self._environments.put(environment)

    def fit(self, run: Run, options: Sequence[str], trial: Trial | None = None) -> float:
        """Train a run from where it stands, unless its trial is pruned, and return its validation accuracy.

        Raises:
            UserError: It ended without results.
            TrialPruned: It fell behind other trials.
        """
        target = self.folder / run.name
        last = target / CHECKPOINTS / LAST
        while target.is_dir() and not self.stopped_by:  # a killed study may have left a process there
            with suppress(Timeout), FileLock(target / LOCK, timeout=1):
                break
        if self.stopped_by:
            raise UserError("stopped")
        words = [f"--ckpt_path={last}"]
        if not last.is_file() and not (target / METRICS).is_file():
            rmtree(target, ignore_errors=True)
            words = [*options, f"--trainer.default_root_dir={self.folder}", f"--name={run.name}"]
        words += ["--test_after_fit=false", "--export_after_fit=false", "--trainer.enable_progress_bar=false"]
        self._call(target / METRICS, "fit", *words, trial=trial)
        return _accuracy(target / METRICS, "val")

    def test(self, run: Run) -> float:
        """Test a run's best checkpoint, and return the accuracy."""
        return _accuracy(self._evaluate(run, "metrics-test.json", "test"), "test")

    def predict_fold(self, run: Run) -> Path:
        """Predict the rows that a fold's run was validated on, and return the file."""
        output = f"--output={self.folder / run.name / OUT_OF_FOLD}"
        return self._evaluate(run, OUT_OF_FOLD, "predict", "--data.predict_split=val", output)

    def _evaluate(self, run: Run, output: str, *words: str) -> Path:
        """Run a command with the best checkpoint, on the device that the run was trained on."""
        target = self.folder / run.name
        trainer = yaml.safe_load((target / CONFIG).read_text("utf-8"))["trainer"]
        device = as_options({f"trainer.{name}": trainer[name] for name in ("accelerator", "devices")})
        best = json.loads((target / METRICS).read_text("utf-8"))["checkpoint"] or f"{CHECKPOINTS}/{LAST}"
        self._call(target / output, *words, f"--ckpt_path={target / best}", *device)
        return target / output

    def _call(self, output: Path, *words: str, trial: Trial | None = None) -> None:
        """Run a command that writes a file, if it is not there; SIGTERM lets it save first if it is to end before."""
        if output.is_file():
            return
        folder, pruned = output.parent, False
        command = [sys.executable, "-m", "lit_bert", *words]
        variables = self._environments.get()  # so that no two processes share a GPU
        environment = {**os.environ, "SLURM_RESTART_COUNT": "0", **variables}  # or a requeued job's runs go on as one
        with folder.with_name(f"{folder.name}.log").open("a+", encoding="utf-8", errors="replace") as log:
            start = log.tell()
            # In a session of its own, it does not get the terminal's Ctrl-C.
            process = Popen(command, stdin=DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)
            try:
                while process.poll() is None and not self.stopped_by and not pruned:
                    with suppress(TimeoutExpired):
                        process.wait(1)
                    pruned = trial is not None and falls_behind(trial, folder)
            finally:
                process.terminate()
                process.wait()
                self._environments.put(variables)
            log.seek(start)
            lines = [line for line in log.read().splitlines() if line.strip()]
        if output.is_file():
            return
        if pruned:
            raise TrialPruned
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        said = (errors or lines)[-1:] if process.returncode > 0 else []
        raise UserError(*said or [f"its process ended with status {process.returncode}"])


def environments(workers: int) -> list[dict[str, str]]:
    """Return the environment variables of each worker's runs: a GPU of its own, or its share of the cores."""
    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        return [{"CUDA_VISIBLE_DEVICES": visible.split(",")[number % gpus]} for number in range(workers)]
    share = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    return [{} if workers == 1 or "OMP_NUM_THREADS" in os.environ else share] * workers


def falls_behind(trial: Trial, folder: Path) -> bool:
    """Report the validation accuracies of a run, as TensorBoard has them, and tell whether to prune its trial."""
    if folder.is_dir():
        events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
        scalars = events.Scalars("val/acc") if "val/acc" in events.Tags()["scalars"] else []
        for step, scalar in enumerate(scalars):
            trial.report(scalar.value, step)  # Optuna ignores those that it has
    return trial.should_prune()


def _accuracy(file: Path, split: str) -> float:
    metrics = json.loads(file.read_text("utf-8"))
    if split not in metrics:
        raise UserError(f"no {split} rows were evaluated")
    return float(metrics[split]["acc"])
