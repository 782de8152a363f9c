"""Labels as class numbers, the names of the classes, and what may be wrong with either: each fault is a UserError.

In messages, `where` is what the split is called, a file mostly.
"""

import pyarrow as pa
import pyarrow.compute as pc

from lit_bert.errors import UserError


def check_filled(values: pa.ChunkedArray, where: str, column: str, kind: str) -> None:
    """Check that no value is missing or blank text; `kind` says what values are, "text" or "label"."""
    is_text = pa.types.is_string(values.type)
    row = _first(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(values, "")), "") if is_text else pc.is_null(values))
    if row is not None:
        raise UserError(f"{where}, row {row + 1}: no {kind} in column {column!r}; fill it in, or leave the row out")


def plain_labels(labels: pa.ChunkedArray, names: list[str] | None, where: str, column: str) -> pa.ChunkedArray:
    """Return labels as text or whole numbers, one kind for the whole column; `names` of the data replace numbers."""
    check_filled(labels, where, column, "label")
    if pa.types.is_string(labels.type):
        bad = pc.invert(pc.match_substring_regex(labels, r"^-?[0-9]{1,18}$"))
        if pc.all(bad).as_py() or (names is not None and pc.all(pc.is_in(labels, pa.array(names))).as_py()):
            return labels
    elif pa.types.is_integer(labels.type) or pa.types.is_floating(labels.type):
        values = labels.cast(pa.float64(), safe=False)
        bad = pc.or_(pc.not_equal(pc.floor(values), values), pc.greater(pc.abs(values), 1e18))
        labels = labels if pa.types.is_integer(labels.type) else values
    else:
        bad = pc.is_valid(labels)
    advice = "labels are all class numbers (whole, from 0) or all class names (text)"
    _refuse(bad, labels, where, column, f"of another type than it should be; {advice}")
    numbers = labels.cast(pa.int64())
    if names is None:
        return numbers
    expected = f"0 to {len(names) - 1} ({', '.join(names)}); rows without a label cannot be used"
    _refuse(_outside(numbers, names), numbers, where, column, f"not one of {expected}")
    return pc.take(pa.array(names), numbers)


def stored_class_names(schema: pa.Schema, label_column: str) -> list[str] | None:
    """Return the names of the classes that `datasets` has written into a Parquet file's metadata."""
    if b"huggingface" not in (schema.metadata or {}):
        return None
    from datasets import Features

    features = Features.from_arrow_schema(pa.schema([schema.field(label_column)], schema.metadata))
    return getattr(features[label_column], "names", None)


def infer_class_names(labels: pa.ChunkedArray, where: str, column: str) -> list[str]:
    """Return the names of the classes, sorted, as the plain labels of the training split have them."""
    names = sorted(pc.unique(labels).to_pylist())
    if pa.types.is_integer(labels.type):
        if names != list(range(len(names))):
            raise UserError(
                f"{where}: the class numbers in column {column!r} are {', '.join(map(str, names[:10]))}; "
                "they must count from 0 without a gap, or give the classes with --data.class_names"
            )
        names = [str(number) for number in names]
    if len(names) < 2:
        raise UserError(f"{where}: column {column!r} has the one class {names[0]!r}; a classifier needs two or more")
    return names


def encode_labels(labels: pa.ChunkedArray, class_names: list[str], where: str, column: str) -> pa.ChunkedArray:
    """Return plain labels as class numbers."""
    known = ", ".join(class_names)
    if pa.types.is_integer(labels.type):
        numbers, bad, known = labels, _outside(labels, class_names), f"0 to {len(class_names) - 1} ({known})"
    else:
        numbers = pc.index_in(labels, pa.array(class_names))
        bad = pc.is_null(numbers)
    _refuse(bad, labels, where, column, f"not one of {known}; correct it, or give the classes with --data.class_names")
    return numbers


def _outside(numbers: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    return pc.or_(pc.less(numbers, 0), pc.greater_equal(numbers, len(names)))


def _first(mask: pa.ChunkedArray) -> int | None:
    """Return the place of the first true value, or None."""
    place: int = pc.index(mask, True).as_py()
    return place if place >= 0 else None


def _refuse(bad: pa.ChunkedArray, labels: pa.ChunkedArray, where: str, column: str, what: str) -> None:
    row = _first(bad)
    if row is not None:
        raise UserError(f"{where}, row {row + 1}: label {labels[row].as_py()!r} in column {column!r} is {what}")
