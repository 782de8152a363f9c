"""Files as rows: CSV, TSV, JSON, Parquet and plain text, as they are or compressed.

What cannot be read is a UserError that names the file and the line, or the row, counted from 1 without a header.
"""

import bz2
import codecs
import gzip
import io
import itertools
import json
import lzma
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from lit_bert.data.delimited import TABS, split_values
from lit_bert.errors import UserError, reason

STDIN = "-"
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
INPUT_SUFFIXES = (".txt", *TABLE_SUFFIXES)
COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

CP1252 = "--data.encoding cp1252 (of spreadsheets on Windows in Western Europe)"

RawRow = dict[str, Any] | None
"""The values of a row by column, those within objects by names with dots; None for a blank line."""


class TableFormat(NamedTuple):
    """Which columns of a table are read, by the data module's options for them; and how a file is written.

    A column within an object is named with dots, such as `review.body`. A `delimiter` of None is a comma, in TSV a tab;
    an `encoding` of None refuses lines that are not UTF-8.
    """

    text_column: str = "text"
    label_column: str = "label"
    text_pair_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    @property
    def text_columns(self) -> dict[str, str]:
        """The columns of the texts, by option."""
        pair = {"text_pair_column": self.text_pair_column} if self.text_pair_column else {}
        return {"text_column": self.text_column, **pair}

    @property
    def columns(self) -> dict[str, str]:
        """The columns of the texts and, last, of the labels, by option."""
        return {**self.text_columns, "label_column": self.label_column}


DEFAULT_FORMAT = TableFormat()


def suffix_of(path: Path) -> str:
    """Return the suffix that tells a file's format, which is that before `.gz`, `.bz2` or `.xz`; `.txt` for STDIN."""
    if str(path) == STDIN:
        return ".txt"
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def read_rows(
    path: Path, where: str, format: TableFormat, required: dict[str, str], keep: Sequence[str] = (), suffix: str = ""
) -> Iterator[RawRow]:
    """Yield the rows of a file, or of STDIN, which messages call `where`.

    A `.json` file has an object a line, or is one array of objects. `required` are columns, by option, that must be
    there; those of JSON are not known before its rows. Of a Parquet file the columns to `keep` are read, too. A
    `suffix` says which format a file has whose name does not.
    """
    suffix = suffix or suffix_of(path)
    with open_file(path, where) as file:
        if suffix == ".parquet":
            yield from _read_parquet(file, where, [*format.columns.values(), *keep], required)
        elif suffix == ".txt":
            yield from ({format.text_column: line.rstrip("\r\n")} for line in _read_lines(file, where, format))
        elif suffix in (".csv", ".tsv"):
            delimiter = format.delimiter or ("," if suffix == ".csv" else "\t")
            yield from _read_csv(_read_lines(file, where, format), where, delimiter, required)
        else:
            yield from _read_json(_read_lines(file, where, format), where, may_be_array=suffix == ".json")


@contextmanager
def open_file(path: Path, where: str) -> Iterator[BinaryIO]:
    """Open a file, or standard input; a UserError names it if it cannot be read to the end."""
    try:
        if str(path) == STDIN and sys.stdin is None:
            raise UserError(f"{where}: it is closed; name a file")
        opened = (
            nullcontext(sys.stdin.buffer)
            if str(path) == STDIN
            else COMPRESSED.get(path.suffix.lower(), open)(path, "rb")
        )
        with opened as file:
            yield cast(BinaryIO, file)
    except pa.ArrowException as error:
        raise UserError(f"{where}: not a Parquet file that can be read ({reason(error)})") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        problem = (isinstance(error, OSError) and error.strerror) or reason(error)
        raise UserError(f"{where}: cannot be read ({problem})") from error


def _read_lines(lines: Iterable[bytes], where: str, format: TableFormat) -> Iterator[str]:
    """Yield lines as text; they may end with a carriage return alone, if all do."""
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as bad:
            if format.encoding is None:
                fault = f"byte {bad.object[bad.start]:#04x} at column {bad.start + 1}"
                semicolons = not format.delimiter and line.count(b";") > line.count(b",")
                more = " and --data.delimiter ';'" if semicolons else ""
                is_utf16 = number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                advice = "save the file as UTF-8" + (" in place of UTF-16" if is_utf16 else f", or add {CP1252}{more}")
                raise UserError(f"{where}, line {number}: not UTF-8 ({fault}); {advice}") from bad
            text = line.decode(format.encoding, "replace")
        if number > 1 or text.endswith("\n") or "\r" not in text:
            yield text
        else:
            yield from io.StringIO(text, newline=None)


