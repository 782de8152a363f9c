"""Pictures of what a classifier does, drawn with matplotlib on white paper, for a light page or a dark one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
    binary_roc,
)

from lit_bert import calibration
from lit_bert.report import wilson_interval


def _drawing(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 4.4), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _plain(name: str) -> str:
    """Return a name that matplotlib takes for no formula."""
    return name.replace("$", r"\$")


def confusion_matrix(pred: Tensor, labels: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw how many rows of each class are predicted as which; `pred` and `labels` have shape (rows,)."""
    figure, axes = _drawing(title, "", "")
    matrix = MulticlassConfusionMatrix(len(class_names), sync_on_compute=False)  # only one rank draws
    matrix.update(pred, labels)
    matrix.plot(ax=axes, labels=[_plain(name) for name in class_names], cmap="Blues")
    axes.set_title(title)
    axes.set_xlabel("predicted class", fontsize="medium")
    axes.set_ylabel("true class (numbers are rows)", fontsize="medium")
    return figure


def _curved(class_names: Sequence[str]) -> list[tuple[int, str]]:
    """Return which classes get a curve: of two, the second, for the first one's would tell the same."""
    named = [(number, _plain(name)) for number, name in enumerate(class_names)]
    return named[1:] if len(named) == 2 else named


def precision_recall(probs: Tensor, labels: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw precision over recall of each class against the others; `probs` has shape (rows, classes)."""
    figure, axes = _drawing(title, "recall (share of the class's rows found)", "precision (share of found rows right)")
    for number, name in _curved(class_names):
        true = (labels == number).long()
        precision, recall, _ = binary_precision_recall_curve(probs[:, number], true)
        area = float(binary_average_precision(probs[:, number], true))
        axes.plot(recall.numpy(), precision.numpy(), label=f"{name}: average precision {area:.3f}")
        axes.axhline(float(true.float().mean()), color="gray", linestyle=":", linewidth=1)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
    axes.legend(loc="lower left")
    return figure


def roc(probs: Tensor, labels: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw the true positive rate over the false positive rate of each class; `probs` has shape (rows, classes)."""
    figure, axes = _drawing(title, "false positive rate", "true positive rate")
    for number, name in _curved(class_names):
        true = (labels == number).long()
        false_positive, true_positive, _ = binary_roc(probs[:, number], true)
        axes.plot(
            false_positive, true_positive, label=f"{name}: area {float(binary_auroc(probs[:, number], true)):.3f}"
        )
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", linewidth=1)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right")
    return figure


def reliability(kinds: Mapping[str, Tensor], labels: Tensor, title: str) -> Figure:
    """Draw accuracy over confidence, in the bins of the calibration error; a point's area is its number of rows.

    Args:
        kinds: Probabilities of the same rows, shape (rows, classes), by what to call them.
        labels: Class numbers, shape (rows,).
        title: What stands above.
    """
    figure, axes = _drawing(title, "confidence (probability of the predicted class)", "accuracy")
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", linewidth=1)
    edges = torch.linspace(0, 1, calibration.BINS + 1)
    lowest = 1.0
    for name, probs in kinds.items():
        confidence, pred = probs.max(dim=1)
        bins = torch.bucketize(confidence, edges[1:-1])
        sizes = torch.bincount(bins, minlength=calibration.BINS)
        mean, accuracy = (
            (torch.bincount(bins, values.double(), calibration.BINS) / sizes)[sizes > 0].numpy()
            for values in (confidence, pred == labels)
        )
        lowest = min(lowest, float(mean.min()))
        error = calibration.error(probs, labels)
        [line] = axes.plot(mean, accuracy, linewidth=1, label=f"{name}: calibration error {error:.3f}")
        areas = (400 * sizes[sizes > 0] / sizes.sum() + 4).numpy()
        axes.scatter(mean, accuracy, s=areas, color=line.get_color(), alpha=0.6)
    axes.set(xlim=(lowest - 0.03, 1.01), ylim=(-0.02, 1.04))
    axes.legend(loc="lower right")
    return figure


def coverage(probs: Tensor, labels: Tensor, title: str) -> Figure:
    """Draw the accuracy of the most confident rows over the share that they are; `probs` has shape (rows, classes)."""
    figure, axes = _drawing(title, "coverage (share of rows kept, the most confident first)", "accuracy of these rows")
    confidence, pred = probs.max(dim=1)
    correct = (pred == labels)[confidence.argsort(descending=True, stable=True)].numpy().cumsum()
    kept = np.unique(np.linspace(1, len(correct), min(len(correct), 1000)).astype(int))
    accuracy = correct[kept - 1] / kept
    ends = np.array([wilson_interval(int(correct[rows - 1]), int(rows)) for rows in kept])
    axes.plot(kept / len(correct), accuracy, label=f"accuracy of all rows {accuracy[-1]:.3f}")
    axes.fill_between(kept / len(correct), ends[:, 0], ends[:, 1], alpha=0.2, linewidth=0, label="95 % interval")
    axes.set(xlim=(0, 1.01), ylim=(max(0.0, float(accuracy.min()) - 0.1), 1.01))
    axes.legend(loc="lower left")
    return figure


def slices(accuracies: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draw the accuracy of each slice with its interval: what `report.accuracy` returned, by the slice's title."""
    figure, axes = _drawing(title, "accuracy, with its 95 % interval", "")
    titles = [f"{name} ({record['rows']:,})" for name, record in accuracies.items()]
    middle, low, high = (
        np.array([record[key] for record in accuracies.values()]) for key in ("acc", "acc_low", "acc_high")
    )
    axes.errorbar(middle, titles, xerr=np.maximum(0, [middle - low, high - middle]), fmt="o", capsize=3)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.4)
    return figure
