"""Labels as class numbers, the names of the classes, and what may be wrong with either: each fault is a UserError.

In messages, `where` is what the split is called, a file mostly.
"""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lit_bert.errors import UserError


def check_labelled(labels: pa.ChunkedArray, where: str, column: str) -> None:
    """Check that no plain label is missing."""
    row = _first(pc.is_null(labels))
    if row is not None:
        raise UserError(
            f"{where}, row {row + 1}: no label in column {column!r}, nor in {labels.null_count - 1:,} other rows; fill "
            "them in, or leave such rows out with --data.drop_unlabelled true"
        )


def plain_labels(labels: pa.ChunkedArray, names: list[str] | None, where: str, column: str) -> pa.ChunkedArray:
    """Return labels as text or whole numbers, one kind for the whole column, null where there is none.

    `names` of the data replace numbers; beside them -1 stands for no label, as in data sets of the Hugging Face Hub.
    """
    if pa.types.is_boolean(labels.type) or pa.types.is_null(labels.type):
        labels = labels.cast(pa.string())
    if pa.types.is_string(labels.type):
        labels = pc.if_else(pc.equal(pc.utf8_trim_whitespace(labels), ""), pa.scalar(None, pa.string()), labels)
        bad = pc.invert(pc.match_substring_regex(labels, r"^-?[0-9]{1,18}(\.0*)?$"))
        if pc.all(bad).as_py() or (names is not None and pc.all(pc.is_in(labels.drop_null(), pa.array(names))).as_py()):
            return labels
        labels = labels if pc.any(bad).as_py() else pc.replace_substring_regex(labels, r"\.0*$", "")
    elif pa.types.is_integer(labels.type) or pa.types.is_floating(labels.type):
        values = labels.cast(pa.float64(), safe=False)
        bad = pc.or_(pc.not_equal(pc.floor(values), values), pc.greater(pc.abs(values), 1e18))
        bad = pc.and_(bad, pc.invert(pc.is_nan(values)))
        labels = labels if pa.types.is_integer(labels.type) else pc.if_else(pc.is_nan(values), None, values)
    else:
        bad = pc.is_valid(labels)
    _refuse(bad, labels, where, column, "of another type than it should be; labels are all whole numbers or all text")
    numbers = labels.cast(pa.int64())
    if names is None:
        return numbers
    numbers = pc.if_else(pc.equal(numbers, -1), None, numbers)
    expected = f"0 to {len(names) - 1} ({', '.join(names)}), nor -1 for none"
    _refuse(_outside(numbers, names), numbers, where, column, f"not one of {expected}")
    return pc.take(pa.array(names), numbers)


def class_names_of(feature: object) -> list[str] | None:
    """Return the names of the classes that a column has by its feature in `datasets`, if it is a `ClassLabel`."""
    from datasets import ClassLabel

    return list(feature.names) if isinstance(feature, ClassLabel) else None


def infer_class_names(labels: pa.ChunkedArray, where: str, column: str) -> list[str]:
    """Return the names of the classes, as the plain labels of the training split have them, in a person's order."""
    values = pc.unique(labels.drop_null()).to_pylist()
    names = [str(value) for value in sorted(values, key=None if pa.types.is_integer(labels.type) else _natural_order)]
    if len(names) < 2:
        raise UserError(f"{where}: column {column!r} has the one class {names[0]!r}; a classifier needs two or more")
    return names


def _natural_order(name: str) -> tuple[Any, str]:
    """Return a key by which "class 2" comes before "class 10", and capitals make no difference."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)], name


def encode_labels(labels: pa.ChunkedArray, class_names: list[str], where: str, column: str) -> pa.ChunkedArray:
    """Return plain labels as class numbers, -1 where there is none.

    Text is matched with the names of the classes. So are whole numbers, if all names are such; else they count the
    classes from 0.
    """
    known = ", ".join(class_names)
    if pa.types.is_integer(labels.type) and not all(re.fullmatch(r"-?[0-9]+", name) for name in class_names):
        numbers, bad, known = labels, _outside(labels, class_names), f"0 to {len(class_names) - 1} ({known})"
    else:
        numbers = pc.index_in(labels.cast(pa.string()), pa.array(class_names))
        bad = pc.and_(pc.is_null(numbers), pc.is_valid(labels))
    _refuse(bad, labels, where, column, f"not one of {known}; correct it, or give the classes with --data.class_names")
    return pc.fill_null(numbers.cast(pa.int64()), -1)


def _outside(numbers: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    return pc.or_(pc.less(numbers, 0), pc.greater_equal(numbers, len(names)))


def _first(mask: pa.ChunkedArray) -> int | None:
    """Return the place of the first true value, or None."""
    place: int = pc.index(pc.fill_null(mask, False), True).as_py()
    return place if place >= 0 else None


def _refuse(bad: pa.ChunkedArray, labels: pa.ChunkedArray, where: str, column: str, what: str) -> None:
    row = _first(bad)
    if row is not None:
        raise UserError(f"{where}, row {row + 1}: label {labels[row].as_py()!r} in column {column!r} is {what}")
