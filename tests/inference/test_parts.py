"""A file that is predicted in parts: by several ranks, after a kill, with columns carried along."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from processes import finish, run, start
from pyarrow import parquet
from rich.console import Console
from test_predict import Constant, Lines

from lit_bert.cli import main
from lit_bert.data.readers import Row
from lit_bert.inference import predict as predict_module
from lit_bert.inference.predict import FilePrediction, TextJob, predict_stream
from lit_bert.inference.predictions import RowFormat

TRAIN = Path(__file__).parents[2] / "train.py"
TEXTS = [
    "great fun",
    "no fun",
    "a cold film",
    "awful",
    "",
    "lovely",
    "a warm and funny film",
    "great",
    "the worst",
    "no",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """20 rows with a column to carry along."""
    path = tmp_path / "texts.csv"
    lines = [f'{number},"{text}",{"pos" if number % 3 else "meh"}' for number, text in enumerate(TEXTS * 2)]
    path.write_text("\n".join(["id,text,label", *lines]) + "\n")
    return path


def small_windows() -> None:
    """Predict 3 rows at a time."""
    predict_module.WINDOW = 3


def killed_at_the_third_window() -> None:
    small_windows()
    original = FilePrediction._predict_part

    def predict(self: FilePrediction, number: int, window: list[Row]) -> None:
        if number >= 4:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, number, window)

    FilePrediction._predict_part = predict  # type: ignore[method-assign]


def noted() -> None:
    """Say which windows are predicted."""
    small_windows()
    original = FilePrediction._predict_part

    def predict(self: FilePrediction, number: int, window: list[Row]) -> None:
        sys.stderr.write(f"window {number}\n")
        original(self, number, window)

    FilePrediction._predict_part = predict  # type: ignore[method-assign]


def test_two_ranks_write_what_one_device_does_and_a_killed_run_goes_on(best: Path, source: Path) -> None:
    words = ["predict", f"--ckpt_path={best}", f"--input={source}", "--keep=id", "--trainer.precision=32-true"]
    run([*words, "--output=one.csv", "--trainer.accelerator=cpu"], Path("one.log"), 1, small_windows)
    expected = Path("one.csv").read_bytes()
    assert [row["id"] for row in csv.DictReader(io.StringIO(expected.decode()))] == [
        str(number) for number in range(20)
    ]
    run([*words, "--output=two.csv"], Path("two.log"), 2, noted)
    assert Path("two.csv").read_bytes() == expected
    said = Path("two.log").read_text()
    assert sorted(line for line in said.splitlines() if line.startswith("window")) == [f"window {n}" for n in range(7)]
    assert said.count("20 predictions are in two.csv") == 1
    assert "on 11 labelled rows" in said
    assert "some labels are none of neg, pos: meh" in said
    assert "Warning" not in said
    assert "warn" not in said
    killed = finish(start([*words, "--output=again.csv"], Path("killed.log"), 2, killed_at_the_third_window), 60, 0)
    assert -signal.SIGKILL in killed
    assert not Path("again.csv").exists()
    kept = {path.name for path in Path(".again.csv.parts").glob("0*") if path.suffix != ".partial"}
    assert {"00000000", "00000002"} <= kept <= {f"0000000{number}" for number in range(4)}
    run([*words, "--output=again.csv", "--trainer.accelerator=cpu"], Path("again.log"), 1, noted)
    assert Path("again.csv").read_bytes() == expected
    predicted = {line.split()[1] for line in Path("again.log").read_text().splitlines() if line.startswith("window")}
    assert predicted == {str(number) for number in range(7)} - {str(int(name)) for name in kept}
    assert not list(Path().glob(".*.parts"))


def test_one_command_starts_both_ranks(best: Path, source: Path) -> None:
    words = ["predict", f"--ckpt_path={best}", f"--input={source}", "--output=out.csv"]
    command = [sys.executable, str(TRAIN), *words, "--trainer.devices=2", "--trainer.accelerator=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("20 predictions are in out.csv") == 1
    assert len(list(csv.DictReader(io.StringIO(Path("out.csv").read_text())))) == 20


def test_a_mistake_on_two_ranks_is_told_once(best: Path, source: Path) -> None:
    source.write_text("id,text\n1,great\n2,fun,more\n")
    log = Path("log")
    assert finish(start(["predict", f"--ckpt_path={best}", f"--input={source}"], log, 2), 60) == [2, 1]
    assert log.read_text().count("texts.csv, line 3: 3 values, but the header names 2") == 1
    assert "Traceback" not in log.read_text()


class Stopping(Constant):
    """Stops before its third window."""

    source, backend, dtype, max_length = __file__, "torch", None, 32
    device = type("device", (), {"type": "cpu"})

    def stream(self, texts: Any) -> Any:
        if len(self.windows) == 2:
            raise KeyboardInterrupt
        return super().stream(texts)


def predicted(job: TextJob) -> list[list[str]]:
    """The windows that are predicted until it stops or ends."""
    predictor = Stopping()
    prediction = FilePrediction(predictor, job, Console(file=io.StringIO()))  # type: ignore[arg-type]
    try:
        prediction.predict()
        prediction.finish()
    except KeyboardInterrupt:
        pass
    return predictor.windows


def test_parts_of_another_job_are_dropped(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "WINDOW", 5)
    job = TextJob(str(source), "out.csv")
    first, second = predicted(job), predicted(TextJob(str(source), "out.csv", RowFormat(kept=("id",))))
    assert first == second
    source.write_text(source.read_text().replace("lovely", "lovelier"))
    assert predicted(job)[1][0] == "lovelier"
    assert predicted(job) == [["great fun", "no fun", "a cold film", "awful"], ["lovelier", *TEXTS[6:]]]
    assert Path("out.csv").read_text().startswith("row,text,label,pred,score,prob_bad,prob_good\n1,great fun,meh,good,")
    assert not Path(".out.csv.parts").exists()


def test_columns_are_carried_along_with_their_types(tmp_path: Path) -> None:
    table = {"text": ["a", "b"], "id": [7, None], "when": pa.array([0, 1], pa.timestamp("s")), "tags": [["x"], []]}
    parquet.write_table(pa.table({**table, "rate": [0.5, float("nan")], "other": [1, 2]}), tmp_path / "a.parquet")
    kept = ("id", "when", "tags", "rate")
    stream(TextJob("a.parquet", "out.jsonl", RowFormat("jsonl", kept=kept)))
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert list(rows[0])[:6] == ["row", *kept, "text"]
    assert [[row[name] for name in kept] for row in rows] == [
        [7, "1970-01-01 00:00:00", ["x"], 0.5],
        [None, "1970-01-01 00:00:01", [], None],
    ]


def stream(job: TextJob) -> Constant:
    predictor = Stopping()
    if job.is_in_parts:
        prediction = FilePrediction(predictor, job, Console(file=io.StringIO()))  # type: ignore[arg-type]
        prediction.predict()
        prediction.finish()
    else:
        predict_stream(predictor, job, Console(file=io.StringIO()))  # type: ignore[arg-type]
    return predictor


@pytest.mark.parametrize("first", "=+-@\t\r")
def test_cells_that_look_like_formulas_are_made_harmless(first: str, tmp_path: Path) -> None:
    text, id = f"{first}1+2", f"{first}id"
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[id, "text", "label"], ["x=1", text, text], [text, "a=1", ""]])
    stream(TextJob("a.csv", "safe.csv", RowFormat(kept=(id,), safe=True)))
    stream(TextJob("a.csv", "plain.csv", RowFormat(kept=(id,))))
    safe, plain = (
        list(csv.reader(io.StringIO(Path(n).read_bytes().decode(), newline=""))) for n in ("safe.csv", "plain.csv")
    )
    assert safe[0][:4] == ["row", f"'{id}", "text", "label"]
    assert [row[1:4] for row in safe[1:]] == [["x=1", f"'{text}", f"'{text}"], [f"'{text}", "a=1", ""]]
    assert [row[1:4] for row in plain[1:]] == [["x=1", text, text], [text, "a=1", ""]]


def test_predict_makes_formulas_harmless(best: Path) -> None:
    Path("a.txt").write_text("=great fun\n")
    main(["predict", f"--ckpt_path={best}", "--input=a.txt", "--output=out.csv", "--safe_csv=true"])
    assert "1,'=great fun,," in Path("out.csv").read_text()


def test_streamed_lines_are_answered_each_on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = Lines()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(lines)))
    lines.queue.put(b"".join(b"text %d\n" % number for number in range(50)))  # all there at once
    lines.queue.put(None)
    fifo = tmp_path / "answers"
    subprocess.run(["mkfifo", fifo], check=True)
    predictor = Constant()
    arguments = (predictor, TextJob("-", str(fifo), streamed=True), Console(file=io.StringIO()))
    thread = threading.Thread(target=predict_stream, args=arguments)
    thread.start()
    with fifo.open() as answers:
        assert len(answers.read().splitlines()) == 51
    thread.join(30)
    assert predictor.windows == [[f"text {number}"] for number in range(50)]


def test_the_bar_counts_rows(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "three.txt").write_text("fun\nawful\ngreat fun\n")
    main(["predict", f"--ckpt_path={trained / 'export'}", f"--input={tmp_path / 'three.txt'}"])
    assert "3/3" in capfd.readouterr().err
