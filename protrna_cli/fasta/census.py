"""The census: one pass over the whole input before anything runs. The run then reads the input again."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from protrna_cli.errors import InputError
from protrna_cli.fasta.copies import Copies, DistinctSequences
from protrna_cli.fasta.records import (
    CHANGED,
    Record,
    Refuse,
    Skipped,
    Start,
    raise_it,
    read_from,
    read_inputs,
    rows_of,
)
from protrna_cli.fasta.sources import Source
from protrna_cli.plan import pieces
from protrna_cli.plan.rules import Regions, Rules
from protrna_cli.plan.shard import WHOLE, Shard
from protrna_cli.text import counted, enumerated, shortened

MOST_NAMED = 100
"""With more inputs, a provenance has a digest instead of their names."""


class Mark(NamedTuple):
    """The start of a chunk, where reading can begin, and the counts of everything before it."""

    start: Start  # where the chunk's first record begins
    # Tokens and attention scores (per head) of all records before it.
    n_tokens: int
    n_scores: int

    def cost(self, width: int) -> int:
        """Cost of embedding all records before the mark, in the unit of `pieces.cost`."""
        return pieces.total_cost(self.n_tokens, self.n_scores, width)


@dataclass
class Census:
    """The counts of one pass over the input."""

    # File name (without folders) and SHA-256 of each input, as stored on disk.
    inputs: list[dict[str, str]] = field(default_factory=list)
    # Records to embed, and records that are skipped.
    n_records: int = 0
    n_skipped: int = 0
    # Residues of the records to embed, how many of them `truncate` keeps, and how many are unknown.
    n_residues: int = 0
    n_embedded: int = 0
    n_unknown: int = 0
    # Pooled rows (one per record or region), and the residues that they cover.
    n_rows: int = 0
    n_pooled: int = 0
    n_long: int = 0  # records longer than `max_length`
    # Records of which most residues are unknown, and the id of the first.
    n_odd: int = 0
    first_odd: str = ""
    # Records of which no earlier one has the same sequence, and their embedded residues: what a run computes.
    # Only if they are found in all chunks, `n_distinct` counts the distinct sequences.
    n_distinct: int = 0
    n_distinct_embedded: int = 0
    # Length in residues and id of the longest record.
    longest: int = 0
    longest_id: str = ""
    # Tokens that run, and their attention scores per head.
    n_tokens: int = 0
    n_scores: int = 0
    # Size and modification time of each input, from `Source.stamp`.
    stamps: list[tuple[int, int]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)  # one per chunk

    def add(
        self, items: Iterable[Record | Skipped], rules: Rules, distinct: DistinctSequences | None = None
    ) -> None:
        """Count records, chunk by chunk; their sequences are added to `distinct`."""
        copies = Copies(rules, distinct, learning=True)
        for chunk in pieces.into_chunks(items):
            records = [item for item in chunk if isinstance(item, Record)]
            self.marks.append(Mark(chunk[0].start, self.n_tokens, self.n_scores))
            self.n_records += len(records)
            self.n_skipped += len(chunk) - len(records)
            for record in records:
                self._add_record(record, rules)
            for i in copies.assign(records).running:
                self.n_distinct += 1
                self.n_distinct_embedded += pieces.embedded_length(records[i].length, rules)

    def _add_record(self, record: Record, rules: Rules) -> None:
        tokens = pieces.token_counts(record.length, rules)
        self.n_residues += record.length
        self.n_embedded += pieces.embedded_length(record.length, rules)
        self.n_unknown += record.n_unknown
        rows = rows_of(record, rules, per_token=False)
        self.n_rows += len(rows)
        self.n_pooled += sum(row.n_embedded for row in rows)
        self.n_long += record.length > rules.max_length
        if 2 * record.n_unknown > record.length:
            self.first_odd = self.first_odd if self.n_odd else record.id
            self.n_odd += 1
        self.n_tokens += sum(tokens)
        self.n_scores += sum(count**2 for count in tokens)
        if record.length > self.longest:
            self.longest, self.longest_id = record.length, record.id

    @property
    def recorded_inputs(self) -> list[dict[str, Any]]:
        """The inputs as a provenance has them; many are one entry, whatever their names.

        Its SHA-256 is that of the SHA-256s of all of them, in order, each as a line.
        """
        if len(self.inputs) <= MOST_NAMED:
            return list(self.inputs)
        lines = "".join(f"{entry['sha256']}\n" for entry in self.inputs)
        sha256 = hashlib.sha256(lines.encode()).hexdigest()
        return [
            {"name": f"{len(self.inputs):,} files", "sha256": sha256, "files": len(self.inputs)},
        ]

    def note(self) -> str | None:
        """Say which records may not be RNA, if there are any."""
        if not self.n_odd:
            return None
        others = f", and {self.n_odd - 1:,} more like it" if self.n_odd > 1 else ""
        return f"record {shortened(self.first_odd)}{others}: most residues are unknown; is this RNA or DNA?"

    def cost(self, width: int) -> int:
        """Cost of embedding all records, in the unit of `pieces.cost`."""
        return pieces.total_cost(self.n_tokens, self.n_scores, width)

    def mark_before(self, shard: Shard, width: int) -> Mark:
        """Return the last mark at or before a shard's first record."""
        before = (shard.index - 1) * self.cost(width)
        behind = bisect_left(self.marks, before, key=lambda mark: mark.cost(width) * shard.count)
        return self.marks[max(0, behind - 1)]


