"""Texts that are predicted through a Trainer: a file, by one rank or by several, or standard input."""

import io
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import QUIET, Capture, Patch, rows_of
from lightning.pytorch import Trainer
from processes import finish, run, start
from pyarrow import parquet

from lit_bert.errors import UserError
from lit_bert.inference import texts as texts_module
from lit_bert.inference.predictions import RowFormat
from lit_bert.inference.texts import TextPredictor, Window

TEXTS = ["great fun", "no fun", "a cold film", "awful", "", "lovely", "a warm and funny film", "great", "worst", "no"]


class Constant:
    """A predictor that finds every sentence good, and remembers the windows that it got."""

    class_names = ("bad", "good")

    def __init__(self, stop_at: str = "", fault: BaseException | None = None) -> None:
        self.windows: list[list[str]] = []
        self.stop_at = stop_at
        self.fault = fault or UserError("stopped")

    def stream(self, texts: list[str]) -> Iterator[np.ndarray]:
        self.windows.append(texts)
        if self.stop_at in texts:
            raise self.fault
        return iter([np.array([0.25, 0.75], dtype=np.float32)] * len(texts))


def predict(
    source: str, output: str = "out.csv", predictor: Constant | None = None, format: RowFormat | None = None
) -> TextPredictor:
    module = TextPredictor(predictor or Constant(), source, output, format or RowFormat())  # type: ignore[arg-type]
    Trainer(**QUIET).predict(module, dataloaders=range(1), return_predictions=False)
    return module


def given(monkeypatch: Patch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def written(path: str = "out.csv") -> list[str]:
    """The texts of a CSV file."""
    return [row["text"] for row in rows_of(Path(path))]


def small_windows() -> None:
    """Predict 3 rows at a time."""
    texts_module.WINDOW = 3


def fail_on_rank_one() -> None:
    """Predict 3 rows at a time; the second rank fails at its second window."""
    small_windows()
    original = TextPredictor.predict_window

    def predict_window(self: TextPredictor, window: Window) -> tuple[str, Counter[str], set[str]]:
        if window[0] == 9:
            raise UserError("the second rank failed")
        return original(self, window)

    TextPredictor.predict_window = predict_window  # type: ignore[method-assign]


def test_two_ranks_write_what_one_device_does_or_nothing(best: Path, tmp_path: Path) -> None:
    rows = [f'{number},"{text}",{"pos" if number % 3 else "meh"}' for number, text in enumerate(TEXTS * 2)]
    (tmp_path / "texts.csv").write_text("\n".join(["id,text,label", *rows]) + "\n")
    words = ["predict", f"--ckpt_path={best}", "--input=texts.csv", "--keep=id", "--trainer.precision=32-true"]
    run([*words, "--output=one.csv", "--trainer.accelerator=cpu"], Path("one.log"), 1, small_windows)
    assert [row["id"] for row in rows_of(Path("one.csv"))] == list(map(str, range(20)))
    run([*words, "--output=two.csv"], Path("two.log"), 2, small_windows)
    assert Path("two.csv").read_bytes() == Path("one.csv").read_bytes()
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


def test_ranks_share_the_windows(monkeypatch: Patch) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 2)
    Path("a.txt").write_text("".join(f"{number}\n" for number in range(5)))
    module = TextPredictor(Constant(), "a.txt", "out.csv")  # type: ignore[arg-type]
    shares = [[(start, [row.text for row in rows]) for start, rows in module.windows(rank, 2)] for rank in (0, 1)]
    assert shares == [[(0, ["0", "1"]), (4, ["4"])], [(2, ["2", "3"]), (6, [])]]


def test_windows_are_read_when_due_and_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 10)
    Path("a.txt").write_text("".join(f"{number}\n" for number in range(25)))
    seen, original = [0], texts_module.read_texts

    def read(*args: Any) -> Iterator[Any]:
        seen[0] = 0
        for row in original(*args):
            seen[0] += 1
            yield row

    class Watching(Constant):
        def stream(self, texts: list[str]) -> Iterator[np.ndarray]:
            assert seen[0] == 10 * len(self.windows) + len(texts)
            return super().stream(texts)

    monkeypatch.setattr(texts_module, "read_texts", read)
    predict("a.txt", predictor=(watching := Watching()))
    assert [len(window) for window in watching.windows] == [10, 10, 5]
    before = Path("out.csv").read_text()
    assert written() == [str(number) for number in range(25)]
    with pytest.raises(UserError, match="stopped"):
        predict("a.txt", predictor=Constant(stop_at="12"))
    assert Path("out.csv").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.csv"]


