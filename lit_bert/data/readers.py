"""Texts and labels of tables: one reader for training files and for `predict --input`."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lit_bert.data.formats import (
    DEFAULT_FORMAT,
    INPUT_SUFFIXES,
    STDIN,
    TableFormat,
    check_columns,
    open_file,
    read_rows,
    suffix_of,
)
from lit_bert.data.labels import class_names_of, plain_label
from lit_bert.errors import UserError


class Row(NamedTuple):
    """A text, its label if there is one (as text), the second text of a pair, and values of columns to keep."""

    text: str
    label: str | None
    text_pair: str | None = None
    kept: tuple[Any, ...] = ()

    @property
    def content(self) -> str | tuple[str, str]:
        """The text, or the two of a pair."""
        return self.text if self.text_pair is None else (self.text, self.text_pair)

    @property
    def is_filled(self) -> bool:
        """Whether no text is blank."""
        return all(text.strip() for text in (self.text, self.text_pair) if text is not None)


def read_texts(
    source: str, format: TableFormat = DEFAULT_FORMAT, keep: Sequence[str] = (), option: str = "--input"
) -> Iterator[Row]:
    """Yield the rows of a file, or of "-" for standard input; empty ones, too, so that each keeps its place.

    The column of the labels need not be there; those to `keep` must. `option` is what messages call the file by.
    """
    path, where = Path(source).expanduser(), f"{option} {'standard input' if source == STDIN else source}"
    suffix = suffix_of(path)
    if suffix not in INPUT_SUFFIXES:
        raise UserError(f"{where}: its name must end in one of {', '.join(INPUT_SUFFIXES)}, or be - for standard input")
    if suffix == ".txt" and format.text_pair_column:
        raise UserError(f"{where}: a line is one text, but this model takes pairs; give a table with both columns")
    if suffix == ".txt" and keep:
        raise UserError(f"--keep {','.join(keep)}: a line of text has no columns; give a table")
    blank = Row("", None, "" if format.text_pair_column else None, (None,) * len(keep))
    names = _stored_class_names(path, where, format.label_column) if suffix == ".parquet" else None
    for number, row in enumerate(read_rows(path, where, format, format.text_columns, keep), 1):
        if names and row:  # numbers stand for names, as in training, -1 for none
            row[format.label_column] = dict(enumerate(names)).get(row[format.label_column])
        yield blank if row is None else _to_row(row, f"{where}, row {number}", format, keep)


def _to_row(row: dict[str, Any], where: str, format: TableFormat, keep: Sequence[str] = ()) -> Row:
    check_columns(where, row, **format.text_columns)
    for option, column in format.text_columns.items():
        if not isinstance(text := row[column], str | None):
            fault = f"{text!r} in column {column!r} is not text"
            raise UserError(f"{where}: {fault}; name another column with --data.{option}")
        _check_characters(text or "", where, column)
    label = plain_label(row.get(format.label_column))
    _check_characters(label or "", where, format.label_column)
    pair = row[format.text_pair_column] or "" if format.text_pair_column else None
    return Row(row[format.text_column] or "", label, pair, tuple(_kept(row, column, where) for column in keep))


def _kept(row: dict[str, Any], column: str, where: str) -> Any:
    """Return a value of a column, as JSON can have it."""
    if column not in row:
        raise UserError(f"{where}: no column {column!r}; correct --keep")
    value = row[column]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    _check_characters(json.dumps(value, ensure_ascii=False, default=str), where, column)
    return value


def read_table(
    files: list[Path], format: TableFormat, labelled: bool = True
) -> tuple[dict[str, list[Any]], list[str] | None]:
    """Return the columns of the files of one split, and the names of the classes if a Parquet file has a `ClassLabel`.

    Labels are as the file has them. Blank lines are left out, but a row without text is an error. If rows need not be
    `labelled`, the column of the labels may be missing.
    """
    required = format.columns if labelled else format.text_columns
    texts, pairs, labels = [], [], []
    for path in files:
        where = str(path)
        names: dict[str, None] = {}
        for number, values in enumerate(filter(None, read_rows(path, where, format, required)), 1):
            names |= dict.fromkeys(values)
            place = f"{where}, row {number}"
            row = _to_row(values, place, format)
            if blank := [name for name in format.text_columns.values() if not (values[name] or "").strip()]:
                raise UserError(f"{place}: no text in column {blank[0]!r}; fill it in, or leave the row out")
            texts.append(row.text)
            pairs.append(row.text_pair)
            labels.append(values.get(format.label_column))
        if names:
            check_columns(where, names, **required)
        elif not path.stat().st_size:
            raise UserError(f"{where}: the file is empty")
    if not texts:
        raise UserError(f"{', '.join(map(str, files))}: the file has no rows")
    stored = (
        _stored_class_names(path, str(path), format.label_column) for path in files if suffix_of(path) == ".parquet"
    )
    pair = {"text_pair": pairs} if format.text_pair_column else {}
    return {"text": texts, **pair, "label": labels}, next(filter(None, stored), None)


def _stored_class_names(path: Path, where: str, column: str) -> list[str] | None:
    """Return the names of the classes that `datasets` has written into a Parquet file's metadata."""
    from pyarrow.parquet import read_schema

    with open_file(path, where) as file:
        schema = read_schema(file)
    if b"huggingface" not in (schema.metadata or {}) or column not in schema.names:
        return None
    from datasets import Features

    return class_names_of(Features.from_arrow_schema(pa.schema([schema.field(column)], schema.metadata))[column])


def _check_characters(value: str, where: str, column: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as bad:
        fault = f"half of a character ({value[bad.start]!r}) in column {column!r}"
        raise UserError(f"{where}: {fault}; replace it") from bad
