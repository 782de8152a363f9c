"""Studies whose runs are processes: what is killed goes on, and a process that fails is explained."""

import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from processes import CONTEXT

from lit_bert.study.runner import RunFailed, Runner
from lit_bert.study.space import Run


class Forked:
    """What `subprocess.Popen` returns, of a process that has done its imports before it starts."""

    def __init__(self, command: list[str], stdout: Any, env: dict[str, str], **_: object) -> None:
        arguments = (command[3:], stdout.fileno(), env)
        self.process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
        self.process.start()
        Path("run.pid").write_text(str(self.process.pid))
        self.poll = lambda: self.process.exitcode
        self.wait = self.process.join
        self.terminate = self.process.terminate

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.join()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode


def _run(words: list[str], log: int, variables: dict[str, str]) -> None:
    from lit_bert.cli import main

    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(variables)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 1024)  # the study's lock, which a new program would not have
    sys.argv = ["train.py", *words]
    main(words)


def _study(words: list[str], log: str) -> None:
    import torch

    from lit_bert.study import __main__, runner

    torch.set_num_threads(1)
    runner.Popen = Forked  # type: ignore[misc,assignment]
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    __main__.main(words)


def start(words: list[str]) -> BaseProcess:
    process: BaseProcess = CONTEXT.Process(target=_study, args=(words, "study.log"))
    process.start()
    return process


def finish(study: BaseProcess, status: int = 0) -> None:
    study.join(60)
    assert study.exitcode == status, Path("study.log").read_text()


@pytest.mark.slow
def test_a_study_that_is_killed_ends_as_one_that_was_not(recipe: str) -> None:
    words = ["--config", recipe, "--seeds=4", "--trainer.max_epochs=1", "--trainer.enable_model_summary=false"]
    finish(start([*words, "--name=whole"]))

    def start_until(results: int) -> tuple[BaseProcess, int]:
        """Start the study, and return it and its run's process once there are some results, and one begins."""
        study = start([*words, "--name=killed"])
        end = time.monotonic() + 60
        while len(list(Path().glob("runs/killed/*/metrics.json"))) < results or not Path("run.pid").is_file():
            assert time.monotonic() < end, Path("study.log").read_text()
            time.sleep(0.02)
        return study, int(Path("run.pid").read_text())

    study, _ = start_until(results=1)
    study.terminate()
    finish(study, 143)
    assert "stopped by SIGTERM; the same command goes on" in Path("study.log").read_text()
    study, _ = start_until(results=2)
    study.kill()  # its run goes on, and is waited for
    finish(study, -signal.SIGKILL)
    study, run = start_until(results=3)
    study.kill()
    os.kill(run, signal.SIGKILL)
    finish(study, -signal.SIGKILL)
    finish(start([*words, "--name=killed"]))
    whole, killed = (json.loads(Path(f"runs/{name}/study.json").read_text()) for name in ("whole", "killed"))
    assert killed["candidates"] == whole["candidates"]
    assert len(list(Path().glob("runs/killed/*/metrics.json"))) == 4


def test_the_reason_of_a_process_that_fails_is_its_last_error(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"did you mean model\.pooling"):
        Runner(tmp_path, [{}]).fit(Run("baseline", 1), ["--model.poolin=cls"])
