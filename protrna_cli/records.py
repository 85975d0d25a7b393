"""Lines to records, under the rules of the run; and the census, one pass over the whole input.

Biopython splits lines into headers and sequences. The letters are judged here. `A C G T U` in any case are
residues; the IUPAC codes `R Y S W K M B D H V N`, and `X` and `I`, are unknown residues, written `x` and
counted; `-` `.` `~` are gaps; white space is nothing; anything else is invalid.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from Bio.SeqIO.FastaIO import SimpleFastaParser

from protrna_cli import plan
from protrna_cli.errors import InputError
from protrna_cli.inputs import Source, fasta_lines
from protrna_cli.output.rows import Row
from protrna_cli.regions import Regions
from protrna_cli.rules import Rules
from protrna_cli.shard import WHOLE, Shard

WINDOWS_A_SHARD = 16
"""Windows that a shard must have to be cut between windows: then its cost is off by some percent."""

UNKNOWN, _GAP, _INVALID = "x", "-", "!"
_ONLY_PROTEIN = frozenset("EFJLOPQZ*")
_CHANGED = "changed while it was being read; start again with a file at rest"


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


class Mark(NamedTuple):
    """Where a window begins, and what the census had counted before it: reading can begin here.

    Attributes
    ----------
    place
        Of its first record.
    n_tokens, n_scores
        As the census counts them.
    """

    place: Place
    n_tokens: int
    n_scores: int

    def cost(self, width: int) -> int:
        """What all records before cost to embed, as `plan.cost` counts it."""
        return 6 * width * self.n_tokens + self.n_scores


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
    n_windows = len(plan.cut(0, record.length, rules))
    if per_token or not rules.regions:
        n_embedded = plan.embedded_length(record.length, rules)
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


@dataclass
class Census:
    """What one pass over the whole input counts.

    Attributes
    ----------
    inputs
        Name, without its folders, and SHA-256 of each input as it stands on disk.
    n_records, n_skipped
        Records to embed, and records that the rules leave out.
    n_residues, n_embedded, n_unknown
        Residues of the records to embed, those that `truncate` leaves, and the unknown among the residues.
    n_rows, n_pooled
        Rows that pooling makes, one a record or a region, and the residues of which they speak.
    n_long, n_repeats
        Records longer than `max_length`, and records equal to another of their window.
    longest, longest_id
        Residues and id of the longest record.
    n_tokens, n_scores
        Tokens that run, and attention scores a head that they make.
    stamps
        Size and time of change of each input, as `Source.stamp` gives them.
    marks
        One a window into which the records are cut.
    """

    inputs: list[dict[str, str]] = field(default_factory=list)
    n_records: int = 0
    n_skipped: int = 0
    n_residues: int = 0
    n_embedded: int = 0
    n_unknown: int = 0
    n_rows: int = 0
    n_pooled: int = 0
    n_long: int = 0
    n_repeats: int = 0
    longest: int = 0
    longest_id: str = ""
    n_tokens: int = 0
    n_scores: int = 0
    stamps: list[tuple[int, int]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def count(self, items: Iterable[Record | Skipped], rules: Rules) -> None:
        """Add records, window by window."""
        for window in plan.windows(items):
            records = [item for item in window if isinstance(item, Record)]
            self.marks.append(Mark(window[0].place, self.n_tokens, self.n_scores))
            self.n_records += len(records)
            self.n_skipped += len(window) - len(records)
            self.n_repeats += len(records) - len({record.sequence for record in records})
            for record in records:
                self._count_record(record, rules)

    def _count_record(self, record: Record, rules: Rules) -> None:
        tokens = plan.token_counts(record.length, rules)
        self.n_residues += record.length
        self.n_embedded += plan.embedded_length(record.length, rules)
        self.n_unknown += record.n_unknown
        rows = rows_of(record, rules, per_token=False)
        self.n_rows += len(rows)
        self.n_pooled += sum(row.n_embedded for row in rows)
        self.n_long += record.length > rules.max_length
        self.n_tokens += sum(tokens)
        self.n_scores += sum(each**2 for each in tokens)
        if record.length > self.longest:
            self.longest, self.longest_id = record.length, record.id

    def cost(self, width: int) -> int:
        """What all records cost to embed, as `plan.cost` counts it."""
        return 6 * width * self.n_tokens + self.n_scores

    def mark_before(self, shard: Shard, width: int) -> Mark:
        """The last mark that is not behind a shard's first record."""
        before = (shard.index - 1) * self.cost(width)
        behind = bisect_left(self.marks, before, key=lambda mark: mark.cost(width) * shard.count)
        return self.marks[max(0, behind - 1)]


