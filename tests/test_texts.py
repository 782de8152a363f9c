import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_bert import texts
from lit_bert.errors import UserError

ROWS = [("one, two", "pos"), ("", "neg"), ('a "quoted" line\u2028of two', None), ("", None), ("  last", "0")]


def write(path: Path) -> str:
    if path.suffix == ".txt":
        path.write_text("\n".join(text for text, _ in ROWS) + "\n", encoding="utf-8")
    elif path.suffix == ".csv":
        lines = ["label,text", 'pos,"one, two"', "neg,", ',"a ""quoted"" line\u2028of two"', "", "0,  last"]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) if text or label else "" for text, label in ROWS]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(
            pa.table({name: [row[place] for row in ROWS] for place, name in enumerate(["text", "label"])}), path
        )
    return str(path)


@pytest.mark.parametrize("kind", texts.KINDS)
def test_each_kind_gives_the_same_rows_empty_ones_in_their_place(tmp_path: Path, kind: str) -> None:
    found = list(texts.read(write(tmp_path / f"rows{kind}")))
    assert [row.text for row in found] == [text for text, _ in ROWS]
    if kind != ".txt":
        assert [row.label for row in found] == [label for _, label in ROWS]


def test_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("body,stars\ngood,5\n")
    assert list(texts.read(str(tmp_path / "a.csv"), "body", "stars")) == [("good", "5")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nb\xffad\n", "line 2: not UTF-8 (byte 0xff at column 2)"),
        ("a.csv", b"text\ngood\nb\xffad\n", "line 3: not UTF-8 (byte 0xff at column 2)"),
        ("a.csv", b"text,label\na, b, c\n", "line 2: 3 values, but the header names 2; quote a text"),
        ("a.csv", b"body\ngood\n", "row 1: no column 'text', only body; name it with --data.text_column"),
        ("a.csv", b'text\n"left open\nfor ever\n', "line 3: not CSV (unexpected end of data)"),
        (
            "a.jsonl",
            b'{"text": "good"}\n{"text": "\\ud83d"}\n',
            "row 2: half of a character ('\\ud83d') in column 'text'",
        ),
        ("a.jsonl", b'{"text": "good"}\n{"text": \n', "line 2: not JSON ("),
        ("a.jsonl", b'["good"]\n', "line 1: not a JSON object"),
        ("a.jsonl", b'{"text": 5}\n', "row 1: 5 in column 'text' is not text"),
        ("a.parquet", b"no such thing", "not a Parquet file"),
        ("a.xlsx", b"", "its name must end in one of .txt, .csv, .jsonl, .parquet, or be - for standard input"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(texts.read(str(tmp_path / name)))
    assert str(error.value).startswith(f"--input {tmp_path / name}")
    assert message in str(error.value)


def test_a_long_text_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000)
    assert [len(row.text) for row in texts.read(str(tmp_path / "a.csv"))] == [200_000]


def test_of_a_parquet_file_other_columns_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1], "photo": [b"large"]}), tmp_path / "a.parquet")
    asked = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, **words: asked.append(words["columns"]) or original(self, **words)
    )
    assert list(texts.read(str(tmp_path / "a.parquet"))) == [("a", "1")]
    assert asked == [["text", "label"]]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--input .*nowhere.txt: cannot be read \(No such file or directory\)"):
        list(texts.read(str(tmp_path / "nowhere.txt")))
