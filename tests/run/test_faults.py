"""Faults that really happen, in processes of their own: nothing is lost, and every process is gone within seconds."""

import os
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import sabotage
from conftest import NO_END, Capture, Refused, make_recipe, make_reviews
from equality import equal_runs
from processes import finish, run, start

from lit_bert.cli import main
from lit_bert.modeling.checkpoint import read_safely

Whole = Callable[[int], Path]
FIFTEEN_STEPS = ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]


@pytest.fixture
def words(recipe: str) -> list[str]:
    """A run of 15 steps, each of them logged."""
    return ["fit", "--config", recipe, *FIFTEEN_STEPS]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture(scope="module")
def whole(tiny_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The folder of the undisturbed run of some ranks."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = make_recipe(folder / "tiny.yaml", tiny_bert, make_reviews(folder / "reviews"))

    def make(ranks: int) -> Path:
        root = folder / f"ranks{ranks}"
        run(["fit", "--config", recipe, *FIFTEEN_STEPS, f"--trainer.default_root_dir={root}"], folder / "log", ranks)
        return only_run(root)

    return cache(make)


def only_run(root: Path = Path("runs")) -> Path:
    [folder] = root.absolute().iterdir()
    return folder


@pytest.mark.parametrize(("ranks", "receiver"), [(1, 0), (2, 0), (2, 1)])
def test_a_signal_to_any_rank_stops_all_and_the_run_goes_on_as_it_was(
    words: list[str], log: Path, whole: Whole, ranks: int, receiver: int
) -> None:
    stopped = start(words, log, ranks, sabotage.signal_at(7, signal.SIGTERM, receiver))
    assert finish(stopped, 30) == [143] * ranks, log.read_text()
    assert "stopped by SIGTERM; go on with\npython train.py fit --ckpt_path runs/" in log.read_text()
    path = only_run() / "checkpoints" / "last.ckpt"
    assert read_safely(path)["global_step"] == 8
    run(["fit", f"--ckpt_path={path}"], log, ranks)
    equal_runs(whole(ranks), only_run())


def test_a_signal_before_training_leaves_no_folder(words: list[str], log: Path) -> None:
    codes = finish(start(words, log, 1, sabotage.signal_in("configure_optimizers", signal.SIGTERM, 0)), 30)
    assert codes == [143], log.read_text()
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize(("command", "receiver"), [("fit", 0), ("fit", 1), ("test", 1)])
def test_a_signal_to_any_rank_outside_of_training_ends_all(
    words: list[str], log: Path, whole: Whole, command: str, receiver: int
) -> None:
    """Lightning's own handler would start a collective that the other rank takes for another: both would wait."""
    words = words if command == "fit" else ["test", f"--ckpt_path={whole(2) / 'checkpoints' / 'last.ckpt'}"]
    codes = finish(start(words, log, 2, sabotage.signal_in("test_step", signal.SIGTERM, receiver)), 30, patience=5)
    assert codes[receiver] == 143, log.read_text()
    assert all(codes), log.read_text()


def test_killed_within_an_epoch_or_while_it_writes_it_loses_nothing(words: list[str], log: Path, whole: Whole) -> None:
    changes = [sabotage.signal_at(3, signal.SIGKILL), sabotage.killed_while_writing(4)]
    changes += [sabotage.signal_at(11, signal.SIGKILL), sabotage.killed_while_writing(2)]
    for number, change in enumerate(changes):
        again = ["fit", "--ckpt_path=last"] if number else words
        assert finish(start([*again, "--checkpoint_minutes=0"], log, 1, change)) == [-signal.SIGKILL], log.read_text()
    run(["fit", "--ckpt_path=last"], log)
    equal_runs(whole(1), only_run())
    assert not list(only_run().glob("checkpoints/.*"))


def test_what_was_logged_after_the_checkpoint_is_not_seen_twice(words: list[str], log: Path, whole: Whole) -> None:
    """An error, then a full disk, which leaves the checkpoints before."""
    assert finish(start(words, log, 1, sabotage.at(8, sabotage.fail))) == [1]  # the last checkpoint is of step 5
    again = ["fit", "--ckpt_path=last"]
    full = log.with_name("full")  # a log of its own: the limit is its limit, too
    assert finish(start(again, full, 1, sabotage.at(12, sabotage.fill_disk))) == [2], full.read_text()
    assert "error: cannot write " in full.read_text()
    assert "File too large; checkpoints written before are intact" in full.read_text()
    run(again, log)
    equal_runs(whole(1), only_run())


def test_a_signal_that_reaches_the_loaders_processes_is_left_to_their_parent(words: list[str], log: Path) -> None:
    words = [*words, "--trainer.max_epochs=1", "--data.num_workers=2", *NO_END]
    run(words, log, 1, sabotage.at(2, sabotage.signal_workers))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_rank_shows_and_ends_all(words: list[str], log: Path, rank: int) -> None:
    begun = time.monotonic()
    codes = finish(start(words, log, 2, sabotage.at(7, sabotage.fail, rank)), 60)
    assert all(codes), log.read_text()
    assert time.monotonic() - begun < 50  # a collective would wait for half an hour
    assert "ZeroDivisionError: sabotage" in log.read_text()
    assert read_safely(only_run() / "checkpoints" / "last.ckpt")["global_step"] == 6  # two epochs


def test_a_lost_rank_ends_the_other(words: list[str], log: Path) -> None:
    codes = finish(start(words, log, 2, sabotage.signal_at(7, signal.SIGKILL, 1)), 60)
    assert codes[0] not in (0, None), log.read_text()
    assert codes[1] == -signal.SIGKILL


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_no_number_stops_a_run_and_keeps_the_checkpoint_before(words: list[str], log: Path, ranks: int) -> None:
    words = [*words, "--trainer.log_every_n_steps=4"]
    codes = finish(start(words, log, ranks, sabotage.at(7, sabotage.overflow, ranks - 1)), 60)
    assert codes == [2] * ranks, log.read_text()
    assert "error: the loss or its gradient is not a finite number, at step" in log.read_text()
    kept = read_safely(only_run() / "checkpoints" / "last.ckpt")
    assert kept["global_step"] == (5 if ranks == 1 else 6)  # the epoch before
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_out_of_memory_names_what_takes_it(words: list[str], log: Path) -> None:
    assert finish(start(words, log, 1, sabotage.at(7, sabotage.devour))) == [2], log.read_text()
    assert "error: out of memory with --data.batch_size 8 and sentences of up to 8 tokens: halve" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_damaged_last_checkpoint_is_passed_over(words: list[str], refused: Refused, capsys: Capture) -> None:
    run_dir = main([*words, "--trainer.max_epochs=1", *NO_END]).run_dir
    [best] = run_dir.glob("checkpoints/epoch=*.ckpt")
    last = run_dir / "checkpoints" / "last.ckpt"
    for epochs, damage in enumerate((truncated, emptied, os.remove), 2):
        damage(last)
        refused(["test", f"--ckpt_path={last}"])  # another one would be another model
        cli = main(["fit", f"--ckpt_path={last}", f"--trainer.max_epochs={epochs}"])
        assert cli.run_dir == run_dir
        said = capsys.readouterr().err
        assert said.startswith(f"resume   --ckpt_path {last}: ")
        assert f"; from {best.relative_to(Path.cwd())} instead\n" in said
        assert cli.trainer.global_step == 5 * epochs
        [best] = run_dir.glob("checkpoints/epoch=*.ckpt")


def truncated(path: Path) -> None:
    os.truncate(path, 1000)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def test_last_is_the_newest_that_loads_or_a_fresh_start(words: list[str], refused: Refused, capsys: Capture) -> None:
    words = [*words, "--trainer.max_epochs=1", *NO_END]
    first = main([*words, "--ckpt_path=last"])
    assert "resume   no checkpoint in runs yet: from scratch\n" in capsys.readouterr().err
    second = main(words)
    assert second.run_dir != first.run_dir
    assert main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]).run_dir == second.run_dir
    for path in second.run_dir.glob("checkpoints/*"):
        emptied(path)
    assert main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]).run_dir == first.run_dir
    said = refused(["test", "--ckpt_path=last", "--trainer.default_root_dir=elsewhere"])
    assert "error: --ckpt_path last: there is no such checkpoint in elsewhere; name its file" in said


