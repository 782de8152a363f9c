import pytest
import torch
from torch import Tensor

from lit_bert.evaluation import figures

NAMES, KINDS = ["bad", "good", "so-so"], ["ROC", "precision and recall"]


@pytest.fixture
def three() -> tuple[Tensor, Tensor]:
    """Probabilities of 3 classes and labels, 4 rows of which the third is wrong."""
    probs = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
    return probs, torch.tensor([0, 1, 2, 2])


def many(classes: int) -> tuple[Tensor, Tensor, list[str]]:
    """Probabilities and labels of many classes: of each as many rows as its number says, 1 of the first."""
    labels = torch.arange(classes).repeat_interleave(torch.arange(1, classes + 1))
    probs = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    return probs, labels, [f"class {number}" for number in range(classes)]


def legend(figure: figures.Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_figures_show_what_the_rows_say(three: tuple[Tensor, Tensor]) -> None:
    probs, labels = three
    matrix = figures.confusion_matrix(probs.argmax(dim=1), labels, NAMES, "t").axes[0]
    said = [text.get_text().replace("\n", ", ") for text in matrix.texts]
    right, wrong = "1.00, 1 rows", "0.50, 1 rows"
    assert said == [right, "0.00", "0.00", "0.00", right, "0.00", wrong, "0.00", wrong]
    assert matrix.images[0].get_clim() == (0, 1)
    assert (matrix.get_title(), matrix.get_xlabel()) == ("t", "predicted class")
    covered = figures.coverage(probs, labels, "t").axes[0].lines[0]
    assert covered.get_xdata().tolist() == [0.25, 0.5, 0.75, 1]
    assert covered.get_ydata().tolist() == [1, 1, 1, 0.75]
    for kind in KINDS:
        named = legend(figures.curves(kind, probs, labels, NAMES, "t"))
        assert [text.partition(" (")[0] for text in named] == NAMES
        assert named[0] == ("bad (AUC = 1.00)" if kind == "ROC" else "bad (AP = 1.00)")
    drawn = figures.reliability({"as trained": probs}, labels, "t").axes[0]
    line = drawn.lines[1]
    assert line.get_xdata().tolist() == pytest.approx([0.5, 0.7, 0.8, 0.9])
    assert line.get_ydata().tolist() == [0, 1, 1, 1]
    assert drawn.get_legend().get_texts()[0].get_text() == "as trained: calibration error 0.275"


def test_of_two_classes_one_curve_is_drawn(three: tuple[Tensor, Tensor]) -> None:
    probs, labels = three
    [name] = legend(figures.curves("ROC", probs[:, :2], labels.clamp_max(1), ["neg", "pos"], "t"))
    assert name.startswith("pos (")


def test_a_class_without_rows_has_no_curve(three: tuple[Tensor, Tensor]) -> None:
    probs, _ = three
    for kind in KINDS:
        assert len(legend(figures.curves(kind, probs, torch.tensor([0, 1, 1, 0]), NAMES, "t"))) == 2
        assert figures.curves(kind, probs, torch.tensor([2, 2, 2, 2]), NAMES, "t").axes[0].get_legend() is None


def test_a_name_is_no_formula_and_not_too_long(three: tuple[Tensor, Tensor]) -> None:
    probs, labels = three
    names = ["$a_$", "b$", "c" * 100]
    for drawn in (
        figures.curves("ROC", probs, labels, names, "t"),
        figures.curves("precision and recall", probs, labels, names, "t"),
        figures.confusion_matrix(labels, labels, names, "t"),
    ):
        drawn.canvas.draw()
    assert legend(figures.curves("ROC", probs, labels, names, "t"))[2].startswith("c" * 23 + "\u2026 (")


def test_a_confusion_matrix_of_many_classes_has_no_numbers() -> None:
    _, labels, names = many(300)
    axes = figures.confusion_matrix(labels.flip(0), labels, names, "t").axes[0]
    assert len(axes.texts) == 0
    assert len(axes.get_xticks()) == 0
    assert axes.images[0].get_array().sum(axis=1).tolist() == pytest.approx([1.0] * 300)
    assert len(figures.confusion_matrix(*many(30)[1:2] * 2, many(30)[2], "t").axes[0].get_xticks()) == 30


def test_the_pairs_that_are_confused_most_come_first() -> None:
    labels, preds = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 0, 1, 2])
    assert figures.confused_pairs(preds, labels, NAMES) == [
        [NAMES[0], NAMES[1], "2", "0.667"],
        [NAMES[1], NAMES[0], "1", "0.500"],
    ]
    assert figures.confused_pairs(labels, labels, NAMES) == []


def test_of_many_classes_the_curves_of_the_worst_are_drawn() -> None:
    _, labels, names = many(25)
    probs = torch.eye(25)[labels]
    probs[:, 5:13] = probs[:, 5:13].flip(0)  # these classes are hardly known
    for kind in KINDS:
        drawn = figures.curves(kind, probs, labels, names, "t")
        assert {text.partition(" (")[0] for text in legend(drawn)} == set(names[5:13])
        assert drawn.axes[0].get_title() == "t\nthe worst 8 of 25 classes"


def test_no_figure_is_left_in_pyplot(three: tuple[Tensor, Tensor]) -> None:
    import matplotlib.pyplot as plt

    probs, labels = three
    figures.confusion_matrix(labels, labels, NAMES, "t")
    figures.curves("ROC", probs, labels, NAMES, "t")
    assert plt.get_fignums() == []
