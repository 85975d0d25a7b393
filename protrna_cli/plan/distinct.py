"""A compact table of sequences, which finds the first of all records with the same one.

A sequence is known by its digest of 128 bits, so that two different ones are never taken for the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MAX_SEQUENCES = 1 << 24
"""Most sequences in a table, which then takes 512 MiB. Those beyond it are not remembered."""

_Run = list[npt.NDArray[Any]]
"""Four columns: the halves of digests, ascending by the first half, and the numbers of each place."""


class DistinctSequences:
    """The distinct sequences of an input, each with the place of the first record that has it.

    A place is two numbers: the row of the record in an output of pooled rows, and the position of its first
    residue in an output per token.

    The table is a list of sorted runs, each at least twice as long as the next: 32 bytes a sequence, and as
    much again while two runs are merged.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self._runs)

    def find(self, digests: Sequence[bytes]) -> Ints:
        """Find the places (n, 2) of sequences; -1 for those that are not in the table."""
        halves = _halves(digests)
        found = np.full((len(digests), 2), -1, np.int64)
        order = np.argsort(halves[:, 0])  # a search in ascending order stays in the cache
        first_halves, second_halves = halves[order].T
        for run in self._runs:
            # Of two sequences that share a first half, only one is found. The other one counts as not in the
            # table, and is computed: it happens in one of 10^5 inputs of 10^7 sequences.
            at = np.searchsorted(run[0], first_halves)
            at[at == len(run[0])] = 0
            same = (run[0][at] == first_halves) & (run[1][at] == second_halves)
            found[order[same]] = np.stack([run[2][at[same]], run[3][at[same]]], axis=1)
        return found

    def add(self, digests: Sequence[bytes], places: Ints) -> None:
        """Add the sequences that are not in the table, as long as there is room."""
        unknown = np.flatnonzero(self.find(digests)[:, 0] < 0).tolist()
        new: dict[bytes, int] = {}
        for i in unknown:
            new.setdefault(digests[i], i)
        room = MAX_SEQUENCES - len(self)
        kept = dict(list(new.items())[:room])
        if kept:
            self._runs.append(_sort([*_halves(list(kept)).T, *places[list(kept.values())].T]))
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
