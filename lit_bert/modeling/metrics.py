"""Metrics of training and of evaluated rows: to add one that is logged, add it here.

Rows with label -100 count in none of them: a sampler repeats rows so that all ranks have equally many batches.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
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
        probs, labels = probs[labels != IGNORED], labels[labels != IGNORED]
        present = torch.unique(labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classes without rows
            each = multiclass_auroc(probs, labels, probs.shape[1], average="none", validate_args=False)
        return each[present].mean() if len(present) > 1 else torch.full((), torch.nan, device=probs.device)


def training_metrics(num_classes: int) -> MetricCollection:
    """Return accuracy and macro F1 of training rows, to be updated with `preds` and `target`, both (B,)."""
    return MetricCollection(_class_metrics(num_classes), prefix="train/")


def evaluation_metrics(num_classes: int, prefix: str = "") -> MetricCollection:
    """Return accuracy, macro F1, AUROC, calibration error and mean loss of evaluated rows.

    They are updated with `preds` (probabilities, shape (B, C)), `target` (B,), `value` (the loss of each row, (B,))
    and `weight` (1 for a row that counts, else 0, (B,)).
    """
    options = _options(num_classes)
    metrics: dict[str, Any] = {
        **_class_metrics(num_classes),
        "auroc": PresentClassAUROC(**options),
        "ece": MulticlassCalibrationError(n_bins=ECE_BINS, **options),
        "loss": MeanMetric(nan_strategy="disable"),  # looking for NaN would wait for the GPU at each batch
    }
    return MetricCollection(metrics, prefix=prefix)


def _options(num_classes: int) -> dict[str, Any]:
    return {"num_classes": num_classes, "ignore_index": IGNORED, "validate_args": False}


def _class_metrics(num_classes: int) -> dict[str, Any]:
    options = _options(num_classes)
    return {
        "acc": Accuracy(task="multiclass", average="micro", **options),
        "f1": MulticlassF1Score(average="macro", **options),
    }
