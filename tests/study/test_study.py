"""Studies of runs that a stub trains; test_study_processes.py has some with processes."""

import json
import os
import signal
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib.pyplot as plt
import optuna
import pytest
import yaml
from conftest import CONFIGS
from optuna.trial import TrialState

from lit_bert.errors import UserError
from lit_bert.study.__main__ import main
from lit_bert.study.runner import RunFailed, Runner, RunStopped
from lit_bert.study.space import Plan, Run
from lit_bert.study.study import environments
from lit_bert.study.trials import latest_trials, open_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Processes:
    """Processes that write their results at once, or raise what `fails` has for their run."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.fails: dict[str, list[Exception]] = {}

    def __call__(self, words: Sequence[str], log: BinaryIO, output: Path, *_: object) -> None:
        command, run = words[0], output.parent
        self.calls.append((command, run.name))
        if self.fails.get(run.name):
            raise self.fails[run.name].pop()
        run.mkdir(exist_ok=True)
        if command == "predict":
            rows = [row for row in range(1, 7) if f"fold{row % 2 + 1}" in run.name]
            output.write_text("\n".join(["row,label", *(f"{row},{run.name}" for row in rows)]))
            return
        (run / "config.yaml").write_text("trainer: {accelerator: cpu, devices: 1}")
        accuracy = 1.0 if "frozen" not in run.name else 0.5
        if command == "fit" and "trial" in run.name:
            accuracy = zlib.crc32(" ".join(words).split("--seed")[0].encode()) / 2**32
        split = {"fit": "val"}.get(command, command)
        output.write_text(json.dumps({split: {"acc": accuracy - 0.1 * ("seed2" in run.name)}, "checkpoint": None}))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    stub = Processes()
    monkeypatch.setattr(Runner, "_call", lambda self, *args: stub(*args))
    monkeypatch.setattr("lit_bert.study.trials.HEARTBEAT", 1)
    monkeypatch.setattr("lit_bert.study.trials.GRACE", 1)
    return stub


@pytest.fixture
def space(tmp_path: Path) -> str:
    content = {"model.learning_rate": {"low": 1e-5, "high": 3e-3, "log": True}, "data.batch_size": [4, 8]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "search.yaml")


def test_a_variant_beside_the_baseline_over_seeds(
    recipe: str, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", recipe, "--seeds=2", "--variant", "frozen", "--model.learning_rate=0.0", "--workers=2"]
    found = main(words)
    assert list(found["candidates"]) == ["baseline", "frozen"]
    assert found["best"] == "baseline"
    assert found["candidates"]["frozen"]["val_difference"]["mean"] == pytest.approx(-0.5)
    assert found["candidates"]["baseline"]["runs"]["baseline-seed2"] == {"val": 0.9, "test": 0.9}
    assert sorted(processes.calls) == [
        *(("fit", f"{name}-seed{seed}") for name in ("baseline", "frozen") for seed in (1, 2)),
        *(("test", f"baseline-seed{seed}") for seed in (1, 2)),
    ]
    assert "tensorboard --logdir runs/study" in capsys.readouterr().out
    assert main(words) == found == json.loads(Path("runs/study/study.json").read_text())
    assert len(processes.calls) == 6
    with pytest.raises(SystemExit):
        main(["--config", recipe, "--seeds=3"])
    assert "there is another study of this name" in capsys.readouterr().err


def test_folds_give_a_prediction_of_each_row(recipe: str, processes: Processes) -> None:
    main(["--config", recipe, "--folds=2"])
    rows = Path("runs/study/out_of_fold-baseline-seed1.csv").read_text().split()
    assert [row.partition(",")[0] for row in rows] == ["row", *"123456"]
    assert rows[1:3] == ["1,baseline-seed1-fold2", "2,baseline-seed1-fold1"]


def test_a_search_tests_the_best_alone(recipe: str, space: str, processes: Processes) -> None:
    found = main(["--config", recipe, "--search", space, "--trials=3"])
    best = found["best"]
    assert [run for command, run in processes.calls if command == "test"] == [f"{best}-seed1"]
    assert found["candidates"][best]["val"]["mean"] == max(each["val"]["mean"] for each in found["candidates"].values())
    assert Path("runs/study/history.png").is_file()
    assert plt.get_fignums() == []  # pyplot would keep them
    more = main(["--config", recipe, "--search", space, "--trials=4"])
    assert more["candidates"].keys() == found["candidates"].keys() | {"trial003"}


def test_a_run_that_fails_is_listed_and_the_others_count(
    recipe: str, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", recipe, "--variant", "explodes", "--model.learning_rate=1e30", "--workers=2"]
    processes.fails["explodes-seed1"] = [RunFailed("the loss is not a finite number")]
    found = main(words)
    assert list(found["candidates"]) == ["baseline"]
    assert found["failed"] == ["explodes-seed1: the loss is not a finite number"]
    assert "failed   explodes-seed1: the loss" in capsys.readouterr().out
    again = main(words)
    assert (list(again["candidates"]), again["failed"]) == (["baseline", "explodes"], [])


def test_a_trial_that_falls_behind_is_given_up(
    recipe: str, space: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(self: Runner, words: Sequence[str], log: BinaryIO, output: Path, should_prune: Any = bool) -> None:
        if should_prune():
            raise optuna.TrialPruned
        processes(words, log, output)

    monkeypatch.setattr(Runner, "_call", call)
    monkeypatch.setattr("lit_bert.study.runner._val_accuracies", lambda run: [0.2 if "trial006" in run.name else 0.5])
    found = main(["--config", recipe, "--search", space, "--trials=8"])
    assert list(found["given_up"]) == ["trial006"]
    assert "trial006" not in found["candidates"]


def test_a_run_is_tested_on_the_device_that_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Sequence[str]] = []
    monkeypatch.setattr(Runner, "_call", lambda self, words, *_: called.append(words))
    folder, runner = tmp_path / "baseline-seed1", Runner(tmp_path, [{}], lambda: False)
    folder.mkdir()
    (folder / "metrics.json").write_text('{"checkpoint": "checkpoints/best.ckpt"}')
    with pytest.raises(RunFailed, match="its config cannot be read"):
        runner.test(Run("baseline", 1))
    (folder / "config.yaml").write_text("trainer: {accelerator: cpu, devices: 1}")
    with pytest.raises(FileNotFoundError):  # the results of a test that was only called
        runner.test(Run("baseline", 1))
    checkpoint = folder / "checkpoints" / "best.ckpt"
    assert called == [["test", f"--ckpt_path={checkpoint}", "--trainer.accelerator=cpu", "--trainer.devices=1"]]


def test_a_run_that_is_killed_is_tried_three_times(recipe: str, processes: Processes) -> None:
    processes.fails["baseline-seed1"] = [RunStopped(), RunStopped()]
    processes.fails["baseline-seed2"] = [RunStopped() for _ in range(3)]
    found = main(["--config", recipe, "--seeds=2"])
    assert processes.calls.count(("fit", "baseline-seed2")) == 3
    assert list(found["candidates"]["baseline"]["runs"]) == ["baseline-seed1"]
    assert found["failed"] == ["trial 1: it was killed"]


def test_a_study_ends_if_its_first_runs_all_fail(
    recipe: str, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.fails = {f"baseline-seed1-fold{fold}": [RunFailed("no row")] for fold in range(1, 51)}
    with pytest.raises(SystemExit):
        main(["--config", recipe, "--folds=50"])
    assert "error: the first 3 trials failed: baseline-seed1-fold1: no row" in capsys.readouterr().err
    assert len(processes.calls) == 3


def test_a_signal_stops_a_study_and_the_same_command_goes_on(
    recipe: str, processes: Processes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Runner, words: Sequence[str], log: BinaryIO, output: Path, *_: object) -> None:
        if "seed2" in output.parent.name:
            os.kill(os.getpid(), signal.SIGTERM)
            assert self.should_stop()
            raise RunStopped
        processes(words, log, output)

    words = ["--config", recipe, "--seeds=3"]
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_call", interrupted)
        with pytest.raises(SystemExit) as stop:
            main(words)
    assert stop.value.code == 143
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().err
    assert processes.calls == [("fit", "baseline-seed1")]
    assert len(main(words)["candidates"]["baseline"]["runs"]) == 3
    assert [run for command, run in processes.calls if command == "fit"] == [f"baseline-seed{n}" for n in (1, 2, 3)]


def test_a_search_that_was_killed_draws_what_it_would_have_drawn(
    recipe: str, space: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--config", recipe, "--search", space, "--trials=14"]  # TPE begins at 10
    whole = main([*words, "--name=whole"])

    def killed(self: Runner, words: Sequence[str], log: BinaryIO, output: Path, *_: object) -> None:
        if output.parent.name == f"trial{place:03}-seed1":
            raise ZeroDivisionError  # the trial ends without a reason, as if its worker were gone
        processes(words, log, output)

    for place in (0, 3, 12):  # noqa: B007
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "_call", killed)
            with pytest.raises(ZeroDivisionError):
                main([*words, "--name=killed"])
    assert main([*words, "--name=killed"])["candidates"] == whole["candidates"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--root=reviews/train.csv"], "there can be no folder"),
        (["--variants=typo.yaml"], "did you mean model.weight_decay?"),
        (["--variant", "a", "--data.val_split=test"], "--data.val_split test: what is best must not be chosen"),
        (["--variant", "a", "--model.lerning_rate 1"], "did you mean model.learning_rate?"),
        (["--search=wrong.yaml"], "did you mean model.learning_rate?"),
        (["--storage=postgresql://nobody@127.0.0.1:1/none"], "--storage postgresql"),
        (["--model.weight_dcay=1"], "did you mean model.weight_decay?"),
    ],
)
def test_mistakes_end_a_study_before_it_begins(
    recipe: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("typo.yaml").write_text("a: {model.weight_dcay: 0.1}")
    Path("wrong.yaml").write_text("model.learning_rat: [0.1, 0.2]")
    with pytest.raises(SystemExit) as stop:
        main(["--config", recipe, *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(Path().glob("runs/study/*-seed*"))


@pytest.mark.parametrize("words", [["--search", "search.yaml"], ["--variants", "ablation.yaml"]])
def test_the_options_of_the_recipes_exist(recipe: str, words: list[str], processes: Processes) -> None:
    assert main(["--config", recipe, words[0], str(CONFIGS / words[1]), "--trials=1"])["failed"] == []


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_trial_that_a_killed_worker_left_is_taken_up(tmp_path: Path, processes: Processes) -> None:
    study = open_study(tmp_path, None, Plan(seeds=2))
    lost, alive = study.ask(), study.ask()  # of neither there is a sign of life
    for place, trial in enumerate((lost, alive)):
        trial.set_user_attr("place", place)
    alive.set_user_attr("begun", alive.number)
    trials = latest_trials(open_study(tmp_path, None, Plan(seeds=2)))
    assert [trial.state for trial in trials.values()] == [TrialState.WAITING, TrialState.RUNNING]


def test_a_folder_has_one_study_and_a_storage_may_have_others_of_its_name(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'shared.db'}"
    for folder in (tmp_path / "one" / "study", tmp_path / "two" / "study"):
        folder.mkdir(parents=True)
        open_study(folder, storage, Plan())
        for url, config in ((None, ""), (storage, "another config")):
            with pytest.raises(UserError, match="with other options"):
                open_study(folder, url, Plan(), config)
    assert len(optuna.get_all_study_names(storage)) == 2


def test_each_worker_has_one_of_the_gpus_that_the_study_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in environments(3)] == ["4", "GPU-5", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert environments(1) == [{"CUDA_VISIBLE_DEVICES": "0"}]
