"""A run that is stopped anywhere goes on as if nothing had happened: equal to the last bit."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from conftest import NO_END, Patch, Refused, Stopped, events
from equality import equal_runs, same
from steps import SIGNALS, Rows, rows_of_steps  # noqa: F401

from lit_bert.callbacks.preemption import PreemptionCheckpoint
from lit_bert.cli import main
from lit_bert.modeling.checkpoint import read_safely

LONGER = ["--trainer.max_epochs=-1", "--trainer.max_steps=25"]
SETTINGS: dict[str, tuple[list[str], list[int]]] = {  # and the steps that signals are sent at
    "plain": ([], [1, 4, 7]),
    "accumulated": (["--trainer.accumulate_grad_batches=2", *NO_END], [1, 2, 4]),
    "workers": (["--data.num_workers=2", *NO_END], [1, 4, 7]),
    "validated within epochs": (["--trainer.val_check_interval=2", "--checkpoint.save_top_k=2", *NO_END], [1, 4, 7]),
    "limited": (["--trainer.limit_train_batches=4", *NO_END], [1, 3, 6]),
    "steps": (LONGER, [1, 4, 9]),  # 4 and 9 are the last of their epochs
    "steps that end within an epoch": (["--trainer.max_steps=13", *NO_END], [1, 3, 6]),
    "steps and epochs": ([*LONGER, "--trainer.max_epochs=5", *NO_END], [9]),
    "steps, validated within epochs": ([*LONGER, "--trainer.val_check_interval=2", *NO_END], [4]),
    "steps, accumulated": ([*LONGER, "--trainer.max_steps=12", "--trainer.accumulate_grad_batches=2", *NO_END], [5]),
}


@pytest.mark.parametrize(("settings", "steps"), SETTINGS.values(), ids=SETTINGS)
def test_it_goes_on_at_the_very_step(
    recipe: str, rows: Rows, settings: list[str], steps: list[int], stopped: Stopped
) -> None:
    words = ["--config", recipe, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", *settings]
    whole = main(["fit", *words])
    expected = list(rows)
    rows.clear()
    SIGNALS.update(zip(steps, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP), strict=False))
    for number in list(SIGNALS.values()):
        stopped(["fit", *words], 128 + number)
        path = max(Path("runs").glob("*/checkpoints/last.ckpt"), key=os.path.getmtime)
        words = [f"--ckpt_path={path}"]
    cli = main(["fit", *words])
    assert rows == expected
    assert cli.trainer.global_step == whole.trainer.global_step
    assert len(list(Path("runs").iterdir())) == 2
    equal_runs(whole.run_dir, cli.run_dir)


@pytest.mark.parametrize("interval", ["1.0", "2", "5"])
def test_it_goes_on_from_the_best_checkpoint_too(recipe: str, rows: Rows, interval: str) -> None:
    words = ["--config", recipe, "--checkpoint.save_top_k=-1", "--trainer.log_every_n_steps=1", *NO_END]
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


@pytest.mark.parametrize("other", ["--data.val_rows=10", "--data.val_split=test", "--data.folds=2"])
def test_other_validation_rows_are_refused(ended: Path, other: str, refused: Refused) -> None:
    before = (ended / "config.yaml").read_text()
    said = refused(["fit", f"--ckpt_path={ended}/checkpoints/last.ckpt", "--trainer.max_epochs=5", other])
    assert "--ckpt_path: there are other validation rows than those by which the run's best checkpoint was" in said
    assert (ended / "config.yaml").read_text() == before


def test_a_run_that_max_steps_ended_goes_on(recipe: str, rows: Rows, refused: Refused) -> None:
    """It ends within an epoch, of which a best checkpoint does not tell what is left, then at an epoch's end."""
    words = ["--config", recipe, "--trainer.max_epochs=-1", "--model.learning_rate=0", *NO_END]
    main(["fit", *words, "--trainer.max_steps=20", "--trainer.default_root_dir=whole"])
    expected = list(rows)
    rows.clear()
    cut = main(["fit", *words, "--trainer.max_steps=7", "--checkpoint.save_top_k=-1"])
    found = cut.run_dir.glob("checkpoints/epoch=*.ckpt")
    [broken_off] = [shutil.copy(path, ".") for path in found if read_safely(path)["global_step"] == 7]
    for steps in (10, 20):
        main(["fit", f"--ckpt_path={cut.run_dir}/checkpoints/last.ckpt", f"--trainer.max_steps={steps}"])
    assert rows == expected
    assert not list(Path().glob("runs/*/*.partial"))
    refused(["fit", *words, f"--ckpt_path={broken_off}", "--trainer.max_steps=20"])


