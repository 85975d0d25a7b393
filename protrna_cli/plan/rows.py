"""The columns of an output other than the embedding."""

from __future__ import annotations

from dataclasses import dataclass, fields


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

ROW_COLUMNS = tuple(field.name for field in fields(Row))
COUNT_COLUMNS = ("length", "n_embedded", "n_unknown", "n_windows")
