"""Letters become tokens as published."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli import Alphabet

ALPHABET = Alphabet()
PUBLISHED = (
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask> a u g c x"
)


def test_the_vocabulary_is_the_published_one() -> None:
    assert ALPHABET.all_toks == PUBLISHED.split()
    assert len(ALPHABET) == 38
    assert [ALPHABET.get_idx(token) for token in ALPHABET.all_toks] == list(range(38))
    assert ALPHABET.get_idx("no such token") == ALPHABET.unk_idx


@given(st.text())
def test_rna_mode_reads_every_character(sequence: str) -> None:
    """Lower-case, t as u, everything else x: the published rule, written out."""
    letters = ["u" if c in "tT" else c.lower() if c in "acguACGU" else "x" for c in sequence]
    expected = [33 + "augcx".index(letter) for letter in letters]
    assert ALPHABET.encode(sequence).tolist() == expected


def test_protein_mode_reads_upper_case_letters() -> None:
    assert ALPHABET.encode("MKTa-?", is_rna=False).tolist() == [20, 15, 11, 5, 30, 3]


@given(st.lists(st.text("ACGUN", max_size=12), min_size=1, max_size=6))
def test_a_batch_is_framed_and_padded_on_the_right(sequences: list[str]) -> None:
    tokens = ALPHABET.get_batch_converter()(sequences)
    assert tokens.dtype == np.int32
    assert tokens.shape == (len(sequences), max(map(len, sequences)) + 2)
    for row, sequence in zip(tokens, sequences, strict=True):
        end = len(sequence) + 1
        assert row[0] == ALPHABET.cls_idx
        assert row[1:end].tolist() == ALPHABET.encode(sequence).tolist()
        assert row[end] == ALPHABET.eos_idx
        assert (row[end + 1 :] == ALPHABET.padding_idx).all()


@pytest.mark.parametrize(
    ("options", "width"), [({}, 512), ({"allowed_len": 1024}, 702), ({"allowed_len": 10}, 10)]
)
def test_the_converter_cuts_by_allowed_len_as_published(options: dict[str, int], width: int) -> None:
    assert ALPHABET.get_batch_converter()(["A" * 700], **options).shape == (1, width)
