"""Colour points by a number or by the family of their record, from a column, a table or a regular expression.

What is in a picture is here too, whichever library draws it.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protrna_cli.disk import reading
from protrna_cli.errors import InputError, UsageError
from protrna_cli.map import METHODS
from protrna_cli.map.projection import Projection
from protrna_cli.output.rows import Header
from protrna_cli.plan.pieces import COUNT_COLUMNS, ROW_COLUMNS, Row
from protrna_cli.plan.rules import POOLINGS
from protrna_cli.text import counted, printable, shortened

SMALLEST_SYMBOL = 5.0
"""Diameter in pixels of 1/96 inch of the smallest points whose symbols can be told apart, as seen by eye."""
TABLE_FORMAT = "a table has lines id<TAB>value, or is CSV"
MAX_FIELD = 128 << 10
"""Letters of the longest field. The limit of csv is one for the whole process, and others raise it."""


@dataclass(frozen=True)
class Picture:
    """A picture to be drawn of N records."""

    title: str
    subtitle: str  # how the picture was made
    notice: str  # a warning about the data, may be empty
    rows: list[Row]
    projection: Projection
    colouring: Colouring

    @property
    def notes(self) -> list[str]:
        """Notes on what the picture does not distinguish."""
        notes = self.colouring.notes()
        if self.uses_symbols and point_size(len(self.rows)) < SMALLEST_SYMBOL:
            notes.append(
                f"{len(COLOURS)} colours, which repeat with another symbol, and points too small to tell "
                "symbols apart; hover over a point of an .html map, or hide families in its legend"
            )
        return notes

    @property
    def uses_symbols(self) -> bool:
        """Whether families have the same colour, and differ by their symbols."""
        return isinstance(self.colouring, Families) and len({*self.colouring.names} - {None}) > len(COLOURS)


def subtitle(header: Header, layer: int, method: str, colouring: Colouring) -> str:
    """Describe how a picture was made."""
    provenance = header.provenance
    return " · ".join(
        [
            counted(header.n_rows, "record"),
            f"layer {layer}",
            POOLINGS[provenance["pooling"]].label,
            METHODS[method],
            f"model {Path(provenance['model']['name']).name}",
            f"colour: {clipped(colouring.title)}",
        ]
    )


def point_size(count: int) -> float:
    """Diameter of a point in pixels of 1/96 inch, such that `count` points can be distinguished."""
    return min(max(250 / math.sqrt(count), 2.5), 10.0)


def point_opacity(count: int) -> float:
    """Opacity of a point, 0 to 1, such that among `count` points those below others show through."""
    return min(max(math.sqrt(2000 / count), 0.5), 1.0)


COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Palette of Okabe and Ito, distinguishable with any type of colour blindness (https://jfly.uni-koeln.de/color/)."""
MARKERS = ("circle", "triangle", "square", "diamond", "star")
OTHER_COLOUR = "#DDDDDD"
MAX_FAMILIES = len(COLOURS) * len(MARKERS)
MAX_CLUSTERS = 20
"""Whole numbers with at most this many different values are families, such as clusters, not a scale."""
MAX_LABEL_LENGTH = 36
LOG_SCALE_RATIO = 10
"""The scale is logarithmic if the largest value is at least this many times the smallest: for whole numbers,
such as lengths; its third power for others."""
MOST_POWERS = 5
"""Most powers of ten of a logarithmic scale with ticks between them."""
NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""A number as programs write it; 007 is a name."""
MISSING = ("NA", "N/A", "NaN", "nan", "None", "null", "-")
"""What a column of numbers has where a number is missing."""


@dataclass(frozen=True)
class Scale:
    """A number for each record."""

    title: str  # name of the column that the numbers are from
    values: npt.NDArray[np.float64]  # (N,); NaN for a record without one

    @property
    def known(self) -> npt.NDArray[np.float64]:
        """The values that are there."""
        return self.values[np.isfinite(self.values)]

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the scale; if all values are equal, theirs is its middle."""
        low, high = float(self.known.min()), float(self.known.max())
        return (low, high) if low < high else (low - 0.5, high + 0.5)

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers, so that ticks between them mean nothing."""
        return bool((self.known == np.round(self.known)).all())

    @property
    def logarithmic(self) -> bool:
        """Whether all values are positive and a linear scale would show only the largest of them."""
        ratio = LOG_SCALE_RATIO if self.whole else LOG_SCALE_RATIO**3
        return bool(self.known.min() > 0 and self.known.max() >= ratio * self.known.min())

    @property
    def ticks(self) -> list[float]:
        """Ticks of a logarithmic scale: powers of ten within its range, with 2 and 5 times each if few."""
        low, high = float(self.known.min()), float(self.known.max())
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        digits = (1, 2, 5) if len(powers) <= MOST_POWERS else (1,)
        step = 1 + len(powers) // (3 * MOST_POWERS)
        ticks = [float(f"{digit}e{power}") for power in powers[::step] for digit in digits]
        return [tick for tick in ticks if low <= tick <= high]

    def labels(self) -> list[str]:
        """Write the value of each record, for its tooltip; empty if it has none."""
        kind = ",.0f" if self.whole else ",.6g"
        return [format(value, kind) if np.isfinite(value) else "" for value in self.values.tolist()]

    def notes(self) -> list[str]:
        """Describe what is grey in the picture."""
        return _note_missing(len(self.values) - len(self.known), len(self.values), "value")


@dataclass(frozen=True, eq=False)
class Group:
    """Records drawn with the same colour and marker: one family, or all other records."""

    label: str
    members: npt.NDArray[np.int64]  # indices of the records, (n,)
    colour: str  # `#RRGGBB`
    marker: str  # one of `MARKERS`


@dataclass(frozen=True)
class Families:
    """A family, or none, for each record."""

    title: str  # where the families are from: a column, a file or a regular expression
    names: list[str | None]

    def groups(self) -> list[Group]:
        """Group the records by family, largest family first, the other records (if any) last.

        The 40 largest families are kept (of equally large ones, the first in alphabetical order). When all
        colours are used, they repeat with the next marker.
        """
        sizes = Counter(name for name in self.names if name is not None)
        kept = sorted(sizes, key=lambda name: (-sizes[name], name))[:MAX_FAMILIES]
        index = {name: i for i, name in enumerate(kept)}
        indices = np.array([index.get(name or "", len(kept)) for name in self.names])
        groups = []
        for i, name in enumerate(kept):
            shape, colour = divmod(i, len(COLOURS))
            groups.append(_group(name, indices == i, COLOURS[colour], MARKERS[shape]))
        others = indices == len(kept)
        return [*groups, _group("other", others, OTHER_COLOUR, MARKERS[0])] if others.any() else groups

    def labels(self) -> list[str]:
        """Write the family of each record, for its tooltip; empty if it has none."""
        return [clipped(name or "", 3 * MAX_LABEL_LENGTH) for name in self.names]

    def notes(self) -> list[str]:
        """Describe what is grey in the picture."""
        notes = _note_missing(self.names.count(None), len(self.names), "family")
        if (count := len({*self.names} - {None})) > MAX_FAMILIES:
            notes.append(f"{count:,} families: the {MAX_FAMILIES} largest have a colour, the rest are grey")
        return notes


Colouring = Scale | Families


def _note_missing(without: int, count: int, what: str) -> list[str]:
    return [f"{without:,} of {count:,} records have no {what}; they are grey"] if without else []


def _group(name: str, among: npt.NDArray[np.bool_], colour: str, marker: str) -> Group:
    members = np.flatnonzero(among)
    return Group(f"{clipped(name)} ({members.size:,})", members, colour, marker)


def clipped(text: str, longest: int = MAX_LABEL_LENGTH) -> str:
    """Cut a text to at most `longest` characters.

    >>> clipped("ribozyme"), clipped("ribozyme", 5)
    ('ribozyme', 'ribo…')
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def in_drawing_order(groups: Sequence[Group]) -> list[Group]:
    """Sort groups for drawing: grey records first, then families from large to small, so none is covered."""
    return sorted(groups, key=lambda group: (group.colour != OTHER_COLOUR, -group.members.size))


