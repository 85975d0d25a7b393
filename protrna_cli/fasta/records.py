"""Turn lines into records under the rules of the run.

`A C G T U` in any case are residues; the IUPAC codes `R Y S W K M B D H V N`, and `X` and `I`, are unknown
residues, stored as `x` and counted; `-` `.` `~` are gaps; white space is dropped; anything else is invalid.
Lines of structure in dot-bracket notation, as RNAfold writes them, are never read as residues, under no rule.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from Bio.SeqIO.FastaIO import SimpleFastaParser

from protrna_cli.errors import InputError
from protrna_cli.fasta.sources import Source, fasta_lines
from protrna_cli.plan.pieces import Row, cut, embedded_length
from protrna_cli.plan.rules import Regions, Rules
from protrna_cli.text import shortened


class Start(NamedTuple):
    """Where a record begins."""

    source: int = 0  # index of the input, from 0
    number: int = 1  # number of the record in that input, from 1
    # Line number of its header, from 1, and byte offset of that line in the text (see `sources`).
    line: int = 1
    offset: int = 0


FIRST = Start()

_GREP = {".gz": "zgrep", ".bz2": "bzgrep", ".xz": "xzgrep", ".zst": "zstdgrep"}
"""The `grep` for a compressed file, by its suffix."""

UNKNOWN, _GAP, _INVALID = "x", "-", "!"
_ONLY_PROTEIN = frozenset("EFJLOPQZ*")
_BRACKETS = "()<>[]{}"
_STRUCTURE = re.compile(r"[()<>[\]{}][-.,:_|~()<>[\]{}]{3}|[-.,:_|~()<>[\]{}]{3}[()<>[\]{}]")
"""Four signs in a row of dot-bracket notation (any dialect), one of them a bracket."""
_BARE = re.compile(r"[-.,:_|~()<>[\]{}\s]+")

_WHITE = " \t\v\f\r\n"
_HEADER_END = re.compile(f"[{_WHITE}]+")
"""Ids end at ASCII white space only, as for samtools and seqkit."""

_NUL = "a NUL byte, as between the records of an MMseqs2 database; convert it with mmseqs convert2fasta"
_COMMENT = "a comment, which FASTA does not have; remove lines that begin with ; or #"
_GLUED = "a header inside a line; is a newline missing at the end of a file?"

CHANGED = "changed while it was being read; start again when nothing writes to it"


@dataclass(frozen=True)
class Record:
    """One FASTA record, identified by where it begins, because ids may repeat."""

    number: int  # number of the record in its input, from 1; skipped records count too
    # First word of the header, and the rest of it.
    id: str
    description: str
    sequence: str  # residues as lower-case letters `a c g u x`; at least one
    n_unknown: int  # number of residues that are `x`
    start: Start = field(default=FIRST, compare=False, repr=False)  # where it begins
    # The sequence in upper-case DNA letters, if it has unknown residues: those in `sequence` are all `x`.
    dna: str = field(default="", compare=False, repr=False)

    @property
    def length(self) -> int:
        """Count of residues."""
        return len(self.sequence)

    @cached_property
    def md5(self) -> str:
        """MD5 of the sequence in upper-case DNA letters, in hexadecimal, as RNAcentral computes it."""
        return self.md5_of(0, self.length)

    def md5_of(self, start: int, stop: int) -> str:
        """MD5 of these residues, as `md5`."""
        dna = self.dna[start:stop] or self.sequence[start:stop].upper().replace("U", "T")
        return hashlib.md5(dna.encode(), usedforsecurity=False).hexdigest()


def rows_of(record: Record, rules: Rules, per_token: bool) -> list[Row]:
    """Make the rows of a record, without embeddings: one per region if there are regions, else one.

    With `per_token` there is always one row, the record's.
    """
    n_windows = len(cut(0, record.length, rules))
    if per_token or not rules.regions:
        n_embedded = embedded_length(record.length, rules)
        if rules.skip_unknown and not per_token:
            n_embedded -= record.sequence.count(UNKNOWN, 0, n_embedded)
        counts = (record.length, n_embedded, record.n_unknown, n_windows)
        return [Row(record.id, record.description, *counts, record.md5)]
    rows = []
    for region in rules.regions.by_id[record.id]:
        n_unknown = record.sequence.count(UNKNOWN, region.start, region.stop)
        n_embedded = region.length - n_unknown * rules.skip_unknown
        counts = (region.length, n_embedded, n_unknown, n_windows)
        md5 = record.md5_of(region.start, region.stop)
        rows.append(Row(f"{record.id}:{region.name}", record.description, *counts, md5))
    return rows


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that is left out of the output."""

    # Name of the input, number of the record in it, from 1, and its id.
    file: str
    record: int
    id: str
    # Line of the input and residue of the record, from 1, where the problem is; `position` is 0 if the
    # problem is not a single letter, and `line` is 0 for a sequence that is not from a file.
    line: int
    position: int
    reason: str  # why it is skipped
    start: Start = field(default=FIRST, compare=False, repr=False)  # where it begins

    @property
    def length(self) -> int:
        """Residues to embed: 0."""
        return 0

    def __str__(self) -> str:
        where = f"{self.file}: record {self.record} (id {shortened(self.id)})"
        for name, number in (("line", self.line), ("residue", self.position)):
            where += f", {name} {number}" if number else ""
        return f"{where}: {self.reason}"


