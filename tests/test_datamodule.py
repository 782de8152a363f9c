import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Patch
from datasets import load_dataset

from lit_bert import TextClassificationDataModule
from lit_bert.data.cache import cache_dir
from lit_bert.errors import UserError


def ready(**settings: object) -> TextClassificationDataModule:
    data = TextClassificationDataModule(**settings)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup("fit")
    return data


def test_draws_the_rows_that_datasets_draws(reviews: Path, tiny_bert: str) -> None:
    data = ready(dataset=str(reviews), tokenizer=tiny_bert, train_rows=12, sample_seed=123)
    raw = load_dataset("csv", data_files={"train": str(reviews / "train.csv")}, split="train")
    drawn = raw.shuffle(seed=123).select(range(12))
    assert data.splits["train"]["text"] == drawn["text"]
    assert [data.class_names[label] for label in data.splits["train"]["label"]] == drawn["label"]
    assert [raw[index]["text"] for index in data.splits["train"]["index"]] == drawn["text"]
    assert set(data.splits["train"]["label"]) == {0, 1}
    assert (len(data.splits["val"]), len(data.splits["test"])) == (20, 30)


def test_a_batch_is_padded_to_its_longest_row_or_to_max_length(reviews: Path, tiny_bert: str) -> None:
    dynamic = ready(dataset=str(reviews), tokenizer=tiny_bert, batch_size=20)
    for batch in dynamic.train_dataloader():
        assert 0 < batch["labels"].sum() < 20  # though the file has one class after the other
        assert (batch["input_ids"] != 0).sum(1).max() == batch["input_ids"].shape[1]
    fixed = ready(dataset=str(reviews), tokenizer=tiny_bert, padding="max_length")
    assert {batch["input_ids"].shape[1] for batch in fixed.train_dataloader()} == {32}
    assert ready(dataset=str(reviews), tokenizer=tiny_bert, max_length=4).splits["train"][0]["input_ids"][-1] == 3


def test_what_is_cached_is_read_and_what_changed_is_not(reviews: Path, tiny_bert: str, monkeypatch: Patch) -> None:
    first = ready(dataset=str(reviews), tokenizer=tiny_bert)
    text = (reviews / "test.csv").read_text().replace("lovely", "great film")
    monkeypatch.setattr("lit_bert.data.dataset.load", None)  # a second reading would fail
    assert ready(dataset=str(reviews), tokenizer=tiny_bert).splits["test"]["text"] == first.splits["test"]["text"]
    monkeypatch.undo()
    (reviews / "test.csv").write_text(text)
    assert "great film" in ready(dataset=str(reviews), tokenizer=tiny_bert).splits["test"]["text"]


def test_validation_on_the_test_rows_is_an_option(reviews: Path, tiny_bert: str) -> None:
    data = ready(dataset=str(reviews), tokenizer=tiny_bert, val_split="test", val_rows=10, test_rows=10)
    assert data.splits["val"]["text"] == data.splits["test"]["text"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ["pos"]}, r"--data.class_names \['pos'\]: at least two"),
        ({"folds": 3, "fold": 4}, "--data.fold 4: it must be one of 1 to --data.folds 3"),
        ({"folds": 3, "val_split": "test"}, "--data.val_split test: folds are of the training and validation rows"),
        ({"folds": 1}, "--data.folds 1: it must be at least 2"),
        ({"holdout": 0.5}, "--data.holdout 0.5: it must be between 0 and 0.5"),
        ({"delimiter": ";;"}, "--data.delimiter ';;': give one character"),
        ({"padding": [32, 16]}, r"--data.padding \[32, 16\]: give rising lengths"),
        ({"long_text": "head_tail", "text_pair_column": "b"}, "--data.long_text head_tail: of pairs .* heads are read"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TextClassificationDataModule(**settings)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train.arrow", changed),
        ("test.arrow", os.remove),
        ("manifest.json", truncated),
        ("checksums.json", truncated),
    ],
)
def test_a_damaged_cache_is_noticed_and_made_again(
    reviews: Path, tiny_bert: str, name: str, damage: Any, monkeypatch: Patch, capsys: Any
) -> None:
    first = ready(dataset=str(reviews), tokenizer=tiny_bert)
    rows = {split: content[:] for split, content in first.splits.items()}
    folder = cache_dir() / "tokenised" / first.fingerprint
    damage(folder / name)
    monkeypatch.setattr("lit_bert.data.cache._intact", set())  # as in a new process
    again = ready(dataset=str(reviews), tokenizer=tiny_bert)
    assert {split: content[:] for split, content in again.splits.items()} == rows
    assert f"cache    {folder} is damaged, or of an older version; it is made again\n" in capsys.readouterr().err