def colour_by(rows: Sequence[Row], wanted: str) -> Colouring:
    """Colour records by the value of `--color-by`.

    It is a column name; else `FILE` or `FILE:COLUMN`, an existing file as `read_table` reads it; else a
    regular expression, searched in `id description`, whose first group (or whole match, if it has no groups)
    is the value. Numbers become a scale, texts families.
    """
    if wanted in COUNT_COLUMNS:
        return Scale(wanted, np.array([getattr(row, wanted) for row in rows], np.float64))
    if wanted in ROW_COLUMNS:
        return Families(wanted, [getattr(row, wanted) or None for row in rows])
    if table := find_table(wanted):
        path, column = table
        values = read_table(path, column)
        found = [values.get(row.id) for row in rows]
        if not any(found):
            raise InputError(f"{path}: has none of the ids in the output; {TABLE_FORMAT}")
        return _scale_or_families(printable(column or path.name), found)
    return _scale_or_families(wanted, _matches(rows, wanted))


def _scale_or_families(title: str, texts: list[str | None]) -> Colouring:
    """Make a scale of numbers, and families of anything else, whole numbers with few values among them."""
    given = {text for text in texts if text is not None and text not in MISSING}
    numbers = {text: float(text) for text in given if NUMBER.fullmatch(text)}
    if not given or len(numbers) < len(given) or not all(map(math.isfinite, numbers.values())):
        return Families(title, texts)
    scale = Scale(title, np.array([numbers.get(text or "", math.nan) for text in texts], np.float64))
    if scale.whole and len(numbers) <= MAX_CLUSTERS:
        return Families(title, [text if text in numbers else None for text in texts])
    return scale