class _Raw(NamedTuple):
    """A record as it was read, before the rules apply to it."""

    source: Source | None  # None for a sequence that a program passes
    start: Start
    id: str
    description: str
    letters: str

    @property
    def file(self) -> str:
        """Name of its file in messages."""
        return self.source.name if self.source else "sequences"

    def lines(self) -> list[tuple[int, str]]:
        """Read its lines again, each with its number, so that good records need not keep them."""
        if not self.source:
            return [(self.start.line, self.letters)]
        lines = (line for _, line in fasta_lines(self.source, start=self.start.offset))
        following = enumerate(lines, start=self.start.line)
        next(following, None)  # its header
        return list(takewhile(lambda numbered: numbered[1][0] != ">", following))

    def skipped(self, reason: str, line: int | None = None, position: int = 0) -> Skipped:
        """Leave it out, because of its line with this number, or of its first one."""
        line = self.start.line if line is None else line
        return Skipped(self.file, self.start.number, self.id, line, position, reason, self.start)

    def structure_error(self, line: int) -> InputError:
        """Make the error for a line of structure."""
        remedy = "pass the sequence alone"
        if self.source:
            command = f"{_GREP.get(Path(self.file).suffix, 'grep')} '^[>A-Za-z]'"
            if self.source.path:
                command += f" {shlex.quote(self.file)} > sequences.fa"
            remedy = f"remove such lines, for example with: {command}"
        flaw = self.skipped("looks like dot-bracket structure", line)
        return InputError(f"{flaw}, not like residues; {remedy}")


Refuse = Callable[[InputError], None]
"""What becomes of the error of one bad record: raised, or kept so that the others are checked too."""


def raise_it(error: InputError) -> None:
    """End at the first bad record."""
    raise error


def read_inputs(
    sources: Sequence[Source], rules: Rules, inputs: list[dict[str, str]], refuse: Refuse = raise_it
) -> Iterator[Record | Skipped]:
    """Read all inputs in order. At the end of each, append its name and SHA-256 to `inputs`.

    refuse: called with the error of each bad record; if it returns, the record counts as skipped.
    """
    letters = _Letters(rules)
    for i, source in enumerate(sources):
        digest = hashlib.sha256()
        item = None
        for item in _read_source(source, letters, Start(i), digest, refuse):
            yield item
        if not item:
            raise InputError(
                f"{source.name}: contains no FASTA record; a record starts with '>ID description'"
            )
        inputs.append({"name": Path(source.name).name, "sha256": digest.hexdigest()})


def read_from(sources: Sequence[Source], rules: Rules, start: Start) -> Iterator[Record | Skipped]:
    """Read the inputs in order, starting where a record begins."""
    letters = _Letters(rules)
    yield from _read_source(sources[start.source], letters, start)
    for i in range(start.source + 1, len(sources)):
        yield from _read_source(sources[i], letters, Start(i))


def _read_source(
    source: Source, letters: _Letters, first: Start, digest: Any = None, refuse: Refuse = raise_it
) -> Iterator[Record | Skipped]:
    """Read one input, starting where a record begins; see `read_inputs`."""
    for raw, odd_line in _split(source, first, digest):
        try:
            if "\0" in raw.id + raw.description:
                raise InputError(
                    f"{source.name}: line {raw.start.line}: a header with a NUL byte; is this a text file?"
                )
            if odd_line:
                _refuse_line(raw, *odd_line)
            item = _apply_rules(raw, letters)
        except InputError as error:
            refuse(error)
            item = raw.skipped(str(error))
        yield item


def read_sequences(sequences: Iterable[tuple[str, str, str]], rules: Rules) -> Iterator[Record | Skipped]:
    """Make records of sequences that a program passes, under the same rules as those of a file.

    sequences: id, description and letters of each.
    """
    letters = _Letters(rules)
    for number, sequence in enumerate(sequences, start=1):
        raw = _Raw(None, Start(number=number, line=0), *sequence)
        if not raw.letters.isalpha():
            for line in filter(_is_odd, raw.letters.splitlines()):
                _refuse_line(raw, 0, line)
        yield _apply_rules(raw, letters)


