"""One run of a study: `fit` in a process of its own, resumed if it was stopped, and its results."""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lit_bert.errors import reason
from lit_bert.run import run_dir
from lit_bert.study.plan import Run, as_word

ATTEMPTS = 3
"""How often a run is started that something else kills, before it counts as failed."""

SECONDS = 1.0
"""Between two looks at whether a run has ended, or is to be stopped."""

_COMMAND = [sys.executable, "-m", "lit_bert"]


class RunFailed(Exception):
    """A run ended without results; the message says why."""


class Stopped(Exception):
    """The study was asked to stop; the run has saved a checkpoint."""


class RunPruned(Exception):
    """A run was stopped because others were better after as many epochs."""


def fit(
    run: Run,
    arguments: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    stop: threading.Event,
    is_hopeless: Callable[[Path], bool],
) -> dict[str, Any]:
    """Train, from where it stands, and return what `metrics.json` holds; of a run that is done, that alone.

    Args:
        run: What is trained, in `folder/<its name>`.
        arguments: Of `fit`.
        folder: The study's.
        variables: More of the process's environment, such as the GPU that it sees.
        stop: Set when the study is to stop.
        is_hopeless: Tells of the run's folder, while it trains, whether to give it up.

    Raises:
        RunFailed: It ended without results.
        RunPruned: It was given up.
        Stopped: The study is to stop; the run has saved where it stands.
    """
    target, log = folder / run.name, folder / f"{run.name}.log"
    for _ in range(ATTEMPTS):
        _wait_until_free(target, stop)
        if found := results(target):
            return found
        last = target / run_dir.CHECKPOINTS / run_dir.LAST
        if last.is_file():
            words = [f"--ckpt_path={last}"]
        else:
            shutil.rmtree(target, ignore_errors=True)
            words = [*arguments, f"--trainer.default_root_dir={folder}", f"--name={run.name}"]
        words += ["--test_after_fit=false", "--export_after_fit=false", "--trainer.enable_progress_bar=false"]
        begin = log.stat().st_size if log.is_file() else 0
        status = _watch(["fit", *words], log, variables, stop, lambda: is_hopeless(target) and results(target) is None)
        if found := results(target):
            return found
        if stop.is_set():
            raise Stopped
        if 0 < status < 128:
            raise RunFailed(_reason(log, begin))
    raise RunFailed(f"it ended {ATTEMPTS} times without results; {_reason(log, begin)}")


def _wait_until_free(target: Path, stop: threading.Event) -> None:
    """Wait for a process of a study that was killed, which may still train in a folder."""
    while target.is_dir():
        try:
            with FileLock(target / run_dir.LOCK, timeout=SECONDS):
                return
        except Timeout:
            if stop.is_set():
                raise Stopped from None


def results(target: Path) -> dict[str, Any] | None:
    """Return what `metrics.json` of a run's folder holds, if the run is done."""
    file = target / run_dir.METRICS
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def evaluate(run: Run, folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Test a run's best checkpoint, once, and return the metrics."""
    target = folder / run.name
    done = target / "metrics-test.json"
    if not done.is_file():
        _call(["test", f"--ckpt_path={_best(target)}", *_device(target)], folder / f"{run.name}.log", variables)
    return json.loads(done.read_text("utf-8"))["test"]  # type: ignore[no-any-return]


def predict_fold(run: Run, folder: Path, variables: Mapping[str, str]) -> Path:
    """Predict the rows that a run of a fold was validated on, once, and return the file."""
    target = folder / run.name
    output = target / "out_of_fold.csv"
    if not output.is_file():
        words = ["predict", f"--ckpt_path={_best(target)}", "--data.predict_split=val", f"--output={output}"]
        words += _device(target)
        _call(words, folder / f"{run.name}.log", variables)
    return output


def _best(target: Path) -> Path:
    name = json.loads((target / run_dir.METRICS).read_text("utf-8"))["checkpoint"]
    return target / (name or f"{run_dir.CHECKPOINTS}/{run_dir.LAST}")


def _device(target: Path) -> list[str]:
    """Return the options by which a run was told where to train."""
    try:
        trainer = yaml.safe_load(run_dir.newest_config(target).read_text("utf-8"))["trainer"]
        return [f"--trainer.{name}={as_word(trainer[name])}" for name in ("accelerator", "devices")]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise RunFailed(f"its config cannot be read ({reason(error)})") from error


def _call(words: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
    begin = log.stat().st_size
    if _watch(words, log, variables, threading.Event(), lambda: False):
        raise RunFailed(_reason(log, begin))


def _watch(
    words: Sequence[str],
    log: Path,
    variables: Mapping[str, str],
    stop: threading.Event,
    is_hopeless: Callable[[], bool],
) -> int:
    """Run a command until it ends; returns its status. SIGTERM lets it save first.

    It is in a session of its own, or a terminal's Ctrl-C would reach it beside this SIGTERM; and it does not take a
    SLURM job that runs again for its own, or it would go on with another run of the study.
    """
    with log.open("a", encoding="utf-8") as file:
        environment = {name: value for name, value in os.environ.items() if name != "SLURM_RESTART_COUNT"}
        options: dict[str, Any] = {"stdin": DEVNULL, "env": {**environment, **variables}, "start_new_session": True}
        process = Popen([*_COMMAND, *words], stdout=file, stderr=file, **options)
        try:
            while process.poll() is None:
                hopeless = not stop.wait(SECONDS) and is_hopeless()
                if stop.is_set() or hopeless:
                    process.send_signal(signal.SIGTERM)
                    process.wait()
                    if hopeless:
                        raise RunPruned
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return process.returncode


def _reason(log: Path, begin: int) -> str:
    """Return the last error in a log, from a position on, or else its last line."""
    text = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return [*(lines or ["it said nothing"]), *errors][-1]
