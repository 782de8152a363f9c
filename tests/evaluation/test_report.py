from typing import Any

import pytest
import torch
from conftest import Capture
from rich.console import Console

from lit_bert.evaluation import report
from lit_bert.evaluation.metrics import accuracy_metrics, split_metrics


def results(preds: torch.Tensor, labels: torch.Tensor, names: list[str]) -> dict[str, Any]:
    probs = torch.nn.functional.one_hot(preds, len(names)).float()
    return split_metrics({"preds": preds, "probs": probs, "labels": labels, "loss": torch.zeros(len(labels))}, names)


def test_tables_fit_a_terminal_and_show_names_as_they_are(capsys: Capture) -> None:
    preds, labels = torch.tensor([0, 0, 1, 1] * 3000), torch.tensor([0, 1, 1, 1] * 3000)
    names = ["[/INST]", "[other]"]
    metrics = results(preds, labels, names)
    metrics["baselines"] = {"TF-IDF, linear": {**accuracy_metrics(preds == labels), "f1": 0.5}}
    report.print_results({"validation": metrics}, Console(width=80))
    said = capsys.readouterr().out
    assert "\u2026" not in said
    for name in [*names, "12,000", "0.7422 to 0.7577", "TF-IDF, linear"]:
        assert name in said


@pytest.mark.parametrize(
    "name", ["a class with a name that is longer than any table", "\u4e2d\u6587" * 20, "a\nb" * 30]
)
def test_long_names_are_cut_and_numbers_are_not(capsys: Capture, name: str) -> None:
    classes = {"rows": 1_234_567, "predicted": 1, "f1": 0.25}
    classes |= dict.fromkeys(("precision", "recall", "recall_low", "recall_high"), 0.5)
    metrics = results(torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])
    report.print_results({"test": {**metrics, "classes": {name: classes}}}, Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if "1,234,567" in line]
    assert "\u2026" in line
    assert line.split()[-7:] == ["1,234,567", "0.5000", "0.5000", "0.5000", "to", "0.5000", "0.2500"]


def test_of_many_classes_the_worst_are_printed(capsys: Capture) -> None:
    labels = torch.arange(50).repeat(20)
    preds = labels.clone()
    for number in range(30, 45):  # of these more and more rows are wrong
        preds[(labels == number).nonzero().flatten()[: number - 29]] = 50
    report.print_results({"test": results(preds, labels, [f"class{number}" for number in range(51)])})
    said = capsys.readouterr().out
    shown = [line.split()[0] for line in said.splitlines() if line.split()[:1] and line.split()[0].startswith("class")]
    assert [name for name in shown if name != "class"] == [f"class{number}" for number in range(44, 29, -1)]
    assert "the 15 classes with the lowest F1, of 51; metrics.json has them all" in said
    assert len(said[said.index("class (test)") :].splitlines()) <= 20
    assert "balanced accuracy" in said
    assert "(of the 50 of 51 classes that have rows)" in said
