"""Files as people have them: exports of spreadsheets, pandas and polars, quotes and tabs, scraped pages."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from conftest import Capture
from datasets import ClassLabel, Dataset, Features, Value
from pyarrow import parquet

from lit_bert.data import dataset
from lit_bert.data.formats import TableFormat
from lit_bert.data.readers import read_texts
from lit_bert.errors import UserError

Rows = list[tuple[str, str]]
TWO = [("fine", "pos"), ("dull", "neg")]
FRAME = pd.DataFrame(TWO, columns=["text", "label"])
QUOTED = pd.DataFrame([('She said "no"', "neg"), ("a, b\tc", "pos"), ("two words", "neg")], columns=["text", "label"])


def pandas(**options: Any) -> Callable[[Path], None]:
    return lambda path: FRAME.to_csv(path, **options)


def arrow(**columns: Any) -> Callable[[Path], None]:
    return lambda path: parquet.write_table(pa.table(columns), path)


def packed(compress: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(compress(b"text,label\nfine,pos\ndull,neg\n")), None)[1]


STARS = [("a", "1"), ("b", "5")]
HALF = pd.concat([FRAME, FRAME]).reset_index(drop=True).iloc[2:]
VIEW = {name: pa.array(FRAME[name]).cast(pa.string_view()) for name in FRAME}
TRUTH = '{"text":"a","label":true}\n{"text":"b","label":false}\n'
FILES: dict[str, tuple[str, str | bytes | Callable[[Path], None], Rows]] = {
    # tabs: a line is a row, and quotes are text
    "a quote that another line closes": (
        "a.tsv",
        'text\tlabel\n"a start\tpos\nmiddle\tneg\nan end"\tpos\n',
        [('"a start', "pos"), ("middle", "neg"), ('an end"', "pos")],
    ),
    "a quotation at the beginning": (
        "a.tsv",
        'text\tlabel\n"great fun" , he said\tpos\nno\tneg\n',
        [('"great fun" , he said', "pos"), ("no", "neg")],
    ),
    "a text that is a quotation": ("a.tsv", 'text\tlabel\n"fun"\tpos\n"no\tneg\n', [('"fun"', "pos"), ('"no', "neg")]),
    "inches and a lone quote": ("a.tsv", 'text\tlabel\n5" of fun\tpos\n"\tneg\n', [('5" of fun', "pos"), ('"', "neg")]),
    "pandas with tabs": (
        "a.tsv",
        lambda path: QUOTED.replace("a, b\tc", "a, b").to_csv(path, sep="\t", index=False),
        [('She said "no"', "neg"), ("a, b", "pos"), ("two words", "neg")],
    ),
    "pandas with tabs and all quoted": ("a.tsv", pandas(sep="\t", index=False, quoting=1), TWO),
    "tabs in lines of Windows": ("a.tsv", "text\tlabel\r\nfine\tpos\r\ndull\tneg\r\n", TWO),
    "empty values of polars": ("a.tsv", 'text\tlabel\tnote\nfine\tpos\t""\ndull\tneg\t""\n', TWO),
    "a screen's size": (
        "a.tsv",
        'text\tlabel\tnote\nthe 5" disk\tpos\ndull\tneg\n',
        [('the 5" disk', "pos"), TWO[1]],
    ),
    "a trailing tab's column": ("a.tsv", "text\tlabel\tnote\nfine\tpos\t\ndull\tneg\tx\n", TWO),
    # CSV of spreadsheets
    "pandas": ("a.csv", pandas(index=False), TWO),
    "Kaggle's index column": ("a.csv", pandas(), TWO),
    "an index and a second one": ("a.csv", lambda path: FRAME.reset_index().to_csv(path), TWO),
    "CSV with quotes and tabs": (
        "a.csv",
        lambda path: QUOTED.to_csv(path, index=False),
        [('She said "no"', "neg"), ("a, b\tc", "pos"), ("two words", "neg")],
    ),
    "a line break within a text": ("a.csv", 'text,label\n"fi\nne",pos\ndull,neg\n', [("fi\nne", "pos"), TWO[1]]),
    "Excel in UTF-8": ("a.csv", "\ufefftext,label\r\nfine,pos\r\ndull,neg\r\n".encode(), TWO),
    "Excel's line on the separator": ("a.csv", "sep=;\r\ntext;label\r\nfine;pos\r\ndull;neg\r\n", TWO),
    "a quoted line on the separator": ("a.csv", '"sep=\t"\ntext\tlabel\nfine\tpos\ndull\tneg\n', TWO),
    "Excel for an old Mac": ("a.csv", b"text,label\rfine,pos\rdull,neg\r", TWO),
    "an old Mac's, without the last end": ("a.csv", b"text,label\rfine,pos\rdull,neg", TWO),
    "capitals in the file's name": ("R.CSV", pandas(index=False), TWO),
    "capitals and tabs": ("R.TSV", pandas(index=False, sep="\t"), TWO),
    "empty lines at the end": ("a.csv", "text,label\nfine,pos\ndull,neg\n\n\n", TWO),
    "blank columns of a spreadsheet": ("a.csv", "text,label,,\nfine,pos,,\ndull,neg,,\n", TWO),
    "scraped HTML": (
        "a.csv",
        'text,label\n"<br />&amp; a ""fine"" film",pos\n<p>dull</p>,neg\n',
        [('<br />&amp; a "fine" film', "pos"), ("<p>dull</p>", "neg")],
    ),
    "words for what is missing": ("a.csv", "text,label\nNA,pos\nnull,neg\n", [("NA", "pos"), ("null", "neg")]),
    "a number": ("a.csv", "text,label\n2012,pos\ndull,neg\n", [("2012", "pos"), TWO[1]]),
    "a long text": ("a.csv", "text,label\n" + "x" * 200_000 + ",pos\ndull,neg\n", [("x" * 200_000, "pos"), TWO[1]]),
    "emoji and a rare line break": (
        "a.csv",
        "text,label\nfine \U0001f600\u2028!,pos\ndull\x0b,neg\n",
        [("fine \U0001f600\u2028!", "pos"), ("dull\x0b", "neg")],
    ),
    # compressed
    "gzip": ("a.csv.gz", packed(gzip.compress), TWO),
    "bzip2, capitals": ("A.CSV.BZ2", packed(bz2.compress), TWO),
    "xz": ("a.csv.xz", packed(lzma.compress), TWO),
    # JSON
    "pandas' default of JSON": ("a.json", lambda path: FRAME.to_json(path), TWO),
    "of it some rows": ("a.json", lambda path: HALF.to_json(path), TWO),
    "pandas' records": ("a.json", lambda path: FRAME.to_json(path, orient="records"), TWO),
    "pandas' lines": ("a.jsonl", lambda path: FRAME.to_json(path, orient="records", lines=True), TWO),
    "an indented array": ("a.json", lambda path: path.write_text(json.dumps(FRAME.to_dict("records"), indent=2)), TWO),
    "an array after a byte order mark": (
        "a.json",
        '\ufeff[\n{"text":"a","label":1},\n{"text":"b","label":5}\n]',
        STARS,
    ),
    "truth values": ("a.jsonl", TRUTH, [("a", "true"), ("b", "false")]),
    # Parquet
    "pandas' Parquet": ("a.parquet", lambda path: FRAME.to_parquet(path), TWO),
    "polars' text": ("a.parquet", arrow(text=VIEW["text"], label=["pos", "neg"]), TWO),
    "polars' labels": ("a.parquet", arrow(text=["fine", "dull"], label=VIEW["label"]), TWO),
    "large text": ("a.parquet", arrow(text=pa.array(["fine", "dull"], pa.large_string()), label=["pos", "neg"]), TWO),
    "categories": ("a.parquet", lambda path: FRAME.astype("category").to_parquet(path), TWO),
    "whole numbers": ("a.parquet", arrow(text=["a", "b"], label=[1, 5]), STARS),
    "numbers with a gap": ("a.parquet", arrow(text=["a", "b"], label=pa.array([1.0, 5.0])), STARS),
    # labels
    "stars as floats": ("a.csv", "text,label\na,1.0\nb,5.0\n", STARS),
    "codes with zeros": ("a.csv", "text,label\na,007\nb,010\n", [("a", "007"), ("b", "010")]),
    "codes, of which some have zeros": ("a.csv", "text,label\na,7\nb,010\n", [("a", "7"), ("b", "010")]),
    "half stars": ("a.csv", "text,label\na,4.5\nb,5\nc,0.5\n", [("a", "4.5"), ("b", "5"), ("c", "0.5")]),
    "half stars of Parquet": ("a.parquet", arrow(text=["a", "b"], label=[4.5, 5.0]), [("a", "4.5"), ("b", "5")]),
    "a plus sign behind": ("a.csv", "text,label\na,3+\nb,2\n", [("a", "3+"), ("b", "2")]),
    "a plus sign before": ("a.csv", "text,label\na,+1\nb,-1\nc,0\n", [("a", "+1"), ("b", "-1"), ("c", "0")]),
    "blanks around labels": ("a.csv", "text,label\nfine,pos \ndull, neg\ngood,pos\u00a0\n", [*TWO, ("good", "pos")]),
    "pandas' truth values": ("a.csv", "text,label\na,True\nb,False\n", [("a", "True"), ("b", "False")]),
}


@pytest.mark.parametrize("name", FILES)
def test_the_rows_and_labels_that_must_come_out(name: str, tmp_path: Path) -> None:
    file, content, expected = FILES[name]
    path = tmp_path / file
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    rows = dataset.load(dataset.fetch(str(path))[0])["train"]
    classes = rows.features["label"].names
    assert [(row["text"], classes[row["label"]]) for row in rows] == expected
    assert [(row.text, row.label) for row in read_texts(str(path)) if row.text] == expected  # `predict` reads the same


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", 'text\tlabel\n"fi\nne"\tpos\ndull\tneg\n', "line 2: a quoted text goes on in another line, but"),
        ("a.tsv", 'label\ttext\npos\t"fi\nne"\nneg\tdull\n', "line 3: a quoted text goes on in another line, but"),
        ("a.tsv", 'label\ttext\tnote\npos\t"fi\tne"\n', "line 2: a quoted text has a tab in it"),
        ("a.tsv", "text\tlabel\nfi\tne\tpos\n", "line 2: 3 values, but the header names 2; in place of a tab in a"),
        ("a.csv", 'text,label\n"great fun" , he said,pos\n', "line 2: not CSV"),
        ("a.json", '{"text": {"0": "a"}, "label": {"1": "b"}}', "no column 'text'"),
        ("a.json", '{"columns": ["text"], "index": [0], "data": []}', "no column 'text', only columns, index, data"),
    ],
)
def test_what_cannot_be_told_is_refused_with_its_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        dataset.load(dataset.fetch(str(tmp_path / name))[0])
    assert message in str(error.value)


def test_a_quoted_text_of_one_column_that_goes_on_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a\nb", "c"]}).to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="line 2: a quoted text goes on in another line"):
        list(read_texts(str(tmp_path / "a.tsv")))


def test_numbers_and_names_of_classes_are_read_alike_in_training_and_prediction(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    numbered = Dataset.from_dict({"text": ["no", "yes", "?"], "label": [0, 1, -1]}, features=features)
    numbered.to_parquet(tmp_path / "train-a.parquet")
    (tmp_path / "train-b.csv").write_text("text,label\nfine,pos\ndull,neg\n")
    rows = dataset.load(str(tmp_path), class_names=["pos", "neg"], drop_unlabelled=True)["train"]
    expected = [("no", "neg"), ("yes", "pos"), ("fine", "pos"), ("dull", "neg")]
    assert [(row["text"], ["pos", "neg"][row["label"]]) for row in rows] == expected
    read = [(row.text, row.label) for row in read_texts(str(tmp_path / "train-a.parquet"))]
    assert read == [*expected[:2], ("?", None)]


@pytest.mark.parametrize("files", [["test-0-of-1.csv", "validation-0-of-1.csv"], ["dev.csv", "reviews_test.csv"]])
def test_rows_to_evaluate_on_alone_are_not_trained_on(files: list[str], tmp_path: Path) -> None:
    for file in files:
        FRAME.to_csv(tmp_path / file, index=False)
    with pytest.raises(UserError, match="no split train there, only test, validation"):
        dataset.load(str(tmp_path))


def test_a_readme_that_names_no_files_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("---\nlicense: mit\n---\n")
    for file in ("Train.csv", "TEST.CSV"):
        FRAME.to_csv(tmp_path / "data" / file, index=False)
    found = dataset.load(str(tmp_path / "data"))
    assert {split: len(rows) for split, rows in found.items()} == {"train": 2, "test": 2}


def test_linked_folders_count(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"{split}-elsewhere").mkdir()
        FRAME.to_csv(tmp_path / f"{split}-elsewhere" / "x.csv", index=False)
        (tmp_path / "data" / split).symlink_to(tmp_path / f"{split}-elsewhere", target_is_directory=True)
    found = dataset.load(dataset.fetch(str(tmp_path / "data"))[0])
    assert {split: len(rows) for split, rows in found.items()} == {"train": 2, "test": 2}


@pytest.mark.parametrize("typed", ["\t", "\\t"])
def test_tabs_in_a_csv_file_are_told_and_read_as_advised(typed: str, tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", sep="\t", index=False)
    location = dataset.fetch(str(tmp_path / "a.csv"))[0]
    with pytest.raises(UserError, match=r"set --data.delimiter '\\t'"):
        dataset.load(location)
    assert dataset.load(location, TableFormat(delimiter=typed))["train"]["text"] == ["fine", "dull"]


FOLDERS: dict[str, tuple[list[str], dict[str, int], str]] = {
    "a file that names no split": (["train reviews.csv", "more reviews.csv"], {"train": 2}, "more reviews.csv"),
    "a name that has test in it": (["product-test-2024.csv"], {"train": 2}, ""),
    "a folder's own description": (["a.csv", "b.csv", "dataset-metadata.json"], {"train": 4}, ""),
    "no names of splits": (["a.csv", "below/b.csv"], {"train": 4}, ""),
    "capitals": (["Train.csv", "TEST.CSV"], {"train": 2, "test": 2}, ""),
    "runs of this project": (["train.csv", "runs/a/test.csv", ".venv/validation.csv"], {"train": 2}, ""),
    "two formats": (["train.csv", "train-2.csv", "test.tsv"], {"train": 4, "test": 2}, ""),
    "other files beside": (["train.csv", "notes.txt", "model.safetensors"], {"train": 2}, ""),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_table_of_a_folder_is_used_or_told(name: str, tmp_path: Path, capsys: Capture) -> None:
    files, expected, left_out = FOLDERS[name]
    for file in files:
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        FRAME.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    location, digest = dataset.fetch(str(tmp_path / "data"))
    assert {split: len(rows) for split, rows in dataset.load(location).items()} == expected
    assert capsys.readouterr().err.partition("split: ")[2].strip() == left_out
    (tmp_path / "data" / "runs").mkdir(exist_ok=True)
    (tmp_path / "data" / "runs" / "metrics.json").write_text("{}")
    assert dataset.fetch(str(tmp_path / "data"))[1] == digest
