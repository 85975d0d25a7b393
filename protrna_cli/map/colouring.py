"""What a point's colour says: a number of its record, or the family of its record."""

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
from protrna_cli.text import shortened

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's, which people with any of the colour blindnesses tell apart (https://jfly.uni-koeln.de/color/)."""
MARKERS = ("circle", "triangle", "square")
OTHER_COLOUR = "#DDDDDD"
MOST_FAMILIES = 20
LONGEST_LABEL = 36
TABLE_FORM = "a table of families has lines id<TAB>family"
WIDE = 10
"""The scale is logarithmic from this ratio of the largest value to the smallest on."""


@dataclass(frozen=True)
class Scale:
    """A number a record.

    Attributes
    ----------
    title
        Name of the column.
    values
        float64 (N,).
    """

    title: str
    values: npt.NDArray[np.float64]

    @property
    def logarithmic(self) -> bool:
        """Whether the values are so far apart that a linear scale would show the largest alone."""
        return bool(self.values.min() > 0 and self.values.max() >= WIDE * self.values.min())

    @property
    def ticks(self) -> list[int]:
        """Numbers to write beside a logarithmic scale: 1, 2 and 5 of each power of ten that it spans."""
        low, high = self.values.min(), self.values.max()
        powers = (10**power for power in range(len(str(int(high)))))
        return [digit * power for power in powers for digit in (1, 2, 5) if low <= digit * power <= high]


@dataclass(frozen=True, eq=False)
class Group:
    """The records that look alike: those of one family, or all that have none of their own.

    Attributes
    ----------
    label
        What the legend says.
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
    """A family a record, or none.

    Attributes
    ----------
    title
        Where the families come from.
    names
        N families; None where a record has none.
    """

    title: str
    names: list[str | None]

    def groups(self) -> list[Group]:
        """The families, largest first, and last the other records, if there are any.

        The 20 largest are kept (of equally large ones the first in the alphabet). Colours come first, and
        another shape once they are used up.
        """
        sizes = Counter(name for name in self.names if name is not None)
        kept = sorted(sizes, key=lambda name: (-sizes[name], name))[:MOST_FAMILIES]
        place = {name: i for i, name in enumerate(kept)}
        places = np.array([place.get(name or "", len(kept)) for name in self.names])
        groups = []
        for i, name in enumerate(kept):
            shape, colour = divmod(i, len(COLOURS))
            groups.append(_group(name, places == i, COLOURS[colour], MARKERS[shape]))
        others = places == len(kept)
        return [*groups, _group("other", others, OTHER_COLOUR, MARKERS[0])] if others.any() else groups

    def notes(self) -> list[str]:
        """What the picture does not tell apart."""
        notes = []
        if without := self.names.count(None):
            notes.append(f"{without:,} of {len(self.names):,} records have no family; they are grey")
        if (count := len({*self.names} - {None})) > MOST_FAMILIES:
            notes.append(f"{count:,} families: the {MOST_FAMILIES} largest have a colour, the rest are grey")
        return notes


Colouring = Scale | Families


def _group(name: str, among: npt.NDArray[np.bool_], colour: str, marker: str) -> Group:
    members = np.flatnonzero(among)
    return Group(f"{clipped(name)} ({members.size:,})", members, colour, marker)


def clipped(text: str, longest: int = LONGEST_LABEL) -> str:
    """A text, or the beginning of a long one.

    >>> clipped("ribozyme"), clipped("ribozyme", 5)
    ('ribozyme', 'ribo…')
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def in_drawing_order(groups: Sequence[Group]) -> list[Group]:
    """The grey records first, then the smaller a family, the later, so that it is not covered."""
    return sorted(groups, key=lambda group: (group.colour != OTHER_COLOUR, -group.members.size))


def colour_by(rows: Sequence[Row], wanted: str) -> Colouring:
    """Colour records by what `--color-by` names.

    Parameters
    ----------
    rows
        N records.
    wanted
        A column's name (numbers become a scale, texts families); else the path of a file that exists, with
        lines `id<TAB>family`; else a regular expression, searched in `id description`, whose first group (or,
        without groups, whose match) is the family.

    Raises
    ------
    UsageError
        It is none of them, or no record has a family by it.
    InputError, InputUnreadable
        The file is not of that form, or cannot be read.
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
            raise InputError(f"{path}: names no id of the output; {TABLE_FORM}")
        return Families(path.name, names)
    return Families(wanted, _matches(rows, wanted))


def read_families(path: Path) -> dict[str, str]:
    """Read a table of families: lines `id<TAB>family` in UTF-8; further columns and empty lines do no matter.

    A header line needs no sign of its own: it speaks of an id that no record has.

    Raises
    ------
    InputError
        A line has no tab, or gives an id a second family.
    InputUnreadable
        The file cannot be read.
    """
    families: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; {TABLE_FORM}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, tab, rest = line.partition("\t")
        family = rest.split("\t")[0].strip()
        if not tab:
            raise InputError(f"{path}, line {number}: {shortened(line)} has no tab; {TABLE_FORM}")
        if family and families.setdefault(name, family) != family:
            raise InputError(
                f"{path}, line {number}: id {shortened(name)} has the family {shortened(families[name])} "
                "on an earlier line; give it one"
            )
    return families


def _matches(rows: Sequence[Row], wanted: str) -> list[str | None]:
    """What a regular expression finds in each record; it must find something."""
    problem = f"--color-by {wanted!r} is no column ({', '.join(ROW_COLUMNS)}) and no file, and as a regular "
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise UsageError(f"{problem}expression it is wrong ({error}); quote it, as 'family=(\\S+)'") from None
    found = (pattern.search(f"{row.id} {row.description}") for row in rows)
    names = [(match[1 if pattern.groups else 0] or None) if match else None for match in found]
    if not any(names):
        raise UsageError(f"{problem}expression it matches no record; see ids and descriptions in the output")
    return names
