import pytest
import torch

from lit_bert.evaluation.metrics import per_class_metrics, wilson_interval


@pytest.mark.parametrize(
    ("correct", "rows", "low", "high"), [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval_matches_published_values(correct: int, rows: int, low: float, high: float) -> None:
    """81 of 263 is the example of Newcombe 1998, table I."""
    assert wilson_interval(correct, rows) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_classes_have_their_own_metrics_and_none_where_there_are_no_rows() -> None:
    classes = per_class_metrics(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), ["a", "b", "c"])
    assert [classes["a"][name] for name in ("rows", "predicted", "precision", "recall")] == [1, 2, 0.5, 1]
    assert classes["a"]["f1"] == pytest.approx(2 / 3)
    assert (classes["b"]["precision"], classes["b"]["recall"]) == (1, pytest.approx(2 / 3))
    assert (classes["b"]["recall_low"], classes["b"]["recall_high"]) == wilson_interval(2, 3)
    names = ("rows", "precision", "recall", "recall_low", "f1")
    assert [classes["c"][name] for name in names] == [0, None, None, None, None]