def test_a_slurm_job_put_back_in_the_queue_goes_on_in_its_folder(
    words: list[str], log: Path, tmp_path: Path, whole: Whole
) -> None:
    queue = tmp_path / "bin" / "scontrol"
    queue.parent.mkdir()
    queue.write_text('#!/bin/sh\necho "$@" > queued\n')
    queue.chmod(0o755)
    job = {"PATH": f"{queue.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_NTASKS": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "lit"}
    assert finish(start(words, log, 1, sabotage.signal_at(7, signal.SIGUSR1), **job)) == [128 + signal.SIGUSR1]
    assert Path("queued").read_text() == "requeue 17\n"
    run([*words, "--trainer.max_epochs=1", *NO_END], log, SLURM_JOB_ID="170")  # another job's, and newer
    damaged = Path("runs/damaged/provenance.json")
    damaged.parent.mkdir()
    damaged.write_bytes(b"\xff\xfe")
    run(words, log, SLURM_RESTART_COUNT="1", **job)
    [folder] = Path("runs").absolute().glob("*_job-17")
    equal_runs(whole(1), folder)


def test_jobs_that_start_together_on_a_cold_cache(words: list[str], log: Path, tmp_path: Path) -> None:
    jobs = [start([*words, *NO_END], log, LIT_BERT_CACHE=str(tmp_path / "cold")) for _ in range(3)]
    assert [finish(job) for job in jobs] == [[0]] * 3, log.read_text()
    runs = sorted(Path("runs").iterdir())
    assert len(runs) == 3
    equal_runs(runs[0], runs[1])  # and a fresh process gives the same bits
    equal_runs(runs[0], runs[2])
