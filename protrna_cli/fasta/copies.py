"""Decide, chunk by chunk, which records run, and which get the vectors of another record.

The census and the run decide alike: both see all records of an input in order, from its first one on.

A compact table of sequences finds the first of all records with the same one. A sequence is known by its
digest of 128 bits, so that two different ones are never taken for the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protrna_cli.fasta.records import Record
from protrna_cli.plan.pieces import embedded_length
from protrna_cli.plan.rules import Rules

Ints = npt.NDArray[np.int64]

MAX_SEQUENCES = 1 << 24
"""Most sequences in a table, which then takes 512 MiB. Those beyond it are not remembered."""

_Run = list[npt.NDArray[Any]]
"""Four columns: the halves of digests, ascending by the first half, and the numbers of each position."""


class DistinctSequences:
    """The distinct sequences of an input, each with the position of the first record that has it.

    A position is two numbers: the row of the record in an output of pooled rows, and the index of its first
    residue in an output per token.

    The table is a list of sorted runs, each at least twice as long as the next: 32 bytes a sequence, and as
    much again while two runs are merged.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self._runs)

    def find(self, digests: Sequence[bytes]) -> Ints:
        """Find the positions (n, 2) of sequences; -1 for those that are not in the table."""
        halves = _halves(digests)
        found = np.full((len(digests), 2), -1, np.int64)
        order = np.argsort(halves[:, 0])  # a search in ascending order stays in the cache
        first_halves, second_halves = halves[order].T
        for run in self._runs:
            # Of two sequences that share a first half, only one is found. The other one counts as not in the
            # table, and is computed: it happens in one of 10^5 inputs of 10^7 sequences.
            index = np.searchsorted(run[0], first_halves)
            index[index == len(run[0])] = 0
            same = (run[0][index] == first_halves) & (run[1][index] == second_halves)
            found[order[same]] = np.stack([run[2][index[same]], run[3][index[same]]], axis=1)
        return found

    def add(self, digests: Sequence[bytes], positions: Ints) -> None:
        """Add the sequences that are not in the table, as long as there is room."""
        unknown = np.flatnonzero(self.find(digests)[:, 0] < 0).tolist()
        new: dict[bytes, int] = {}
        for i in unknown:
            new.setdefault(digests[i], i)
        room = MAX_SEQUENCES - len(self)
        kept = dict(list(new.items())[:room])
        if kept:
            self._runs.append(_sort([*_halves(list(kept)).T, *positions[list(kept.values())].T]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            self._runs.append(_merge(self._runs.pop(-2), self._runs.pop()))


def _halves(digests: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _sort(run: _Run) -> _Run:
    order = np.argsort(run[0])
    return [column[order] for column in run]


def _merge(one: _Run, other: _Run) -> _Run:
    """Merge two runs column by column; their own columns are freed on the way."""
    order = np.argsort(np.concatenate([one[0], other[0]]), kind="stable")  # merges sorted runs in linear time
    return [np.concatenate([one.pop(0), other.pop(0)])[order] for _ in range(len(one))]


class Assignment(NamedTuple):
    """What happens to the records of one chunk; a record is an index in the chunk."""

    # The records that run, each with all records of the chunk that have its sequence, itself included.
    running: dict[int, list[int]]
    # The records that get vectors that are there already, and where these are; see `DistinctSequences`.
    copied: dict[int, tuple[int, int]]
    n_reused: int  # records whose sequence an earlier output holds
    positions: list[tuple[int, int]]  # the position of each record, and that behind the last


class Copies:
    """Finds the records that need not run, because another record has the same sequence.

    distinct: finds them in all earlier chunks; with None, copies are found within a chunk only.
    learning: add sequences to `distinct`, as the census does.
    reused: for each row of the run, whether an earlier output holds the sequence that is there first.
    """

    def __init__(
        self,
        rules: Rules,
        distinct: DistinctSequences | None = None,
        learning: bool = False,
        reused: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._rules = rules
        self._distinct = distinct
        self._learning = learning
        self._reused = reused
        self._row = self._residue = 0

    def reusing(self, reused: npt.NDArray[np.bool_]) -> Copies:
        """Make one that takes these rows from earlier outputs, and no others."""
        return Copies(self._rules, self._distinct, reused=reused)

    def assign(self, records: Sequence[Record]) -> Assignment:
        """Decide about the records of the next chunk."""
        starts = [*map(self._next_position, records), (self._row, self._residue)]
        positions = np.array(starts[:-1], np.int64).reshape(-1, 2)
        sequences = [bytes.fromhex(record.md5) for record in records]
        firsts = self._firsts(records, sequences, positions)
        assignment = Assignment({}, {}, n_reused := 0, starts)
        first_in_chunk: dict[bytes, int] = {}
        for i, (sequence, first, own_row) in enumerate(
            zip(sequences, firsts.tolist(), positions[:, 0].tolist(), strict=True)
        ):
            reused = self._reused is not None and first[0] >= 0 and bool(self._reused[first[0]])
            n_reused += reused
            if not reused and not 0 <= first[0] < positions[0, 0]:
                running = first_in_chunk.setdefault(sequence, i)
                assignment.running.setdefault(running, []).append(i)
            elif first[0] != own_row:
                assignment.copied[i] = (first[0], first[1])
        return assignment._replace(n_reused=n_reused)

    def _next_position(self, record: Record) -> tuple[int, int]:
        position = self._row, self._residue
        regions = self._rules.regions
        self._row += len(regions.by_id[record.id]) if regions else 1
        self._residue += embedded_length(record.length, self._rules)
        return position

    def _firsts(self, records: Sequence[Record], sequences: list[bytes], positions: Ints) -> Ints:
        """Find the position (n, 2) of the first record with the same rows; -1 for one that is not known."""
        if self._distinct is None or not sequences:
            return np.full((len(records), 2), -1, np.int64)
        digests = sequences
        if regions := self._rules.regions:  # a row depends on where in the record its region is
            digests = [
                hashlib.md5(
                    sequence
                    + repr([(region.start, region.stop) for region in regions.by_id[record.id]]).encode(),
                    usedforsecurity=False,
                ).digest()
                for record, sequence in zip(records, sequences, strict=True)
            ]
        if self._learning:
            self._distinct.add(digests, positions)
        return self._distinct.find(digests)
