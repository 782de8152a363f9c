"""Runs whose length is given in steps: they go on from anywhere as the others do."""

import signal
from pathlib import Path

import pytest
from conftest import events
from equality import equal_runs
from steps import SIGNALS, Rows, rows_of_steps  # noqa: F401

from lit_bert.cli import main

VALIDATED, ACCUMULATED = "--trainer.val_check_interval=2", "--trainer.accumulate_grad_batches=2"


@pytest.mark.parametrize(
    ("settings", "step"),
    [([], 4), ([], 9), ([VALIDATED], 4), (["--trainer.max_epochs=5"], 9), ([ACCUMULATED], 9)],
    ids=str,
)
def test_resuming_from_an_epochs_end_skips_no_row(recipe: str, rows: Rows, settings: list[str], step: int) -> None:
    steps = 25 if ACCUMULATED not in settings else 12
    words = ["fit", "--config", recipe, "--trainer.max_epochs=-1", f"--trainer.max_steps={steps}", *settings]
    words += ["--trainer.log_every_n_steps=1"]
    whole = main([*words, "--trainer.default_root_dir=whole"])
    expected = list(rows)
    rows.clear()
    SIGNALS[step if steps == 25 else step // 2 + 1] = signal.SIGTERM
    with pytest.raises(SystemExit):
        main(words)
    again = main(["fit", "--ckpt_path=last"])
    assert rows == expected
    assert again.trainer.global_step == steps
    equal_runs(whole.run_dir, again.run_dir)


def test_a_finished_run_is_prolonged(recipe: str, rows: Rows) -> None:
    words = ["fit", "--config", recipe, "--trainer.max_epochs=-1", "--model.learning_rate=0", "--test_after_fit=false"]
    main([*words, "--trainer.max_steps=20", "--trainer.default_root_dir=whole"])
    expected = list(rows)
    rows.clear()
    run = main([*words, "--trainer.max_steps=10"]).run_dir
    main(["fit", f"--ckpt_path={run}/checkpoints/last.ckpt", "--trainer.max_steps=20"])
    assert rows == expected
    assert not list(Path().glob("runs/*/*.partial"))


def test_a_finished_run_that_is_resumed_is_not_tested_twice(recipe: str) -> None:
    run = main(["fit", "--config", recipe, "--trainer.max_epochs=-1", "--trainer.max_steps=7"]).run_dir
    before = events(run)
    (run / "metrics.json").unlink()  # as if the run had been killed before it was written
    main(["fit", f"--ckpt_path={run}/checkpoints/last.ckpt"])
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--ckpt_path={run}/checkpoints/last.ckpt"])
    assert stop.value.code == 0
    assert {tag: values for tag, values in events(run).items() if tag.startswith("test/")} == {
        tag: values for tag, values in before.items() if tag.startswith("test/")
    }