def _split(source: Source, first: Start, digest: Any = None) -> Iterator[tuple[_Raw, tuple[int, str] | None]]:
    """Split an input into records, starting where one begins; each with its line that `_Starts` found odd."""
    starts = _Starts(fasta_lines(source, digest, first.offset), first)
    for header, letters in SimpleFastaParser(iter(starts)):
        start, odd_line = starts.queue.popleft()
        name, description = [*_HEADER_END.split(header.strip(_WHITE), maxsplit=1), ""][:2]
        yield _Raw(source, start, name, description, letters), odd_line


class _Starts:
    """Iterates over the lines of an input, and queues where each record starts until a parser completes it.

    queue: these starts, and the number and text of the first line of each record that can be no residues, or
        None. A line of signs, which may stand alone in a record, gives way to one that is never residues.
    """

    def __init__(self, lines: Iterable[tuple[int, str]], first: Start) -> None:
        self.queue: deque[tuple[Start, tuple[int, str] | None]] = deque()
        self._lines, self._first = lines, first

    def __iter__(self) -> Iterator[str]:
        source, record, first, offset = self._first
        for number, (n_bytes, line) in enumerate(self._lines, start=first):
            if line[0] == ">":
                self.queue.append((Start(source, record, number, offset), None))
                record += 1
            elif not line.rstrip("\r\n").isalpha() and self.queue and _is_odd(line):
                start, before = self.queue[-1]
                if before is None or (_is_bare(before[1]) and not _is_bare(line)):
                    self.queue[-1] = start, (number, line)
            offset += n_bytes
            yield line


def _is_odd(line: str) -> bool:
    """Whether a line below a header can be no residues under any rule: it is a comment, say, or structure."""
    text = line.strip(_WHITE)
    glued = ">" in text.partition("<")[0]  # no residues come before a header that have a "<"
    return "\0" in text or glued or text.startswith((";", "#")) or _is_bare(text)


def _is_bare(text: str) -> bool:
    """Whether a line has signs of dot-bracket notation and not a single letter. Gaps alone may be gaps."""
    signs = text.strip(_WHITE)
    return not _BARE.sub("", signs) and bool(signs.strip("-~" + _WHITE))


def _refuse_line(raw: _Raw, number: int, line: str) -> None:
    """Raise InputError for a line that can be no residues; without letters it is one beside others only."""
    text = line.strip(_WHITE)
    flaw = raw.skipped("", number)
    if "\0" in text:
        raise InputError(f"{flaw}{_NUL}")
    if text.startswith((";", "#")):
        raise InputError(f"{flaw}{_COMMENT}")
    if _is_bare(text) or _STRUCTURE.search("".join(text.split())):
        if any(letter.isalpha() for letter in raw.letters):
            raise raw.structure_error(number)
    else:
        raise InputError(f"{flaw}{_GLUED}")


