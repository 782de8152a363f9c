"""Rows of CSV, JSON, Parquet and plain text: one reader for training files and for `predict --input`.

Files are read line by line, so that a fault can be named by its line; and without a cache of their rows, because one
by path and modification time returns the old rows of a file that was changed while its time was not.
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from lit_bert.data.labels import stored_class_names
from lit_bert.errors import UserError, reason

STDIN = "-"
INPUT_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
TABLE_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
_CHUNK_ROWS = 10_000


class Row(NamedTuple):
    """A sentence, and its label if there is one: a class's name or number, as text."""

    text: str
    label: str | None


def read_texts(source: str, text_column: str = "text", label_column: str = "label") -> Iterator[Row]:
    """Yield the rows of a file, which may be larger than memory; an empty one is yielded, too, and so keeps its place.

    Args:
        source: A `.txt` file with a sentence a line, a `.csv`, `.jsonl`, `.json` or `.parquet` file, or "-" for lines
            of standard input.
        text_column: Column of the sentences.
        label_column: Column of the labels, which need not be there.

    Raises:
        UserError: There is no such file or column, or a row cannot be read: it is named, counted from 1.
    """
    if source == STDIN:
        yield from (Row(line.rstrip("\r\n"), None) for line in _decode(sys.stdin.buffer, "--input standard input"))
        return
    path, where = Path(source).expanduser(), f"--input {source}"
    if path.suffix not in (*INPUT_SUFFIXES, ".json"):
        raise UserError(f"{where}: its name must end in one of {', '.join(INPUT_SUFFIXES)}, or be - for standard input")
    with _open(path, where) as file:
        if path.suffix == ".txt":
            yield from (Row(line.rstrip("\r\n"), None) for line in _decode(file, where))
            return
        if path.suffix == ".parquet":
            parquet = _open_parquet(file, where)
            check_columns(where, parquet.schema_arrow.names, text_column=text_column)
            batches = _read_batches(parquet, text_column, label_column)
            rows: Iterator[dict[str, Any] | None] = (row for batch in batches for row in batch.to_pylist())
        else:
            rows = _read_rows(file, where, path.suffix)
        for number, row in enumerate(rows, 1):
            yield _to_row(row, f"{where}, row {number}", text_column, label_column)


def _to_row(row: dict[str, Any] | None, where: str, text_column: str, label_column: str) -> Row:
    if row is None:
        return Row("", None)
    check_columns(where, row, text_column=text_column)
    text, label = row[text_column], row.get(label_column)
    if not isinstance(text, str | None):
        fault = f"{text!r} in column {text_column!r} is not text"
        raise UserError(f"{where}: {fault}; name another column with --data.text_column")
    label = None if label in (None, "") else str(label)
    _check_characters(text or "", where, text_column)
    _check_characters(label or "", where, label_column)
    return Row(text or "", label)


def read_table(files: list[Path], text_column: str, label_column: str) -> tuple[pa.Table, list[str] | None]:
    """Read the files of one split; blank lines are left out.

    Values of CSV stay text, so that a sentence "NA" or "2012" is one; those of JSON and Parquet keep their type.

    Returns:
        The columns `text` and `label`, and the names of the classes if a Parquet file has them (a `ClassLabel`).

    Raises:
        UserError: A file cannot be read or lacks a column, or there are no rows at all.
    """
    names = None
    columns = {"text": _Column(text_column), "label": _Column(label_column)}
    options = {"text_column": text_column, "label_column": label_column}
    for path in files:
        where = str(path)
        with _open(path, where) as file:
            if not path.stat().st_size:
                raise UserError(f"{where}: the file is empty")
            if path.suffix == ".parquet":
                parquet = _open_parquet(file, where)
                check_columns(where, parquet.schema_arrow.names, **options)
                names = names or stored_class_names(parquet.schema_arrow, label_column)
                for batch in _read_batches(parquet, text_column, label_column):
                    for column in columns.values():
                        column.chunks.append(batch[column.name])
                continue
            known: dict[str, Any] = {}
            for number, row in enumerate(filter(None, _read_rows(file, where, path.suffix)), 1):
                known.update(row)
                for column in columns.values():
                    column.append(row.get(column.name), where, number)
        if known:
            check_columns(where, known, **options)
    table = pa.table({name: column.finish(files) for name, column in columns.items()})
    if not len(table):
        raise UserError(f"{', '.join(map(str, files))}: the file has no rows")
    return table, names


def check_columns(where: str, names: Iterable[str], **columns: str) -> None:
    """Raise a UserError if a column is not among `names`; `columns` are by the data module's options for them."""
    for option, column in columns.items():
        if column not in names:
            raise UserError(f"{where}: no column {column!r}, only {', '.join(names)}; name it with --data.{option}")