def _read_csv(lines: Iterator[str], where: str, delimiter: str, required: dict[str, str]) -> Iterator[RawRow]:
    first = next(lines, "")
    if told := re.fullmatch(r'"?sep=(.)"?\s*', first):  # Excel's
        delimiter, first = told[1], "\n"
    rows = split_values(itertools.chain([first], lines), where, delimiter)
    header = next((values for _, values in rows if values), [])
    text = required.get("text_column")  # a predictions file needs none
    marks = [mark for mark in ",;\t|" if text and header != [text] and len(header) == 1 and mark in header[0]]
    if marks:  # say at once all that the file needs
        mark = max(marks, key=lambda mark: text in header[0].split(mark))
        names = header[0].split(mark)
        options = [f"--data.delimiter {mark!r}"]
        options += [f"--data.{option} NAME" for option, column in required.items() if column not in names]
        try:
            deque(lines, 0)
        except UserError:
            options.append(CP1252)
        what = f"its columns, {', '.join(names)}, are separated by {mark!r}"
        raise UserError(f"{where}: {what}; set {' and '.join(options)}")
    _check_unique(header, where)
    check_columns(where, header, **required if header else {})
    for number, values in rows:
        if len(values) > len(header):
            fault = f"{len(values)} values, but the header names {len(header)}"
            advice = (
                "in place of a tab in a text, write a space"
                if delimiter in TABS
                else f"quote a text that has a {delimiter!r} in it"
            )
            raise UserError(f"{where}, line {number}: {fault}; {advice}")
        yield dict(itertools.zip_longest(header, values)) if values else None


def _read_json(lines: Iterator[str], where: str, may_be_array: bool) -> Iterator[RawRow]:
    for number, line in enumerate(lines, 1):
        whole = may_be_array and number == 1 and line.lstrip().startswith("[")
        text = line + "".join(lines) if whole else line
        try:
            content = json.loads(text if text.strip() else "null")
        except (ValueError, RecursionError) as error:
            place = error.lineno if whole and isinstance(error, json.JSONDecodeError) else number
            raise UserError(f"{where}, line {place}: not JSON ({reason(error)})") from error
        if may_be_array and number == 1 and (columns := _rows_of_columns(content)):
            whole, content = True, columns
        for place, row in enumerate(content if whole else [content], number):
            if not isinstance(row, dict | None):
                fault = "not a JSON object with a column for the text"
                raise UserError(f"{where}, {'row' if whole else 'line'} {place}: {fault}")
            yield row and dict(_flatten(row))


def _rows_of_columns(content: object) -> list[dict[str, Any]]:
    """Return the rows of an object of columns, which have their values by the rows' numbers, as pandas writes it."""
    columns = content if isinstance(content, dict) else {}
    numbers = {tuple(cells) if isinstance(cells, dict) else () for cells in columns.values()}
    rows = next(iter(numbers)) if len(numbers) == 1 else ()
    return [{name: columns[name][row] for name in columns} for row in rows] if all(map(str.isdigit, rows)) else []


def _flatten(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of an object and of those within it, by names with dots."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_parquet(file: BinaryIO, where: str, wanted: list[str], required: dict[str, str]) -> Iterator[RawRow]:
    from pyarrow.parquet import ParquetFile

    parquet = ParquetFile(file)
    top = parquet.schema_arrow.names
    _check_unique(top, where)
    names = {*top, *(parquet.schema.column(i).path for i in range(len(parquet.schema)))}
    check_columns(where, sorted(names), **required)
    columns = [name for name in dict.fromkeys(wanted) if name in names]
    nested = [name for name in columns if name not in top]
    for batch in parquet.iter_batches(batch_size=1024, columns=columns):
        batch.validate(full=True)  # that text is UTF-8
        for row in batch.to_pylist():
            yield row if not nested else {**dict.fromkeys(nested), **dict(_flatten(row))}


def check_columns(where: str, names: Iterable[str], **columns: str) -> None:
    """Check that columns, given by the data module's options for them, are among `names`."""
    for option, column in columns.items():
        if column not in names:
            raise UserError(f"{where}: no column {column!r}, only {', '.join(names)}; name it with --data.{option}")


def _check_unique(names: list[str], where: str) -> None:
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"{where}: two columns have the name {twice[0]!r}; rename one of them")