@dataclass(frozen=True)
class CountedInput:
    """An input after its census. It can be read again, whole or one shard at a time."""

    sources: Sequence[Source]  # in order
    rules: Rules  # the rules for both the census and the second reading
    census: Census
    # The distinct sequences of the whole input, if they were collected.
    distinct: DistinctSequences | None = None

    def records(self, shard: Shard, width: int) -> Iterator[Record | Skipped]:
        """Read the records of a shard again, from the last mark before the shard to the shard's end.

        Shards have similar cost. They are cut between chunks, so that batches are the same as in an unsharded
        run, or between records if there are too few chunks.

        width: D, the model's width; the cost of a record depends on it.
        """
        return self._all_records() if shard == WHOLE else self._slice(shard, width)

    def of_shard(self, shard: Shard, width: int, collect: bool) -> CountedInput:
        """Take the census of one shard. Raises the same errors as `records`.

        collect: collect the distinct sequences, so that copies are found in all chunks of the shard.
        """
        if shard == WHOLE and collect == (self.distinct is not None):
            return self
        distinct = DistinctSequences() if collect else None
        census = Census(inputs=self.census.inputs)
        census.add(self.records(shard, width), self.rules, distinct)
        return replace(self, census=census, distinct=distinct)

    def _all_records(self) -> Iterator[Record | Skipped]:
        inputs: list[dict[str, str]] = []
        yield from read_inputs(self.sources, self.rules, inputs)
        for source, before, now in zip(self.sources, self.census.inputs, inputs, strict=True):
            if before != now:
                raise InputError(f"{source.name}: {CHANGED}")

    def _slice(self, shard: Shard, width: int) -> Iterator[Record | Skipped]:
        self._check_unchanged()
        mark = self.census.mark_before(shard, width)
        yield from pieces.sliced(
            read_from(self.sources, self.rules, mark.start),
            shard,
            lambda item: pieces.cost(item.length, self.rules, width),
            self.census.cost(width),
            by_chunk=len(self.census.marks) >= pieces.CHUNKS_A_SHARD * shard.count,
            done=mark.cost(width),
        )
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        for source, stamp in zip(self.sources, self.census.stamps, strict=True):
            if source.stamp() != stamp:
                raise InputError(f"{source.name}: {CHANGED}")


def take_census(
    sources: Sequence[Source],
    rules: Rules,
    unique_ids: bool = False,
    collect: bool = False,
    listing: Callable[[str], None] | None = None,
) -> CountedInput:
    """Read the whole input once: check every record, count, and hash the files.

    unique_ids: whether every row needs a unique id, as in flat HDF5. This check needs about 100 bytes per
        record.
    collect: collect the distinct sequences; it needs 32 bytes for each, up to a bound. Nothing else here
        needs memory that grows with the input.
    listing: called with what is wrong with each bad record, so that all are known at once; the error at the
        end then only counts them. By default the first one is the error.
    """
    census = Census(stamps=[source.stamp() for source in sources])
    flaws = Flaws(listing)
    items = read_inputs(sources, rules, census.inputs, flaws.add)
    if rules.regions:
        items = _checking_regions(items, rules.regions, flaws.add)
    distinct = DistinctSequences() if collect else None
    if unique_ids:
        items = _checking_unique_ids(items, sources, rules, flaws.add)
    census.add(items, rules, distinct)
    if flaws.count:
        raise InputError(
            f"{counted(flaws.count, 'flaw')} in the input; correct each, or use an option that it names"
        )
    if not census.n_records:
        names = enumerated([source.name for source in sources])
        raise InputError(
            f"{names}: all records were skipped ({census.n_skipped:,}); nothing is left to embed"
        )
    return CountedInput(sources, rules, census, distinct)


class Flaws:
    """The bad records of an input: the first one is raised, or all are listed and counted.

    count: flaws listed so far.
    """

    def __init__(self, listing: Callable[[str], None] | None) -> None:
        self.count = 0
        self._listing = listing

    def add(self, error: InputError) -> None:
        """Raise the error of a bad record, or list it."""
        if self._listing is None:
            raise error
        self.count += 1
        self._listing(str(error))


def _checking_unique_ids(
    items: Iterable[Record | Skipped], sources: Sequence[Source], rules: Rules, refuse: Refuse = raise_it
) -> Iterator[Record | Skipped]:
    """Pass items through. Refuse rows whose id is empty or repeats."""
    seen: set[bytes] = set()
    for item in items:
        if isinstance(item, Record):
            for row in rows_of(item, rules, per_token=False):
                digest = hashlib.blake2b(row.id.encode(), digest_size=16).digest()
                if not row.id or digest in seen:
                    refuse(InputError(_id_error(sources[item.start.source], item, row.id)))
                seen.add(digest)
        yield item


def _checking_regions(
    items: Iterable[Record | Skipped], regions: Regions, refuse: Refuse
) -> Iterator[Record | Skipped]:
    """Pass items through. Refuse regions whose id is not the id of exactly one record."""
    missing = {name: f"{regions.file}: line {listed[0].line}" for name, listed in regions.by_id.items()}
    for item in items:
        if item.id in regions.by_id and not missing.pop(item.id, None):
            refuse(
                InputError(
                    f"{regions.file}: more than one record of the input has the id {shortened(item.id)}; "
                    "give every record a unique id"
                )
            )
        yield item
    for name, where in missing.items():
        refuse(InputError(f"{where}: no record of the input has the id {shortened(name)}"))


def _id_error(source: Source, record: Record, row_id: str) -> str:
    what = f"the id {shortened(row_id)} repeats" if row_id else "it has no id"
    return (
        f"{source.name}: record {record.number}: {what}, and flat HDF5 names a dataset by it; "
        "use --h5-layout packed, or an output in .parquet or .npy"
    )
