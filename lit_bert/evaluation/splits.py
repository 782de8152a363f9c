"""All metrics of evaluated splits: those of the model, of baselines on the same rows, of slices, of calibration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from lit_bert.evaluation import baselines
from lit_bert.evaluation.calibration import apply_temperature, expected_calibration_error, fit_temperature
from lit_bert.evaluation.metrics import accuracy_metrics, split_metrics
from lit_bert.evaluation.slices import slices
from lit_bert.modeling.outputs import SplitOutputs

if TYPE_CHECKING:
    from lit_bert.datamodule import TextClassificationDataModule
    from lit_bert.module import BertClassifier


def evaluate_splits(
    module: "BertClassifier", datamodule: "TextClassificationDataModule", outputs: Mapping[str, SplitOutputs]
) -> dict[str, dict[str, Any]]:
    """Return what `split_metrics` does for each split, with `baselines` on the same rows and the accuracy of `slices`.

    Args:
        module: The classifier.
        datamodule: Where the rows come from; the baselines learn from its training rows.
        outputs: Predicted rows of "val", "test" or both, as in `module.epoch_outputs`.
    """
    from torchmetrics.functional.classification import multiclass_f1_score

    names = module.class_names or []
    texts = {split: datamodule.texts(split, rows["index"]) for split, rows in outputs.items()}
    train = datamodule.splits["train"].select_columns(["text", "label"])[:]
    linear = baselines.linear(train["text"], train["label"], *(sentences for sentences, _ in texts.values()))
    results = {}
    for (split, rows), linear_preds in zip(outputs.items(), linear, strict=True):
        sentences, lengths = texts[split]
        labels, correct = rows["labels"], rows["preds"] == rows["labels"]
        baseline_preds = {
            "majority class": baselines.majority(train["label"], len(labels)),
            "TF-IDF, linear": linear_preds,
        }
        results[split] = {
            **split_metrics(module.compute_metrics(rows), rows, names),
            "baselines": {
                title: {
                    **accuracy_metrics(preds == labels),
                    "f1": float(multiclass_f1_score(preds, labels, len(names), average="macro")),
                }
                for title, preds in baseline_preds.items()
            },
            "slices": {
                title: accuracy_metrics(correct[torch.from_numpy(mask)])
                for title, mask in slices(sentences, lengths).items()
            },
        }
    return results


def calibration_metrics(val: SplitOutputs, test: SplitOutputs) -> dict[str, float]:
    """Return the `temperature` that fits validation rows, and test rows' calibration error without and with it."""
    temperature = fit_temperature(val["probs"], val["labels"])
    calibrated = apply_temperature(test["probs"], temperature)
    return {
        "temperature": temperature,
        "test_ece": expected_calibration_error(test["probs"], test["labels"]),
        "test_ece_calibrated": expected_calibration_error(calibrated, test["labels"]),
    }
