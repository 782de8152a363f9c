import math
from typing import Any

import pytest

from lit_bert.data.labels import encode_labels, infer_class_names, plain_labels
from lit_bert.errors import UserError


def plain(labels: list[Any], names: list[str] | None = None) -> list[Any]:
    return plain_labels(labels, names, "test.csv", "label")


@pytest.mark.parametrize(
    "bad", [math.inf, -math.inf, 1e30, 0.3, 10**18, "9" * 30, "x", "0.3", "1e3", b"a", [0], True], ids=str
)
def test_a_label_that_is_no_class_number_like_the_others(bad: Any) -> None:
    with pytest.raises(UserError, match=r"test.csv, row 3: label .* in column 'label' is of another type than it"):
        plain(["0", "1", bad] if isinstance(bad, str) else [0, 1, bad])


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([0, 1.0, 2], None, [0, 1, 2]),
        (["0", "1.00"], None, [0, 1]),
        (["a", "b ", "\u00a0a"], None, ["a", "b", "a"]),
        (["007", "010"], None, ["007", "010"]),
        (["7", "010", "+1", ""], None, ["7", "010", "+1", None]),
        (["4.5", "5", "0.5", "3+"], None, ["4.5", "5", "0.5", "3+"]),
        ([4.5, 5.0, 0, None], None, ["4.5", "5", "0", None]),
        ([True, "False", "True"], None, ["true", "false", "true"]),
        (["True", "FALSE", "true", "Half"], None, ["true", "false", "true", "Half"]),
        (["-0", "1", 0.0], None, [0, 1, 0]),
        ([0, "pos", -1, 1, None], ["neg", "pos"], ["neg", "pos", None, "pos", None]),
        ([True, False, None], None, ["true", "false", None]),
        ([1, 0], ["neg", "pos"], ["pos", "neg"]),
        (["1", "0"], ["neg", "pos"], ["pos", "neg"]),
        (["2", "1"], ["1", "2"], ["2", "1"]),
        ([1, -1], ["neg", "pos"], ["pos", None]),
        (["a", "", " ", None], None, ["a", None, None, None]),
        ([1.0, math.nan, None], None, [1, None, None]),
        ([None], None, [None]),
    ],
)
def test_labels_are_text_or_numbers_or_missing(labels: list[Any], names: list[str] | None, expected: list[Any]) -> None:
    assert plain(labels, names) == expected


def classes(labels: list[Any]) -> tuple[list[str], list[int]]:
    values = plain(labels)
    names = infer_class_names(values, "train.csv", "label")
    return names, encode_labels(values, names, "train.csv", "label")


def test_labels_become_numbers_of_classes_in_a_persons_order() -> None:
    assert classes(["pos", "neg", "pos"]) == (["neg", "pos"], [1, 0, 1])
    assert classes([5, 1, 3, 10]) == (["1", "3", "5", "10"], [2, 0, 1, 3])
    assert classes(["1", "-1", ""]) == (["-1", "1"], [1, 0, -1])
    assert classes(["class 10", "Class 2", "b"])[0] == ["b", "Class 2", "class 10"]


def test_names_that_are_given_are_those_of_the_data_or_count_from_0() -> None:
    def encode(labels: list[Any], names: list[str]) -> list[int]:
        return encode_labels(labels, names, "train.csv", "label")

    assert encode([1, 0, 1], ["bad", "good"]) == [1, 0, 1]
    assert encode([1, 5, None], ["5", "1"]) == [1, 0, -1]
    assert encode(["TRUE", "true", "True"], ["false", "TRUE"]) == [1, 1, 1]
    for labels, names, message in (
        (["pos", "neg"], ["pos", "good"], r"row 2: label 'neg' in column 'label' is not one of pos, good; correct it"),
        ([0, 1], ["1", "3+"], "row 1: label 0 in column 'label' is not one of 1, 3+"),
        ([0, 1], ["1", "2"], "row 1: label 0 in column 'label' is not one of 1, 2"),
        ([0, 2], ["a", "b"], r"row 2: label 2 in column 'label' is not one of 0 to 1 \(a, b\)"),
    ):
        with pytest.raises(UserError, match=message):
            encode(labels, names)
    with pytest.raises(UserError, match=r"row 2: label 2 in column 'label' is not one of 0 to 1 \(neg, pos\), nor -1"):
        plain([1, 2], names=["neg", "pos"])
