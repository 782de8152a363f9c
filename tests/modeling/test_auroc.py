import warnings

import pytest
import torch
from sklearn.metrics import roc_auc_score

from lit_bert.data.collate import IGNORED
from lit_bert.modeling.metrics import PresentClassAUROC


def auroc(probs: torch.Tensor, labels: torch.Tensor) -> float:
    metric = PresentClassAUROC(num_classes=probs.shape[1], ignore_index=IGNORED, validate_args=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(probs, labels)
        return float(metric.compute())


@pytest.mark.parametrize("classes", [2, 4, 6])
def test_auroc_is_the_mean_over_the_classes_that_have_rows(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    probs = torch.rand(200, classes, generator=generator).softmax(dim=1)
    labels = torch.randint(0, min(4, classes), (200,), generator=generator)
    each = [roc_auc_score(labels == number, probs[:, number]) for number in range(min(4, classes))]
    assert auroc(probs, labels) == pytest.approx(sum(each) / len(each), abs=1e-6)
    repeated = torch.cat([labels, torch.full((9,), IGNORED)])
    assert auroc(torch.cat([probs, probs[:9]]), repeated) == pytest.approx(sum(each) / len(each), abs=1e-6)


def test_auroc_of_one_class_is_not_defined() -> None:
    assert torch.tensor(auroc(torch.rand(5, 3).softmax(dim=1), torch.zeros(5, dtype=torch.long))).isnan()
