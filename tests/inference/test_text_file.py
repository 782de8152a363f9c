"""A file that is predicted through a Trainer, by one rank or by several."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pytest
from conftest import QUIET
from lightning.pytorch import Trainer
from processes import finish, run, start
from pyarrow import parquet
from rich.console import Console

from lit_bert.data.readers import Row
from lit_bert.errors import UserError
from lit_bert.inference import texts as texts_module
from lit_bert.inference.predictions import RowFormat
from lit_bert.inference.text_file import TextFilePredictor
from lit_bert.inference.texts import Counts, TextJob, Window

TEXTS = ["great fun", "no fun", "a cold film", "awful", "", "lovely", "a warm and funny film", "great", "worst", "no"]


class Constant:
    """A predictor that finds every sentence good, and remembers the windows that it got."""

    class_names = ("bad", "good")

    def __init__(self, stop_at: str = "") -> None:
        self.windows: list[list[str]] = []
        self.stop_at = stop_at

    def stream(self, texts: Iterator[str]) -> Iterator[np.ndarray]:
        self.windows.append(list(texts))
        if self.stop_at in self.windows[-1]:
            raise UserError("stopped")
        return iter([np.array([0.25, 0.75], dtype=np.float32)] * len(self.windows[-1]))


def predict(
    source: str, output: str = "out.csv", format: RowFormat | None = None, predictor: Constant | None = None
) -> Constant:
    predictor = predictor or Constant()
    job = TextJob(predictor, source, output, format or RowFormat())  # type: ignore[arg-type]
    Trainer(**QUIET).predict(TextFilePredictor(job, Console(file=io.StringIO())), return_predictions=False)
    return predictor


def small_windows() -> None:
    """Predict 3 rows at a time."""
    texts_module.WINDOW = 3


def fail_on_rank_one() -> None:
    """Predict 3 rows at a time; the second rank fails at its second window."""
    small_windows()
    original = TextJob.predict

    def predict(self: TextJob, window: Window, file: TextIO) -> Counts:
        if window[0] == 9:
            raise UserError("the second rank failed")
        return original(self, window, file)

    TextJob.predict = predict  # type: ignore[method-assign]


def test_two_ranks_write_what_one_device_does_or_nothing(best: Path, tmp_path: Path) -> None:
    rows = [f'{number},"{text}",{"pos" if number % 3 else "meh"}' for number, text in enumerate(TEXTS * 2)]
    (tmp_path / "texts.csv").write_text("\n".join(["id,text,label", *rows]) + "\n")
    words = ["predict", f"--ckpt_path={best}", "--input=texts.csv", "--keep=id", "--trainer.precision=32-true"]
    run([*words, "--output=one.csv", "--trainer.accelerator=cpu"], Path("one.log"), 1, small_windows)
    expected = Path("one.csv").read_bytes()
    assert [row["id"] for row in csv.DictReader(io.StringIO(expected.decode()))] == list(map(str, range(20)))
    run([*words, "--output=two.csv"], Path("two.log"), 2, small_windows)
    assert Path("two.csv").read_bytes() == expected
    said = Path("two.log").read_text()
    assert said.count("20 predictions are in two.csv") == 1
    assert "on 11 labelled rows" in said
    assert "some labels are none of neg, pos: meh" in said
    assert "warn" not in said.lower()
    files = sorted(tmp_path.iterdir())
    assert 0 not in finish(start([*words, "--output=no.csv"], Path("two.log"), 2, fail_on_rank_one), 60, 0)
    assert "the second rank failed" in Path("two.log").read_text()
    assert sorted(tmp_path.iterdir()) == files
    (tmp_path / "texts.csv").write_text("id,text\n1,great\n2,fun,more\n")
    assert finish(start(words, Path("bad.log"), 2), 60) == [2, 1]
    assert Path("bad.log").read_text().count("texts.csv, line 3: 3 values, but the header names 2") == 1
    assert "Traceback" not in Path("bad.log").read_text()


def test_ranks_share_the_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 2)
    (tmp_path / "a.txt").write_text("".join(f"{number}\n" for number in range(7)))
    job = TextJob(Constant(), "a.txt", "out.csv")  # type: ignore[arg-type]
    shares = [[(start, [row.text for row in rows]) for start, rows in job.windows(rank, 2)] for rank in (0, 1)]
    assert shares == [[(0, ["0", "1"]), (4, ["4", "5"])], [(2, ["2", "3"]), (6, ["6"])]]


def test_windows_are_of_limited_size_and_a_failure_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 10)
    (tmp_path / "a.txt").write_text("".join(f"{number}\n" for number in range(25)))
    assert predict("a.txt").windows == [
        [str(number) for number in range(start, min(start + 10, 25))] for start in (0, 10, 20)
    ]
    before = Path("out.csv").read_text()
    with pytest.raises(UserError, match="stopped"):
        predict("a.txt", predictor=Constant(stop_at="12"))
    assert Path("out.csv").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.csv"]


def test_a_window_is_read_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 2)
    (tmp_path / "a.txt").write_text("text\n" * 20)
    rows_read, ahead, original = 0, [], texts_module.read_texts

    def read(*args: Any) -> Iterator[Row]:
        nonlocal rows_read
        rows_read = 0
        for row in original(*args):
            rows_read += 1
            yield row

    class Watching(Constant):
        def stream(self, texts: Iterator[str]) -> Iterator[np.ndarray]:
            ahead.append(rows_read - 2 * len(self.windows))
            return super().stream(texts)

    monkeypatch.setattr(texts_module, "read_texts", read)
    predict("a.txt", predictor=Watching())
    assert len(ahead) == 10
    assert max(ahead) <= 4  # this window, and the next


def test_a_label_with_very_many_digits_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\na,{'9' * 5000}\nb,1\n")
    predict("a.csv")
    assert [row.split(",")[2] for row in Path("out.csv").read_text().splitlines()] == ["label", "9" * 5000, "good"]


def test_columns_are_carried_along_with_their_types(tmp_path: Path) -> None:
    table = {"text": ["a", "b"], "id": [7, None], "when": pa.array([0, 1], pa.timestamp("s")), "tags": [["x"], []]}
    parquet.write_table(pa.table({**table, "rate": [0.5, float("nan")], "other": [1, 2]}), tmp_path / "a.parquet")
    kept = ("id", "when", "tags", "rate")
    predict("a.parquet", "out.jsonl", RowFormat("jsonl", kept=kept))
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert list(rows[0])[:6] == ["row", *kept, "text"]
    assert [[row[name] for name in kept] for row in rows] == [
        [7, "1970-01-01 00:00:00", ["x"], 0.5],
        [None, "1970-01-01 00:00:01", [], None],
    ]


def test_a_full_device_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    with pytest.raises(UserError, match=r"--output /dev/full: cannot be written \(No space left on device\)"):
        predict("a.txt", "/dev/full")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("text\n" * 9)

    class Left(io.StringIO):
        def reconfigure(self, **options: object) -> None:
            pass

        def fileno(self) -> int:
            return unread.fileno()

        def flush(self) -> None:
            raise BrokenPipeError

    with (tmp_path / "unread").open("w") as unread:
        monkeypatch.setattr(sys, "stdout", Left())
        with pytest.raises(SystemExit) as stop:
            predict("a.txt", "-")
    assert stop.value.code == 141
