"""Studies of runs that a stub trains; test_study_processes.py has some with processes."""

import json
import os
import signal
import zlib
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import optuna
import pytest
import yaml
from conftest import CONFIGS
from optuna.trial import Trial, TrialState
from torch.utils.tensorboard import SummaryWriter

from lit_bert.errors import UserError
from lit_bert.run.run_dir import lock
from lit_bert.study.__main__ import main
from lit_bert.study.results import latest_trials
from lit_bert.study.runner import Runner, environments, falls_behind
from lit_bert.study.space import Plan, Run
from lit_bert.study.study import open_study, run_trials

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


PLAN = Plan((), (Run("baseline", 1), Run("baseline", 2)), {}, 2)


class Processes:
    """Processes that write their results at once, after what `before` does for their run."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.curve: dict[str, list[float]] = {}
        """Validation accuracies of runs in TensorBoard."""

    def call(self, runner: Runner, output: Path, command: str, *words: str, trial: Trial | None = None) -> None:
        if output.is_file():
            return
        run = output.parent
        self.calls.append((command, run.name))
        self.before.pop(run.name, lambda: None)()
        if runner.stopped_by:
            raise UserError("stopped")
        run.mkdir(exist_ok=True)
        if trial:
            with SummaryWriter(str(run)) as writer:
                for step, accuracy in enumerate(self.curve.get(run.name, [0.5, 0.6])):
                    writer.add_scalar("val/acc", accuracy, step)
            if falls_behind(trial, run) or falls_behind(trial, run):
                raise optuna.TrialPruned
        if command == "predict":
            rows = [row for row in range(1, 7) if f"fold{row % 2 + 1}" in run.name]
            output.write_text("\n".join(["row,label", *(f"{row},{run.name}" for row in rows)]))
            return
        (run / "config.yaml").write_text("trainer: {accelerator: cpu, devices: 1}")
        accuracy = 1.0 if "frozen" not in run.name else 0.5
        if command == "fit" and "trial" in run.name:
            accuracy = zlib.crc32(" ".join(words).split("--seed")[0].encode()) / 2**32
        if command == "test":
            checkpoint = f"--ckpt_path={run}/checkpoints/a.ckpt"
            assert words == (checkpoint, "--trainer.accelerator=cpu", "--trainer.devices=1")
        split = "val" if command == "fit" else "test"
        content = {split: {"acc": accuracy - 0.1 * ("seed2" in run.name)}, "checkpoint": "checkpoints/a.ckpt"}
        output.write_text(json.dumps(content))


def fail() -> None:
    raise UserError("the loss is not a finite number")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    stub = Processes()
    monkeypatch.setattr(Runner, "_call", lambda self, *args, **options: stub.call(self, *args, **options))
    return stub


@pytest.fixture
def search(recipe: str, tmp_path: Path) -> list[str]:
    content = {"model.learning_rate": {"low": 1e-5, "high": 3e-3, "log": True}, "data.batch_size": [4, 8]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
    return ["--config", recipe, "--search", str(tmp_path / "search.yaml")]


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
    for others in ([], [f"--storage=sqlite:///{Path('other.db').absolute()}"]):
        with pytest.raises(SystemExit):
            main(["--config", recipe, "--seeds=3", *others])
        assert "there is another study of this name" in capsys.readouterr().err
    with lock(Path("runs/study")), pytest.raises(SystemExit):
        main(words)
    assert "runs/study: another process" in capsys.readouterr().err


def test_folds_give_a_prediction_of_each_row(recipe: str, processes: Processes) -> None:
    main(["--config", recipe, "--folds=2"])
    rows = Path("runs/study/out_of_fold-baseline-seed1.csv").read_text().split()
    assert [row.partition(",")[0] for row in rows] == ["row", *"123456"]
    assert rows[1:3] == ["1,baseline-seed1-fold2", "2,baseline-seed1-fold1"]


def test_a_search_tests_the_best_alone(search: list[str], processes: Processes) -> None:
    found = main([*search, "--trials=3"])
    best = found["best"]
    assert [run for command, run in processes.calls if command == "test"] == [f"{best}-seed1"]
    assert found["candidates"][best]["val"]["mean"] == max(each["val"]["mean"] for each in found["candidates"].values())
    assert Path("runs/study/history.png").is_file()
    assert plt.get_fignums() == []  # pyplot would keep them
    more = main([*search, "--trials=4"])
    assert more["candidates"].keys() == found["candidates"].keys() | {"trial003"}


def test_a_run_that_fails_is_listed_and_the_others_count(
    recipe: str, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", recipe, "--variant", "explodes", "--model.learning_rate=1e30", "--workers=2"]
    processes.before["explodes-seed1"] = fail
    found = main(words)
    assert list(found["candidates"]) == ["baseline"]
    assert found["failed"] == ["explodes-seed1: the loss is not a finite number"]
    assert "failed   explodes-seed1: the loss" in capsys.readouterr().out
    again = main(words)
    assert (list(again["candidates"]), again["failed"]) == (["baseline", "explodes"], [])


def test_a_study_whose_first_runs_fail_ends(
    recipe: str, processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.before = {f"baseline-seed{seed}": fail for seed in (1, 2, 3)}
    words = ["--config", recipe, "--seeds=9"]
    with pytest.raises(SystemExit):
        main(words)
    assert "error: no run has results: baseline-seed1: the loss is not a finite" in capsys.readouterr().err
    assert len(processes.calls) == 3
    assert main(words)["failed"] == []


def test_a_trial_that_falls_behind_is_given_up(search: list[str], processes: Processes) -> None:
    processes.curve = {"trial006-seed1": [0.5, 0.2]}
    found = main([*search, "--trials=8"])
    assert sorted(found["candidates"]) == [f"trial{number:03}" for number in (0, 1, 2, 3, 4, 5, 7)]
    assert (found["failed"], found["pruned"]) == ([], [6])


@pytest.mark.parametrize("options", [[], ["--workers=2"], ["--storage=sqlite:///shared.db"]])
def test_a_signal_stops_a_study_and_the_same_command_goes_on(
    search: list[str], options: list[str], processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*search, "--trials=5", *options]
    processes.before["trial002-seed1"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 143
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().err
    done = {path.parent.name for path in Path().glob("runs/study/*/metrics.json")}
    assert 0 < len(done) < 5
    del processes.calls[:]
    assert len(main(words)["candidates"]) == 5
    assert {run for command, run in processes.calls if command == "fit"} == {
        f"trial{number:03}-seed1" for number in range(5)
    } - done


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--root=reviews/train.csv"], "reviews/train.csv/study: cannot be written"),
        (["--variant", "a", "--data.batch_sise=8"], "the mistake is in the options of a: --data.batch_sise=8"),
        (["--variants=typo.yaml"], "did you mean model.weight_decay?"),
        (["--variant", "a", "--data.val_split=test"], "--data.val_split test: what is best must not be chosen"),
        (["--search=wrong.yaml"], "did you mean model.learning_rate?"),
        (["--storage=postgresql://nobody@127.0.0.1:1/none"], "--storage postgresql"),
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
def test_a_trial_of_a_killed_process_is_run_again_unless_machines_share_it(tmp_path: Path) -> None:
    for url, state in ((None, TrialState.WAITING), (f"sqlite:///{tmp_path / 'shared.db'}", TrialState.RUNNING)):
        open_study(tmp_path, url, PLAN).ask()
        with (tmp_path / "optuna.log").open("a") as file:
            file.write('{"op_code')  # cut short
        trials = latest_trials(open_study(tmp_path, url, PLAN))
        assert [trials[place].state for place in (0, 1)] == [state, TrialState.WAITING]
    (tmp_path / "other" / tmp_path.name).mkdir(parents=True)
    with pytest.raises(UserError, match="another study of this name"):
        open_study(tmp_path / "other" / tmp_path.name, url, PLAN)


def test_workers_share_trials_without_a_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr(Runner, "fit", lambda self, run, *_: runs.append(run.name) or 0.5)
    plan = Plan((), tuple(Run("baseline", seed) for seed in range(40)), {}, 40)
    run_trials(open_study(tmp_path, None, plan), plan, Runner(tmp_path, 4), 4)
    assert sorted(runs) == sorted(f"baseline-seed{seed}" for seed in range(40))


def test_each_worker_has_one_of_the_gpus_that_the_study_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5")
    assert [found["CUDA_VISIBLE_DEVICES"] for found in environments(3)] == ["4", "GPU-5", "4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert environments(1) == [{"CUDA_VISIBLE_DEVICES": "0"}]
