import contextlib
import csv
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Capture
from datasets import ClassLabel, Dataset, Features, Value

from lit_bert.errors import UserError
from lit_bert.inference.predictions import open_output, write_predictions
from lit_bert.modeling.outputs import gather_outputs


def test_batches_in_any_order_become_one_ordered_file(tmp_path: Path) -> None:
    features = Features({"index": Value("int64"), "text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    texts = ['a "quoted", one', "two\nlines", "three"]
    rows = Dataset.from_dict({"index": [5, 7, 2], "text": texts, "label": [0, 1, 1]}, features=features)
    batches = [
        {"index": torch.tensor([7]), "preds": torch.tensor([1]), "probs": torch.tensor([[0.25, 0.75]])},
        {"index": torch.tensor([7]), "preds": torch.tensor([0]), "probs": torch.tensor([[0.75, 0.25]])},  # repeated
        {"index": torch.tensor([2, 5]), "preds": torch.tensor([0, 0]), "probs": torch.tensor([[0.5, 0.5], [1.0, 0.0]])},
    ]
    outputs = gather_outputs(batches, deduplicate=True)
    write_predictions(str(tmp_path / "predictions.csv"), "csv", outputs, rows)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["row", "text", "label", "pred", "score", "prob_no", "prob_yes"]
    assert lines == [
        ["3", "three", "yes", "no", "0.500000", "0.500000", "0.500000"],
        ["6", 'a "quoted", one', "no", "no", "1.000000", "1.000000", "0.000000"],
        ["8", "two\nlines", "yes", "yes", "0.750000", "0.250000", "0.750000"],
    ]


def write(output: Path | str, text: str = "new") -> None:
    with open_output(str(output)) as file:
        file.write(text)


def test_a_file_is_replaced_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), open_output(str(path)) as file:
        file.write("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    write(path)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_memory_is_replaced_like_any_other() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "out.csv"
        for text in ("first", "second"):
            write(path, text)
            assert path.read_text() == text


def test_of_a_symbolic_link_the_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target.csv", tmp_path / "link.csv"
    link.symlink_to("folder/target.csv")
    for text in ("first", "second"):  # there is no target at first
        write(link, text)
        assert link.is_symlink()
        assert target.read_text() == text


def test_what_is_no_plain_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "null"):
        write(path)
        assert Path(path).is_char_device()
    assert (tmp_path / "null").is_symlink()
    with (tmp_path / "log").open("w") as file:
        file.write("old ")
        file.flush()
        write(f"/dev/fd/{file.fileno()}")
    assert (tmp_path / "log").read_text() == "old new"


@pytest.fixture
def stdout_to(capfd: Capture) -> Iterator[Callable[[int], object]]:
    """A function that lets standard output go to an open file, for the length of a test."""
    saved = os.dup(1)
    yield lambda descriptor: os.dup2(descriptor, 1)
    os.dup2(saved, 1)
    os.close(saved)


def test_standard_output_that_cannot_be_written(stdout_to: Callable[[int], object]) -> None:
    with Path("/dev/full").open("w") as full:
        stdout_to(full.fileno())
        with pytest.raises(UserError, match=r"--output -: cannot be written \(No space left on device\); name another"):
            write("-")
    reading, writing = os.pipe()
    os.close(reading)
    stdout_to(writing)
    with pytest.raises(SystemExit) as stop:
        write("-", "text\n" * 100_000)
    assert stop.value.code == 141  # as a shell reports that the reader has left
    os.close(writing)
