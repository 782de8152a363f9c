"""Everything that is told of a split: metrics, baselines on the same rows, kinds of sentences, calibration."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from lit_bert import baselines, calibration, report, slices
from lit_bert.datamodule import RottenTomatoesDataModule
from lit_bert.module import BertClassifier


def record(
    module: BertClassifier, data: RottenTomatoesDataModule, split: str, rows: dict[str, Tensor]
) -> dict[str, Any]:
    """Return what `report.summary` does, with `baselines` on the same rows, and the accuracy of `slices`.

    Args:
        module: What predicted them.
        data: Where they come from.
        split: "val" or "test".
        rows: Predictions of rows of the split, as `module.seen` has them.
    """
    names, labels = module.class_names or [], rows["labels"]
    texts, lengths = data.texts(split, rows["index"])
    train = data.splits["train"].select_columns(["text", "label"])[:]
    others = {
        "majority class": baselines.majority(train["label"], len(texts)),
        "TF-IDF, logistic": baselines.linear(train["text"], train["label"], texts),
    }
    right = rows["pred"] == labels
    return {
        **report.summary(module.measure(rows), rows, names),
        "baselines": {
            title: {
                **report.accuracy(pred == labels),
                "f1": float(multiclass_f1_score(pred, labels, len(names), average="macro")),
            }
            for title, pred in others.items()
        },
        "slices": {
            title: report.accuracy(right[torch.from_numpy(mask)])
            for title, mask in slices.slices(texts, lengths).items()
        },
    }


def trust(val: dict[str, Tensor], test: dict[str, Tensor]) -> dict[str, float]:
    """Return the `temperature` that suits validation rows, and test rows' calibration error without and with it."""
    temperature = calibration.temperature(val["probs"], val["labels"])
    scaled = calibration.scaled(test["probs"], temperature)
    return {
        "temperature": temperature,
        "test_ece": calibration.error(test["probs"], test["labels"]),
        "test_ece_calibrated": calibration.error(scaled, test["labels"]),
    }
