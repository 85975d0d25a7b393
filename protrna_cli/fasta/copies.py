"""Decide, chunk by chunk, which records run, and which get the vectors of another record.

The census and the run decide alike: both see all records of an input in order, from its first one on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from protrna_cli.fasta.records import Record
from protrna_cli.plan.distinct import DistinctSequences, Ints
from protrna_cli.plan.pieces import embedded_length
from protrna_cli.plan.rules import Rules


class Assignment(NamedTuple):
    """What happens to the records of one chunk; a record is an index in the chunk.

    Attributes
    ----------
    running
        The records that run, each with all records of the chunk that have its sequence, itself included.
    copied
        The records that get vectors that are there already, and the place of these; see `DistinctSequences`.
    n_reused
        Records whose sequence an earlier output holds.
    places
        The place of each record, and that behind the last.
    """

    running: dict[int, list[int]]
    copied: dict[int, tuple[int, int]]
    n_reused: int
    places: list[tuple[int, int]]


class Copies:
    """Finds the records that need not run, because another record has the same sequence.

    Parameters
    ----------
    distinct
        Finds them in all earlier chunks; with None, copies are found within a chunk only.
    learning
        Add sequences to `distinct`, as the census does.
    reused
        For each row of the run, whether an earlier output holds the sequence that is there first.
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

    def reusing(self, reused: npt.NDArray[np.bool_] | None) -> Copies:
        """Make one that takes these rows from earlier outputs, and no others."""
        return Copies(self._rules, self._distinct, reused=reused)

    def assign(self, records: Sequence[Record]) -> Assignment:
        """Decide about the records of the next chunk."""
        starts = [*map(self._next_place, records), (self._row, self._residue)]
        places = np.array(starts[:-1], np.int64).reshape(-1, 2)
        sequences = [bytes.fromhex(record.md5) for record in records]
        firsts = self._firsts(records, sequences, places)
        assignment = Assignment({}, {}, n_reused := 0, starts)
        first_in_chunk: dict[bytes, int] = {}
        for i, (sequence, first, own_row) in enumerate(
            zip(sequences, firsts.tolist(), places[:, 0].tolist(), strict=True)
        ):
            reused = self._reused is not None and first[0] >= 0 and bool(self._reused[first[0]])
            n_reused += reused
            if not reused and not 0 <= first[0] < places[0, 0]:
                running = first_in_chunk.setdefault(sequence, i)
                assignment.running.setdefault(running, []).append(i)
            elif first[0] != own_row:
                assignment.copied[i] = (first[0], first[1])
        return assignment._replace(n_reused=n_reused)

    def _next_place(self, record: Record) -> tuple[int, int]:
        place = self._row, self._residue
        regions = self._rules.regions
        self._row += len(regions.by_id[record.id]) if regions else 1
        self._residue += embedded_length(record.length, self._rules)
        return place

    def _firsts(self, records: Sequence[Record], sequences: list[bytes], places: Ints) -> Ints:
        """Find the place (n, 2) of the first record with the same rows; -1 for one that is not known."""
        if self._distinct is None or not sequences:
            return np.full((len(records), 2), -1, np.int64)
        digests = sequences
        if regions := self._rules.regions:  # a row depends on where in the record its region is
            digests = [
                hashlib.md5(
                    sequence + repr([(each.start, each.stop) for each in regions.by_id[record.id]]).encode(),
                    usedforsecurity=False,
                ).digest()
                for record, sequence in zip(records, sequences, strict=True)
            ]
        if self._learning:
            self._distinct.add(digests, places)
        return self._distinct.find(digests)