def _matches(rows: Sequence[Row], wanted: str) -> list[str | None]:
    """Match a regular expression against each record; at least one must match."""
    problem = f"--color-by {wanted!r} is not a column ({', '.join(ROW_COLUMNS)}), a file or FILE:COLUMN, and "
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise UsageError(
            f"{problem}is not a valid regular expression ({error}); quote it, as 'family=(\\S+)'"
        ) from None
    found = (pattern.search(f"{row.id} {row.description}") for row in rows)
    names = [(match[1 if pattern.groups else 0] or None) if match else None for match in found]
    if not any(names):
        raise UsageError(
            f"{problem}matches no record as a regular expression; "
            "check the ids and descriptions of the output"
        )
    return names


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

    A header needs no mark: no record has the id that it would be. The file is UTF-8, tab-separated if there
    is a tab in its first line, otherwise CSV, whose fields may be quoted. `name` is that of a column in the
    header line, whose ids are in the column `id` or else in the first; or the number of a column, from 1. By
    default the ids are in the first column and the values in the second.
    """
    lines = _read_lines(path)
    first = next((line for line in lines if line.strip()), "")
    comma = "\t" not in first and "," in first
    rows = list(_split(path, lines, comma))
    id_column, value_column, has_header = _find_column(path, rows[0][1] if rows else [], name)
    values: dict[str, str] = {}
    for number, cells in rows[has_header:]:
        if len(cells) < 2:
            what = "comma" if comma else "tab"
            raise InputError(f"{path}, line {number}: {shortened(cells[0])} has no {what}; {TABLE_FORMAT}")
        key, value = (cells[i].strip() if i < len(cells) else "" for i in (id_column, value_column))
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


def _find_column(path: Path, header: list[str], name: str) -> tuple[int, int, bool]:
    """Find a column by its name, or by its number if no column is named so.

    Returns the indices of the ids and of the values, and whether the first line has names.
    """
    names = [cell.strip() for cell in header]
    if not name:
        return 0, 1, False
    if name in names:
        return names.index("id") if "id" in names else 0, names.index(name), True
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return 0, int(name) - 1, False
    raise InputError(
        f"{path}: has no column {shortened(name)}, but {counted(len(names), 'column')}: "
        f"{', '.join(map(shortened, names))}"
    )
