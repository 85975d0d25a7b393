"""Letters become tokens as published."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli import Alphabet
from protrna_cli.errors import UsageError

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
    assert ALPHABET.residue_ids(sequence).tolist() == expected


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("augcx", list("augcx")),
        ("MKTAYIAKQR", list("MKTAYIAKQR")),
        ("<cls>acg<mask><eos>", ["<cls>", "a", "c", "g", "<mask>", "<eos>"]),
        ("L A  <pad>\n<null_1> .-", ["L", "A", "<pad>", "<null_1>", ".", "-"]),
        ("AA<foo>1 J", ["A", "A", "<foo>1", "J"]),
        ("A 12 34 a", ["A", "12", "34", "a"]),
        ("  ", []),
        ("", []),
    ],
)
def test_texts_are_tokenized_as_published(text: str, tokens: list[str]) -> None:
    assert ALPHABET.tokenize(text) == tokens
    if set(tokens) <= set(ALPHABET.all_toks):
        assert ALPHABET.encode(text) == [ALPHABET.all_toks.index(token) for token in tokens]
    else:
        with pytest.raises(KeyError):
            ALPHABET.encode(text)


@given(st.lists(st.sampled_from(PUBLISHED.split())))
def test_tokens_survive_joining_and_splitting(tokens: list[str]) -> None:
    assert ALPHABET.tokenize("".join(tokens)) == tokens
    assert ALPHABET.tokenize(" ".join(tokens)) == tokens


def test_the_attributes_are_the_published_ones() -> None:
    """Names and values of the class in the published `protrna/data.py`, written out."""
    published = Alphabet.from_architecture("ProtRNA")
    assert published.standard_toks == list("LAGVSERTIDPKQNFYMHWCXBUZO.-")
    assert published.prepend_toks == ["<cls>", "<pad>", "<eos>", "<unk>"]
    assert published.append_toks == ["<mask>", "a", "u", "g", "c", "x"]
    assert published.prepend_bos is published.append_eos is True
    assert published.all_special_tokens == ["<eos>", "<unk>", "<pad>", "<cls>", "<mask>"]
    assert published.unique_no_split_tokens == published.all_toks
    ids = [published.cls_idx, published.padding_idx, published.eos_idx, published.unk_idx, published.mask_idx]
    assert ids == [0, 1, 2, 3, 32]
    assert published.get_tok(ind=36) == "c"
    assert published.get_idx(tok="c") == 36


def test_to_dict_is_a_copy() -> None:
    ids = ALPHABET.to_dict()
    assert ids == {token: i for i, token in enumerate(PUBLISHED.split())}
    ids.clear()
    assert len(ALPHABET.to_dict()) == 38


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="'ESM-1b' is no architecture of protrna"):
        Alphabet.from_architecture("ESM-1b")


def test_protein_mode_reads_upper_case_letters() -> None:
    assert ALPHABET.residue_ids("MKTa-?", is_rna=False).tolist() == [20, 15, 11, 5, 30, 3]


@given(st.lists(st.text("ACGUN", max_size=12), min_size=1, max_size=6))
def test_a_batch_is_framed_and_padded_on_the_right(sequences: list[str]) -> None:
    tokens = ALPHABET.get_batch_converter()(sequences)
    assert tokens.dtype == np.int32
    assert tokens.shape == (len(sequences), max(map(len, sequences)) + 2)
    for row, sequence in zip(tokens, sequences, strict=True):
        end = len(sequence) + 1
        assert row[0] == ALPHABET.cls_idx
        assert row[1:end].tolist() == ALPHABET.residue_ids(sequence).tolist()
        assert row[end] == ALPHABET.eos_idx
        assert (row[end + 1 :] == ALPHABET.padding_idx).all()


@pytest.mark.parametrize(
    ("options", "width"), [({}, 512), ({"allowed_len": 1024}, 702), ({"allowed_len": 10}, 10)]
)
def test_the_converter_cuts_by_allowed_len_as_published(options: dict[str, int], width: int) -> None:
    assert ALPHABET.get_batch_converter()(["A" * 700], **options).shape == (1, width)
