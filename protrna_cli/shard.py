"""Shards: the I-th of N slices of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from protrna_cli.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """The index-th of `count` slices of a run, from 1.

    >>> Shard.parse("2/8")
    Shard(index=2, count=8)
    """

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `I/N`.

        Raises
        ------
        UsageError
            It is not that, or I is not among 1 … N.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"{text!r} is not a shard; --shard takes I/N, auto or auto/N, I from 1 to N")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def holds(self, done: int, cost: int, total: int) -> bool:
        """Whether what costs `cost`, after `done` of `total`, is this shard's: its middle decides."""
        middle = 2 * done + cost
        return (self.index - 1) * 2 * total <= middle * self.count < self.index * 2 * total

    def ends_before(self, done: int, cost: int, total: int) -> bool:
        """Whether what costs `cost`, after `done` of `total`, is a later shard's."""
        return (2 * done + cost) * self.count >= self.index * 2 * total


WHOLE = Shard()
"""A run that is not cut into shards."""
