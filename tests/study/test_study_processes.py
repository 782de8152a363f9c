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

from lit_bert.errors import UserError
from lit_bert.study.runner import Runner
from lit_bert.study.space import Run


class Forked:
    """What `subprocess.Popen` returns, of a process that has done its imports before it starts."""

    def __init__(self, command: list[str], stdout: Any, env: dict[str, str], **_: object) -> None:
        arguments = (command[3:], stdout.fileno(), env)
        self.process = multiprocessing.get_context("fork").Process(target=_run, args=arguments)
        self.process.start()
        self.poll = lambda: self.process.exitcode
        self.wait = self.process.join
        self.terminate = self.process.terminate

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
    words = ["--config", recipe, "--seeds=3", "--trainer.max_epochs=1", "--trainer.enable_model_summary=false"]
    finish(start([*words, "--name=whole"]))

    for results, number, status in ((1, signal.SIGTERM, 143), (2, signal.SIGKILL, -9)):
        study = start([*words, "--name=killed"])
        end = time.monotonic() + 60
        while len(list(Path().glob("runs/killed/*/metrics.json"))) < results:
            assert time.monotonic() < end, Path("study.log").read_text()
            time.sleep(0.02)
        os.kill(study.pid or 0, number)
        finish(study, status)
    assert "stopped by SIGTERM; the same command goes on" in Path("study.log").read_text()
    finish(start([*words, "--name=killed"]))  # which waits for the run that the killed study left
    whole, killed = (json.loads(Path(f"runs/{name}/study.json").read_text()) for name in ("whole", "killed"))
    assert killed["candidates"] == whole["candidates"]
    assert len(list(Path().glob("runs/killed/*/metrics.json"))) == 3


def test_the_reason_of_a_process_that_fails_is_its_last_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean model\.pooling"):
        Runner(tmp_path, 1).fit(Run("baseline", 1), ["--model.poolin=cls"])


def test_a_stopped_study_leaves_the_folder_to_the_process_that_trains_there(tmp_path: Path) -> None:
    (tmp_path / "baseline-seed1").mkdir()
    runner = Runner(tmp_path, 1)
    runner.stopped_by = signal.SIGINT
    with pytest.raises(UserError, match="stopped"):
        runner.fit(Run("baseline", 1), [])
    assert (tmp_path / "baseline-seed1").is_dir()


def test_a_run_that_was_not_validated_is_a_run_that_failed(tmp_path: Path) -> None:
    (tmp_path / "baseline-seed1").mkdir()
    (tmp_path / "baseline-seed1" / "metrics.json").write_text('{"test": {"acc": 1.0}}')
    with pytest.raises(UserError, match="no val rows were evaluated"):
        Runner(tmp_path, 1).fit(Run("baseline", 1), [])
