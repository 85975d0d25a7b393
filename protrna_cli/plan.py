"""Pure arithmetic: which records are held together, and which of them run together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

WINDOW_RECORDS = 4096
WINDOW_RESIDUES = 1 << 20


class HasLength(Protocol):
    """Anything counted in residues."""

    @property
    def length(self) -> int:
        """Count of residues."""


_R = TypeVar("_R", bound=HasLength)


def windows(
    records: Iterable[_R], max_records: int = WINDOW_RECORDS, max_residues: int = WINDOW_RESIDUES
) -> Iterator[list[_R]]:
    """Cut records into windows: bounded runs of consecutive records.

    A window ends before the record that would break a bound; a record longer than `max_residues` is a
    window of its own.

    >>> [len(w) for w in windows([], 2)]
    []
    """
    window: list[_R] = []
    residues = 0
    for record in records:
        if window and (len(window) == max_records or residues + record.length > max_residues):
            yield window
            window, residues = [], 0
        window.append(record)
        residues += record.length
    if window:
        yield window


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Pack records of like length into batches, longest first.

    Parameters
    ----------
    lengths
        Residues of each record; with `<cls>` and `<eos>` a record takes `length + 2` tokens.
    max_tokens
        Budget of a batch in tokens, padding included. A record beyond it runs alone.

    Returns
    -------
    list
        The places in `lengths`, each once, batch by batch.

    >>> batches([5, 8, 6], max_tokens=20)
    [[1, 2], [0]]
    """
    packed: list[list[int]] = []
    width = 0
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not packed or width * (len(packed[-1]) + 1) > max_tokens:
            packed.append([])
            width = lengths[place] + 2
        packed[-1].append(place)
    return packed
