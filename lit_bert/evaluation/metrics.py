"""Accuracy with its uncertainty, and the metrics of a split and of its classes.

Legend: N rows.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, both ends in [0, 1]; there must be at least one row.

    Source: E. B. Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, z2 = correct / rows, Z95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 / (1 + z2 / rows) * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def accuracy_metrics(correct: Tensor) -> dict[str, Any]:
    """Return `rows`, `acc` and its 95 % interval `acc_low`, `acc_high`; `correct` (N,) is true where a row is right."""
    right, rows = int(correct.sum()), len(correct)
    low, high = wilson_interval(right, rows)
    return {"rows": rows, "acc": right / rows, "acc_low": low, "acc_high": high}


def per_class_metrics(preds: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each class's `rows`, how many rows are `predicted` as it, and its precision, recall and F1.

    `recall_low` and `recall_high`, `precision_low` and `precision_high` are 95 % intervals. What has no rows to be
    computed from is None.
    """
    classes = {}
    for number, name in enumerate(names):
        rows, predicted = int((labels == number).sum()), int((preds == number).sum())
        right = int(((labels == number) & (preds == number)).sum())
        metrics: dict[str, Any] = {"rows": rows, "predicted": predicted}
        for key, total in (("precision", predicted), ("recall", rows)):
            low, high = wilson_interval(right, total) if total else (None, None)
            metrics |= {key: right / total if total else None, f"{key}_low": low, f"{key}_high": high}
        metrics["f1"] = 2 * right / (rows + predicted) if rows + predicted else None
        classes[name] = metrics
    return classes


def split_metrics(metrics: Mapping[str, Any], outputs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return what `accuracy_metrics` does, then `f1`, `auroc`, `ece`, `loss`, and `classes`.

    `metrics` are those of `BertClassifier.compute_metrics`, `outputs` the rows of the split, `names` those of classes.
    """
    return {
        **accuracy_metrics(outputs["preds"] == outputs["labels"]),
        **{name: float(metrics[name]) for name in ("f1", "auroc", "ece", "loss")},
        "classes": per_class_metrics(outputs["preds"], outputs["labels"], names),
    }
