"""Tables of values by id: tab-separated, or CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from protrna_cli.disk import reading
from protrna_cli.errors import InputError
from protrna_cli.text import counted, shortened

TABLE_FORMAT = "a table has lines id<TAB>value, or is CSV"
MAX_FIELD = 128 << 10
"""Letters of the longest field. The limit of csv is one for the whole process, and others raise it."""


@dataclass(frozen=True)
class Column:
    """One column of a table, and the column of ids.

    Attributes
    ----------
    name
        As the user gave it; empty for the second column of the table.
    ids, values
        Indices of the two columns.
    has_header
        Whether the first line has names, not values.
    """

    name: str
    ids: int = 0
    values: int = 1
    has_header: bool = False


def find_table(wanted: str) -> tuple[Path, str] | None:
    """Split `FILE` or `FILE:COLUMN`; None if there is no such file."""
    path, _, column = wanted.rpartition(":")
    for file, name in ((wanted, ""), (path, column)):
        with suppress(OSError, ValueError):  # a name that is too long, say
            if file and Path(file).is_file():
                return Path(file), name
    return None


def read_table(path: Path, name: str = "") -> dict[str, str]:
    """Read the values of a column by id; empty values and empty lines are ignored.

    A header needs no mark: no record has the id that it would be. Fields of CSV may be quoted.

    Parameters
    ----------
    path
        A UTF-8 file, tab-separated if there is a tab in its first line, otherwise comma-separated.
    name
        A column of the header line, whose ids are in the column `id` or else in the first; or the number of
        a column, from 1. By default the ids are in the first column and the values in the second.
    """
    lines = _read_lines(path)
    first = next((line for line in lines if line.strip()), "")
    comma = "\t" not in first and "," in first
    rows = list(_split(path, lines, comma))
    column = _find_column(path, rows[0][1] if rows else [], name)
    values: dict[str, str] = {}
    for number, cells in rows[column.has_header :]:
        if len(cells) < 2:
            what = "comma" if comma else "tab"
            raise InputError(f"{path}, line {number}: {shortened(cells[0])} has no {what}; {TABLE_FORMAT}")
        key = cells[column.ids].strip() if column.ids < len(cells) else ""
        value = cells[column.values].strip() if column.values < len(cells) else ""
        if key and value and values.setdefault(key, value) != value:
            raise InputError(
                f"{path}, line {number}: id {shortened(key)} has the value {shortened(values[key])} "
                "on an earlier line; give it one"
            )
    return values


def _read_lines(path: Path) -> list[str]:
    """Read the lines of a file, with their ends, which may be inside a quoted field of CSV."""
    try:
        with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
            return list(file)
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; {TABLE_FORMAT}") from None


def _split(path: Path, lines: list[str], comma: bool) -> Iterator[tuple[int, list[str]]]:
    """Split lines into cells; yields the number of each line that is not blank."""
    csv.field_size_limit(MAX_FIELD)
    kind = {"delimiter": ","} if comma else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, **kind)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; {TABLE_FORMAT}") from None


def _find_column(path: Path, header: list[str], name: str) -> Column:
    """Find a column by its name, or by its number if no column is named so."""
    names = [cell.strip() for cell in header]
    if not name:
        return Column(name)
    if name in names:
        return Column(name, names.index("id") if "id" in names else 0, names.index(name), has_header=True)
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return Column(name, values=int(name) - 1)
    raise InputError(
        f"{path}: has no column {shortened(name)}, but {counted(len(names), 'column')}: "
        f"{', '.join(map(shortened, names))}"
    )
