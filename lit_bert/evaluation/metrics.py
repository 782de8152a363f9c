"""Metrics of evaluated splits: of the model and its classes, of baselines on the same rows, and of slices.

Legend: N rows, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score

from lit_bert.evaluation import baselines
from lit_bert.evaluation.hints import LINEAR, MAJORITY
from lit_bert.evaluation.slices import slices
from lit_bert.modeling.metrics import evaluation_metrics
from lit_bert.modeling.outputs import SplitOutputs

if TYPE_CHECKING:
    from lit_bert.datamodule import TextClassificationDataModule


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, both ends in [0, 1]; there must be at least one row.

    Source: E. B. Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest

    interval = binomtest(correct, rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _share(key: str, correct: int, rows: int) -> dict[str, float | None]:
    """Return the share of rows that are correct, and its 95 % interval `_low` to `_high`; None if there are no rows."""
    low, high = wilson_interval(correct, rows) if rows else (None, None)
    return {key: correct / rows if rows else None, f"{key}_low": low, f"{key}_high": high}


def accuracy_metrics(correct: Tensor) -> dict[str, Any]:
    """Return `rows`, `acc` and its 95 % interval `acc_low`, `acc_high`; `correct` (N,) is true where a row is right."""
    return {"rows": len(correct), **_share("acc", int(correct.sum()), len(correct))}


def per_class_metrics(preds: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each class's `rows`, how many rows are `predicted` as it, and its precision, recall and F1.

    `recall_low` and `recall_high`, `precision_low` and `precision_high` are 95 % intervals. What has no rows to be
    computed from is None.
    """
    counts = [rows.bincount(minlength=len(names)).tolist() for rows in (labels, preds, labels[labels == preds])]
    return {
        name: {
            "rows": rows,
            "predicted": predicted,
            **_share("precision", right, predicted),
            **_share("recall", right, rows),
            "f1": 2 * right / (rows + predicted) if rows + predicted else None,
        }
        for name, rows, predicted, right in zip(names, *counts, strict=True)
    }


def split_metrics(outputs: SplitOutputs, names: Sequence[str]) -> dict[str, Any]:
    """Return what `accuracy_metrics` does, "f1", "auroc" (None if a single class has rows), "ece", "loss", and more.

    `balanced_acc` is the mean recall of the classes that have rows, as "auroc" is a mean of theirs; `classes_with_rows`
    says how many there are, and `classes` has the metrics of each.
    """
    metrics = evaluation_metrics(len(names), sync=False)
    metrics.update(preds=outputs["probs"], target=outputs["labels"], losses=outputs["loss"])
    values = {**metrics.compute(), "loss": outputs["loss"].double().mean()}
    classes = per_class_metrics(outputs["preds"], outputs["labels"], names)
    recalls = [values["recall"] for values in classes.values() if values["rows"]]
    return {
        **{name: float(value) if math.isfinite(value) else None for name, value in values.items()},  # JSON has no NaN
        **accuracy_metrics(outputs["preds"] == outputs["labels"]),
        "balanced_acc": sum(recalls) / len(recalls),
        "classes_with_rows": len(recalls),
        "classes": classes,
    }


def evaluate_splits(
    class_names: Sequence[str], data: "TextClassificationDataModule", outputs: Mapping[str, SplitOutputs]
) -> dict[str, dict[str, Any]]:
    """Return what `split_metrics` does for each split, with `baselines` on the same rows and the accuracy of `slices`.

    `outputs` are predicted rows of "val", "test" or both; the baselines learn from the data module's training rows.
    """
    texts = {split: data.texts(split, rows["index"]) for split, rows in outputs.items()}
    train = data.splits["train"].select_columns(["text", "label"])[:]
    linear = baselines.linear(train["text"], train["label"], *(sentences for sentences, _ in texts.values()))
    results = {}
    for (split, rows), linear_preds in zip(outputs.items(), linear, strict=True):
        labels, correct = rows["labels"], rows["preds"] == rows["labels"]
        results[split] = split_metrics(rows, class_names) | {"baselines": {}, "slices": {}}
        for title, preds in ((MAJORITY, baselines.majority(train["label"], len(labels))), (LINEAR, linear_preds)):
            f1 = multiclass_f1_score(preds, labels, num_classes=len(class_names), average="macro")
            results[split]["baselines"][title] = {**accuracy_metrics(preds == labels), "f1": float(f1)}
        for title, mask in slices(*texts[split]).items():
            results[split]["slices"][title] = accuracy_metrics(correct[torch.from_numpy(mask)])
    return results
