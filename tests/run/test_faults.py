"""Faults that really happen, in processes of their own: nothing is lost, and every process is gone within seconds."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sabotage
from equality import equal_runs
from processes import finish, run, start

from lit_bert.cli import main
from lit_bert.modeling.checkpoint import Checkpoint, read_safely

EACH_STEP = "--checkpoint_minutes=0"


@pytest.fixture
def words(recipe: str) -> list[str]:
    """A run of 15 steps, each of them logged."""
    return ["fit", "--config", recipe, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]


def only_run(root: str = "runs") -> Path:
    [folder] = Path(root).absolute().iterdir()
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("receiver", [0, 1])
def test_a_signal_to_any_rank_stops_all_and_the_run_goes_on_as_it_was(
    words: list[str], tmp_path: Path, ranks: int, receiver: int
) -> None:
    if receiver >= ranks:
        pytest.skip("there is no such rank")
    log = tmp_path / "log"
    run([*words, "--trainer.default_root_dir=whole"], log, ranks)
    stopped = start(words, log, ranks, sabotage.signal_at(7, signal.SIGTERM, receiver))
    assert finish(stopped, 30) == [143] * ranks, log.read_text()
    assert "stopped by SIGTERM; go on with\npython train.py fit --ckpt_path runs/" in log.read_text()
    path = only_run() / "checkpoints" / "last.ckpt"
    assert read_safely(path)["global_step"] == 8
    run(["fit", f"--ckpt_path={path}"], log, ranks)
    equal_runs(only_run("whole"), only_run())


def test_a_closed_terminal_stops_a_run_with_a_checkpoint(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert finish(start(words, log, 1, sabotage.signal_at(7, signal.SIGHUP)), 30) == [129], log.read_text()
    assert Checkpoint.read(only_run() / "checkpoints" / "last.ckpt").global_step == 8


def test_a_signal_before_training_leaves_no_folder(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    codes = finish(start(words, log, 1, sabotage.signal_in("configure_optimizers", signal.SIGTERM, 0)), 30)
    assert codes == [143], log.read_text()
    assert not list(Path().glob("runs/*"))


@pytest.mark.parametrize("receiver", [0, 1])
def test_a_signal_to_any_rank_after_training_ends_all(words: list[str], tmp_path: Path, receiver: int) -> None:
    """Lightning's own handler would start a collective that the other rank takes for another: both would wait."""
    log = tmp_path / "log"
    codes = finish(start(words, log, 2, sabotage.signal_in("test_step", signal.SIGTERM, receiver)), 30, patience=5)
    assert codes[receiver] == 143, log.read_text()
    assert all(codes), log.read_text()


