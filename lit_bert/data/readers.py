"""Texts and labels of tables: one reader for training files and for `predict --input`."""

import itertools
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
    read_lines,
    read_parquet,
    read_rows,
    suffix_of,
)
from lit_bert.data.labels import stored_class_names
from lit_bert.errors import UserError

_CHUNK_ROWS = 10_000


class Row(NamedTuple):
    """A sentence, its label if there is one (a class's name or number, as text), and the second one of a pair.

    `kept` are the values of other columns that were asked for.
    """

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
        """Whether there is something to predict from: no text is blank."""
        return bool(self.text.strip()) and (self.text_pair is None or bool(self.text_pair.strip()))


def read_texts(source: str, format: TableFormat = DEFAULT_FORMAT, keep: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a file, which may be larger than memory; an empty one is yielded, too, and so keeps its place.

    `source` is a `.txt` file with a sentence a line, a table (CSV, TSV, JSON, Parquet), either of them as it is or
    compressed, or "-" for lines of standard input. The column of the labels need not be there; those to `keep` must.
    """
    path, where = Path(source).expanduser(), f"--input {'standard input' if source == STDIN else source}"
    suffix = ".txt" if source == STDIN else suffix_of(path)
    if suffix not in (*INPUT_SUFFIXES, ".json"):
        raise UserError(f"{where}: its name must end in one of {', '.join(INPUT_SUFFIXES)}, or be - for standard input")
    if suffix == ".txt" and format.text_pair_column:
        raise UserError(f"{where}: a line is one text, but this model takes pairs; give a table with both columns")
    if suffix == ".txt" and keep:
        raise UserError(f"--keep {','.join(keep)}: a line of text has no columns; give a table")
    required = {option: column for option, column in format.columns.items() if option != "label_column"}
    with open_file(path, where) as file:
        rows: Iterator[dict[str, Any] | None]
        if suffix == ".txt":
            rows = ({format.text_column: line.rstrip("\r\n")} for line in read_lines(file, where))
        elif suffix == ".parquet":
            batches = read_parquet(file, where, [*format.columns.values(), *keep], **required)
            rows = (row for batch in batches for row in batch.to_pylist())
        else:
            rows = read_rows(file, where, suffix, format)
        for number, row in enumerate(rows, 1):
            blank = Row("", None, "" if format.text_pair_column else None, (None,) * len(keep))
            yield blank if row is None else _to_row(row, f"{where}, row {number}", format, required, keep)


def _to_row(row: dict[str, Any], where: str, format: TableFormat, required: dict[str, str], keep: Sequence[str]) -> Row:
    check_columns(where, row, **required)
    texts = {column: row[column] for column in required.values()}
    for option, column in required.items():
        if not isinstance(text := texts[column], str | None):
            fault = f"{text!r} in column {column!r} is not text"
            raise UserError(f"{where}: {fault}; name another column with --data.{option}")
        _check_characters(text or "", where, column)
    label = row.get(format.label_column)
    label = None if label in (None, "") else str(label).lower() if isinstance(label, bool) else str(label)
    _check_characters(label or "", where, format.label_column)
    pair = texts[format.text_pair_column] or "" if format.text_pair_column else None
    return Row(texts[format.text_column] or "", label, pair, tuple(_kept(row, column, where) for column in keep))


def _kept(row: dict[str, Any], column: str, where: str) -> Any:
    """Return the value of a column that is carried along, as JSON can have it."""
    if column not in row:
        raise UserError(f"{where}: no column {column!r}; correct --keep")
    value = row[column]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    _check_characters(json.dumps(value, ensure_ascii=False, default=str), where, column)
    return value


def read_table(files: list[Path], format: TableFormat, labelled: bool = True) -> tuple[pa.Table, list[str] | None]:
    """Return the rows of the files of one split, and the names of their classes if a Parquet file has a `ClassLabel`.

    The table has the columns `text`, `label`, and `text_pair` if there is one. Values of CSV stay text, so that a
    sentence "NA" or "2012" is one; those of JSON and Parquet keep their type. Blank lines are left out. If rows need
    not be `labelled`, the column of the labels may be missing.
    """
    columns = format.columns
    required = columns if labelled else {name: column for name, column in columns.items() if name != "label_column"}
    types: dict[str, type] = {}
    batches: list[pa.RecordBatch] = []
    for path in files:
        where = str(path)
        with open_file(path, where) as file:
            if not path.stat().st_size:
                raise UserError(f"{where}: the file is empty")
            if suffix_of(path) == ".parquet":
                batches += read_parquet(file, where, columns.values(), **required)
            else:
                rows = read_rows(file, where, suffix_of(path), format)
                batches += _to_batches(rows, where, columns, required, types)
    where = ", ".join(map(str, files))
    if not sum(map(len, batches)):
        raise UserError(f"{where}: the file has no rows")
    names = {"text_column": "text", "text_pair_column": "text_pair", "label_column": "label"}
    table = {names[option]: _join(batches, where, column) for option, column in columns.items()}
    known = filter(None, (stored_class_names(batch.schema, format.label_column) for batch in batches))
    return pa.table(table), next(known, None)


def _to_batches(
    rows: Iterator[dict[str, Any] | None],
    where: str,
    columns: dict[str, str],
    required: dict[str, str],
    types: dict[str, type],
) -> Iterator[pa.RecordBatch]:
    """Yield columns, some rows at a time; `types` has the type of each column's values in the rows before."""
    known: dict[str, Any] = {}
    numbered = enumerate(filter(None, rows), 1)
    while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
        for number, row in chunk:
            known.update(row)
            for column in columns.values():
                _check_value(row.get(column), f"{where}, row {number}", column, types)
        yield pa.record_batch({name: _to_array([row.get(name) for _, row in chunk]) for name in columns.values()})
    if known:
        check_columns(where, known, **required)


def _check_value(value: Any, where: str, column: str, types: dict[str, type]) -> None:
    kind, before = type(value), types.get(column)
    if value is not None and kind is not before:
        if kind not in (str, int, float, bool) or (before is not None and {kind, before} != {int, float}):
            rest = f"in the rows before ({before.__name__})" if before else "text or a number"
            raise UserError(f"{where}: {value!r} in column {column!r} is of another type ({kind.__name__}) than {rest}")
        types[column] = kind
    if kind is str:
        _check_characters(value, where, column)


def _to_array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except OverflowError:  # an integer of more than 64 bits
        return pa.array([None if value is None else float(str(value)) for value in values])


def _join(batches: list[pa.RecordBatch], where: str, column: str) -> pa.ChunkedArray:
    """Return a column of batches with one type; it is null where they lack it."""
    chunks = [batch[column] if column in batch.schema.names else pa.nulls(len(batch)) for batch in batches]
    chunks = [chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk for chunk in chunks]
    types = {chunk.type for chunk in chunks} - {pa.null()}
    if types and types <= {pa.string(), pa.large_string()}:
        types = {pa.string()}
    if len(types) > 1:
        if not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in types):
            raise UserError(f"{where}: column {column!r} is of several types: {', '.join(sorted(map(str, types)))}")
        types = {pa.float64()}
    kind = types.pop() if types else pa.null()
    return pa.chunked_array([chunk.cast(kind, safe=False) for chunk in chunks], kind)


def _check_characters(value: str, where: str, column: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as bad:
        fault = f"half of a character ({value[bad.start]!r}) in column {column!r}"
        raise UserError(f"{where}: {fault}; replace it") from bad
