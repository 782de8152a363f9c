"""Rows whose labels were changed come first, in a run that is broken off, too."""

import csv
import signal
from pathlib import Path

from conftest import Capture, Stopped, rows_of
from steps import SIGNALS, Rows, rows_of_steps  # noqa: F401

from lit_bert.cli import main

GOOD, BAD = "a warm and funny film", "a dull and empty film"


def with_wrong_labels(folder: Path) -> None:
    rows = [(f"{GOOD if row % 2 else BAD} {row}", "pos" if row % 2 else "neg") for row in range(40)]
    for row in (6, 17):
        rows[row] = (rows[row][0], "neg" if rows[row][1] == "pos" else "pos")
    with (folder / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def review(run: Path) -> list[dict[str, str]]:
    return rows_of(run / "likely_wrong_labels.csv")


def test_wrong_labels_come_first(recipe: str, tmp_path: Path, capsys: Capture) -> None:
    with_wrong_labels(tmp_path / "reviews")
    run = main(["fit", "--config", recipe, "--trainer.max_epochs=6"]).run_dir
    rows = review(run)
    assert len(rows) == 40
    assert {row["row"] for row in rows[:2]} == {"7", "18"}
    assert {row["label"] for row in rows[:2]} == {"neg", "pos"}
    assert [float(row["mean_loss"]) for row in rows] == sorted((float(row["mean_loss"]) for row in rows), reverse=True)
    assert "labels   " in capsys.readouterr().out


def test_a_resumed_run_ranks_as_one_that_was_not(recipe: str, tmp_path: Path, rows: Rows, stopped: Stopped) -> None:
    with_wrong_labels(tmp_path / "reviews")
    whole = main(["fit", "--config", recipe]).run_dir
    SIGNALS[7] = signal.SIGTERM  # within the second epoch
    stopped(["fit", "--config", recipe, "--name=other"], 143)
    main(["fit", "--ckpt_path=runs/other/checkpoints/last.ckpt"])
    assert review(Path("runs/other")) == review(whole)
