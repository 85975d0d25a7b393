"""Colour points by a number or by the family of their record."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import InputError, InputUnreadable, UsageError
from protrna_cli.plan.rows import COUNT_COLUMNS, ROW_COLUMNS, Row
from protrna_cli.text import printable, shortened

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Palette of Okabe and Ito, distinguishable with any type of colour blindness (https://jfly.uni-koeln.de/color/)."""
MARKERS = ("circle", "triangle", "square")
OTHER_COLOUR = "#DDDDDD"
MAX_FAMILIES = 20
MAX_LABEL_LENGTH = 36
TABLE_FORMAT = "a table of families has lines id<TAB>family"
LOG_SCALE_RATIO = 10
"""The scale is logarithmic if the largest value is at least this many times the smallest."""


@dataclass(frozen=True)
class Scale:
    """A number for each record.

    Attributes
    ----------
    title
        Name of the column that the numbers are from.
    values
        float64 (N,).
    """

    title: str
    values: npt.NDArray[np.float64]

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the scale; if all values are equal, theirs is its middle."""
        low, high = float(self.values.min()), float(self.values.max())
        return (low, high) if low < high else (low - 0.5, high + 0.5)

    @property
    def logarithmic(self) -> bool:
        """Whether all values are positive and a linear scale would show only the largest of them."""
        return bool(self.values.min() > 0 and self.values.max() >= LOG_SCALE_RATIO * self.values.min())

    @property
    def ticks(self) -> list[int]:
        """Ticks of a logarithmic scale: 1, 2 and 5 times each power of ten, within its range."""
        low, high = self.values.min(), self.values.max()
        powers = (10**power for power in range(len(str(int(high)))))
        return [digit * power for power in powers for digit in (1, 2, 5) if low <= digit * power <= high]


@dataclass(frozen=True, eq=False)
class Group:
    """Records drawn with the same colour and marker: one family, or all other records.

    Attributes
    ----------
    label
        Text in the legend.
    members
        Indices of the records, int64 (n,).
    colour, marker
        `#RRGGBB`, and one of `MARKERS`.
    """

    label: str
    members: npt.NDArray[np.int64]
    colour: str
    marker: str


@dataclass(frozen=True)
class Families:
    """A family, or none, for each record.

    Attributes
    ----------
    title
        Where the families are from: a column, a file or a regular expression.
    names
        Families of the N records; None for a record without one.
    """

    title: str
    names: list[str | None]

    def groups(self) -> list[Group]:
        """Group the records by family, largest family first, the other records (if any) last.

        The 20 largest families are kept (of equally large ones, the first in alphabetical order). When all
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

    def notes(self) -> list[str]:
        """Notes on records that the picture shows in the same grey."""
        notes = []
        if without := self.names.count(None):
            notes.append(f"{without:,} of {len(self.names):,} records have no family; they are grey")
        if (count := len({*self.names} - {None})) > MAX_FAMILIES:
            notes.append(f"{count:,} families: the {MAX_FAMILIES} largest have a colour, the rest are grey")
        return notes


Colouring = Scale | Families


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

    Parameters
    ----------
    rows
        N records.
    wanted
        A column name (numbers become a scale, texts families); else the path of an existing file with lines
        `id<TAB>family`; else a regular expression, searched in `id description`, whose first group (or whole
        match, if it has no groups) is the family.
    """
    if wanted in COUNT_COLUMNS:
        return Scale(wanted, np.array([getattr(row, wanted) for row in rows], np.float64))
    if wanted in ROW_COLUMNS:
        return Families(wanted, [getattr(row, wanted) or None for row in rows])
    path = Path(wanted)
    if path.is_file():
        families = read_families(path)
        names = [families.get(row.id) for row in rows]
        if not any(names):
            raise InputError(f"{path}: has none of the ids in the output; {TABLE_FORMAT}")
        return Families(printable(path.name), names)
    return Families(wanted, _matches(rows, wanted))


def read_families(path: Path) -> dict[str, str]:
    """Read a table of families: UTF-8 lines `id<TAB>family`; further columns and empty lines are ignored.

    A header line is allowed without any mark: no record has its id.
    """
    families: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputUnreadable(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; {TABLE_FORMAT}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, tab, rest = line.partition("\t")
        family = rest.split("\t")[0].strip()
        if not tab:
            raise InputError(f"{path}, line {number}: {shortened(line)} has no tab; {TABLE_FORMAT}")
        if family and families.setdefault(name, family) != family:
            raise InputError(
                f"{path}, line {number}: id {shortened(name)} has the family {shortened(families[name])} "
                "on an earlier line; give it one"
            )
    return families


def _matches(rows: Sequence[Row], wanted: str) -> list[str | None]:
    """Match a regular expression against each record; at least one must match."""
    problem = f"--color-by {wanted!r} is not a column ({', '.join(ROW_COLUMNS)}) or a file, and "
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
