"""The census, one pass over the whole input before anything runs; and reading again what it counted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from protrna_cli import plan
from protrna_cli.errors import InputError
from protrna_cli.inputs import Source
from protrna_cli.records import CHANGED, Place, Record, Skipped, read_inputs, read_on, rows_of, shortened
from protrna_cli.regions import Regions
from protrna_cli.rules import Rules
from protrna_cli.shard import WHOLE, Shard


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
    items = read_inputs(sources, rules, census.inputs)
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
    yield from read_inputs(sources, rules, inputs)
    for source, before, now in zip(sources, census.inputs, inputs, strict=True):
        if before != now:
            raise InputError(f"{source.name}: {CHANGED}")


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
        read_on(sources, rules, mark.place),
        shard,
        lambda item: plan.cost(item.length, rules, width),
        whole.cost(width),
        by_window=len(whole.marks) >= plan.WINDOWS_A_SHARD * shard.count,
        done=mark.cost(width),
    )
    _check_unchanged(sources, whole)


def _check_unchanged(sources: Sequence[Source], census: Census) -> None:
    for source, stamp in zip(sources, census.stamps, strict=True):
        if source.stamp() != stamp:
            raise InputError(f"{source.name}: {CHANGED}")
