"""Values of lines that a character separates: CSV, and lines with tabs, in which quotes are text."""

import csv
from collections.abc import Iterable, Iterator
from itertools import pairwise

from lit_bert.errors import UserError

TABS = ("\t", "\\t")
"""A tab, and how people type it."""


def split_values(lines: Iterable[str], where: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each row, and the number of its last line; a blank line has none.

    Raises:
        UserError: They are not CSV, or a quoted text goes on in another line where tabs separate.
    """
    return _split_tabs(lines, where) if delimiter in TABS else _split_csv(lines, where, delimiter)


def _split_csv(lines: Iterable[str], where: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each row, and the number of its last line."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    try:
        for values in reader:
            yield reader.line_num, values
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: not CSV ({error})") from error


def _split_tabs(lines: Iterable[str], where: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the values of each line, and its number.

    A line is a row. Quotes are text, unless a program has quoted as in CSV: doubled quotes in a value, or all values.
    """
    width, all_quoted = 0, False
    for number, line in enumerate(lines, 1):
        values = line.rstrip("\r\n").split("\t") if line.strip("\r\n") else []
        if not width:
            width, all_quoted = len(values), any(map(_is_quoted, values))
        if line.count('"') % 2 and (len(values) < width or width == 1) and any(map(_is_cut, values)):
            fault = "a quoted text goes on in another line, but between tabs a line is a row"
            raise UserError(f"{where}, line {number}: {fault}; replace its line breaks, or save the file as CSV")
        if '"' in line:
            if any(_is_cut(one) and _is_cut(two) and one[0] == '"' == two[-1] for one, two in pairwise(values)):
                raise UserError(
                    f"{where}, line {number}: a quoted text has a tab in it; write a space, or save it as CSV"
                )
            values = [_unquote(v) if all_quoted or v == '""' or '""' in v[1:-1] else v for v in values]
        yield number, values


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] == '"' and '"' not in value[1:-1].replace('""', "")


def _is_cut(value: str) -> bool:
    """Tell whether a value looks like the beginning or the end of a quoted text."""
    return value[:1] != value[-1:] and '"' in (value[:1], value[-1:]) and value.count('"') % 2 == 1


def _unquote(value: str) -> str:
    return value[1:-1].replace('""', '"') if _is_quoted(value) else value
