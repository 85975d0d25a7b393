"""The table of distinct sequences, against a dictionary."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli.fasta import copies
from protrna_cli.fasta.copies import DistinctSequences


def digest(number: int) -> bytes:
    return hashlib.md5(str(number).encode()).digest()


chunks = st.lists(st.lists(st.integers(0, 60), max_size=20), max_size=12)


@given(chunks=chunks)
def test_every_sequence_is_found_where_it_stood_first(chunks: list[list[int]]) -> None:
    table, expected, place = DistinctSequences(), dict[int, tuple[int, int]](), 0
    for chunk in chunks:
        places = [(place + i, 7 * (place + i)) for i in range(len(chunk))]
        place += len(chunk)
        table.add([digest(number) for number in chunk], np.array(places, np.int64).reshape(-1, 2))
        for number, each in zip(chunk, places, strict=True):
            expected.setdefault(number, each)
        assert len(table) == len(expected)
        found = table.find([digest(number) for number in range(61)]).tolist()
        assert found == [list(expected.get(number, (-1, -1))) for number in range(61)]


def test_a_full_table_keeps_the_sequences_that_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_SEQUENCES", 5)
    table = DistinctSequences()
    for number in range(8):
        table.add([digest(number)] * 2, np.full((2, 2), number))
    assert table.find([digest(number) for number in range(8)])[:, 0].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]


@given(order=st.permutations(range(6)))
def test_sequences_that_share_half_a_digest_are_never_mixed_up(order: list[int]) -> None:
    """At most one of them is found; the others count as unknown, and are computed."""
    shared = [b"8 bytes." + bytes([number] * 8) for number in range(6)]
    table = DistinctSequences()
    for number in order:
        table.add([shared[number]], np.full((1, 2), number))
    found = table.find(shared)[:, 0].tolist()
    assert all(place in (-1, number) for number, place in enumerate(found))
    assert table.find([b"8 bytes.8 bytes."]).tolist() == [[-1, -1]]
