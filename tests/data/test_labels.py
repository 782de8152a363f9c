import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lit_bert.data.labels import check_labelled, encode_labels, infer_class_names, plain_labels
from lit_bert.errors import UserError


def plain(values: Any, kind: pa.DataType | None = None, names: list[str] | None = None) -> list[Any]:
    return plain_labels(pa.chunked_array([pa.array(values, kind)]), names, "test.csv", "label").to_pylist()


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 1, math.inf], pa.float64()),
        ([0, 1, -math.inf], pa.float32()),
        ([0, 1, 1e30], pa.float64()),
        ([0, 1, 0.5], pa.float32()),
        ([0, 1, 2**64 - 1], pa.uint64()),
        (np.array([0, 1, 0.5], np.float16), pa.float16()),
        ([b"a", b"b", b"c"], pa.binary()),
        ([[0], [1], [0]], pa.list_(pa.int64())),
        (["0", "1", "9" * 30], pa.string()),
    ],
)
def test_labels_that_are_neither_text_nor_class_numbers(labels: Any, kind: pa.DataType) -> None:
    with pytest.raises(UserError, match=r"test.csv, row [13]: label .* in column 'label' is of another type than it"):
        plain(labels, kind)


def test_numbers_of_any_type_are_class_numbers() -> None:
    for kind in (pa.int8(), pa.uint64(), pa.float32(), pa.float64()):
        assert plain([0, 1, 2], kind) == [0, 1, 2]
    assert plain(np.array([0, 1], np.float16), pa.float16()) == [0, 1]
    assert plain(["0", "1"]) == [0, 1]


def test_names_that_the_data_gives_its_classes() -> None:
    assert plain([1, 0], names=["neg", "pos"]) == ["pos", "neg"]
    assert plain(["1", "0"], names=["neg", "pos"]) == ["pos", "neg"]
    assert plain(["2", "1"], names=["1", "2"]) == ["2", "1"]
    assert plain([1, -1], names=["neg", "pos"]) == ["pos", None]
    with pytest.raises(UserError, match=r"row 2: label 2 in column 'label' is not one of 0 to 1 \(neg, pos\), nor -1"):
        plain([1, 2], names=["neg", "pos"])


def test_a_missing_label_is_counted_where_there_must_be_one() -> None:
    for labels in (["a", None], ["a", ""], ["a", " "], [1, None], [1.0, math.nan], [True, None]):
        assert plain(labels)[1] is None
    with pytest.raises(UserError, match=r"test.csv, row 2: no label in column 'label', nor in 2 other rows; fill them"):
        check_labelled(pa.chunked_array([["a", None, "b"], [None, None]]), "test.csv", "label")


def classes(labels: list[Any]) -> tuple[list[str], list[int]]:
    values = plain_labels(pa.chunked_array([labels]), None, "train.csv", "label")
    names = infer_class_names(values, "train.csv", "label")
    return names, encode_labels(values, names, "train.csv", "label").to_pylist()


def test_labels_become_numbers_of_classes_in_a_persons_order() -> None:
    assert classes(["pos", "neg", "pos"]) == (["neg", "pos"], [1, 0, 1])
    assert classes([5, 1, 3, 10]) == (["1", "3", "5", "10"], [2, 0, 1, 3])
    assert classes(["1", "-1", ""]) == (["-1", "1"], [1, 0, -1])
    assert classes([True, False]) == (["false", "true"], [1, 0])
    assert classes(["2.0", "1.0"]) == (["1", "2"], [1, 0])
    assert classes(["class 10", "Class 2", "b"])[0] == ["b", "Class 2", "class 10"]


def test_names_that_are_given_are_those_of_the_data_or_count_from_0() -> None:
    def encode(labels: list[Any], names: list[str]) -> list[int]:
        return encode_labels(pa.chunked_array([labels]), names, "train.csv", "label").to_pylist()

    assert encode([1, 0, 1], ["bad", "good"]) == [1, 0, 1]
    assert encode([1, 5, None], ["5", "1"]) == [1, 0, -1]
    with pytest.raises(UserError, match=r"row 2: label 'neg' in column 'label' is not one of pos, good; correct it"):
        encode(["pos", "neg"], ["pos", "good"])
    with pytest.raises(UserError, match=r"row 1: label 0 in column 'label' is not one of 1, 2"):
        encode([0, 1], ["1", "2"])
    with pytest.raises(UserError, match=r"row 2: label 2 in column 'label' is not one of 0 to 1 \(a, b\)"):
        encode([0, 2], ["a", "b"])
