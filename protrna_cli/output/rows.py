"""What every output holds, whatever its format: a header, and rows in blocks.

Legend: N rows, L residues of a row, ΣL residues of all rows of a block, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from protrna_cli.plan.rows import Row

PROVENANCE_KEY = "protrna"

BLOCK_BYTES = 64 << 20
"""Vectors of a block, some bytes more or less: what reading takes of memory."""

Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Header:
    """What is known of an output before its first row.

    Attributes
    ----------
    per_token
        Whether a row is a matrix (n_embedded, D) or a vector (D,).
    layers
        Layers embedded, each a column.
    width
        D.
    dtype
        `float32` or `float16`.
    n_rows, n_residues
        Rows, and embedded residues of all rows.
    provenance
        How the output was made; kept in every file as JSON under the key `protrna`.
    """

    per_token: bool
    layers: tuple[int, ...]
    width: int
    dtype: str
    n_rows: int
    n_residues: int
    provenance: dict[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """Name of each layer's column: `embedding` for one layer, `layer_6`, `layer_33` for several."""
        return ("embedding",) if len(self.layers) == 1 else tuple(f"layer_{layer}" for layer in self.layers)

    @property
    def n_vectors(self) -> int:
        """Vectors (D,) of a layer: one a row, or one a residue."""
        return self.n_residues if self.per_token else self.n_rows

    @property
    def json(self) -> str:
        """The provenance, and with it all of this header, as text."""
        described = {key: value for key, value in asdict(self).items() if key != "provenance"}
        return json.dumps({**self.provenance, "output": described}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Header:
        """Read what `json` wrote.

        Raises
        ------
        ValueError
            The text is not a provenance of ours.
        """
        try:
            provenance = json.loads(text)
            described = provenance.pop("output")
            return cls(**{**described, "layers": tuple(described["layers"])}, provenance=provenance)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no provenance of protrna ({error})") from error


@dataclass(frozen=True)
class Block:
    """Some consecutive rows.

    Attributes
    ----------
    rows
        N rows.
    values
        One array a layer: (N, D), or (ΣL, D) per token.
    """

    rows: list[Row]
    values: list[Values]

    def bounds(self) -> list[int]:
        """Where each row's residues start in values per token, and, last, where they end: N + 1 numbers."""
        return [0, *np.cumsum([row.n_embedded for row in self.rows]).tolist()]


def spans(rows: Iterable[Row], header: Header) -> Iterator[tuple[list[Row], int, int]]:
    """Cut rows into blocks of `BLOCK_BYTES`; a row is never cut.

    Returns
    -------
    Iterator
        Some consecutive rows, and where their vectors start and end among all vectors of a layer.
    """
    bytes_a_vector = len(header.layers) * header.width * np.dtype(header.dtype).itemsize
    pending: list[Row] = []
    first = last = 0
    for row in rows:
        end = last + (row.n_embedded if header.per_token else 1)
        if pending and (end - first) * bytes_a_vector > BLOCK_BYTES:
            yield pending, first, last
            pending, first = [], last
        pending.append(row)
        last = end
    if pending:
        yield pending, first, last


class Writer(Protocol):
    """The module that writes a format."""

    def write(self, path: Path, header: Header, blocks: Iterable[Block]) -> None:
        """Write a whole output; the caller renames it into place."""


class Reader(Protocol):
    """The module that reads a format."""

    def read_header(self, path: Path) -> Header:
        """Read the header of an output; ValueError when it is none of ours."""

    def read_blocks(self, path: Path, header: Header) -> Iterator[Block]:
        """Read the rows of an output, in order."""

    def read_rows(self, path: Path, header: Header) -> Iterator[Row]:
        """Read what stands beside the embeddings alone, in order."""

    def schema(self, path: Path, header: Header) -> dict[str, str]:
        """Say what stands in the file: names, and of what type and shape each is."""
