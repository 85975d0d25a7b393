"""Lines to records, under the rules of the run.

Biopython splits lines into headers and sequences. The letters are judged here. `A C G T U` in any case are
residues; the IUPAC codes `R Y S W K M B D H V N`, and `X` and `I`, are unknown residues, written `x` and
counted; `-` `.` `~` are gaps; white space is nothing; anything else is invalid.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from Bio.SeqIO.FastaIO import SimpleFastaParser

from protrna_cli.errors import InputError
from protrna_cli.fasta.sources import Source, fasta_lines
from protrna_cli.plan.pieces import cut, embedded_length
from protrna_cli.plan.rows import Row
from protrna_cli.plan.rules import Regions, Rules
from protrna_cli.text import shortened

UNKNOWN, _GAP, _INVALID = "x", "-", "!"
_ONLY_PROTEIN = frozenset("EFJLOPQZ*")
CHANGED = "changed while it was being read; start again with a file at rest"


class Place(NamedTuple):
    """Where a record begins.

    Attributes
    ----------
    source
        Which input, from 0.
    number
        Which record of it, from 1.
    line, offset
        Line of its header, from 1, and offset of that line, as `inputs` counts it.
    """

    source: int = 0
    number: int = 1
    line: int = 1
    offset: int = 0


START = Place()


@dataclass(frozen=True, slots=True)
class Record:
    """One FASTA record. Its place is what it is known by: ids may repeat.

    Attributes
    ----------
    number
        Which record of its input it is, from 1; skipped records are counted.
    id, description
        First word of the header, and the rest of it.
    sequence
        Residues as the lower-case letters `a c g u x`, at least one.
    n_unknown
        How many of them are `x`.
    place
        Where it begins.
    """

    number: int
    id: str
    description: str
    sequence: str
    n_unknown: int
    place: Place = field(default=START, compare=False, repr=False)

    @property
    def length(self) -> int:
        """Count of residues."""
        return len(self.sequence)


def rows_of(record: Record, rules: Rules, per_token: bool) -> list[Row]:
    """What stands beside a record's embeddings: a row a region where there are regions, otherwise one row."""
    n_windows = len(cut(0, record.length, rules))
    if per_token or not rules.regions:
        n_embedded = embedded_length(record.length, rules)
        if rules.skip_unknown and not per_token:
            n_embedded -= record.sequence.count(UNKNOWN, 0, n_embedded)
        counts = (record.length, n_embedded, record.n_unknown, n_windows)
        return [Row(record.id, record.description, *counts)]
    rows = []
    for region in rules.regions.by_id[record.id]:
        n_unknown = record.sequence.count(UNKNOWN, region.start, region.stop)
        n_embedded = region.length - n_unknown * rules.skip_unknown
        counts = (region.length, n_embedded, n_unknown, n_windows)
        rows.append(Row(f"{record.id}:{region.name}", record.description, *counts))
    return rows


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that the rules leave out.

    Attributes
    ----------
    file, record, id
        The input, which record of it this is, from 1, and its id.
    line, position
        Line of the input, and residue of the record, of what is wrong; 0 where it is not one letter.
    reason
        What is wrong.
    place
        Where it begins.
    """

    file: str
    record: int
    id: str
    line: int
    position: int
    reason: str
    place: Place = field(default=START, compare=False, repr=False)

    @property
    def length(self) -> int:
        """Residues to embed: none."""
        return 0

    def __str__(self) -> str:
        place = f"{self.file}: record {self.record} (id {shortened(self.id)}), line {self.line}"
        return (
            f"{place}, residue {self.position}: {self.reason}" if self.position else f"{place}: {self.reason}"
        )


def read_inputs(
    sources: Sequence[Source], rules: Rules, inputs: list[dict[str, str]]
) -> Iterator[Record | Skipped]:
    """Read all inputs in order; name and hash of each are added to `inputs` when it ends."""
    for i, source in enumerate(sources):
        digest = hashlib.sha256()
        item = None
        for item in _read_from(source, rules, Place(i), digest):
            yield item
        if not item:
            raise InputError(f"{source.name}: no FASTA record in it; a record starts with '>ID description'")
        inputs.append({"name": Path(source.name).name, "sha256": digest.hexdigest()})


def read_on(sources: Sequence[Source], rules: Rules, start: Place) -> Iterator[Record | Skipped]:
    """Read the inputs in order from a place on."""
    yield from _read_from(sources[start.source], rules, start)
    for i in range(start.source + 1, len(sources)):
        yield from _read_from(sources[i], rules, Place(i))


def _read_from(source: Source, rules: Rules, start: Place, digest: Any = None) -> Iterator[Record | Skipped]:
    """Read an input from a place on."""
    letters = _Letters(rules)
    headers = _Headers(fasta_lines(source, digest, start.offset), start)
    for header, raw in SimpleFastaParser(iter(headers)):
        yield _judged(source, headers.waiting.popleft(), header, letters.read(raw), rules)


class _Headers:
    """Lines of an input, and the places of the headers that passed by and wait for their record."""

    def __init__(self, lines: Iterable[str], start: Place) -> None:
        self.waiting: deque[Place] = deque()
        self._lines = lines
        self._start = start

    def __iter__(self) -> Iterator[str]:
        source, record, first, offset = self._start
        for number, line in enumerate(self._lines, start=first):
            if line[0] == ">":
                self.waiting.append(Place(source, record, number, offset))
                record += 1
            offset += len(line) if line.isascii() else len(line.encode())
            yield line


class _Letters(dict[int, str | None]):
    """What every letter becomes; `!` for what is neither residue, gap nor white space."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        for group, residue in (("ACGU", None), ("T", "u"), ("RYSWKMBDHVNXI", UNKNOWN), ("-.~", _GAP)):
            for letter in group:
                self[ord(letter)] = self[ord(letter.lower())] = residue or letter.lower()
        self.update(dict.fromkeys(map(ord, " \t\v\f\r\n")))
        self._gaps = {"remove": "", "unknown": UNKNOWN}.get(rules.gaps)
        self._invalid = {"unknown": UNKNOWN}.get(rules.on_invalid)

    def __missing__(self, key: int) -> str:
        return _INVALID

    def read(self, raw: str) -> str:
        """Letters of a record as residues; gaps and invalid letters that the rules do not read remain."""
        sequence = raw.translate(self)
        if self._gaps is not None:
            sequence = sequence.replace(_GAP, self._gaps)
        if self._invalid is not None:
            sequence = sequence.replace(_INVALID, self._invalid)
        return sequence


