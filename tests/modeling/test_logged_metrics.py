import warnings

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics import Accuracy, MetricCollection
from torchmetrics.classification import MulticlassF1Score

from lit_bert.modeling.metrics import evaluation_metrics, training_metrics


def auroc(probs: torch.Tensor, labels: torch.Tensor) -> float:
    metrics = evaluation_metrics(probs.shape[1])
    ignored = torch.full((3,), -100)  # rows that a rank repeats
    probs, labels = torch.cat([probs, probs[:3]]), torch.cat([labels, ignored])
    metrics.update(preds=probs, target=labels, losses=torch.zeros(len(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return float(metrics.compute()["auroc"])


@pytest.mark.parametrize("classes", [2, 4, 6])
def test_auroc_is_the_mean_over_the_classes_that_have_rows(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    probs = torch.rand(200, classes, generator=generator).softmax(dim=1)
    labels = torch.randint(0, min(4, classes), (200,), generator=generator)
    each = [roc_auc_score(labels == number, probs[:, number]) for number in range(min(4, classes))]
    assert auroc(probs, labels) == pytest.approx(sum(each) / len(each), abs=1e-6)


def test_auroc_of_one_class_is_not_defined() -> None:
    assert torch.tensor(auroc(torch.rand(5, 3).softmax(dim=1), torch.zeros(5, dtype=torch.long))).isnan()


def test_training_metrics_are_those_of_torchmetrics_and_leave_out_repeated_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    preds, labels = torch.randint(0, 4, (2, 100), generator=generator)
    ours, theirs = training_metrics(5), MetricCollection({"acc": Accuracy("multiclass", num_classes=5)})
    theirs.add_metrics({"f1": MulticlassF1Score(5)})
    for start in (0, 50):
        ours.update(preds=preds[start : start + 50], target=labels[start : start + 50])
    ours.update(preds=torch.tensor([4]), target=torch.tensor([-100]))
    theirs.update(preds, labels)
    found = {name.removeprefix("train/"): value.item() for name, value in ours.compute().items()}
    assert found == pytest.approx({name: value.item() for name, value in theirs.compute().items()})


def test_the_mean_loss_leaves_out_repeated_rows() -> None:
    metrics = evaluation_metrics(2, "val/")
    probs, labels, losses = torch.rand(3, 2).softmax(dim=1), torch.tensor([0, 1, -100]), torch.tensor([1.0, 2.0, 9.0])
    metrics.update(preds=probs, target=labels, losses=losses)
    assert float(metrics.compute()["val/loss"]) == 1.5
