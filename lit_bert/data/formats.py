"""Files as rows: CSV, TSV, JSON, Parquet and plain text, as they are or compressed.

Files are read line by line, so that a fault can be named by its line; and without a cache of their rows, because one
by path and modification time returns the old rows of a file that was changed while its time was not. What cannot be
read is a UserError that names the file and the line, or the row, counted from 1 without a header.
"""

import bz2
import csv
import gzip
import itertools
import json
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from lit_bert.errors import UserError, reason

STDIN = "-"
INPUT_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class TableFormat(NamedTuple):
    """Which columns of a table are read, by the data module's options for them; and what separates those of a CSV.

    A column within an object is named with dots, such as `review.body`. A `delimiter` of None is a comma, in TSV a tab.
    """

    text_column: str = "text"
    label_column: str = "label"
    text_pair_column: str | None = None
    delimiter: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """The columns that a table must have, by option; the labels' is the last."""
        pair = {"text_pair_column": self.text_pair_column} if self.text_pair_column else {}
        return {"text_column": self.text_column, **pair, "label_column": self.label_column}


DEFAULT_FORMAT = TableFormat()


def suffix_of(path: Path) -> str:
    """Return the suffix that tells a file's format: that before `.gz`, `.bz2` or `.xz`."""
    return path.with_suffix("").suffix if path.suffix in _COMPRESSED else path.suffix


@contextmanager
def open_file(path: Path, where: str) -> Iterator[BinaryIO]:
    """Open a file, or standard input, and say of what goes wrong while it is read which file it is."""
    try:
        if str(path) == STDIN and sys.stdin is None:
            raise UserError(f"{where}: it is closed; name a file")
        opened = nullcontext(sys.stdin.buffer) if str(path) == STDIN else _COMPRESSED.get(path.suffix, open)(path, "rb")
        with opened as file:
            yield cast(BinaryIO, file)
    except pa.ArrowException as error:
        raise UserError(f"{where}: not a Parquet file that can be read ({reason(error)})") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or reason(error)})") from error


def read_lines(lines: Iterable[bytes], where: str) -> Iterator[str]:
    """Yield lines as text."""
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as bad:
            fault = f"byte {bad.object[bad.start]:#04x} at column {bad.start + 1}"
            raise UserError(f"{where}, line {number}: not UTF-8 ({fault}); save the file as UTF-8") from bad


def read_rows(file: BinaryIO, where: str, suffix: str, format: TableFormat) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a CSV or JSON file, None for a blank line; a `.json` file may be one array of objects."""
    if suffix in (".csv", ".tsv"):
        return _read_csv(file, where, format.delimiter or ("," if suffix == ".csv" else "\t"), format)
    return _read_json(file, where, may_be_array=suffix == ".json")


def _read_csv(file: BinaryIO, where: str, delimiter: str, format: TableFormat) -> Iterator[dict[str, Any] | None]:
    csv.field_size_limit(2**31 - 1)
    lines = csv.reader(read_lines(file, where), strict=True, delimiter=delimiter)
    try:
        header = next(filter(None, lines), [])
        marks = [mark for mark in ",;\t|" if header and format.text_column in header[0].split(mark)]
        if len(header) == 1 and header != [format.text_column] and marks:
            raise UserError(f"{where}: its columns are separated by {marks[0]!r}; set --data.delimiter {marks[0]!r}")
        check_unique(header, where)
        for values in lines:
            if len(values) > len(header):
                fault = f"{len(values)} values, but the header names {len(header)}"
                raise UserError(f"{where}, line {lines.line_num}: {fault}; quote a text that has a {delimiter!r} in it")
            yield dict(itertools.zip_longest(header, values)) if values else None
    except csv.Error as error:
        raise UserError(f"{where}, line {lines.line_num}: not CSV ({error})") from error


def _read_json(file: BinaryIO, where: str, may_be_array: bool) -> Iterator[dict[str, Any] | None]:
    lines = read_lines(file, where)
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
            yield row and dict(_flatten(row))


def _flatten(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of an object and of those within it, by names with dots."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_parquet(file: BinaryIO, where: str, wanted: Iterable[str], **required: str) -> Iterator[pa.RecordBatch]:
    """Yield the wanted columns of a Parquet file that it has; those `required` by the options of that name it must."""
    from pyarrow.parquet import ParquetFile

    parquet = ParquetFile(file)
    check_unique(parquet.schema_arrow.names, where)
    names = {*parquet.schema_arrow.names, *(parquet.schema.column(i).path for i in range(len(parquet.schema)))}
    check_columns(where, sorted(names), **required)
    columns = [name for name in dict.fromkeys(wanted) if name in names]
    for batch in parquet.iter_batches(batch_size=1024, columns=columns):
        batch.validate(full=True)  # that text is UTF-8
        if set(columns) <= set(batch.schema.names):
            yield batch
        else:
            yield from pa.Table.from_batches([batch]).flatten().to_batches()


def check_columns(where: str, names: Iterable[str], **columns: str) -> None:
    """Check that columns are among `names`; they are given by the data module's options for them."""
    for option, column in columns.items():
        if column not in names:
            raise UserError(f"{where}: no column {column!r}, only {', '.join(names)}; name it with --data.{option}")


def check_unique(names: list[str], where: str) -> None:
    """Check that no two columns have the same name."""
    twice = next((name for place, name in enumerate(names) if name and name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{where}: two columns have the name {twice!r}; rename one of them")