def test_other_steps_or_training_data_are_refused_within_an_epoch(
    recipe: str, reviews: Path, rows: Rows, refused: Refused, stopped: Stopped
) -> None:
    again = ["fit", "--ckpt_path=last"]
    SIGNALS[1] = signal.SIGTERM
    stopped(["fit", "--config", recipe], 143)
    for words in ("--data.batch_size=4", "--trainer.accumulate_grad_batches=2"):
        assert "set --data.batch_size 8 --trainer.accumulate_grad_batches 1\n" in refused([*again, words])
    told = "was written within an epoch, with other training data ({}); go on"
    assert told.format("rows") in refused([*again, "--data.train_rows=32"])
    assert told.format("seed") in refused([*again, "--seed_everything=2"])
    assert told.format("grouping") in refused([*again, "--data.group_by_length=false"])
    text = (reviews / "train.csv").read_text()
    (reviews / "train.csv").write_text(text.replace(",pos", ",x").replace(",neg", ",pos").replace(",x", ",neg"))
    assert told.format("rows") in refused(again)
    (reviews / "train.csv").write_text(text)
    main([*again, "--data.test_rows=10"])  # which training does not see


def test_an_ended_run_is_not_told_twice_and_its_old_best_makes_room(recipe: str, rows: Rows, stopped: Stopped) -> None:
    cli = main(["fit", "--config", recipe])
    [first] = cli.run_dir.glob("checkpoints/epoch=*.ckpt")
    before = {path: path.stat().st_mtime_ns for path in cli.run_dir.rglob("*")}
    said = stopped(["fit", "--ckpt_path=last"])
    assert "ended after 10 steps; to train on, raise --trainer.max_epochs above 2" in said
    assert {path: path.stat().st_mtime_ns for path in cli.run_dir.rglob("*")} == before
    shutil.rmtree(cli.run_dir / "export")  # as if the run had been killed in the export
    main(["fit", "--ckpt_path=last"])
    assert (cli.run_dir / "export" / "model.safetensors").is_file()
    main(["fit", f"--ckpt_path={first}", "--trainer.max_epochs=8"])  # until a later epoch is better
    assert not first.exists()
    assert len(list(cli.run_dir.glob("checkpoints/*"))) == 2


def test_a_checkpoint_has_validation_rows_of_its_own_weights_or_none(recipe: str, rows: Rows, stopped: Stopped) -> None:
    SIGNALS[7] = signal.SIGTERM
    stopped(["fit", "--config", recipe], 143)
    [run] = Path("runs").iterdir()
    [best] = run.glob("checkpoints/epoch=*.ckpt")
    assert read_safely(best)["val_outputs"]["index"].tolist() == list(range(20))
    assert read_safely(run / "checkpoints" / "last.ckpt")["val_outputs"] == {}
    main(["fit", "--ckpt_path=last"])
    assert read_safely(run / "checkpoints" / "last.ckpt")["val_outputs"]


@pytest.mark.parametrize(("steps", "best"), [(7, 1), (10, 0)], ids=["within an epoch", "without a best checkpoint"])
def test_a_finished_run_keeps_its_validation_and_is_not_tested_twice(
    recipe: str, steps: int, best: int, stopped: Stopped
) -> None:
    words = ["--trainer.max_epochs=-1", f"--trainer.max_steps={steps}", f"--checkpoint.save_top_k={best}"]
    run = main(["fit", "--config", recipe, "--export_after_fit=false", *words]).run_dir
    told, before = json.loads((run / "metrics.json").read_text())["val"], events(run)
    (run / "metrics.json").unlink()  # as if the run had been killed before it was written
    main(["fit", "--ckpt_path=last"])
    assert json.loads((run / "metrics.json").read_text())["val"] == told
    stopped(["fit", "--ckpt_path=last"])
    after = events(run)
    tested = [name for name in before.keys() | after.keys() if name.startswith("test/")]
    assert tested
    assert [before.get(name) for name in tested] == [after.get(name) for name in tested]


def test_a_config_may_be_edited_and_one_that_is_cut_short_is_refused(ended: Path, refused: Refused) -> None:
    config, words = ended / "config.yaml", ["fit", "--ckpt_path=last", "--trainer.max_epochs=5", *NO_END]
    text = config.read_text()
    for damaged in (text[:-9], text[:9]):
        config.write_text(damaged)
        assert f"config file {config}" in refused(words)
    config.write_text(text.replace("learning_rate: 0.003", "learning_rate: 0.002"))
    assert main(words).model.learning_rate == 0.002


def test_a_signal_that_is_passed_on_is_not_a_second_one(monkeypatch: Patch) -> None:
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
