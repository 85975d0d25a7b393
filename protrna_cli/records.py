"""FASTA bytes to records, and the census: one pass over the whole input before any model is loaded.

Biopython splits the input into headers and sequences. The letters are judged here:
`A C G T U` in any case are residues; the IUPAC codes `R Y S W K M B D H V N` and `X`, `I` are unknown
residues, written `x` and counted; anything else is an error that names file, record, line and position.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from Bio.SeqIO.FastaIO import SimpleFastaParser

from protrna_cli.errors import InputError, InputUnreadable

TRAINED_LENGTH = 510
"""Residues of the longest sequence that the model was trained on."""

UNKNOWN = "x"
_INVALID = "!"


class _Letters(dict[int, str]):
    """What every letter becomes; `!` for all that is no residue."""

    def __init__(self) -> None:
        super().__init__()
        for letters, residue in (("aA", "a"), ("cC", "c"), ("gG", "g"), ("uUtT", "u")):
            self.update({ord(letter): residue for letter in letters})
        self.update({ord(letter): UNKNOWN for code in "RYSWKMBDHVNXI" for letter in (code, code.lower())})

    def __missing__(self, key: int) -> str:
        return _INVALID


_LETTERS = _Letters()


@dataclass(frozen=True, slots=True)
class Record:
    """One FASTA record. It is its index: ids may repeat.

    Attributes
    ----------
    index
        Place in the whole input, from 0.
    id, description
        First word of the header, and the rest of it.
    sequence
        Residues as the lower-case letters `a c g u x`, at least one.
    n_unknown
        How many of them are `x`.
    """

    index: int
    id: str
    description: str
    sequence: str
    n_unknown: int

    @property
    def length(self) -> int:
        """Count of residues."""
        return len(self.sequence)


@dataclass
class Census:
    """What one pass over the whole input counts.

    Attributes
    ----------
    inputs
        Name and SHA-256 of the bytes of each input file.
    n_records, n_residues, n_unknown, longest
        Records, residues, unknown residues, and residues of the longest record.
    """

    inputs: list[dict[str, str]] = field(default_factory=list)
    n_records: int = 0
    n_residues: int = 0
    n_unknown: int = 0
    longest: int = 0
    n_long: int = 0

    def count(self, record: Record) -> None:
        """Add one record."""
        self.n_records += 1
        self.n_residues += record.length
        self.n_unknown += record.n_unknown
        self.longest = max(self.longest, record.length)
        self.n_long += record.length > TRAINED_LENGTH


def take_census(paths: Sequence[Path]) -> Census:
    """Read the whole input once: validate every record, count, and hash the files.

    Raises
    ------
    InputUnreadable
        A file cannot be opened or read.
    InputError
        A file is not FASTA of RNA or DNA, or there is no record in it.
    """
    census = Census()
    for path in paths:
        before = census.n_records
        digest = hashlib.sha256()
        for record in _read_file(path, before, digest):
            census.count(record)
        if census.n_records == before:
            raise InputError(f"{path}: no FASTA record in it; a record starts with a line '>ID description'")
        census.inputs.append({"name": path.name, "sha256": digest.hexdigest()})
    return census


def read_records(paths: Iterable[Path], census: Census) -> Iterator[Record]:
    """Read the records once more, in order, under the rules of the census.

    Raises
    ------
    InputError
        As `take_census`; also when a file is not the one that the census read.
    """
    index = 0
    for path, counted in zip(paths, census.inputs, strict=True):
        digest = hashlib.sha256()
        for record in _read_file(path, index, digest):
            index += 1
            yield record
        if digest.hexdigest() != counted["sha256"]:
            raise InputError(f"{path}: changed while it was being read; start again with a file at rest")


class _HashingReader(io.RawIOBase):
    """A file's bytes, hashed on their way."""

    def __init__(self, path: Path, digest: Any) -> None:
        self._file = path.open("rb", buffering=0)
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self._digest.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _HeaderLines:
    """Lines of a file, and the numbers of the header lines that passed by and wait for their record."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.waiting: deque[int] = deque()
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._lines, start=1):
            if line.startswith(">"):
                self.waiting.append(number)
            yield line


def _read_file(path: Path, first_index: int, digest: Any) -> Iterator[Record]:
    try:
        with io.TextIOWrapper(io.BufferedReader(_HashingReader(path, digest), 1 << 20), "utf-8-sig") as text:
            lines = _HeaderLines(text)
            for index, (header, letters) in enumerate(SimpleFastaParser(iter(lines)), first_index):
                record = _record(index, header, letters)
                line = lines.waiting.popleft()
                if not record.sequence or _INVALID in record.sequence:
                    raise InputError(_complaint(path, record, line))
                yield record
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error.reason}); is it FASTA?") from None
    except OSError as error:
        raise InputUnreadable(f"{path}: cannot be read ({error.strerror or error})") from None


def _record(index: int, header: str, letters: str) -> Record:
    name, description = [*header.split(None, 1), "", ""][:2]
    sequence = letters.translate(_LETTERS)
    return Record(index, name, description, sequence, sequence.count(UNKNOWN))


def _complaint(path: Path, record: Record, header_line: int) -> str:
    """Name the first bad letter of a record by reading its lines again, which good records never pay for."""
    place = f"{path}: record {record.index + 1} (id {record.id!r})"
    if not record.sequence:
        return f"{place}, line {header_line}: no residues; remove the record"
    with path.open(encoding="utf-8-sig") as text:
        position = 0
        for number, line in enumerate(text, start=1):
            if number <= header_line:
                continue
            for letter in line.rstrip().replace(" ", ""):
                position += 1
                if _LETTERS[ord(letter)] == _INVALID:
                    return (
                        f"{place}, line {number}, residue {position}: {letter!r} is no letter of RNA or DNA; "
                        "correct it, or write N for an unknown residue"
                    )
    raise AssertionError("a complaint without a bad letter")
