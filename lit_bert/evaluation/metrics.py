"""Metrics of evaluated splits: of the model and its classes, of baselines on the same rows, and of slices.

Legend: N rows, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
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
    classes = {}
    for number, name in enumerate(names):
        true, positive = labels == number, preds == number
        rows, predicted, right = int(true.sum()), int(positive.sum()), int((true & positive).sum())
        classes[name] = {
            "rows": rows,
            "predicted": predicted,
            **_share("precision", right, predicted),
            **_share("recall", right, rows),
            "f1": 2 * right / (rows + predicted) if rows + predicted else None,
        }
    return classes


def _number(value: Any) -> float | None:
    """Return what JSON can hold of a metric: None if it is not defined, such as the AUROC of one class."""
    return float(value) if math.isfinite(value) else None


def split_metrics(metrics: Mapping[str, Any], outputs: SplitOutputs, names: Sequence[str]) -> dict[str, Any]:
    """Return what `accuracy_metrics` does, the other `metrics` of the module, and `classes`.

    `balanced_acc` is the mean recall of the classes that have rows; so many are `classes_with_rows`, over which "auroc"
    is a mean, too.
    """
    classes = per_class_metrics(outputs["preds"], outputs["labels"], names)
    recalls = [values["recall"] for values in classes.values() if values["rows"]]
    return {
        **accuracy_metrics(outputs["preds"] == outputs["labels"]),
        **{name: _number(value) for name, value in metrics.items() if name != "acc"},
        "balanced_acc": sum(recalls) / len(recalls),
        "classes_with_rows": len(recalls),
        "classes": classes,
    }


def _row_metrics(outputs: SplitOutputs, num_classes: int) -> dict[str, Any]:
    """Return "acc", "f1", "auroc", "ece" and the mean "loss" of recorded rows."""
    metrics = evaluation_metrics(num_classes, sync=False)
    metrics.update(preds=outputs["probs"], target=outputs["labels"], losses=outputs["loss"])
    return {**metrics.compute(), "loss": outputs["loss"].double().mean()}


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
        baseline_preds = {MAJORITY: baselines.majority(train["label"], len(labels)), LINEAR: linear_preds}
        macro_f1 = partial(multiclass_f1_score, target=labels, num_classes=len(class_names), average="macro")
        results[split] = {
            **split_metrics(_row_metrics(rows, len(class_names)), rows, class_names),
            "baselines": {
                title: {**accuracy_metrics(preds == labels), "f1": float(macro_f1(preds))}
                for title, preds in baseline_preds.items()
            },
            "slices": {
                title: accuracy_metrics(correct[torch.from_numpy(mask)])
                for title, mask in slices(*texts[split]).items()
            },
        }
    return results
