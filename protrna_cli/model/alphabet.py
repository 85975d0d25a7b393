"""Convert letters to token ids: the 38 tokens of ProtRNA, and the published batch converter.

Legend: B batch, T tokens, L residues.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import UsageError

_SPECIAL_FIRST = ("<cls>", "<pad>", "<eos>", "<unk>")
_PROTEIN = tuple("LAGVSERTIDPKQNFYMHWCXBUZO.-")
_SPECIAL_LAST = ("<null_1>", "<mask>")
_RNA = tuple("augcx")

TOKENS = _SPECIAL_FIRST + _PROTEIN + _SPECIAL_LAST + _RNA
"""The vocabulary in id order. Upper case is protein, lower case is RNA."""

_TOKEN = re.compile("(" + "|".join(map(re.escape, TOKENS)) + ")")

Tokens = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class Alphabet:
    """The vocabulary of ProtRNA: 38 tokens, RNA in lower case, protein in upper case.

    Examples
    --------
    >>> alphabet = Alphabet()
    >>> alphabet.get_idx("a"), alphabet.get_tok(36)
    (33, 'c')
    >>> alphabet.encode("<cls>acg<mask>")
    [0, 33, 36, 35, 32]
    >>> alphabet.residue_ids("ACGTN").tolist()
    [33, 36, 35, 34, 37]

    Attributes
    ----------
    all_toks, tok_to_idx
        The tokens in id order, and the id of each.
    standard_toks, prepend_toks, append_toks
        Parts of the vocabulary: protein letters, special tokens before them, `<mask>` and RNA after them.
    all_special_tokens, unique_no_split_tokens
        As published.
    cls_idx, padding_idx, eos_idx, unk_idx, mask_idx
        Ids of the special tokens.
    prepend_bos, append_eos
        Whether sequences begin with `<cls>` and end with `<eos>`: always.
    """

    def __init__(self) -> None:
        self.standard_toks: list[str] = list(_PROTEIN)
        self.prepend_toks: list[str] = list(_SPECIAL_FIRST)
        self.append_toks: list[str] = ["<mask>", *_RNA]
        self.prepend_bos = self.append_eos = True
        self.all_special_tokens: list[str] = ["<eos>", "<unk>", "<pad>", "<cls>", "<mask>"]
        self.all_toks: list[str] = list(TOKENS)
        self.unique_no_split_tokens: list[str] = self.all_toks
        self.tok_to_idx: dict[str, int] = {token: i for i, token in enumerate(TOKENS)}
        self.cls_idx: int = self.tok_to_idx["<cls>"]
        self.padding_idx: int = self.tok_to_idx["<pad>"]
        self.eos_idx: int = self.tok_to_idx["<eos>"]
        self.unk_idx: int = self.tok_to_idx["<unk>"]
        self.mask_idx: int = self.tok_to_idx["<mask>"]

    def __len__(self) -> int:
        return len(self.all_toks)

    def get_idx(self, tok: str) -> int:
        """Return the id of a token; that of `<unk>` if it is not in the vocabulary."""
        return self.tok_to_idx.get(tok, self.unk_idx)

    def get_tok(self, ind: int) -> str:
        """Return the token with an id."""
        return self.all_toks[ind]

    @classmethod
    def from_architecture(cls, name: str) -> Alphabet:
        """Make the alphabet of an architecture, as published. There is one: `ProtRNA`.

        Raises
        ------
        UsageError
            Another name.
        """
        if name != "ProtRNA":
            raise UsageError(f"{name!r} is no architecture of protrna; Alphabet has that of ProtRNA only")
        return cls()

    def to_dict(self) -> dict[str, int]:
        """Return the id of each token, as a new dict."""
        return dict(self.tok_to_idx)

    def tokenize(self, text: str) -> list[str]:
        """Split a text into tokens, as published: upper-case letters are protein, lower-case ones RNA.

        White space separates; what is not in the vocabulary stays as it is.

        Examples
        --------
        >>> Alphabet().tokenize("<cls>augc MK 12")
        ['<cls>', 'a', 'u', 'g', 'c', 'M', 'K', '12']
        """
        return [part for piece in _TOKEN.split(text) for part in piece.split()]

    def encode(self, text: str) -> list[int]:
        """Return the ids of the tokens of a text, as published; raises KeyError for any other character."""
        return [self.tok_to_idx[token] for token in self.tokenize(text)]

    def residue_ids(self, sequence: str, is_rna: bool = True) -> Tokens:
        """Return the token ids of a sequence, one per character, without special tokens.

        Parameters
        ----------
        sequence
            RNA mode: any case; `T` is read as `U`; all but `A C G U T` becomes `x`, the unknown residue.
            Protein mode: upper-cased; letters that are not in the vocabulary become `<unk>`.

        Returns
        -------
        int32 array (L,)
        """
        # Latin-1 has one byte per character. Characters outside it are not residues in either mode.
        raw = np.frombuffer(sequence.encode("latin-1", errors="replace"), dtype=np.uint8)
        return (self._rna_ids if is_rna else self._protein_ids)[raw]

    @cached_property
    def _rna_ids(self) -> Tokens:
        table = np.full(256, self.tok_to_idx["x"], np.int32)
        for letter, token in zip("acgut", "acguu", strict=True):
            table[[ord(letter), ord(letter.upper())]] = self.tok_to_idx[token]
        return table

    @cached_property
    def _protein_ids(self) -> Tokens:
        table = np.full(256, self.unk_idx, np.int32)
        for letter in _PROTEIN:
            table[[ord(letter), ord(letter.lower())]] = self.tok_to_idx[letter]
        return table

    def frame(self, encoded: Sequence[Tokens], width: int | None = None) -> Tokens:
        """Add `<cls>` and `<eos>` to encoded sequences, and pad them on the right to one width.

        Parameters
        ----------
        encoded
            B int32 arrays (L_i,) from `residue_ids`.
        width
            T, at least the longest L + 2 (the default).

        Returns
        -------
        int32 array (B, T)
        """
        width = width or max((len(ids) for ids in encoded), default=0) + 2
        tokens = np.full((len(encoded), width), self.padding_idx, np.int32)
        tokens[:, 0] = self.cls_idx
        for row, ids in zip(tokens, encoded, strict=True):
            row[1 : len(ids) + 1] = ids
            row[len(ids) + 1] = self.eos_idx
        return tokens

    def get_batch_converter(self, is_rna: bool = True) -> BatchConverter:
        """Return the published converter from sequences to tokens. `is_rna=False` tokenizes proteins."""
        return BatchConverter(self, is_rna)


class BatchConverter:
    """Convert sequences to a padded token matrix, as published.

    Examples
    --------
    >>> Alphabet().get_batch_converter()(["GC", "A"]).tolist()
    [[0, 35, 36, 2], [0, 33, 2, 1]]
    """

    def __init__(self, alphabet: Alphabet, is_rna: bool = True) -> None:
        self.alphabet = alphabet
        self.is_rna = is_rna

    def __call__(self, sequences: Sequence[str], allowed_len: int = 512) -> Tokens:
        """Tokenize a batch.

        Parameters
        ----------
        sequences
            B sequences.
        allowed_len
            Most tokens per sequence: residues after the first `allowed_len - 2` are dropped. This is the
            published behaviour, kept with its default for code written for the published API. The command
            line does not use it.

        Returns
        -------
        int32 array (B, T), T = longest + 2, padded on the right
        """
        return self.alphabet.frame(
            [self.alphabet.residue_ids(s[: allowed_len - 2], self.is_rna) for s in sequences]
        )
