"""Metrics of a split, logged as train/..., val/... and test/..., and kept in metrics.json: to add one, add it here."""

import warnings
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import Accuracy, MulticlassAUROC, MulticlassCalibrationError, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_auroc
from torchmetrics.utilities import dim_zero_cat

from lit_bert.modeling.outputs import SplitOutputs

ECE_BINS = 15
"""Bins of equal width of the expected calibration error."""


class PresentClassAUROC(MulticlassAUROC):
    """The mean of the AUROC of each class against all others, over the classes that have rows; NaN if one alone has.

    torchmetrics counts the others as 0, and warns.
    """

    def compute(self) -> Tensor:  # type: ignore[override]
        probs, labels = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        present = torch.unique(labels)
        if len(present) == probs.shape[1]:
            return super().compute()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the classes without rows
            each = multiclass_auroc(probs, labels, probs.shape[1], average="none", validate_args=False)
        return each[present].mean() if len(present) > 1 else torch.full((), torch.nan, device=probs.device)


def make_metrics(num_classes: int) -> tuple[MetricCollection, MetricCollection]:
    """Return the metrics of training rows, of which only predicted classes are kept, and those of evaluated rows.

    They are updated at an epoch's end with the rows of all ranks, in their order, and not in each step: rows that a
    sampler repeats for the sake of equal batch counts count once, a sum's last digit is that of a single rank, and an
    epoch that was resumed has the rows of before. So they are not to be synchronised once more.
    """
    options: Any = {"num_classes": num_classes, "validate_args": False, "sync_on_compute": False}
    of_preds: dict[str, Any] = {
        "acc": Accuracy(task="multiclass", average="micro", **options),
        "f1": MulticlassF1Score(average="macro", **options),
    }
    of_probs: dict[str, Any] = {
        "auroc": PresentClassAUROC(**options),
        "ece": MulticlassCalibrationError(n_bins=ECE_BINS, **options),
    }
    return MetricCollection(of_preds), MetricCollection(of_preds | of_probs)


def compute_metrics(metrics: MetricCollection, outputs: SplitOutputs) -> dict[str, Tensor]:
    """Return the values of `metrics` of some rows, and if they were evaluated their mean `loss`."""
    metrics = metrics.to(outputs["labels"].device)
    metrics.update(outputs["probs"] if "probs" in outputs else outputs["preds"], outputs["labels"])
    values = cast(dict[str, Tensor], dict(metrics.compute()))
    metrics.reset()
    if "loss" in outputs and "probs" in outputs:  # losses of training rows are of different weights
        values["loss"] = outputs["loss"].double().mean().float()
    return values
