"""`predict --input`: sentences of a file or a pipe."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, Capture, Patch, Refused, rows_of
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from test_texts import given

from lit_bert import BertClassifier, Predictor
from lit_bert.cli import main
from lit_bert.errors import UserError
from lit_bert.inference import texts as texts_module
from lit_bert.inference.predict import predict_split

TWO = ["--trainer.devices=2", "--trainer.accelerator=cpu"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text('great fun\n\nno fun , "really"\n   \nawful\n')
    return path


def test_a_files_predictions_stand_in_the_runs_folder_each_in_its_row(
    best: Path, lines: Path, capfd: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(texts_module, "WINDOW", 2)
    words = ["predict", f"--ckpt_path={best}", f"--input={lines}", "--trainer.precision=32-true"]
    path = main(words).run_dir / "predictions-lines.csv"
    rows = rows_of(path)
    assert [row["text"] for row in rows] == lines.read_text().splitlines()
    assert [row["row"] for row in rows] == list("12345")
    assert [row["label"] for row in rows] == [""] * 5
    assert [row["pred"] == "" for row in rows] == [False, True, False, True, False]
    filled = [rows[0], rows[2], rows[4]]
    for row, answer in zip(filled, Predictor(best)([row["text"] for row in filled]), strict=True):
        assert row["pred"] == answer.label
        assert float(row["score"]) == pytest.approx(answer.score, abs=5e-3)
        assert float(row["prob_pos"]) == pytest.approx(answer.probs["pos"], abs=5e-3)
    said = capfd.readouterr()
    assert not said.out
    assert "5 predictions are in " in said.err
    assert "5/5" in said.err
    assert "without a prediction, because they are empty: 2" in said.err
    main(words)  # older results are kept
    path.with_stem("predictions-lines-2").unlink()
    path.unlink()


def test_labels_are_named_and_their_accuracy_is_said(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    content = 'stars,body\n1,"great fun"\n0,awful\npos,\n,no fun\n7,lovely\n'
    (tmp_path / "a.csv").write_text(content)
    words = [f"--input={tmp_path / 'a.csv'}", "--data.text_column=body", "--data.label_column=stars"]
    main(["predict", f"--ckpt_path={trained / 'export'}", *words, "--output=out.jsonl"])
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["pos", "neg", "pos", None, "7"]
    assert (rows[2]["pred"], rows[2]["prob_neg"]) == (None, None)
    right = sum(row["pred"] == row["label"] for row in rows[:2])
    said = capsys.readouterr().err
    assert f"accuracy {right / 2:.4f} on 2 labelled rows, 95 % interval " in said
    assert "some labels are none of neg, pos: 7" in said
    assert not Path("runs").exists()


def test_a_pipe(best: Path, capfd: Capture, monkeypatch: Patch, lines: Path) -> None:
    given(monkeypatch, lines.read_bytes())
    main(["predict", f"--ckpt_path={best}", "--input=-", "--format=jsonl"])
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == lines.read_text().splitlines()


def test_a_lack_of_memory_is_explained(best: Path, lines: Path, monkeypatch: Patch, refused: Refused) -> None:
    monkeypatch.setattr(Predictor, "_predict_window", lambda self, texts: torch.empty(1 << 50))
    said = refused(["predict", f"--ckpt_path={best}", f"--input={lines}", "--output=out.csv"])
    assert "error: out of memory predicting texts; lower --data.max_length" in said
    assert not Path("out.csv").exists()


def test_ctrl_c_ends_with_its_status_and_leaves_no_file(best: Path, lines: Path, monkeypatch: Patch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "_predict_window", interrupt)
    with pytest.raises(KeyboardInterrupt):  # the front door makes status 130 of it
        main(["predict", f"--ckpt_path={best}", f"--input={lines}", "--output=out.csv"])
    assert not Path("out.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input=a.txt"], "predict --input a.txt: give a checkpoint with --ckpt_path"),
        (["--ckpt_path={best}", "--input=a.txt"], "--input a.txt: cannot be read (No such file or directory)"),
        (["--ckpt_path={best}", "--input=empty.txt"], "--input empty.txt: the file has no rows"),
        (["--ckpt_path={best}", "--input=-"], "--input -: standard input has no lines"),
        (["--ckpt_path={best}", "--input=bad.txt"], "--input bad.txt, line 2: not UTF-8"),
        (["--ckpt_path={best}", "--input=ok.txt", "--output=file/x.csv"], "cannot write file/x.csv: "),
        (["--ckpt_path={best}", "--input=ok.txt", "--format=xml"], "--format xml: it must be one of csv, jsonl"),
        (["--ckpt_path={best}", "--input=ok.txt", "--output=folder"], "--output folder: this is a folder"),
        (["--ckpt_path={best}", "--input=ok.txt", "--output=/dev"], "--output /dev: this is a folder"),
        (["--ckpt_path={best}", "--input=ok.txt", "--output=./ok.txt"], "--output ./ok.txt: this is the input"),
        (["--ckpt_path={best}", "--input=ok.txt", "--trainer.precision=64-true"], "--trainer.precision 64-true: to"),
        (["--ckpt_path=folder"], "--ckpt_path folder: this is a folder, which only `predict --input` takes"),
        (["--ckpt_path=folder", "--input=ok.txt"], "folder: its config.json cannot be used"),
        (["--ckpt_path={best}", "--input=-", *TWO], "--input -: a pipe is for one device; set --trainer.devices 1"),
        (["--ckpt_path={best}", "--input=ok.txt", "--keep=id"], "--keep id: a line of text has no columns; give a"),
        (["--ckpt_path={best}", "--input=ok.csv", "--keep=id,date"], "ok.csv, row 1: no column 'date'; correct --keep"),
        (["--ckpt_path={best}", "--input=ok.txt", "--explain=true"], "--explain true: CSV has no cell for a list of"),
        (["--ckpt_path={best}", "--input=ok.csv", "--keep=id,id"], "--keep id,id: a column comes twice; leave out one"),
        (["--ckpt_path={best}", "--input=ok.csv", "--keep=score"], "--keep score: predictions have a column of that"),
    ],
)
def test_a_mistake(best: Path, words: list[str], message: str, monkeypatch: Patch, refused: Refused) -> None:
    Path("empty.txt").write_text("")
    Path("bad.txt").write_bytes(b"good\nb\xffad\n")
    Path("ok.txt").write_text("good\n")
    Path("ok.csv").write_text("id,text\n7,good\n")
    Path("file").write_text("")
    Path("folder").mkdir()
    given(monkeypatch, b"")
    assert message in refused(["predict", *(word.format(best=best) for word in words)])


@pytest.mark.parametrize(("options", "message"), [({"keep": "id"}, "--keep id"), ({"explain": True}, "--explain true")])
def test_options_for_texts_are_refused_for_a_split(options: dict[str, object], message: str) -> None:
    settings: Any = Namespace(**{"keep": None, "explain": False, **options})
    with pytest.raises(UserError, match=f"{message}: it is for texts of a file or a pipe; name it with --input"):
        predict_split(Trainer(**QUIET), BertClassifier, None, settings, Path())  # type: ignore[arg-type]
