from typing import Any

import pytest

from lit_bert.evaluation.hints import hints

FINE = {"epochs": 3, "best_epoch": 2, "stopped_early": False, "class_weights": None, "train_rows": None}
FINE |= {"monitor": "val/acc", "loss_rose": False}


def results(acc: float = 0.8, majority: float = 0.5, linear: float = 0.7, predicted: tuple[int, int] = (5, 5)) -> Any:
    classes = {
        name: {"predicted": count, "recall": float(count > 0)}
        for name, count in zip(("bad", "good"), predicted, strict=True)
    }
    baselines = {"majority class": {"acc": majority}, "TF-IDF, linear": {"acc": linear, "f1": linear / 2}}
    return {"test": {"acc": acc, "f1": 0.4, "baselines": baselines, "classes": classes, "classes_with_rows": 2}}


@pytest.mark.parametrize(
    ("found", "options", "lines"),
    [
        (results(), {}, []),
        (
            results(acc=0.6),
            {},
            ["TF-IDF is better, accuracy 0.7000 against 0.6000: train longer (--trainer.max_epochs 6)"],
        ),
        (results(acc=0.6), {"monitor": "val/f1"}, []),
        (results(linear=0.9), {"monitor": "val/f1"}, ["TF-IDF is better, macro F1 0.4500 against 0.4000: "]),
        (results(acc=0.6), {"train_rows": 100}, ["with all rows (--data.train_rows null)"]),
        (results(acc=0.4), {}, ["always answering the most frequent class is right more often", "TF-IDF is better"]),
        (results(linear=0.0, predicted=(10, 0)), {}, ["every test row is predicted as 'bad'"]),
        (results(linear=0.0, predicted=(0, 10)), {}, ["--model.class_weights balanced"]),
        (results(), {"best_epoch": 3}, ["in the last epoch; more may help (--trainer.max_epochs 6)"]),
        (results(), {"best_epoch": 3, "stopped_early": True}, []),
        (results(), {"best_epoch": 3, "loss_rose": True}, []),
        (results(), {"best_epoch": 1, "epochs": 1}, []),
        (results(acc=1.0), {"best_epoch": 3}, []),
        ({}, {}, []),
    ],
)
def test_what_is_wrong_is_said(found: Any, options: dict[str, Any], lines: list[str]) -> None:
    said = hints(found, FINE | options)
    assert len(said) == len(lines)
    for line, part in zip(said, lines, strict=True):
        assert part in line


def test_a_class_of_which_no_row_is_recognised_is_named() -> None:
    found = results()
    found["test"]["classes"]["rare"] = {"predicted": 1, "recall": 0.0}
    found["test"]["classes"]["absent"] = {"predicted": 0, "recall": None}
    [line] = hints(found, FINE)
    assert line == (
        "no test row of rare is recognised: add training rows of it, or weigh rare classes more "
        "(--model.class_weights balanced)"
    )


def test_weights_that_are_there_are_not_advised() -> None:
    [line] = hints(results(linear=0.0, predicted=(10, 0)), FINE | {"class_weights": "balanced"})
    assert "class_weights" not in line
