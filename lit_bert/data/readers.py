"""Rows of CSV, JSON, Parquet and plain text: one reader for training files and for `predict --input`.

Files are read line by line, so that a fault can be named by its line; and without a cache of their rows, because one
by path and modification time returns the old rows of a file that was changed while its time was not. What cannot be
read is a UserError that names the file and the row, counted from 1.
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
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

    `source` is a `.txt` file with a sentence a line, a `.csv`, `.jsonl`, `.json` or `.parquet` file, or "-" for lines
    of standard input. The column of the labels need not be there.
    """
    path, where = Path(source).expanduser(), f"--input {'standard input' if source == STDIN else source}"
    suffix = ".txt" if source == STDIN else path.suffix
    if suffix not in (*INPUT_SUFFIXES, ".json"):
        raise UserError(f"{where}: its name must end in one of {', '.join(INPUT_SUFFIXES)}, or be - for standard input")
    with _open(path, where) as file:
        rows: Iterator[dict[str, Any] | None]
        if suffix == ".txt":
            rows = ({text_column: line.rstrip("\r\n")} for line in _decode(file, where))
        elif suffix == ".parquet":
            batches = _read_parquet(file, where, (text_column, label_column), text_column=text_column)
            rows = (row for batch in batches for row in batch.to_pylist())
        else:
            rows = _read_rows(file, where, suffix)
        for number, row in enumerate(rows, 1):
            yield Row("", None) if row is None else _to_row(row, f"{where}, row {number}", text_column, label_column)


def _to_row(row: dict[str, Any], where: str, text_column: str, label_column: str) -> Row:
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
    """Return the rows of the files of one split, and the names of their classes if a Parquet file has a `ClassLabel`.

    The table has the columns `text` and `label`. Values of CSV stay text, so that a sentence "NA" or "2012" is one;
    those of JSON and Parquet keep their type. Blank lines are left out.
    """
    options = {"text_column": text_column, "label_column": label_column}
    types: dict[str, type] = {}
    batches: list[pa.RecordBatch] = []
    for path in files:
        where = str(path)
        with _open(path, where) as file:
            if not path.stat().st_size:
                raise UserError(f"{where}: the file is empty")
            if path.suffix == ".parquet":
                batches += _read_parquet(file, where, options.values(), **options)
            else:
                batches += _to_batches(_read_rows(file, where, path.suffix), where, options, types)
    where = ", ".join(map(str, files))
    text, label = (_join([batch[name] for batch in batches], where, name) for name in options.values())
    if not len(text):
        raise UserError(f"{where}: the file has no rows")
    names = filter(None, (stored_class_names(batch.schema, label_column) for batch in batches))
    return pa.table({"text": text, "label": label}), next(names, None)


def _to_batches(
    rows: Iterator[dict[str, Any] | None], where: str, options: dict[str, str], types: dict[str, type]
) -> Iterator[pa.RecordBatch]:
    """Yield columns, some rows at a time; `types` has the type of each column's values in the rows before."""
    known: dict[str, Any] = {}
    numbered = enumerate(filter(None, rows), 1)
    while chunk := list(itertools.islice(numbered, _CHUNK_ROWS)):
        for number, row in chunk:
            known.update(row)
            for column in options.values():
                _check_value(row.get(column), f"{where}, row {number}", column, types)
        yield pa.record_batch({name: _to_array([row.get(name) for _, row in chunk]) for name in options.values()})
    if known:
        check_columns(where, known, **options)


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


def _join(chunks: list[pa.Array], where: str, column: str) -> pa.ChunkedArray:
    """Return the chunks of a column with one type."""
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


def check_columns(where: str, names: Iterable[str], **columns: str) -> None:
    """Check that columns are among `names`; they are given by the data module's options for them."""
    for option, column in columns.items():
        if column not in names:
            raise UserError(f"{where}: no column {column!r}, only {', '.join(names)}; name it with --data.{option}")


def _check_characters(value: str, where: str, column: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as bad:
        fault = f"half of a character ({value[bad.start]!r}) in column {column!r}"
        raise UserError(f"{where}: {fault}; replace it") from bad


@contextmanager
def _open(path: Path, where: str) -> Iterator[BinaryIO]:
    """Open a file, or standard input, and say of what goes wrong while it is read which file it is."""
    try:
        if str(path) == STDIN and sys.stdin is None:
            raise UserError(f"{where}: it is closed; name a file")
        with nullcontext(sys.stdin.buffer) if str(path) == STDIN else path.open("rb") as file:
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
    """Yield the rows of a CSV or JSON file, None for a blank line; a `.json` file may be one array of objects."""
    return _read_csv(file, where) if suffix == ".csv" else _read_json(file, where, may_be_array=suffix == ".json")


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


def _read_json(file: BinaryIO, where: str, may_be_array: bool) -> Iterator[dict[str, Any] | None]:
    lines = _decode(file, where)
    for number, line in enumerate(lines, 1):
        whole = may_be_array and number == 1 and line.lstrip().startswith("[")
        text = line + "".join(lines) if whole else line
        try:
            content: Any = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError) as error:
            line_number = getattr(error, "lineno", number) if whole else number
            raise UserError(f"{where}, line {line_number}: not JSON ({reason(error)})") from error
        for place, row in enumerate(content if whole else [content], number):
            if not isinstance(row, dict | None):
                fault = "not a JSON object with a column for the text"
                raise UserError(f"{where}, {'row' if whole else 'line'} {place}: {fault}")
            yield row


def _read_parquet(file: BinaryIO, where: str, wanted: Iterable[str], **required: str) -> Iterator[pa.RecordBatch]:
    from pyarrow.parquet import ParquetFile

    parquet = ParquetFile(file)
    names = parquet.schema_arrow.names
    _check_unique(names, where)
    check_columns(where, names, **required)
    for batch in parquet.iter_batches(batch_size=1024, columns=[name for name in names if name in wanted]):
        batch.validate(full=True)  # that text is UTF-8
        yield batch


def _check_unique(names: list[str], where: str) -> None:
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{where}: two columns have the name {twice!r}; rename one of them")
