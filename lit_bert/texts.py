"""Sentences to predict, from a file or standard input: read row by row, so that a file may be larger than memory."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lit_bert import files
from lit_bert.errors import UserError

STDIN = "-"
KINDS = (".txt", ".csv", ".jsonl", ".parquet")


class Row(NamedTuple):
    """A sentence, and its label if there is one: a class's name or number, as text."""

    text: str
    label: str | None


def read(source: str, text_column: str = "text", label_column: str = "label") -> Iterator[Row]:
    """Yield the rows of a file, or of standard input; an empty one is yielded as it is, and so keeps its place.

    Args:
        source: A `.txt` file with a sentence a line, a `.csv`, `.jsonl` or `.parquet` file, or "-" for lines of
            standard input.
        text_column: Column of the sentences.
        label_column: Column of the labels, which need not be there.

    Raises:
        UserError: There is no such file or column, or a row cannot be read: it is named, counted from 1.
    """
    if source == STDIN:
        yield from _lines(sys.stdin.buffer, "standard input")
        return
    path = Path(source).expanduser()
    if path.suffix not in KINDS:
        raise UserError(f"--input {source}: its name must end in one of {', '.join(KINDS)}, or be - for standard input")
    try:
        with path.open("rb") as file:
            if path.suffix == ".txt":
                yield from _lines(file, source)
                return
            readers: dict[str, Callable[[BinaryIO, str], Iterator[dict[str, Any] | None]]]
            parquet = partial(_parquet, columns=(text_column, label_column))
            readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": parquet}
            for number, row in enumerate(readers[path.suffix](file, source), 1):
                yield _row(row, source, number, text_column, label_column)
    except OSError as error:
        raise UserError(f"--input {source}: cannot be read ({error.strerror or error})") from error


def _row(row: dict[str, Any] | None, source: str, number: int, text_column: str, label_column: str) -> Row:
    if row is None:
        return Row("", None)
    if text_column not in row:
        raise UserError(
            f"--input {source}, row {number}: no column {text_column!r}, only {', '.join(map(str, row))}; name it with "
            "--data.text_column"
        )
    text, label = row[text_column], row.get(label_column)
    if not isinstance(text, str | None):
        raise UserError(
            f"--input {source}, row {number}: {text!r} in column {text_column!r} is not text; name another column with "
            "--data.text_column"
        )
    text = text or ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"--input {source}, row {number}: half of a character ({text[error.start]!r}) in column {text_column!r}; "
            "replace it"
        ) from error
    return Row(text, None if label in (None, "") else str(label))


def _decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as bad:
            raise UserError(
                f"--input {source}, line {number}: not UTF-8 (byte {line[bad.start]:#04x} at column {bad.start + 1}); "
                "save the file as UTF-8"
            ) from bad


def _lines(file: BinaryIO, source: str) -> Iterator[Row]:
    for line in _decoded(file, source):
        yield Row(line.rstrip("\r\n"), None)


def _csv(file: BinaryIO, source: str) -> Iterator[dict[str, Any] | None]:
    lines = files.csv_reader(_decoded(file, source))
    try:
        header: list[str] = next(lines, [])
        for values in lines:
            if values:
                if len(values) > len(header):
                    raise UserError(
                        f"--input {source}, line {lines.line_num}: {len(values)} values, but the header names "
                        f"{len(header)}; quote a text that has a comma in it"
                    )
                yield dict(zip(header, values, strict=False))
            else:
                yield None
    except csv.Error as error:
        raise UserError(f"--input {source}, line {lines.line_num}: not CSV ({error})") from error


def _jsonl(file: BinaryIO, source: str) -> Iterator[dict[str, Any] | None]:
    for number, line in enumerate(_decoded(file, source), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise UserError(f"--input {source}, line {number}: not JSON ({error})") from error
        if row is not None and not isinstance(row, dict):
            raise UserError(f"--input {source}, line {number}: not a JSON object with a column for the text")
        yield row


def _parquet(file: BinaryIO, source: str, columns: tuple[str, str]) -> Iterator[dict[str, Any] | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        known = parquet.schema_arrow.names
        wanted = [name for name in columns if name in known] if columns[0] in known else None  # that is an error soon
        for batch in parquet.iter_batches(batch_size=1024, columns=wanted):
            yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"--input {source}: not a Parquet file ({str(error).splitlines()[0]})") from error
