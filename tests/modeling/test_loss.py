from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lit_bert.errors import UserError
from lit_bert.modeling.loss import LossWeights


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 90 + [1] * 9 + [2]
    weights = LossWeights("balanced", 3)
    assert weights.values.tolist() == [1, 1, 1]
    weights.update(SimpleNamespace(splits={"train": {"label": labels}}), training=True)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights.values.tolist() == pytest.approx(expected.tolist())
    assert weights.values[labels].mean().item() == pytest.approx(1)
    assert not weights.state_dict()  # which leaves checkpoints as they are


def test_weights_that_are_given_and_mistakes() -> None:
    with pytest.raises(UserError, match="give a number for each of 3 classes"):
        LossWeights([1.0, 2.0], 3)
    with pytest.raises(UserError, match="give a list"):
        LossWeights("balanced", 2).update(None, training=True)
    assert LossWeights(None, 2).values is None
    torch.testing.assert_close(LossWeights([1.0, 2.0], 2).values, torch.tensor([1.0, 2.0]))