class _Letters(dict[int, str | None]):
    """Translation table for letters. Anything that is not a residue, gap or white space becomes `!`."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        for group, residue in (("ACGU", None), ("T", "u"), ("RYSWKMBDHVNXI", UNKNOWN), ("-.~", _GAP)):
            for letter in group:
                self[ord(letter)] = self[ord(letter.lower())] = residue or letter.lower()
        self.update(dict.fromkeys(map(ord, " \t\v\f\r\n")))
        self._dna = _DnaLetters(remove_gaps=rules.gaps == "remove")
        self._gaps = {"remove": "", "unknown": UNKNOWN}.get(rules.gaps)
        self._invalid = {"unknown": UNKNOWN}.get(rules.on_invalid)

    def __missing__(self, key: int) -> str:
        return _INVALID

    def read(self, raw: str) -> str:
        """Translate the letters of a record to residues. `-` and `!` remain if the rules forbid them.

        `!` also remains in a record with a line of structure.
        """
        sequence = raw.translate(self)
        if self._gaps is not None:
            sequence = sequence.replace(_GAP, self._gaps)
        if self._invalid is not None and _INVALID in sequence and not _STRUCTURE.search(raw):
            sequence = sequence.replace(_INVALID, self._invalid)
        return sequence

    def dna(self, raw: str) -> str:
        """Translate the letters of a record, of which none is forbidden, to upper-case DNA letters."""
        return raw.translate(self._dna)


class _DnaLetters(dict[int, str | None]):
    """Translation table to upper-case DNA letters; IUPAC codes stay, any other unknown residue becomes N."""

    def __init__(self, remove_gaps: bool) -> None:
        super().__init__()
        for letter in "ACGTRYSWKMBDHVNXI":
            self[ord(letter)] = self[ord(letter.lower())] = letter
        self[ord("U")] = self[ord("u")] = "T"
        self.update(dict.fromkeys(map(ord, " \t\v\f\r\n")))
        self.update(dict.fromkeys(map(ord, "-.~"), None if remove_gaps else "N"))

    def __missing__(self, key: int) -> str:
        return "N"


def _apply_rules(raw: _Raw, letters: _Letters) -> Record | Skipped:
    """Make a record of its raw letters, or a skipped record if the rules leave it out."""
    rules, sequence = letters.rules, letters.read(raw.letters)
    if not sequence or _GAP in sequence or _INVALID in sequence:
        return _bad_letters(raw, sequence, letters)
    if len(sequence) > rules.max_length and rules.long in ("error", "skip"):
        flaw = raw.skipped(f"{len(sequence):,} residues, longer than {rules.max_length:,}")
        if rules.long == "error":
            raise InputError(f"{flaw}; use --long window, truncate, skip or whole")
        return flaw
    n_unknown = sequence.count(UNKNOWN)
    dna = letters.dna(raw.letters) if n_unknown else ""
    record = Record(raw.start.number, raw.id, raw.description, sequence, n_unknown, raw.start, dna)
    return _flaw_of_rows(raw, record, rules) or record


def _flaw_of_rows(raw: _Raw, record: Record, rules: Rules) -> Skipped | None:
    """Skip a record that has no region, or a row without a known residue; None for any other.

    Raises InputError for a row without a known residue unless the rules skip it, and for a region that ends
    beyond the record.
    """
    if rules.regions:
        if record.id not in rules.regions.by_id:
            return raw.skipped(f"no region in {rules.regions.file}")
        _check_ends(record, rules.regions, rules)
    rows = rows_of(record, rules, per_token=False) if rules.skip_unknown else []
    for row in rows:
        if not row.n_embedded:
            flaw = raw.skipped(f"{shortened(row.id)} has no known residue")
            if rules.on_invalid != "skip":
                remedy = "remove it, leave out --skip-unknown, or use --on-invalid skip"
                raise InputError(f"{flaw}; {remedy}")
            return flaw
    return None


def _check_ends(record: Record, regions: Regions, rules: Rules) -> None:
    """Raise InputError if a region of a record ends beyond its embedded residues."""
    embedded = embedded_length(record.length, rules)
    for region in regions.by_id[record.id]:
        if region.stop > embedded:
            end = "ends" if embedded == record.length else "is cut by --long truncate"
            raise InputError(
                f"{regions.file}: line {region.line}: region {shortened(region.name)} ends at "
                f"{region.stop:,}, and record {shortened(record.id)} {end} at {embedded:,}"
            )


def _bad_letters(raw: _Raw, sequence: str, letters: _Letters) -> Skipped:
    """Return a record with bad or no letters as skipped. Raises InputError unless the rules skip it."""
    if not sequence:
        flaw = raw.skipped("no residues")
        remedy = "remove the record, or use --on-invalid skip"
    else:
        lines = raw.lines()
        _refuse_structure(raw, lines)
        mark = _GAP if _GAP in sequence else _INVALID
        line, position, letter = _locate(raw, lines, mark, letters)
        flaw = raw.skipped(f"{letter!r} is not an RNA or DNA letter", line, position)
        remedy = "correct it, or use --on-invalid skip or --on-invalid unknown"
        if mark == _GAP:
            # An alignment is the wrong file, not a bad record, so --on-invalid does not apply to gaps.
            raise InputError(f"{flaw} but a gap; use --gaps remove or --gaps unknown")
        text = "".join(line for _, line in lines)
        if sum(text.upper().count(letter) for letter in _ONLY_PROTEIN) > max(2, len(text) / 20):
            flaw = replace(flaw, reason=f"{flaw.reason}; the record looks like protein")
            remedy = "give RNA or DNA, or use --on-invalid skip"
    if letters.rules.on_invalid != "skip":
        raise InputError(f"{flaw}; {remedy}")
    return flaw


def _refuse_structure(raw: _Raw, lines: list[tuple[int, str]]) -> None:
    """Raise InputError if a record has lines of structure, which no rule reads as residues or skips."""
    if _STRUCTURE.search("".join("".join(line.split()) for _, line in lines)):
        first = next(number for number, line in lines if any(bracket in line for bracket in _BRACKETS))
        raise raw.structure_error(first)


def _locate(raw: _Raw, lines: list[tuple[int, str]], mark: str, letters: _Letters) -> tuple[int, int, str]:
    """Find the first letter of a record that translates to `mark`: its line number, position and itself."""
    position = 0
    for number, line in lines:
        for letter in line:
            read = letters.read(letter)
            position += len(read)
            if read == mark:
                return number, position, letter
    raise InputError(f"{raw.file}: {CHANGED}")
