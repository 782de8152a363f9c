"""Studies from the command line, on the tiny BERT."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import pytest
import yaml
from conftest import CONFIGS
from processes import start

from lit_bert.errors import UserError
from lit_bert.study.__main__ import main
from lit_bert.study.command import _environments
from lit_bert.study.plan import Candidate, Plan, Run
from lit_bert.study.runner import RunFailed, evaluate
from lit_bert.study.trials import Worker, open_study

COMMAND = [sys.executable, "-m", "lit_bert.study"]


class Forked:
    """What `subprocess.Popen` returns, of a process that has done its imports before it starts."""

    def __init__(self, command: list[str], stdout: Any, **_: object) -> None:
        [self.process] = start(command[3:], Path(stdout.name))

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> None:
        self.process.join()

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs start at once."""
    monkeypatch.setattr("lit_bert.study.runner.Popen", Forked)
    monkeypatch.setattr("lit_bert.study.runner.SECONDS", 0.05)


@pytest.fixture
def space(tmp_path: Path) -> str:
    content = {"model.learning_rate": {"low": 1e-5, "high": 3e-3, "log": True}, "data.batch_size": [4, 8]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "search.yaml")


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.usefixtures("forked")
def test_a_variant_beside_the_baseline_over_seeds(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", recipe, "--seeds=2", "--variant", "frozen", "--model.learning_rate 0.0", "--workers=2"]
    found = main(words)
    assert list(found["candidates"]) == ["baseline", "frozen"]
    assert found["best"] == "baseline"
    for seed in (1, 2):
        run = Path("runs/study") / f"baseline-seed{seed}"
        entry = found["candidates"]["baseline"]["runs"][run.name]
        assert entry["val"] == metrics(run)["val"]["acc"]
        assert entry["test"] == json.loads((run / "metrics-test.json").read_text())["test"]["acc"]
        assert not (Path("runs/study") / f"frozen-seed{seed}" / "metrics-test.json").exists()
        assert f"seed_everything: {seed}" in (run / "config.yaml").read_text()
    assert "tensorboard --logdir runs/study" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in Path("runs/study").glob("*/*")}
    assert main(words) == found
    assert {path: path.stat().st_mtime_ns for path in Path("runs/study").glob("*/*")} == before
    with pytest.raises(SystemExit):
        main(["--config", recipe, "--seeds=3"])
    assert "there is another study of this name" in capsys.readouterr().err


def test_a_run_is_tested_on_the_device_that_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, called = Run(Candidate("baseline"), 1, None), []
    (tmp_path / run.name).mkdir()
    (tmp_path / run.name / "metrics.json").write_text('{"checkpoint": "checkpoints/best.ckpt"}')
    monkeypatch.setattr("lit_bert.study.runner._call", lambda words, *_: called.append(words))
    with pytest.raises(RunFailed, match="its config cannot be read"):
        evaluate(run, tmp_path, {})
    (tmp_path / run.name / "config.yaml").write_text("trainer: {accelerator: cpu, devices: 1}")
    with pytest.raises(FileNotFoundError):  # the results of a test that was only called
        evaluate(run, tmp_path, {})
    assert called[0][2:] == ["--trainer.accelerator=cpu", "--trainer.devices=1"]


