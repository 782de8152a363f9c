"""A run that is stopped anywhere goes on as if nothing had happened: equal to the last bit."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from equality import equal_runs, same
from steps import SIGNALS, Rows, rows_of_steps  # noqa: F401

from lit_bert.callbacks.preemption import PreemptionCheckpoint
from lit_bert.cli import main
from lit_bert.modeling.checkpoint import read_safely

SETTINGS = [
    [],
    ["--trainer.accumulate_grad_batches=2"],
    ["--data.num_workers=2"],
    ["--trainer.val_check_interval=2", "--checkpoint.save_top_k=2"],
    ["--trainer.max_steps=13"],
    ["--trainer.limit_train_batches=4"],
]


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=["plain", "accumulated", "workers", "validated within epochs", "steps", "limited"]
)
def test_it_goes_on_at_the_very_step(recipe: str, rows: Rows, settings: list[str]) -> None:
    words = ["--config", recipe, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", *settings]
    whole = main(["fit", *words])
    expected = list(rows)
    rows.clear()
    steps = whole.trainer.global_step
    SIGNALS.update({1: signal.SIGTERM, steps // 3 - 1: signal.SIGINT, steps // 2: signal.SIGTERM})
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        with pytest.raises(SystemExit) as stop:
            main(["fit", *words])
        assert stop.value.code == 128 + number
        path = max(Path("runs").glob("*/checkpoints/last.ckpt"), key=os.path.getmtime)
        words = [f"--ckpt_path={path}"]
    cli = main(["fit", *words])
    assert rows == expected
    assert len(list(Path("runs").iterdir())) == 2
    equal_runs(whole.run_dir, cli.run_dir)


@pytest.mark.parametrize("interval", ["1.0", "2", "5"])
def test_it_goes_on_from_the_best_checkpoint_too(recipe: str, rows: Rows, interval: str) -> None:
    words = [
        "--config",
        recipe,
        "--trainer.max_epochs=2",
        "--checkpoint.save_top_k=-1",
        "--trainer.log_every_n_steps=1",
    ]
    words.append(f"--trainer.val_check_interval={interval}")
    whole = main(["fit", *words])
    expected = list(rows)
    for path in sorted(whole.run_dir.glob("checkpoints/epoch=*.ckpt")):
        rows.clear()
        step = read_safely(path)["global_step"]
        copy = shutil.copy(path, f"{path.stem}.ckpt")  # elsewhere, so that a run of its own begins
        cli = main(["fit", *words, f"--ckpt_path={copy}"])
        assert rows == [seen for seen in expected if seen[0] >= step]
        same(cli.trainer.optimizers[0].state_dict(), whole.trainer.optimizers[0].state_dict())


def test_a_run_that_max_steps_ended_within_an_epoch_goes_on(recipe: str, rows: Rows) -> None:
    words = ["--config", recipe, "--trainer.max_epochs=-1", "--test_after_fit=false", "--model.learning_rate=0"]
    main(["fit", *words, "--trainer.max_steps=13", "--trainer.default_root_dir=whole"])
    expected = list(rows)
    rows.clear()
    cut = main(["fit", *words, "--trainer.max_steps=7", "--checkpoint.save_top_k=-1"])
    found = cut.run_dir.glob("checkpoints/epoch=*.ckpt")
    [broken_off] = [shutil.copy(path, ".") for path in found if read_safely(path)["global_step"] == 7]
    main(["fit", f"--ckpt_path={cut.run_dir}/checkpoints/last.ckpt", "--trainer.max_steps=13"])
    assert rows == expected
    with pytest.raises(SystemExit):
        main(["fit", *words, f"--ckpt_path={broken_off}", "--trainer.max_steps=13"])


def test_steps_of_other_rows_are_refused_within_an_epoch(
    recipe: str, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    SIGNALS[1] = signal.SIGTERM
    with pytest.raises(SystemExit):
        main(["fit", "--config", recipe])
    for words in (["--data.batch_size=4"], ["--trainer.accumulate_grad_batches=2"]):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--ckpt_path=last", *words])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert "set --data.batch_size 8 --trainer.accumulate_grad_batches 1\n" in said


def swapped(reviews: Path) -> list[str]:
    text = (reviews / "train.csv").read_text()
    (reviews / "train.csv").write_text(text.replace(",pos", ",x").replace(",neg", ",pos").replace(",x", ",neg"))
    return []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (swapped, "rows"),
        (lambda reviews: ["--data.train_rows=32"], "rows"),
        (lambda reviews: ["--seed_everything=2"], "seed"),
        (lambda reviews: ["--data.group_by_length=false"], "grouping"),
    ],
    ids=["labels swapped", "fewer rows", "another seed", "another grouping"],
)
def test_other_training_data_within_an_epoch_are_refused(
    recipe: str, reviews: Path, rows: Rows, change: Any, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    SIGNALS[1] = signal.SIGTERM
    with pytest.raises(SystemExit):
        main(["fit", "--config", recipe])
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--ckpt_path=last", *change(reviews)])
    assert stop.value.code == 2
    assert f"was written within an epoch, with other training data ({what}); go on" in capsys.readouterr().err
    main(["fit", "--ckpt_path=last", "--data.test_rows=10"]) if what == "seed" else None  # which training does not see


def test_a_run_that_has_ended_is_not_told_twice_and_its_old_best_makes_room(
    recipe: str, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = main(["fit", "--config", recipe])
    [first] = cli.run_dir.glob("checkpoints/epoch=*.ckpt")
    before = {path: path.stat().st_mtime_ns for path in cli.run_dir.rglob("*")}
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--ckpt_path=last"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "ended after 10 steps; to train on, raise --trainer.max_epochs above 2" in said
    assert {path: path.stat().st_mtime_ns for path in cli.run_dir.rglob("*")} == before
    shutil.rmtree(cli.run_dir / "export")  # as if the run had been killed in the export
    main(["fit", "--ckpt_path=last"])
    assert (cli.run_dir / "export" / "model.safetensors").is_file()
    main(["fit", f"--ckpt_path={first}", "--trainer.max_epochs=8"])  # until a later epoch is better
    assert not first.exists()
    assert len(list(cli.run_dir.glob("checkpoints/*"))) == 2


def test_a_checkpoint_has_rows_of_a_validation_of_its_own_weights_or_none(recipe: str, rows: Rows) -> None:
    SIGNALS[7] = signal.SIGTERM
    with pytest.raises(SystemExit):
        main(["fit", "--config", recipe])
    [run] = Path("runs").iterdir()
    [best] = run.glob("checkpoints/epoch=*.ckpt")
    assert read_safely(best)["val_outputs"]["index"].tolist() == list(range(20))
    assert read_safely(run / "checkpoints" / "last.ckpt")["val_outputs"] == {}
    main(["fit", "--ckpt_path=last"])
    assert read_safely(run / "checkpoints" / "last.ckpt")["val_outputs"]


def test_a_run_without_a_best_checkpoint_keeps_its_validation(recipe: str) -> None:
    first = main(["fit", "--config", recipe, "--checkpoint.save_top_k=0"])
    told = json.loads((first.run_dir / "metrics.json").read_text())["val"]
    (first.run_dir / "metrics.json").unlink()
    main(["fit", "--ckpt_path=last"])
    assert json.loads((first.run_dir / "metrics.json").read_text())["val"] == told


@pytest.mark.parametrize("damage", ["edited", "cut short", "cut to nothing"])
def test_a_config_may_be_edited_and_one_that_is_cut_short_is_refused(
    recipe: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = main(["fit", "--config", recipe, "--test_after_fit=false", "--export_after_fit=false"]).run_dir
    config = run / "config.yaml"
    text = config.read_text()
    edited = text.replace("learning_rate: 0.003", "learning_rate: 0.002")
    config.write_text({"edited": edited, "cut short": text[:-9], "cut to nothing": text[:9]}[damage])
    words = ["fit", "--ckpt_path=last", "--trainer.max_epochs=3"]
    if damage == "edited":
        assert main(words).model.learning_rate == 0.002
        return
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert f"config file {config}" in capsys.readouterr().err


def test_a_signal_that_is_passed_on_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler sends SIGTERM to a launcher, which sends it to its processes, and to these as well."""
    now = 100.0
    monkeypatch.setattr("lit_bert.callbacks.preemption.time.monotonic", lambda: now)
    callback = PreemptionCheckpoint()
    callback._receive(signal.SIGTERM, None)
    now = 100.5
    callback._receive(signal.SIGTERM, None)
    now = 102.0
    with pytest.raises(KeyboardInterrupt):
        callback._receive(signal.SIGINT, None)