def test_a_label_with_very_many_digits_is_no_class() -> None:
    Path("a.csv").write_text(f"text,label\na,{'9' * 5000}\nb,1\n")
    assert predict("a.csv").outcomes == {"without a class": 1, "right": 1}
    assert [row.split(",")[2] for row in Path("out.csv").read_text().splitlines()] == ["label", "9" * 5000, "good"]


@pytest.mark.parametrize(
    ("names", "labels", "has_accuracy"),
    [
        ("12345", "01234", False),  # a model of stars from 1 on labels from 0
        ("01234", "12345", False),
        (("1 star", "2 stars"), "12", False),
        ("12345", "1239", True),
        (("neg", "pos"), "01", True),
        (("neg", "pos"), ("0", "1", "-1", "meh"), True),
    ],
)
def test_no_accuracy_is_made_of_labels_that_count_otherwise(
    names: Any, labels: Any, has_accuracy: bool, capfd: Capture
) -> None:
    Path("a.csv").write_text("text,label\n" + "".join(f"a,{label}\n" for label in labels))
    predictor = Constant()
    predictor.class_names = tuple(names)
    predictor.stream = lambda texts: iter([np.eye(len(names), dtype=np.float32)[0]] * len(texts))  # type: ignore[method-assign]
    predict("a.csv", predictor=predictor).print_summary()
    assert ("accuracy " in capfd.readouterr().err.partition("some labels")[0]) is has_accuracy


def test_columns_are_carried_along_with_their_types() -> None:
    table = {"text": ["a", "b"], "id": [7, None], "when": pa.array([0, 1], pa.timestamp("s")), "tags": [["x"], []]}
    parquet.write_table(pa.table({**table, "rate": [0.5, float("nan")], "other": [1, 2]}), "a.parquet")
    kept = ("id", "when", "tags", "rate")
    predict("a.parquet", "out.jsonl", format=RowFormat("jsonl", kept=kept))
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert list(rows[0])[:6] == ["row", *kept, "text"]
    assert [[row[name] for name in kept] for row in rows] == [
        [7, "1970-01-01 00:00:00", ["x"], 0.5],
        [None, "1970-01-01 00:00:01", [], None],
    ]


# --- standard input ---------------------------------------------------------------------------------------------------


def test_a_line_is_answered_before_the_next_one_is_there(monkeypatch: Patch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
    os.mkfifo("answers")
    thread = threading.Thread(target=predict, args=("-", "answers"))
    thread.start()
    with Path("answers").open() as answers:
        for number in range(3):
            os.write(writing, f"text {number}\n".encode())
            assert number or answers.readline().startswith("row,text,")
            assert answers.readline() == f"{number + 1},text {number},,good,0.750000,0.250000,0.750000\n"
        os.close(writing)
        assert answers.read() == ""
    thread.join(30)
    assert not thread.is_alive()


def test_what_waits_is_predicted_together_in_windows_of_limited_size(monkeypatch: Patch) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 10)
    given(monkeypatch, b"".join(b"text %d\n" % number for number in range(95)))
    predict("-", predictor=(constant := Constant()))
    assert list(itertools.chain(*constant.windows)) == [f"text {number}" for number in range(95)] == written()
    assert max(map(len, constant.windows)) <= 10


@pytest.mark.parametrize(
    ("lines", "fault", "message"),
    [
        (b"one\ntwo\nthr\xffee\nfour\n", None, "--input standard input, line 3: not UTF-8 (byte 0xff at column 4)"),
        (b"one\ntwo\nstop\nfour\n", UserError("stopped"), "stopped"),
        (b"one\ntwo\nstop\nfour\n", KeyboardInterrupt("Ctrl-C"), "Ctrl-C"),
        (b"one\ntwo\nstop\nfour\n", RuntimeError("can't allocate memory"), "can't allocate memory"),
    ],
)
def test_rows_before_a_fault_are_written(
    lines: bytes, fault: BaseException | None, message: str, monkeypatch: Patch, capfd: Capture
) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 1)
    given(monkeypatch, lines)
    module = predict("-", predictor=Constant("stop", fault))
    assert str(module.fault).startswith(message)
    assert written() == ["one", "two"]
    module.print_summary()
    assert capfd.readouterr().err == "2 predictions are in out.csv\n"


WAIT = """
from lit_bert.inference.texts import _waiting, read_texts

windows = _waiting(read_texts("-"), 9)
print(next(windows)[1][0].text)
"""


def test_python_can_exit_while_standard_input_is_still_open() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    reading, writing = os.pipe()
    os.write(writing, b"text\n")  # and the pipe stays open
    command = [sys.executable, "-c", WAIT]
    done = subprocess.run(command, stdin=reading, capture_output=True, timeout=60, env=environment)
    os.close(reading)
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"text\n")