@pytest.mark.usefixtures("forked")
def test_folds_give_a_prediction_of_each_row(recipe: str) -> None:
    main(["--config", recipe, "--folds=2"])
    rows = Path("runs/study/out_of_fold-baseline-seed1.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["row", *(str(row) for row in range(1, 61))]  # 40 + 20


@pytest.mark.usefixtures("forked")
def test_a_search_never_looks_at_the_test_rows(recipe: str, space: str, reviews: Path) -> None:
    test = reviews / "test.csv"
    test.write_text(test.read_text().replace("pos", "other").replace("neg", "pos").replace("other", "neg"))
    found = main(["--config", recipe, "--search", space, "--trials=3"])
    trials = {run.parent.name: metrics(run.parent) for run in Path("runs/study").glob("*/metrics.json")}
    assert len(trials) == 3
    assert all("test" not in results for results in trials.values())
    assert [run.parent.name for run in Path("runs/study").glob("*/metrics-test.json")] == [f"{found['best']}-seed1"]
    best = max(results["val"]["acc"] for results in trials.values())
    assert found["candidates"][found["best"]]["val"]["mean"] == best
    assert Path("runs/study/history.png").is_file()
    assert plt.get_fignums() == []  # which pyplot would keep


@pytest.mark.usefixtures("forked")
def test_a_run_that_fails_is_listed_and_the_others_count(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", recipe, "--variant", "explodes", "--model.learning_rate=1e30", "--workers=2"]
    found = main(words)
    assert list(found["candidates"]) == ["baseline"]
    assert "not a finite number" in found["failed"][0]
    before = Path("runs/study/explodes-seed1.log").stat().st_size
    assert main(words)["failed"] == found["failed"]
    assert Path("runs/study/explodes-seed1.log").stat().st_size > before  # tried again
    assert "failed   explodes-seed1: the loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds=0"], "--seeds 0: it must be at least 1"),
        (["--name=a/b"], "--name a/b: give a name for a folder"),
        (["--name="], "--name : give a name for a folder"),
        (["--root=reviews/train.csv"], "there can be no folder"),
        (["--variants=none.yaml"], "--variants none.yaml: cannot be read"),
        (["--variants=flat.yaml"], "--variants flat.yaml: model.weight_decay: give options for each name, such as"),
        (["--variants=typo.yaml"], "did you mean model.weight_decay?"),
        (["--variants=nested.yaml"], "--variants nested.yaml: a: give options for each name, such as"),
        (["--variants=reserved.yaml"], "--seed_everything: a study sets it"),
        (["--variant", "a", "--model.weight_decay 'x"], '--variant a "--model.weight_decay \'x": No closing quotation'),
        (["--ckpt_path=x.ckpt"], "--ckpt_path: a study sets it for each of its runs"),
        (["--variant", "a", "--seed_everything=3"], "--seed_everything: a study sets it"),
        (["--variant", "a", "--data.val_split=test"], "--data.val_split test: what is best must not be chosen"),
        (["--variant", "a", "--model.lerning_rate 1"], "did you mean model.learning_rate?"),
        (["--storage=postgresql://nobody@127.0.0.1:1/none"], "--storage postgresql"),
        (["--model.weight_dcay=1"], "did you mean model.weight_decay?"),
    ],
)
def test_mistakes_end_a_study_before_it_begins(
    recipe: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("flat.yaml").write_text("model.weight_decay: 0.1")
    Path("typo.yaml").write_text("a: {model.weight_dcay: 0.1}")
    Path("reserved.yaml").write_text("a: {seed_everything: 3}")
    Path("nested.yaml").write_text("a: {checkpoint: {dirpath: x}}")
    with pytest.raises(SystemExit) as stop:
        main(["--config", recipe, *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("runs/study/*-seed*"))


def test_an_option_of_a_search_that_does_not_exist_is_named(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.yaml").write_text("model.learning_rat: [0.1, 0.2]")
    with pytest.raises(SystemExit):
        main(["--config", recipe, "--search", str(tmp_path / "wrong.yaml")])
    assert "did you mean model.learning_rate?" in capsys.readouterr().err


def test_the_ranges_of_the_search_recipe_are_of_options_that_exist(recipe: str) -> None:
    from lit_bert.study.command import _check
    from lit_bert.study.plan import read_space

    _check(Plan(("--config", recipe), space=read_space(CONFIGS / "search.yaml"), trials=1))


def test_the_options_of_the_ablation_exist(recipe: str) -> None:
    from lit_bert.study.command import _check
    from lit_bert.study.plan import read_variants

    _check(Plan(("--config", recipe), variants=read_variants(CONFIGS / "ablation.yaml")))


@pytest.mark.usefixtures("forked")
def test_a_study_ends_if_its_first_runs_all_fail(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--config", recipe, "--folds=50"])
    said = capsys.readouterr().err
    assert "error: the first 3 trials failed: baseline-seed1-fold1: --data.folds 50: class 'neg' of " in said
    assert "has 30 row(s), and each fold needs one" in said
    assert len(list(Path().glob("runs/study/*.log"))) == 3


@pytest.mark.slow
def test_a_study_that_is_killed_ends_as_one_that_was_not(recipe: str, space: str) -> None:
    words = ["--config", recipe, "--search", space, "--trials=6", "--trainer.max_epochs=3"]
    whole = main([*words, "--name=whole"])
    moments = random.Random(1)
    for _ in range(40):
        study = subprocess.Popen([*COMMAND, *words, "--name=killed"], stdout=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + moments.uniform(8, 20)
        while study.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        if study.poll() is not None:
            break
        if moments.random() < 0.5:  # the parent alone: its run goes on, and is waited for
            study.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(study.pid, signal.SIGKILL)
        study.wait()
    assert study.returncode == 0
    killed = json.loads(Path("runs/killed/study.json").read_text())
    assert killed["candidates"] == whole["candidates"]
    assert killed["best"] == whole["best"]


@pytest.mark.slow
def test_a_signal_stops_a_study_and_the_same_command_goes_on(recipe: str) -> None:
    words = ["--config", recipe, "--seeds=2", "--trainer.max_epochs=3"]
    study = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    while not list(Path().glob("runs/study/*/checkpoints/last.ckpt")):
        time.sleep(0.1)
    study.send_signal(signal.SIGTERM)
    assert "the same command goes on" in study.communicate()[1]
    assert study.returncode == 143
    found = main(words)
    assert len(found["candidates"]["baseline"]["runs"]) == 2


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that take no time; returns the names of those that were trained."""
    trained: list[str] = []

    def fit(run: Run, *_: object) -> dict[str, Any]:
        trained.append(run.name)
        time.sleep(0.02)
        return {"val": {"acc": run.seed / 100}}

    monkeypatch.setattr("lit_bert.study.runner.fit", fit)
    return trained


def test_workers_share_trials_without_a_double(tmp_path: Path, pretend: list[str]) -> None:
    import threading

    plan, folder = Plan((), seeds=20, variants=(Candidate("other"),)), tmp_path / "shared"
    studies = [open_study(folder, None, plan) for _ in range(2)]  # as two processes have them
    workers = [Worker(study, plan, folder, {}, threading.Event()) for study in studies * 2]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.error for worker in workers] == [None] * 4
    assert len(pretend) == len(set(pretend)) == plan.size == 40
    assert {trial.state for trial in studies[0].get_trials()} == {optuna.trial.TrialState.COMPLETE}


def test_a_trial_that_a_killed_worker_left_is_taken_up(tmp_path: Path, pretend: list[str]) -> None:
    import threading

    plan, folder = Plan((), seeds=3), tmp_path / "left"
    open_study(folder, None, plan).ask({})  # and then it was killed
    worker = Worker(open_study(folder, None, plan), plan, folder, {}, threading.Event())
    worker.run()
    assert worker.error is None
    assert pretend == ["baseline-seed1", "baseline-seed2", "baseline-seed3"]


def test_a_trial_that_was_drawn_in_part_gets_the_options_that_are_missing(tmp_path: Path, pretend: list[str]) -> None:
    import threading

    space = {"a": optuna.distributions.FloatDistribution(0, 1), "b": optuna.distributions.IntDistribution(1, 3)}
    plan, folder = Plan((), space=space, trials=1), tmp_path / "part"
    open_study(folder, None, plan).ask({"a": space["a"]})  # and then it was killed
    Worker(open_study(folder, None, plan), plan, folder, {}, threading.Event()).run()
    [trial] = open_study(folder, None, plan).get_trials()
    assert set(trial.params) == {"a", "b"}
    assert trial.state == optuna.trial.TrialState.COMPLETE


def test_a_folder_and_a_storage_belong_together(tmp_path: Path) -> None:
    plan, storage = Plan(()), f"sqlite:///{tmp_path / 'shared.db'}"
    open_study(tmp_path / "one" / "study", storage, plan)
    open_study(tmp_path / "one" / "study", storage, plan)
    with pytest.raises(UserError, match="is not the folder of the study in the storage"):
        open_study(tmp_path / "two" / "study", storage, plan)
    with pytest.raises(UserError, match="is not the folder of the study in the storage"):
        open_study(tmp_path / "one" / "study", None, plan)
    with pytest.raises(UserError, match="with other options"):
        open_study(tmp_path / "one" / "study", storage, plan, "another config")


def test_each_worker_has_one_of_the_gpus_that_the_study_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in _environments(3)] == ["4", "GPU-5", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _environments(1) == [{"CUDA_VISIBLE_DEVICES": "0"}]
