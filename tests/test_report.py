import pytest

from lit_bert.report import wilson_interval


@pytest.mark.parametrize(
    ("correct", "rows", "low", "high"), [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval_matches_published_values(correct: int, rows: int, low: float, high: float) -> None:
    """81 of 263 is the example of Newcombe 1998, table I."""
    assert wilson_interval(correct, rows) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
