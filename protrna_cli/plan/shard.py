"""Shards: the N slices of a run, each embedded by a separate process."""

from __future__ import annotations

import re
from dataclasses import dataclass

from protrna_cli.errors import UsageError
from protrna_cli.plan.values import whole_number


@dataclass(frozen=True)
class Shard:
    """One slice of a run: number `index` (from 1) of `count`.

    >>> Shard.parse("2/8")
    Shard(index=2, count=8)

    Raises
    ------
    UsageError
        Index and count are not whole numbers, or the index is not between 1 and the count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        whole_number("--shard I/N", self.index, 1)
        whole_number("--shard I/N", self.count, 1)
        if self.index > self.count:
            raise UsageError(f"--shard takes I/N, I from 1 to N, not {self}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse `I/N`."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"{text!r} is not a shard; --shard takes I/N, auto or auto/N, I from 1 to N")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def contains(self, done: int, cost: int, total: int) -> bool:
        """Whether the middle of an item of this cost, after `done` of `total`, is in this shard."""
        middle = 2 * done + cost
        return (self.index - 1) * 2 * total <= middle * self.count < self.index * 2 * total

    def ends_before(self, done: int, cost: int, total: int) -> bool:
        """Whether the middle of an item of this cost, after `done` of `total`, is in a later shard."""
        return (2 * done + cost) * self.count >= self.index * 2 * total


WHOLE = Shard()
"""The whole input: a run without shards."""