def test_killed_within_an_epoch_or_while_it_writes_it_loses_nothing(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    run([*words, "--trainer.default_root_dir=whole"], log)
    changes = [sabotage.signal_at(3, signal.SIGKILL), sabotage.killed_while_writing(4)]
    changes += [sabotage.signal_at(11, signal.SIGKILL), sabotage.killed_while_writing(2)]
    for number, change in enumerate(changes):
        again = ["fit", "--ckpt_path=last"] if number else words
        assert finish(start([*again, EACH_STEP], log, 1, change)) == [-signal.SIGKILL], log.read_text()
    run(["fit", "--ckpt_path=last"], log)
    equal_runs(only_run("whole"), only_run())
    assert not list(only_run().glob("checkpoints/.*"))


def test_what_was_logged_after_the_checkpoint_is_not_seen_twice(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    run([*words, "--trainer.default_root_dir=whole"], log)
    assert finish(start(words, log, 1, sabotage.error_at(8))) == [1]  # the last checkpoint is of step 5
    run(["fit", "--ckpt_path=last"], log)
    equal_runs(only_run("whole"), only_run())


def test_a_signal_that_reaches_the_loaders_processes_is_left_to_their_parent(words: list[str], tmp_path: Path) -> None:
    run([*words, "--data.num_workers=2"], tmp_path / "log", 1, sabotage.workers_signalled_at(2))


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_rank_shows_and_ends_all(words: list[str], tmp_path: Path, rank: int) -> None:
    log = tmp_path / "log"
    begun = time.monotonic()
    codes = finish(start(words, log, 2, sabotage.error_at(7, rank)), 60)
    assert all(codes), log.read_text()
    assert time.monotonic() - begun < 50  # a collective would wait for half an hour
    assert "ZeroDivisionError: sabotage" in log.read_text()
    assert read_safely(only_run() / "checkpoints" / "last.ckpt")["global_step"] == 6  # two epochs


def test_a_lost_rank_ends_the_other(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    codes = finish(start(words, log, 2, sabotage.signal_at(7, signal.SIGKILL, 1)), 60)
    assert codes[0] not in (0, None), log.read_text()
    assert codes[1] == -signal.SIGKILL


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    words: list[str], tmp_path: Path, ranks: int
) -> None:
    log = tmp_path / "log"
    codes = finish(start([*words, "--trainer.log_every_n_steps=4"], log, ranks, sabotage.infinity_at(7, ranks - 1)), 60)
    assert codes == [2] * ranks, log.read_text()
    assert "error: the loss or its gradient is not a finite number, at step" in log.read_text()
    kept = read_safely(only_run() / "checkpoints" / "last.ckpt")
    assert kept["global_step"] == (5 if ranks == 1 else 6)  # the epoch before
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_out_of_memory_names_what_takes_it(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert finish(start(words, log, 1, sabotage.memory_at(7))) == [2], log.read_text()
    assert "error: out of memory with --data.batch_size 8 and sentences of up to 8 tokens: halve" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoints_before(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    run([*words, "--trainer.default_root_dir=whole"], log)
    assert finish(start(words, log, 1, sabotage.full_disk_at(7))) == [2], log.read_text()
    assert "error: cannot write " in log.read_text()
    assert "File too large; checkpoints written before are intact" in log.read_text()
    run(["fit", f"--ckpt_path={only_run()}/checkpoints/last.ckpt"], log)
    equal_runs(only_run("whole"), only_run())


def truncated(path: Path) -> None:
    os.truncate(path, 1000)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [truncated, emptied, os.remove])
def test_a_damaged_last_checkpoint_is_passed_over(
    words: list[str], damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = main([*words, "--trainer.default_root_dir=whole"])
    run_dir = main([*words, "--trainer.max_epochs=2", "--model.learning_rate=0.003"]).run_dir
    [best] = run_dir.glob("checkpoints/epoch=*.ckpt")
    last = run_dir / "checkpoints" / "last.ckpt"
    shutil.copy(last, "copy.ckpt")
    damage(last)
    with pytest.raises(SystemExit):
        main(["test", f"--ckpt_path={last}"])  # another one would be another model
    capsys.readouterr()
    cli = main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=3"])
    assert cli.run_dir == run_dir
    said = capsys.readouterr().err
    assert said.startswith(f"resume   --ckpt_path {last}: ")
    assert f"; from {best.relative_to(Path.cwd())} instead\n" in said
    assert cli.trainer.global_step == whole.trainer.global_step


def test_last_is_the_newest_that_loads_and_none_is_a_fresh_start(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = main([*words, "--ckpt_path=last", "--trainer.max_epochs=1"])
    assert "resume   no checkpoint in runs yet: from scratch\n" in capsys.readouterr().err
    second = main([*words, "--trainer.max_epochs=1"])
    assert second.run_dir != first.run_dir
    assert main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]).run_dir == second.run_dir
    for path in second.run_dir.glob("checkpoints/*"):
        emptied(path)
    assert main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"]).run_dir == first.run_dir
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path=last", "--trainer.default_root_dir=elsewhere"])
    assert "error: --ckpt_path last: there is no such checkpoint in elsewhere; name its file" in capsys.readouterr().err


def test_a_slurm_job_put_back_in_the_queue_goes_on_in_its_folder(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    run([*words, "--trainer.default_root_dir=whole"], log)
    queue = tmp_path / "bin" / "scontrol"
    queue.parent.mkdir()
    queue.write_text('#!/bin/sh\necho "$@" > queued\n')
    queue.chmod(0o755)
    job = {"PATH": f"{queue.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "SLURM_NTASKS": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "lit"}
    assert finish(start(words, log, 1, sabotage.signal_at(7, signal.SIGUSR1), **job)) == [128 + signal.SIGUSR1]
    assert Path("queued").read_text() == "requeue 17\n"
    run([*words, "--trainer.max_epochs=1"], log, SLURM_JOB_ID="170")  # another job's, and newer
    run(words, log, SLURM_RESTART_COUNT="1", **job)
    [folder] = Path("runs").absolute().glob("*_job-17")
    equal_runs(only_run("whole"), folder)


def test_a_moved_run_goes_on_and_remembers_its_best(words: list[str]) -> None:
    cli = main([*words, "--model.learning_rate=0", "--trainer.max_epochs=2"])  # no epoch beats the first
    moved = cli.run_dir.rename("moved")
    again = main(["fit", f"--ckpt_path={moved}/checkpoints/last.ckpt", "--trainer.max_epochs=3"])
    assert {file.name for file in (moved / "checkpoints").iterdir()} == {"epoch=0-val_acc=0.5000.ckpt", "last.ckpt"}
    assert json.loads((again.run_dir / "metrics.json").read_text())["checkpoint"].endswith(
        "epoch=0-val_acc=0.5000.ckpt"
    )


def test_two_jobs_that_start_together_on_a_cold_cache(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [start(words, log, LIT_BERT_CACHE=str(tmp_path / "cold")) for _ in range(3)]
    assert [finish(job) for job in jobs] == [[0]] * 3, log.read_text()
    runs = sorted(Path("runs").iterdir())
    assert len(runs) == 3
    equal_runs(runs[0], runs[1])  # and a fresh process gives the same bits
    equal_runs(runs[0], runs[2])
