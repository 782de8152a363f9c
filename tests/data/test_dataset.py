"""What a data set may look like, and what is said of one that may not."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from lit_bert.data import dataset
from lit_bert.data.formats import TableFormat
from lit_bert.errors import UserError

ROWS = [("fine", "pos"), ("dull", "neg"), ("great", "pos")]


def csv(path: Path, rows: list[tuple[Any, Any]] = ROWS, header: str = "text,label") -> str:
    path.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
    return str(path)


def load(files: dict[str, str] | str, **settings: Any) -> dict[str, Dataset]:
    return dataset.load(dataset.fetch(files)[0], **settings)


def three(tmp_path: Path, **bad: list[tuple[Any, Any]]) -> dict[str, str]:
    return {split: csv(tmp_path / f"{split}.csv", bad.get(split, ROWS)) for split in dataset.SPLITS}


def test_csv_jsonl_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    table = pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    formats: dict[str, dict[str, str]] = {"csv": three(tmp_path), "jsonl": {}, "parquet": {}}
    for split in dataset.SPLITS:
        formats["jsonl"][split] = str(tmp_path / f"{split}.jsonl")
        Path(formats["jsonl"][split]).write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        formats["parquet"][split] = str(tmp_path / f"{split}.parquet")
        pa.parquet.write_table(table, formats["parquet"][split])
    for files in formats.values():
        train = load(files)["train"]
        assert train.to_dict() == {"index": [0, 1, 2], "text": ["fine", "dull", "great"], "label": [1, 0, 1]}
        assert train.features["label"].names == ["neg", "pos"]


def test_a_folder_keeps_the_class_names_it_has(tmp_path: Path) -> None:
    features = Features({"sentence": Value("string"), "stars": ClassLabel(names=["two", "five"])})
    rows = Dataset.from_dict({"sentence": ["fine", "dull"], "stars": [1, 0]}, features=features)
    for split in dataset.SPLITS:
        rows.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    test = load(str(tmp_path), format=TableFormat("sentence", "stars"))["test"]
    assert test.features["label"].names == ["two", "five"]
    assert test["label"] == [1, 0]
    flipped = load(str(tmp_path), format=TableFormat("sentence", "stars"), class_names=["five", "two"])["test"]
    assert flipped["label"] == [0, 1]


def test_class_numbers_take_the_names_given(tmp_path: Path) -> None:
    numbers = [("fine", 1), ("dull", 0), ("great", 1)]
    files = three(tmp_path, train=numbers, validation=numbers, test=numbers)
    assert load(files)["train"].features["label"].names == ["0", "1"]
    assert load(files, class_names=["bad", "good"])["train"].features["label"].names == ["bad", "good"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, ("so so", "meh")], r"test.csv, row 4: label 'meh' in column 'label' is not one of neg, pos"),
        ([("fine", "pos"), ("", "neg")], r"test.csv, row 2: no text in column 'text'"),
        ([("fine", "pos"), ("  ", "neg")], r"test.csv, row 2: no text in column 'text'"),
        ([("fine", "pos"), ("dull", 3)], r"test.csv, row 1: label 'pos' in column 'label' is of another type"),
        ([], r"test.csv: the file has no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[tuple[Any, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(three(tmp_path, test=rows))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (7, "label 7 in column 'label' is not one of 0, 1;"),
        (-1, "label -1 in column 'label' is not one of 0, 1;"),
        (0.5, "label '0.5' in column 'label' is of another type"),
        ("x", "label 'x' in column 'label' is of another type"),
    ],
)
def test_a_bad_class_number_is_named(tmp_path: Path, label: Any, message: str) -> None:
    numbers: list[tuple[Any, Any]] = [("fine", 1), ("dull", 0)]
    files = three(tmp_path, train=numbers, validation=numbers, test=[*numbers, ("so so", label)])
    with pytest.raises(UserError, match=rf"test.csv, row 3: {message}"):
        load(files)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "so so", "label": "meh"}', "row 3: 'meh' in column 'label' is of another type"),
        ('{"text": "so so", "label": true}', "row 3: True in column 'label' is of another type"),
        ('{"text": "so so", "label": Infinity}', "row 3: label inf in column 'label' is of another type"),
        ('{"text": "so so", "label": 1e30}', "row 3: label 1e\\+30 in column 'label' is of another type"),
        (
            '{"text": "so so", "label": 18446744073709551615}',
            "row 3: label 1.8.*e\\+19 in column 'label' is of another type",
        ),
        ('{"text": "so so", "label": 0.5}', "row 3: label 0.5 in column 'label' is of another type"),
        ('{"text": null, "label": 1}', "row 3: no text in column 'text'"),
        ('{"text": 7, "label": 1}', "row 3: 7 in column 'text' is not text; name another"),
        ('{"text": "so so", "label": 1', "line 3: not JSON"),
    ],
)
def test_a_bad_row_of_json_is_named(tmp_path: Path, line: str, message: str) -> None:
    for split in dataset.SPLITS:
        (tmp_path / f"{split}.jsonl").write_text('{"text": "fine", "label": 1}\n{"text": "dull", "label": 0}\n')
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=rf"test.jsonl, {message}"):
        load(str(tmp_path))


def test_words_that_readers_take_for_missing_stay_sentences(tmp_path: Path) -> None:
    rows = [("NA", "pos"), ("null", "neg"), ("2012", "pos")]
    assert load(three(tmp_path, train=rows))["train"]["text"] == ["NA", "null", "2012"]


def test_faults_of_files_are_named(tmp_path: Path) -> None:
    files = three(tmp_path)
    for change, message in (
        ({"test": str(tmp_path / "none.csv")}, r"--data.dataset.test .*none.csv: there is no such file"),
        ({"test": csv(tmp_path / "a.csv", header="body,label")}, r"a.csv: no column 'text', only body, label"),
        ({"train": csv(tmp_path / "b.csv", header="text,class")}, r"b.csv: no column 'label', only text, class"),
    ):
        with pytest.raises(UserError, match=message):
            load({**files, **change})
    (tmp_path / "test.csv").write_bytes(b"")
    with pytest.raises(UserError, match=r"test.csv: the file is empty"):
        load(files)
    (tmp_path / "test.csv").write_bytes("text,label\ngut,pos\nsch\xf6n,pos\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"test.csv, line 3: not UTF-8 \(byte 0xf6 at column 4\)"):
        load(files)
    with pytest.raises(UserError, match="names files for test; it needs train, and may have validation and test"):
        load({"test": files["test"]})


def test_training_rows_and_two_classes_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train.csv: column 'label' has the one class 'pos'"):
        load(three(tmp_path, train=[("fine", "pos"), ("dull", "pos")]))
    (tmp_path / "train.csv").unlink()
    with pytest.raises(UserError, match="no split train there, only test, validation"):
        load(str(tmp_path))


def test_data_set_dict_saved_by_datasets_is_not_mistaken(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["fine"], "label": ["pos"]})
    DatasetDict(dict.fromkeys(dataset.SPLITS, rows)).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError):
        load(str(tmp_path / "saved"))


def test_changed_rows_are_read_anew_though_path_size_and_time_are_the_same(tmp_path: Path) -> None:
    files = three(tmp_path)
    for source in (files, str(tmp_path)):
        csv(tmp_path / "train.csv", [("fine", "pos"), ("dull", "neg")])
        before = os.stat(files["train"])
        _, digest = dataset.fetch(source)
        assert load(source)["train"]["text"] == ["fine", "dull"]
        csv(tmp_path / "train.csv", [("dull", "pos"), ("fine", "neg")])
        os.utime(files["train"], ns=(before.st_atime_ns, before.st_mtime_ns))
        assert load(source)["train"]["text"] == ["dull", "fine"]
        assert dataset.fetch(source)[1] != digest


def test_glob_characters_in_names_are_no_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "reviews [v2]*"
    folder.mkdir()
    three(folder)
    assert load(str(folder))["train"]["text"] == ["fine", "dull", "great"]
    files = three(tmp_path)
    csv(tmp_path / "train_other.csv", [("other", "pos"), ("rows", "neg")])
    files["train"] = csv(tmp_path / "train*.csv")
    assert load(files)["train"]["text"] == ["fine", "dull", "great"]
    files["train"] = csv(tmp_path / "train[1].csv")
    assert load(files)["train"]["text"] == ["fine", "dull", "great"]


def test_a_folder_without_data_is_named_by_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"--data.dataset {tmp_path}/empty: .*{tmp_path}/empty"):
        load(str(tmp_path / "empty"))
    (tmp_path / "empty" / "train.txt").write_text("fine\n")
    with pytest.raises(UserError, match=r"empty: a folder of .csv, .tsv, .json, .jsonl, .parquet files is needed"):
        load(str(tmp_path / "empty"))


def test_a_readme_tells_files_and_class_names(tmp_path: Path) -> None:
    header = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *(f"  - {{split: {split}, path: {split[0]}.csv}}" for split in dataset.SPLITS),
        "dataset_info:",
        "  features:",
        "  - {name: text, dtype: string}",
        "  - {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}",
        "---",
    ]
    (tmp_path / "README.md").write_text("\n".join(header) + "\n")
    for split in dataset.SPLITS:
        csv(tmp_path / f"{split[0]}.csv", [("fine", 1), ("dull", 0)])
    train = load(str(tmp_path))["train"]
    assert train.features["label"].names == ["bad", "good"]
    assert train["label"] == [1, 0]


def test_several_files_of_a_split_are_one(tmp_path: Path) -> None:
    for split in dataset.SPLITS:
        csv(tmp_path / f"{split}-0.csv")
        csv(tmp_path / f"{split}-1.csv", [("last", "neg")])
    assert load(str(tmp_path))["test"].to_dict() == {
        "index": [0, 1, 2, 3],
        "text": ["fine", "dull", "great", "last"],
        "label": [1, 0, 1, 0],
    }
    csv(tmp_path / "test-1.csv", [("last", "meh")])
    with pytest.raises(UserError, match=r"\(test\), row 4: label 'meh'"):
        load(str(tmp_path))


def test_a_folder_whose_files_changed_places_has_another_digest(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        (tmp_path / split).mkdir()
        csv(tmp_path / split / "rows.csv", [(split, "pos")])
    digest = dataset.fetch(str(tmp_path))[1]
    (tmp_path / "test").rename(tmp_path / "train")
    assert dataset.fetch(str(tmp_path))[1] != digest