def take_census(sources: Sequence[Source], rules: Rules, unique_ids: bool = False) -> Census:
    """Read the whole input once: validate every record, count, and hash the inputs.

    Parameters
    ----------
    unique_ids
        Whether every record must have an id of its own, as flat HDF5 wants; only this takes memory that
        grows with the input, some 60 bytes a record.

    Raises
    ------
    InputUnreadable
        An input cannot be read.
    InputError
        An input is not FASTA of RNA or DNA under the rules, an id is not unique that must be, no record has
        the id of a region, or no record is left to embed.
    """
    census = Census(stamps=[source.stamp() for source in sources])
    items = _read(sources, rules, census.inputs)
    if rules.regions:
        items = _with_all_regions(items, rules.regions)
    census.count(_with_own_ids(items, sources, rules) if unique_ids else items, rules)
    if not census.n_records:
        names = ", ".join(source.name for source in sources)
        raise InputError(f"{names}: all {census.n_skipped} records were skipped; nothing is left to embed")
    return census


def _with_own_ids(
    items: Iterable[Record | Skipped], sources: Sequence[Source], rules: Rules
) -> Iterator[Record | Skipped]:
    """Pass records on as long as each of their rows has an id of its own."""
    seen: set[int] = set()
    for item in items:
        if isinstance(item, Record):
            for row in rows_of(item, rules, per_token=False):
                if not row.id or hash(row.id) in seen:
                    raise InputError(_unfit_id(sources[item.place.source], item, row.id))
                seen.add(hash(row.id))
        yield item


def _with_all_regions(items: Iterable[Record | Skipped], regions: Regions) -> Iterator[Record | Skipped]:
    """Pass records on, and make sure that every id of the regions is that of one record."""
    missing = {name: f"{regions.file}: line {of[0].line}" for name, of in regions.by_id.items()}
    for item in items:
        if item.id in regions.by_id and not missing.pop(item.id, None):
            raise InputError(
                f"{regions.file}: more than one record of the input has the id {shortened(item.id)}; "
                "give every record an id of its own"
            )
        yield item
    for name, place in missing.items():
        raise InputError(f"{place}: no record of the input has the id {shortened(name)}")


def _unfit_id(source: Source, record: Record, row_id: str) -> str:
    what = f"the id {shortened(row_id)} repeats" if row_id else "it has no id"
    return (
        f"{source.name}: record {record.number}: {what}, and flat HDF5 names a dataset by it; "
        "use --h5-layout packed, or an output in .parquet or .npy"
    )


def read_records(sources: Sequence[Source], rules: Rules, census: Census) -> Iterator[Record | Skipped]:
    """Read the input once more, in order, under the rules of the census.

    Raises
    ------
    InputError
        As `take_census`; also when an input is not the one that the census read.
    """
    inputs: list[dict[str, str]] = []
    yield from _read(sources, rules, inputs)
    for source, before, now in zip(sources, census.inputs, inputs, strict=True):
        if before != now:
            raise InputError(f"{source.name}: {_CHANGED}")


def read_slice(
    sources: Sequence[Source], rules: Rules, whole: Census, shard: Shard, width: int
) -> Iterator[Record | Skipped]:
    """Read a shard's slice of the input once more, from the mark before it on and no further than needed.

    Shards of like cost are cut between windows, where every batch is what it is in the whole run; where
    there are too few windows for that, between records.

    Parameters
    ----------
    whole
        Census of the input, under the same rules.
    width
        D of the model, by which a record's cost is reckoned.

    Raises
    ------
    InputError
        As `read_records`. A slice is not hashed: an input is taken for changed when its size or its time of
        change is not what the census saw.
    """
    if shard == WHOLE:
        yield from read_records(sources, rules, whole)
        return
    _check_unchanged(sources, whole)
    mark = whole.mark_before(shard, width)
    yield from plan.sliced(
        _read_on(sources, rules, mark.place),
        shard,
        lambda item: plan.cost(item.length, rules, width),
        whole.cost(width),
        by_window=len(whole.marks) >= WINDOWS_A_SHARD * shard.count,
        done=mark.cost(width),
    )
    _check_unchanged(sources, whole)


def _check_unchanged(sources: Sequence[Source], census: Census) -> None:
    for source, stamp in zip(sources, census.stamps, strict=True):
        if source.stamp() != stamp:
            raise InputError(f"{source.name}: {_CHANGED}")


def _read(
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


def _read_on(sources: Sequence[Source], rules: Rules, start: Place) -> Iterator[Record | Skipped]:
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
    embedded = plan.embedded_length(record.length, rules)
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
    raise InputError(f"{source.name}: {_CHANGED}")


def shortened(name: str) -> str:
    """Quote an id for a message, its middle left out when it is long."""
    return repr(name if len(name) <= 60 else f"{name[:40]}…{name[-16:]}")
