"""The census: one pass over the whole input before anything runs, after which it is read again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from protrna_cli.errors import InputError
from protrna_cli.fasta.records import CHANGED, Place, Record, Skipped, read_inputs, read_on, rows_of
from protrna_cli.fasta.sources import Source
from protrna_cli.plan import chunks
from protrna_cli.plan.pieces import cost, embedded_length, token_counts
from protrna_cli.plan.rules import Regions, Rules
from protrna_cli.plan.shard import WHOLE, Shard
from protrna_cli.text import shortened


class Mark(NamedTuple):
    """Where a chunk begins, and what the census had counted before it: reading can begin here.

    Attributes
    ----------
    place
        Where the chunk's first record begins.
    n_tokens, n_scores
        Tokens and attention scores of all records before it.
    """

    place: Place
    n_tokens: int
    n_scores: int

    def cost(self, width: int) -> int:
        """Cost of embedding all records before, as `pieces.cost` counts it."""
        return 6 * width * self.n_tokens + self.n_scores


@dataclass
class Census:
    """What one pass over the input counts.

    Attributes
    ----------
    inputs
        Name, without its folders, and SHA-256 of each input as it stands on disk.
    n_records, n_skipped
        Records to embed, and records that the rules leave out.
    n_residues, n_embedded, n_unknown
        Residues of the records to embed, those of them left by `truncate`, and the unknown ones.
    n_rows, n_pooled
        Pooled rows, one a record or a region, and the residues that they cover.
    n_long, n_repeats
        Records longer than `max_length`, and records with the sequence of an earlier one in their chunk.
    longest, longest_id
        Residues and id of the longest record.
    n_tokens, n_scores
        Tokens that run, and the attention scores a head that they make.
    stamps
        Size and time of change of each input, as `Source.stamp` gives them.
    marks
        One a chunk.
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

    def add(self, items: Iterable[Record | Skipped], rules: Rules) -> None:
        """Count records, chunk by chunk."""
        for chunk in chunks.into_chunks(items):
            records = [item for item in chunk if isinstance(item, Record)]
            self.marks.append(Mark(chunk[0].place, self.n_tokens, self.n_scores))
            self.n_records += len(records)
            self.n_skipped += len(chunk) - len(records)
            self.n_repeats += len(records) - len({record.sequence for record in records})
            for record in records:
                self._add_record(record, rules)

    def _add_record(self, record: Record, rules: Rules) -> None:
        tokens = token_counts(record.length, rules)
        self.n_residues += record.length
        self.n_embedded += embedded_length(record.length, rules)
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
        """Cost of embedding all records, as `pieces.cost` counts it."""
        return 6 * width * self.n_tokens + self.n_scores

    def mark_before(self, shard: Shard, width: int) -> Mark:
        """Find the last mark at or before a shard's first record."""
        before = (shard.index - 1) * self.cost(width)
        behind = bisect_left(self.marks, before, key=lambda mark: mark.cost(width) * shard.count)
        return self.marks[max(0, behind - 1)]


@dataclass(frozen=True)
class CountedInput:
    """An input that the census has read once and that is read again, whole or shard by shard.

    Attributes
    ----------
    sources
        The input files; their records follow one another.
    rules
        The rules under which it was counted, and is read again.
    census
        What was counted.
    """

    sources: Sequence[Source]
    rules: Rules
    census: Census

    def records(self, shard: Shard, width: int) -> Iterator[Record | Skipped]:
        """Read a shard's slice of the input once more, from the mark before it and no further than needed.

        Shards of similar cost are cut between chunks, where every batch is the same as in one run; where
        there are too few chunks for that, between records.

        Parameters
        ----------
        width
            D of the model, on which a record's cost depends.

        Raises
        ------
        InputUnreadable, InputError
            As `take_census`; also when the input is not the one that the census read. The whole input is
            compared by its SHA-256, a shard's by its size and time of change.
        """
        return self._all_records() if shard == WHOLE else self._slice(shard, width)

    def census_of(self, shard: Shard, width: int) -> Census:
        """Count one shard; raises as `records` does."""
        if shard == WHOLE:
            return self.census
        part = Census(inputs=self.census.inputs)
        part.add(self.records(shard, width), self.rules)
        return part

    def _all_records(self) -> Iterator[Record | Skipped]:
        inputs: list[dict[str, str]] = []
        yield from read_inputs(self.sources, self.rules, inputs)
        for source, before, now in zip(self.sources, self.census.inputs, inputs, strict=True):
            if before != now:
                raise InputError(f"{source.name}: {CHANGED}")

    def _slice(self, shard: Shard, width: int) -> Iterator[Record | Skipped]:
        self._check_unchanged()
        mark = self.census.mark_before(shard, width)
        yield from chunks.sliced(
            read_on(self.sources, self.rules, mark.place),
            shard,
            lambda item: cost(item.length, self.rules, width),
            self.census.cost(width),
            by_chunk=len(self.census.marks) >= chunks.CHUNKS_A_SHARD * shard.count,
            done=mark.cost(width),
        )
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        for source, stamp in zip(self.sources, self.census.stamps, strict=True):
            if source.stamp() != stamp:
                raise InputError(f"{source.name}: {CHANGED}")


def take_census(sources: Sequence[Source], rules: Rules, unique_ids: bool = False) -> CountedInput:
    """Read the whole input once: validate every record, count, and hash the files.

    Parameters
    ----------
    unique_ids
        Whether every row needs an id of its own, as in flat HDF5. Only this takes memory that grows with the
        input, some 60 bytes a record.

    Raises
    ------
    InputUnreadable
        An input cannot be read.
    InputError
        An input is not FASTA of RNA or DNA under the rules, an id repeats that must be unique, no record has
        the id of a region, or no record is left to embed.
    """
    census = Census(stamps=[source.stamp() for source in sources])
    items = read_inputs(sources, rules, census.inputs)
    if rules.regions:
        items = _with_all_regions(items, rules.regions)
    census.add(_with_own_ids(items, sources, rules) if unique_ids else items, rules)
    if not census.n_records:
        names = ", ".join(source.name for source in sources)
        raise InputError(
            f"{names}: all records were skipped ({census.n_skipped:,}); nothing is left to embed"
        )
    return CountedInput(sources, rules, census)


def _with_own_ids(
    items: Iterable[Record | Skipped], sources: Sequence[Source], rules: Rules
) -> Iterator[Record | Skipped]:
    """Pass records on; refuse a row without an id of its own."""
    seen: set[int] = set()
    for item in items:
        if isinstance(item, Record):
            for row in rows_of(item, rules, per_token=False):
                if not row.id or hash(row.id) in seen:
                    raise InputError(_unfit_id(sources[item.place.source], item, row.id))
                seen.add(hash(row.id))
        yield item


def _with_all_regions(items: Iterable[Record | Skipped], regions: Regions) -> Iterator[Record | Skipped]:
    """Pass records on; refuse regions whose id is not that of exactly one record."""
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
