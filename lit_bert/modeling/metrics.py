"""Metrics of training and of evaluated rows: to add one that is logged, add it here.

Rows with label -100 count in none of them: a sampler repeats rows so that all ranks have equally many batches.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import Accuracy, MulticlassAUROC, MulticlassCalibrationError, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_auroc
from torchmetrics.utilities import dim_zero_cat

from lit_bert.data.collate import IGNORED

ECE_BINS = 15
"""Bins of equal width of the expected calibration error."""


class PresentClassAUROC(MulticlassAUROC):
    """The mean of the AUROC of each class against all others, over the classes that have rows; NaN if only one has.

    torchmetrics counts the other classes as 0, and warns.
    """

    def compute(self) -> Tensor:  # type: ignore[override]
        probs, labels = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        present = torch.unique(labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classes without rows
            each = multiclass_auroc(probs, labels, probs.shape[1], average="none", validate_args=False)
        return each[present].mean() if len(present) > 1 else torch.full((), torch.nan, device=probs.device)


class MeanLoss(Metric):
    """The mean loss of rows; MeanMetric takes no weights unless it looks for NaN, which waits for a GPU."""

    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, losses: Tensor, target: Tensor) -> None:
        known = target != IGNORED
        self.total += (losses * known).sum()
        self.count += known.sum()

    def compute(self) -> Tensor:
        return self.total / self.count


class _ClassCounts(Metric):
    """Counts each class's rows that are right, true, and predicted; torchmetrics waits for a GPU at each update."""

    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(3, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        right, true, predicted = self.counts.unbind()
        known = (target != IGNORED).long()
        right.index_add_(0, preds, known * (preds == target))
        true.index_add_(0, target.clamp_min(0), known)
        predicted.index_add_(0, preds, known)


class TrainingAccuracy(_ClassCounts):
    """The share of rows whose class is predicted."""

    def compute(self) -> Tensor:
        right, true, _ = self.counts.unbind()
        return right.sum() / true.sum()


class TrainingF1(_ClassCounts):
    """The mean F1 of the classes that are true or predicted somewhere."""

    def compute(self) -> Tensor:
        right, true, predicted = self.counts.unbind()
        rows = true + predicted
        return (2 * right / rows)[rows > 0].mean()


def training_metrics(num_classes: int) -> MetricCollection:
    """Return accuracy and macro F1 of training rows, to be updated with `preds` and `target`, both (B,)."""
    return MetricCollection({"acc": TrainingAccuracy(num_classes), "f1": TrainingF1(num_classes)}, prefix="train/")


def evaluation_metrics(num_classes: int, prefix: str = "", sync: bool = True) -> MetricCollection:
    """Return accuracy, macro F1, AUROC, calibration error and mean loss of evaluated rows.

    They are updated with `preds` (probabilities, shape (B, C)), `target` (B,) and `losses` (B,). `sync` is whether they
    are those of the rows of all ranks.
    """
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "ignore_index": IGNORED,
        "validate_args": False,
        "sync_on_compute": sync,
    }
    metrics: dict[str, Any] = {
        "acc": Accuracy(task="multiclass", average="micro", **options),
        "f1": MulticlassF1Score(average="macro", **options),
        "auroc": PresentClassAUROC(**options),
        "ece": MulticlassCalibrationError(n_bins=ECE_BINS, **options),
        "loss": MeanLoss(sync_on_compute=sync),
    }
    return MetricCollection(metrics, prefix=prefix)
