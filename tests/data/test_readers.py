import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Patch

from lit_bert.data import readers
from lit_bert.data.formats import INPUT_SUFFIXES, TableFormat
from lit_bert.data.readers import Row
from lit_bert.errors import UserError

ROWS = [("one, two", "pos"), ("", "neg"), ('a "quoted" line\u2028of two', None), ("", None), ("  last", "0")]


def write(path: Path) -> str:
    if path.suffix == ".txt":
        path.write_text("\n".join(text for text, _ in ROWS) + "\n", encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        lines = ["label,text", 'pos,"one, two"', "neg,", ',"a ""quoted"" line\u2028of two"', "", "0,  last"]
        if path.suffix == ".tsv":
            lines = [line.replace(",", "\t").replace('"one\t two"', "one, two") for line in lines]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    elif path.suffix in (".json", ".jsonl"):
        lines = [json.dumps({"text": text, "label": label}) if text or label else "" for text, label in ROWS]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}), path)
    return str(path)


@pytest.mark.parametrize("kind", INPUT_SUFFIXES)
def test_each_kind_gives_the_same_rows_empty_ones_in_their_place(tmp_path: Path, kind: str) -> None:
    rows = list(readers.read_texts(write(tmp_path / f"rows{kind}")))
    assert [row.text for row in rows] == [text for text, _ in ROWS]
    if kind != ".txt":
        assert [row.label for row in rows] == [label for _, label in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\nb\xffad\n", "line 2: not UTF-8 (byte 0xff at column 2)"),
        ("a.csv", b"text\ngood\nb\xffad\n", "line 3: not UTF-8 (byte 0xff at column 2)"),
        ("a.csv", b"text,label\na, b, c\n", "line 2: 3 values, but the header names 2; quote a text"),
        ("a.csv", b"body\ngood\n", ": no column 'text', only body; name it with --data.text_column"),
        ("a.csv", b"text,text\na,b\n", ": two columns have the name 'text'; rename one of them"),
        ("a.csv", b'text\n"left open\nfor ever\n', "line 3: not CSV (unexpected end of data)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', "row 2: half of a character ('\\ud83d') in column 'text'"),
        ("a.jsonl", b'{"text": "a", "label": "\\ud83d"}\n', "row 1: half of a character ('\\ud83d') in column 'label'"),
        ("a.jsonl", b'{"text": "good"}\n{"text": \n', "line 2: not JSON ("),
        ("a.jsonl", b'["good"]\n', "line 1: not a JSON object"),
        ("a.jsonl", b'{"text": 5}\n', "row 1: 5 in column 'text' is not text"),
        ("a.parquet", b"no such thing", "not a Parquet file"),
        ("a.txt", None, "cannot be read (No such file or directory)"),
        ("a.xlsx", b"", "its name must end in one of .txt, .csv, .tsv, .json, .jsonl, .parquet, or be - for standard"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(readers.read_texts(str(tmp_path / name)))
    assert str(error.value).startswith(f"--input {tmp_path / name}")
    assert message in str(error.value)


def test_of_a_parquet_file_other_columns_are_not_read(tmp_path: Path, monkeypatch: Patch) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [1], "photo": [b"large"]}), tmp_path / "a.parquet")
    asked = []
    original = pq.ParquetFile.iter_batches
    spy = lambda self, **options: asked.append(options["columns"]) or original(self, **options)  # noqa: E731
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    assert list(readers.read_texts(str(tmp_path / "a.parquet"))) == [Row("a", "1")]
    assert asked == [["text", "label"]]


def table(path: Path, content: bytes | str) -> tuple[pa.Table, list[str] | None]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return readers.read_table([path], TableFormat())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"\xef\xbb\xbft\xffext,label\n", ", line 1: not UTF-8 (byte 0xff at column 2)"),
        ("a.csv", "", ": the file is empty"),
        ("a.csv", "\n\n", ": the file has no rows"),
        ("a.jsonl", '{"text": "a", "label": "\\udc00"}', ", row 1: half of a character ('\\udc00') in column 'label'"),
        ("a.jsonl", '{"text": "a"}\n', ": no column 'label', only text; name it with --data.label_column"),
        ("a.jsonl", "[" * 100_000, ", line 1: not JSON ("),
        ("a.jsonl", '{"label": ' + "1" * 5000 + "}", ", line 1: not JSON ("),
        ("a.json", '[{"text": "a", "label": 1},\n 2]', ", row 2: not a JSON object"),
        ("a.json", '[{"text": "a", "label": 1},\n {]', ", line 2: not JSON ("),
    ],
)
def test_an_unreadable_training_file_is_named(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(UserError) as error:
        table(tmp_path / name, content)
    assert str(error.value).startswith(f"{tmp_path / name}{message}")


def test_two_columns_of_one_name_are_refused_in_parquet_too(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: two columns have the name 'text'"):
        readers.read_table([tmp_path / "a.parquet"], TableFormat())


def test_blank_lines_are_no_rows_and_short_rows_have_no_label(tmp_path: Path) -> None:
    expected = {"text": ["a", "b"], "label": ["pos", None]}
    assert table(tmp_path / "a.csv", "\ntext,label\n\na,pos\nb\n\n")[0] == expected
    lines = '\n{"text": "a", "label": "pos"}\n\n{"text": "b"}\n'
    assert table(tmp_path / "a.jsonl", lines)[0] == expected


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"text": text, "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: not a Parquet file that can be read \(.*UTF8"):
        readers.read_table([tmp_path / "a.parquet"], TableFormat())


def test_a_blank_line_keeps_its_place_in_pairs_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,other,id\na,b,1\n\nc,d,2\n")
    rows = list(readers.read_texts(str(tmp_path / "a.csv"), TableFormat(text_pair_column="other"), ["id"]))
    assert [row.content for row in rows] == [("a", "b"), ("", ""), ("c", "d")]
    assert [row.kept for row in rows] == [("1",), (None,), ("2",)]
