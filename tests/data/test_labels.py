import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lit_bert.data.labels import encode_labels, infer_class_names, plain_labels
from lit_bert.errors import UserError


def plain(values: Any, kind: pa.DataType | None = None, names: list[str] | None = None) -> list[Any]:
    return plain_labels(pa.chunked_array([pa.array(values, kind)]), names, "test.csv", "label").to_pylist()


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 1, math.inf], pa.float64()),
        ([0, 1, -math.inf], pa.float32()),
        ([0, 1, math.nan], pa.float64()),
        ([0, 1, 1e30], pa.float64()),
        ([0, 1, 0.5], pa.float32()),
        ([0, 1, 2**64 - 1], pa.uint64()),
        (np.array([0, 1, 0.5], np.float16), pa.float16()),
        ([b"a", b"b", b"c"], pa.binary()),
        ([[0], [1], [0]], pa.list_(pa.int64())),
        ([True, False, True], pa.bool_()),
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
    with pytest.raises(UserError, match=r"row 2: label -1 in column 'label' is not one of 0 to 1 \(neg, pos\); rows"):
        plain([1, -1], names=["neg", "pos"])


def test_a_missing_label() -> None:
    for labels in (["a", None], ["a", ""], ["a", " "], [1, None]):
        with pytest.raises(UserError, match=r"test.csv, row 2: no label in column 'label'"):
            plain(labels)


def test_labels_become_numbers() -> None:
    labels = pa.chunked_array([["pos", "neg"], ["pos"]])
    names = infer_class_names(labels, "train.csv", "label")
    assert names == ["neg", "pos"]
    assert encode_labels(labels, names, "train.csv", "label").to_pylist() == [1, 0, 1]
    with pytest.raises(UserError, match=r"row 2: label 'neg' in column 'label' is not one of pos, good; correct it"):
        encode_labels(labels, ["pos", "good"], "train.csv", "label")
    with pytest.raises(UserError, match=r"are 0, 2; they must count from 0"):
        infer_class_names(pa.chunked_array([[0, 2]]), "train.csv", "label")
