from pathlib import Path

import pytest
from conftest import Capture

from lit_bert import compare
from lit_bert.errors import UserError
from lit_bert.inference.predictions import PredictionWriter, RowFormat, read_predictions

LABELS = ["pos"] * 6 + ["neg"] * 4


def write(path: Path, wrong: set[int], labels: list[str] = LABELS) -> Path:
    names = ["neg", "pos"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = PredictionWriter(file, names, RowFormat(path.suffix[1:]))
        for index, label in enumerate(labels):
            truth = names.index(label)
            writer.write(
                index, 'a, "text"', label, [float((row == truth) != (index in wrong)) for row in range(len(names))]
            )
    return path


def test_two_files_are_compared_row_by_row(tmp_path: Path, capsys: Capture) -> None:
    a, b = write(tmp_path / "a.csv", {0}), write(tmp_path / "b.jsonl", {1, 2, 3, 4, 5, 6, 7})
    result = compare.compare(read_predictions(a), read_predictions(b))
    assert result == (2, 7, 1, 0)
    compare.main([str(a), str(b)])
    said = capsys.readouterr().out
    assert "A - B       +60.00 points, 95 % interval +6.79 to +93.21 (paired)" in said
    assert f"A           {a}\nB           {b}\n" in said
    assert "p           0.0703 (McNemar's exact test)" in said
    assert "these rows do not tell which is better" in said


def test_a_clear_difference_is_said_to_be_one(tmp_path: Path, capsys: Capture) -> None:
    compare.main([str(write(tmp_path / "a.csv", set(range(8)))), str(write(tmp_path / "b.csv", set()))])
    assert "so          B is better\n" in capsys.readouterr().out


def test_interval_and_test_of_no_difference() -> None:
    low, high = compare.paired_interval(3, 3, 100)
    assert low == pytest.approx(-high)
    assert high == pytest.approx(1.959964 * (8 / 102 / 102) ** 0.5)
    assert compare.mcnemar(3, 3) == 1
    assert compare.mcnemar(0, 0) == 1
    assert compare.mcnemar(0, 5) == pytest.approx(0.0625)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], "B has 9 rows, A 10; give files of the same rows"),
        (["neg", *LABELS[1:]], "B has row 1, label neg, where A has row 1, label pos; give files of the same rows"),
    ],
)
def test_other_rows_are_refused(tmp_path: Path, labels: list[str], message: str) -> None:
    a, b = write(tmp_path / "a.csv", set()), write(tmp_path / "b.csv", set(), labels)
    with pytest.raises(UserError, match=message):
        compare.compare(read_predictions(a), read_predictions(b))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"row,text\n1,x\n", "no column 'label'; give a file that `predict` wrote"),
        ("a.csv", b"row,label,pred\n1,,pos\n", "row 1: without label or prediction; only rows with both compare"),
        ("a.csv", b"row,label,pred\nx,pos,pos\n", "row 1: cannot be read"),
        ("a.csv", b"row,label,pred\n", "the file has no rows"),
        ("a.csv", b"row,label,pred\n1,p\xff,pos\n", "not UTF-8"),
        ("a.jsonl", b"{", "line 1: not JSON"),
        ("a.jsonl", b"5", "line 1: not a JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", b'{"row": ' + b"9" * 5000 + b', "label": "a", "pred": "a"}', "line 1: not JSON"),
        ("a.jsonl", b'{"row": 1e999, "label": "a", "pred": "a"}', "row 1: cannot be read"),
        ("a.jsonl", b'{"row": 1, "label": 0, "pred": 1}', "row 1: cannot be read"),
        ("a.jsonl", b'{"row": 1, "label": "\\ud800", "pred": "a"}', "row 1: cannot be read"),
        ("a.jsonl", b'{"row": 1, "label": null, "pred": "a"}', "row 1: without label or prediction"),
        ("a.csv", b"row,label,pred\n" + b"9" * 5000 + b",a,a\n", "row 1: cannot be read"),
        ("a.csv", None, r"a.csv: cannot be read \(No such file or directory\)"),
    ],
)
def test_what_is_no_predictions_file(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_predictions(tmp_path / name)


def test_what_predict_writes_can_be_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        path = write(tmp_path / name, {0})
        assert read_predictions(path)[:2] == [(1, "pos", "neg"), (2, "pos", "pos")]
    for name in ("a", "a.txt", "a.2026"):  # `predict` writes CSV to a file of any other name
        assert read_predictions(path.rename(path := tmp_path / name))[:2] == [(1, "pos", "neg"), (2, "pos", "pos")]
