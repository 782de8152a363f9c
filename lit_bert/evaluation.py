"""Everything that is told of a split: metrics, baselines on the same rows, kinds of sentences, calibration."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from lit_bert import baselines, calibration, report, slices
from lit_bert.datamodule import RottenTomatoesDataModule
from lit_bert.module import BertClassifier


def records(
    module: BertClassifier, data: RottenTomatoesDataModule, seen: Mapping[str, dict[str, Tensor]]
) -> dict[str, dict[str, Any]]:
    """Return what `report.summary` does, with `baselines` on the same rows and the accuracy of `slices`, by the split.

    Args:
        module: What predicted them.
        data: Where they come from.
        seen: Predictions of rows of "val" or "test" or both, as `module.seen` has them.
    """
    names = module.class_names or []
    read = {split: data.texts(split, rows["index"]) for split, rows in seen.items()}
    train = data.splits["train"].select_columns(["text", "label"])[:]
    words = baselines.linear(train["text"], train["label"], *(texts for texts, _ in read.values()))
    found = {}
    for (split, rows), (texts, lengths), linear in zip(seen.items(), read.values(), words, strict=True):
        labels = rows["labels"]
        others = {
            "majority class": baselines.majority(train["label"], len(texts)),
            "TF-IDF, linear": linear,
        }
        found[split] = {
            **report.summary(module.measure(rows), rows, names),
            "baselines": {
                title: {
                    **report.accuracy(pred == labels),
                    "f1": float(multiclass_f1_score(pred, labels, len(names), average="macro")),
                }
                for title, pred in others.items()
            },
            "slices": {
                title: report.accuracy((rows["pred"] == labels)[torch.from_numpy(mask)])
                for title, mask in slices.slices(texts, lengths).items()
            },
        }
    return found


def trust(val: dict[str, Tensor], test: dict[str, Tensor]) -> dict[str, float]:
    """Return the `temperature` that suits validation rows, and test rows' calibration error without and with it."""
    temperature = calibration.temperature(val["probs"], val["labels"])
    scaled = calibration.scaled(test["probs"], temperature)
    return {
        "temperature": temperature,
        "test_ece": calibration.error(test["probs"], test["labels"]),
        "test_ece_calibrated": calibration.error(scaled, test["labels"]),
    }
