"""Fewer cases than a whole product: each two values still meet, or the rest is slow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import combinations, product
from typing import Any

import pytest


def pairs_of(*values: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Choose from the product of these values.

    >>> pairs_of("ab", "xy", [1, 2])
    [('a', 'x', 1), ('a', 'y', 2), ('b', 'x', 2), ('b', 'y', 1)]
    """
    return pairs_among(product(*values))


def pairs_among(cases: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Choose from these cases until each two values that meet in one of them do so in a chosen one."""
    left = {case: set(combinations(enumerate(case), 2)) for case in cases}
    missing: set[Any] = set().union(*left.values())
    chosen = []
    while missing:
        best = max(left, key=lambda case: len(left[case] & missing))
        missing -= left.pop(best)
        chosen.append(best)
    return chosen


def slow_except(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Mark the other cases as slow; a case of several values is a tuple."""
    return [
        case if case in quick else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=SLOW)
        for case in cases
    ]


SLOW = pytest.mark.slow