def _judged(source: Source, place: Place, header: str, sequence: str, rules: Rules) -> Record | Skipped:
    """Make a record, or say why it is left out.

    Raises
    ------
    InputError
        The rules do not let the record pass.
    """
    if "\0" in header:
        raise InputError(f"{source.name}: line {place.line}: a header with a NUL byte; is this a text file?")
    name, description = [*header.split(None, 1), "", ""][:2]
    if not sequence or _GAP in sequence or _INVALID in sequence:
        return _flawed(source, place, name, sequence, rules)
    if len(sequence) > rules.max_length and rules.long in ("error", "skip"):
        reason = f"{len(sequence):,} residues, longer than {rules.max_length:,}"
        flaw = Skipped(source.name, place.number, name, place.line, 0, reason, place)
        if rules.long == "error":
            raise InputError(f"{flaw}; use --long window, truncate, skip or whole")
        return flaw
    record = Record(place.number, name, description, sequence, sequence.count(UNKNOWN), place)
    return _without_rows(source, record, rules) or record


def _without_rows(source: Source, record: Record, rules: Rules) -> Skipped | None:
    """Say why no row can speak of a record, if none can; raised unless the rules skip it."""
    number, name, place = record.number, record.id, record.place
    if rules.regions:
        if name not in rules.regions.by_id:
            reason = f"no region in {rules.regions.file}"
            return Skipped(source.name, number, name, place.line, 0, reason, place)
        _check_ends(record, rules.regions, rules)
    rows = rows_of(record, rules, per_token=False) if rules.skip_unknown else []
    for row in rows:
        if not row.n_embedded:
            reason = f"{shortened(row.id)} has no known residue"
            flaw = Skipped(source.name, number, name, place.line, 0, reason, place)
            if rules.on_invalid != "skip":
                remedy = "remove it, leave out --skip-unknown, or use --on-invalid skip"
                raise InputError(f"{flaw}; {remedy}")
            return flaw
    return None


def _check_ends(record: Record, regions: Regions, rules: Rules) -> None:
    """Make sure that no region of a record ends behind its embedded residues."""
    embedded = embedded_length(record.length, rules)
    for region in regions.by_id[record.id]:
        if region.stop > embedded:
            end = "ends" if embedded == record.length else "is cut by --long truncate"
            raise InputError(
                f"{regions.file}: line {region.line}: region {shortened(region.name)} ends at "
                f"{region.stop:,}, and record {shortened(record.id)} {end} at {embedded:,}"
            )


def _flawed(source: Source, place: Place, name: str, sequence: str, rules: Rules) -> Skipped:
    """Say what is wrong with a record's letters; raised unless the rules skip it."""
    if not sequence:
        flaw = Skipped(source.name, place.number, name, place.line, 0, "no residues", place)
        remedy = "remove the record, or use --on-invalid skip"
    else:
        mark = _GAP if _GAP in sequence else _INVALID
        line, position, letter, raw = _locate(source, place, mark, rules)
        reason = f"{letter!r} is no letter of RNA or DNA"
        flaw = Skipped(source.name, place.number, name, line, position, reason, place)
        remedy = "correct it, or use --on-invalid skip or --on-invalid unknown"
        if mark == _GAP:
            # An alignment is a file chosen by mistake, not a bad record: --on-invalid does not speak of it.
            raise InputError(f"{flaw} but a gap; use --gaps remove or --gaps unknown")
        if sum(raw.upper().count(each) for each in _ONLY_PROTEIN) > max(2, len(raw) / 20):
            flaw = replace(flaw, reason=f"{flaw.reason}; the record looks like protein")
            remedy = "give RNA or DNA, or use --on-invalid skip"
    if rules.on_invalid != "skip":
        raise InputError(f"{flaw}; {remedy}")
    return flaw


def _locate(source: Source, place: Place, mark: str, rules: Rules) -> tuple[int, int, str, str]:
    """Line, position and letter of a record's first letter that reads as `mark`, and all its letters.

    It reads the record again, for which good records never pay.
    """
    letters = _Letters(rules)
    lines: list[tuple[int, str]] = []
    following = enumerate(fasta_lines(source, start=place.offset), start=place.line)
    next(following, None)  # its header
    for number, line in following:
        if line[0] == ">":
            break
        lines.append((number, line))
    position = 0
    for number, line in lines:
        for letter in line:
            read = letters.read(letter)
            position += len(read)
            if read == mark:
                return number, position, letter, "".join(line for _, line in lines)
    raise InputError(f"{source.name}: {CHANGED}")
