"""What a data set may look like, and what is said of one that may not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

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
    assert load(files, class_names=["bad", "good"])["train"].features["label"].names == ["bad", "good"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "so so", "label": "meh"}', "row 3: label 'meh' in column 'label' is of another type"),
        ('{"text": "so so", "label": [1]}', "row 3: label \\[1\\] in column 'label' is of another type"),
        ('{"text": "so so", "label": 1e30}', "row 3: label 1e\\+30 in column 'label' is of another type"),
        ('{"text": "so so", "label": 7}', "row 3: label 7 in column 'label' is not one of 0, 1;"),
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


def test_rows_without_a_label_are_left_out_on_request_and_kept_for_prediction(tmp_path: Path) -> None:
    rows = [("odd", ""), *ROWS, ("so so", "")]
    files = three(tmp_path, train=rows, test=rows)
    with pytest.raises(UserError, match=r"train.csv, row 1: no label in column 'label', nor in 1 other rows; fill"):
        load(files)
    splits = load(files, drop_unlabelled=True)
    assert splits["train"].to_dict() == {"index": [1, 2, 3], "text": ["fine", "dull", "great"], "label": [1, 0, 1]}
    assert splits["test"]["label"] == [-1, 1, 0, 1, -1]
    with pytest.raises(UserError, match=r"train.csv: no row has a label in column 'label'"):
        load(three(tmp_path, train=rows[:1]), drop_unlabelled=True)


def test_files_and_folders_that_hold_no_data_set(tmp_path: Path) -> None:
    files = three(tmp_path)
    with pytest.raises(UserError, match="names files for test; it needs train, and may have validation and test"):
        load({"test": files["test"]})
    Path("a.txt").touch()
    with pytest.raises(UserError, match=r"--data.dataset.test a.txt: its name must end in one of .csv, .tsv, .json"):
        load({**files, "test": "a.txt"})
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "train.txt").write_text("fine\n")
    with pytest.raises(UserError, match=r"empty: a folder of .csv, .tsv, .json, .jsonl, .parquet files is needed"):
        load(str(folder))


def test_changed_rows_are_read_anew_though_path_size_and_time_are_the_same(tmp_path: Path) -> None:
    files = three(tmp_path)
    for source in (files, str(tmp_path)):
        csv(tmp_path / "train.csv", [("fine", "pos"), ("dull", "neg")])
        before = os.stat(files["train"])
        digest = dataset.fetch(source)[1]
        csv(tmp_path / "train.csv", [("dull", "pos"), ("fine", "neg")])
        os.utime(files["train"], ns=(before.st_atime_ns, before.st_mtime_ns))
        assert load(source)["train"]["text"] == ["dull", "fine"]
        assert dataset.fetch(source)[1] != digest
    digest = dataset.fetch(str(tmp_path))[1]
    (tmp_path / "test.csv").rename(tmp_path / "dev.csv")
    assert dataset.fetch(str(tmp_path))[1] != digest


def test_glob_characters_in_names_are_no_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "reviews [v2]*"
    folder.mkdir()
    three(folder)
    assert load(str(folder))["train"]["text"] == ["fine", "dull", "great"]
    files = three(tmp_path)
    csv(tmp_path / "train_other.csv", [("other", "pos"), ("rows", "neg")])
    assert load({**files, "train": csv(tmp_path / "train[_]*.csv")})["train"]["text"] == ["fine", "dull", "great"]


def test_a_readme_tells_files_and_class_names(tmp_path: Path) -> None:
    classes = {"class_label": {"names": {"0": "bad", "1": "good"}}}
    features = [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": classes}]
    files = [{"split": split, "path": f"{split[0]}.csv"} for split in dataset.SPLITS]
    header = {"configs": [{"config_name": "default", "data_files": files}], "dataset_info": {"features": features}}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(header)}\n---\n")
    for split in dataset.SPLITS:
        csv(tmp_path / f"{split[0]}.csv", [("fine", 1), ("dull", 0)])
    train = load(str(tmp_path))["train"]
    assert train.features["label"].names == ["bad", "good"]
    assert train["label"] == [1, 0]


def test_several_files_of_a_split_are_one(tmp_path: Path) -> None:
    for split in dataset.SPLITS:
        csv(tmp_path / f"{split}-0.csv")
        csv(tmp_path / f"{split}-1.csv", [("last", "neg")])
    columns = {"index": [0, 1, 2, 3], "text": ["fine", "dull", "great", "last"], "label": [1, 0, 1, 0]}
    assert load(str(tmp_path))["test"].to_dict() == columns
    csv(tmp_path / "test-1.csv", [("last", "meh")])
    with pytest.raises(UserError, match=r"\(test\), row 4: label 'meh'"):
        load(str(tmp_path))
