"""The columns of an output other than the embedding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an output, without its embedding: a record, or a region of one.

    Attributes
    ----------
    id, description
        First word of the FASTA header, and the rest of it. The id of a region is `ID:NAME`.
    length
        Residues of the record or region.
    n_embedded
        Residues that the embedding covers.
    n_unknown
        Unknown residues (`x`).
    n_windows
        Number of pieces in which the record ran.
    md5
        MD5 of the sequence of the record or region in upper-case DNA letters, as 32 hexadecimal digits: the
        key by which RNAcentral and vsearch know a sequence. Empty in outputs of versions before 0.2.
    """

    id: str
    description: str
    length: int
    n_embedded: int
    n_unknown: int
    n_windows: int
    md5: str = ""


SKIPPED_COLUMNS = ("file", "record", "id", "line", "position", "reason")
"""Columns of a list of skipped records: the attributes of each."""

_TYPES = get_type_hints(Row)

ROW_COLUMNS = tuple(_TYPES)
COUNT_COLUMNS = tuple(name for name, kind in _TYPES.items() if kind is int)


def row_of(values: Mapping[str, Any], columns: Iterable[str]) -> Row:
    """Make a row of the values in these columns, which may be text or of another number type."""
    return Row(**{name: _TYPES[name](values[name]) for name in columns})
