"""Where records come from, and where in it: for messages, and to find a bad letter again."""

from __future__ import annotations

import shlex
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, Protocol

from protrna_cli.fasta.sources import Source, fasta_lines


class Place(NamedTuple):
    """Where a record begins.

    Attributes
    ----------
    source
        Index of the input, from 0.
    number
        Number of the record in that input, from 1.
    line, offset
        Line number of its header, from 1, and byte offset of that line in the text (see `sources`).
    """

    source: int = 0
    number: int = 1
    line: int = 1
    offset: int = 0


START = Place()


class Origin(Protocol):
    """Where records come from: a file, or a program that passes sequences."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    def lines_of(self, place: Place) -> list[tuple[int, str]]:
        """Lines of the record at a place, each with its line number, or 0 if it has none."""

    def without_structure(self) -> str:
        """What to do with lines of structure, for a message."""


class FileOrigin(NamedTuple):
    """A FASTA file as an origin of records."""

    source: Source

    @property
    def name(self) -> str:
        return self.source.name

    def lines_of(self, place: Place) -> list[tuple[int, str]]:
        """Read the lines of a record again, so that good records need not keep them."""
        lines = (line for _, line in fasta_lines(self.source, start=place.offset))
        following = enumerate(lines, start=place.line)
        next(following, None)  # its header
        return list(takewhile(lambda numbered: numbered[1][0] != ">", following))

    def without_structure(self) -> str:
        command = f"{_GREP.get(Path(self.name).suffix, 'grep')} '^[>A-Za-z]'"
        if self.source.path:
            command += f" {shlex.quote(self.name)} > sequences.fa"
        return f"remove such lines, for example with: {command}"


_GREP = {".gz": "zgrep", ".bz2": "bzgrep", ".xz": "xzgrep", ".zst": "zstdgrep"}
"""The `grep` for a compressed file, by its suffix."""


class ProgramOrigin(NamedTuple):
    """A sequence that a program passes as an origin of a record."""

    raw: str
    name: str = "sequences"

    def lines_of(self, place: Place) -> list[tuple[int, str]]:
        return [(place.line, self.raw)]

    def without_structure(self) -> str:
        return "pass the sequence alone"
