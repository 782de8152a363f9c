import csv
from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, Features, Value

from lit_bert import predictions


def test_no_batches_are_no_predictions() -> None:
    assert predictions.gather([]) == {}


def test_batches_in_any_order_become_one_ordered_file(tmp_path: Path) -> None:
    features = Features({"index": Value("int64"), "text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    texts = ['a "quoted", one', "two\nlines", "three"]
    rows = Dataset.from_dict({"index": [5, 7, 2], "text": texts, "label": [0, 1, 1]}, features=features)
    batches = [
        {"index": torch.tensor([7]), "pred": torch.tensor([1]), "probs": torch.tensor([[0.25, 0.75]])},
        {"index": torch.tensor([7]), "pred": torch.tensor([0]), "probs": torch.tensor([[0.75, 0.25]])},  # repeated
        {"index": torch.tensor([2, 5]), "pred": torch.tensor([0, 0]), "probs": torch.tensor([[0.5, 0.5], [1.0, 0.0]])},
    ]
    predictions.write(str(tmp_path / "predictions.csv"), "csv", predictions.gather(batches), rows)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["index", "text", "label", "pred", "score", "prob_no", "prob_yes"]
    assert lines == [
        ["2", "three", "yes", "no", "0.500000", "0.500000", "0.500000"],
        ["5", 'a "quoted", one', "no", "no", "1.000000", "1.000000", "0.000000"],
        ["7", "two\nlines", "yes", "yes", "0.750000", "0.250000", "0.750000"],
    ]