def _check_characters(value: str, where: str, column: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as bad:
        raise UserError(
            f"{where}: half of a character ({value[bad.start]!r}) in column {column!r}; replace it"
        ) from bad


class _Column:
    """A column of a split: Arrow chunks, and the values that will make the next one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.chunks: list[pa.Array] = []
        self.values: list[Any] = []
        self.kind: type | None = None

    def append(self, value: Any, where: str, number: int) -> None:
        kind = type(value)
        if value is not None and kind is not self.kind:
            mixed = self.kind is not None and {kind, self.kind} != {int, float}
            if mixed or kind not in (str, int, float, bool):
                fault = f"{value!r} in column {self.name!r} is of another type ({kind.__name__})"
                rest = f"in the rows before ({self.kind.__name__})" if self.kind else "text or a number"
                raise UserError(f"{where}, row {number}: {fault} than {rest}")
            self.kind = kind
        if kind is str:
            _check_characters(value, f"{where}, row {number}", self.name)
        self.values.append(value)
        if len(self.values) == _CHUNK_ROWS:
            self._flush()

    def _flush(self) -> None:
        try:
            self.chunks.append(pa.array(self.values))
        except OverflowError:  # an integer of more than 64 bits
            self.chunks.append(pa.array([None if value is None else float(str(value)) for value in self.values]))
        self.values = []

    def finish(self, files: list[Path]) -> pa.ChunkedArray:
        """Return the chunks as one column of one type."""
        self._flush()
        chunks = [chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk for chunk in self.chunks]
        kinds = {chunk.type for chunk in chunks} - {pa.null()}
        if len(kinds) > 1:
            if not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
                types = ", ".join(sorted(map(str, kinds)))
                raise UserError(f"{', '.join(map(str, files))}: column {self.name!r} is of several types: {types}")
            kinds = {pa.float64()}
        kind = kinds.pop() if kinds else pa.null()
        return pa.chunked_array([chunk.cast(kind, safe=False) for chunk in chunks], kind)


@contextmanager
def _open(path: Path, where: str) -> Iterator[BinaryIO]:
    """Open a file, and say of what goes wrong while it is read which file it is."""
    try:
        with path.open("rb") as file:
            yield file
    except pa.ArrowException as error:
        raise UserError(f"{where}: not a Parquet file that can be read ({reason(error)})") from error
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error})") from error


def _decode(lines: Iterable[bytes], where: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as bad:
            fault = f"byte {bad.object[bad.start]:#04x} at column {bad.start + 1}"
            raise UserError(f"{where}, line {number}: not UTF-8 ({fault}); save the file as UTF-8") from bad


def _read_rows(file: BinaryIO, where: str, suffix: str) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a CSV or JSON file, None for a blank line."""
    return _read_csv(file, where) if suffix == ".csv" else _read_json(file, where, array=suffix == ".json")


def _read_csv(file: BinaryIO, where: str) -> Iterator[dict[str, Any] | None]:
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(_decode(file, where), strict=True)
    try:
        header = next(filter(None, lines), [])
        _check_unique(header, where)
        for values in lines:
            if len(values) > len(header):
                fault = f"{len(values)} values, but the header names {len(header)}"
                raise UserError(f"{where}, line {lines.line_num}: {fault}; quote a text that has a comma in it")
            yield dict(itertools.zip_longest(header, values)) if values else None
    except csv.Error as error:
        raise UserError(f"{where}, line {lines.line_num}: not CSV ({error})") from error


def _read_json(file: BinaryIO, where: str, array: bool) -> Iterator[dict[str, Any] | None]:
    """Yield the objects of JSON lines, or of a file that is one `array` of them."""
    lines = _decode(file, where)
    for number, line in enumerate(lines, 1):
        whole = array and number == 1 and line.lstrip().startswith("[")
        text = line + "".join(lines) if whole else line
        try:
            content: Any = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError) as error:
            line_number = getattr(error, "lineno", number) if whole else number
            raise UserError(f"{where}, line {line_number}: not JSON ({reason(error)})") from error
        for place, row in enumerate(content if whole else [content], number):
            if not isinstance(row, dict | None):
                raise UserError(
                    f"{where}, {'row' if whole else 'line'} {place}: not a JSON object with a column for the text"
                )
            yield row


def _open_parquet(file: BinaryIO, where: str) -> Any:
    from pyarrow.parquet import ParquetFile

    parquet = ParquetFile(file)
    _check_unique(parquet.schema_arrow.names, where)
    return parquet


def _read_batches(parquet: Any, *columns: str) -> Iterator[pa.RecordBatch]:
    present = [name for name in parquet.schema_arrow.names if name in columns]
    for batch in parquet.iter_batches(batch_size=1024, columns=present):
        batch.validate(full=True)  # that text is UTF-8
        yield batch


def _check_unique(names: list[str], where: str) -> None:
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{where}: two columns have the name {twice!r}; rename one of them")
