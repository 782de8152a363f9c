import pytest
import torch
from rich.console import Console

from lit_bert import report
from lit_bert.report import wilson_interval


@pytest.mark.parametrize(
    ("correct", "rows", "low", "high"), [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval_matches_published_values(correct: int, rows: int, low: float, high: float) -> None:
    """81 of 263 is the example of Newcombe 1998, table I."""
    assert wilson_interval(correct, rows) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_classes_have_their_own_figures_and_none_where_there_are_no_rows() -> None:
    found = report.classes(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), ["a", "b", "c"])
    assert (found["a"]["rows"], found["a"]["predicted"], found["a"]["precision"], found["a"]["recall"]) == (
        1,
        2,
        0.5,
        1,
    )
    assert found["a"]["f1"] == pytest.approx(2 / 3)
    assert (found["b"]["precision"], found["b"]["recall"]) == (1, pytest.approx(2 / 3))
    assert (found["b"]["recall_low"], found["b"]["recall_high"]) == wilson_interval(2, 3)
    assert [found["c"][name] for name in ("rows", "precision", "recall", "recall_low", "f1")] == [
        0,
        None,
        None,
        None,
        None,
    ]


def test_tables_fit_a_terminal_and_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    pred, labels = torch.tensor([0, 0, 1, 1] * 3000), torch.tensor([0, 1, 1, 1] * 3000)
    names = ["[/INST]", "[other]"]
    metrics = {"f1": 0.7, "auroc": 0.7, "ece": 0.7, "loss": 0.7}
    record = report.summary(metrics, {"pred": pred, "labels": labels}, names)
    record["baselines"] = {"TF-IDF, linear": {**report.accuracy(pred == labels), "f1": 0.5}}
    report.show(Console(width=80), {"validation": record})
    said = capsys.readouterr().out
    assert "\u2026" not in said
    for name in [*names, "12,000", "0.7422 to 0.7577", "TF-IDF, linear"]:
        assert name in said
