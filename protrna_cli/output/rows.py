"""Header and blocks of rows, which an output has in every format.

Checksums of its content are the same in every format, and however its rows are cut into blocks.

Shapes: N rows, L residues of a row, ΣL residues of all rows of a block, D width.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import UsageError
from protrna_cli.plan.pieces import ROW_COLUMNS, Row

PROVENANCE_KEY = "protrna"

REWRITTEN = "written_anew"
"""In the provenance of what was converted from a file without checksums: its numbers cannot be proven."""

UNPROVEN = "written anew by another program, without its checksums, so that it cannot be proven"

HEADER = "header"
"""Name of the header's own checksum."""

COLUMNS_BEFORE_MD5 = tuple(name for name in ROW_COLUMNS if name != "md5")
"""Columns of outputs of versions before 0.2."""

BLOCK_BYTES = 64 << 20
"""Most bytes of vectors in a block (64 MiB), to bound the memory for reading; one long row may exceed it."""

Values = npt.NDArray[np.floating[Any]]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Header:
    """Header of an output: all that is known before its first row."""

    per_token: bool  # whether a row is a matrix (n_embedded, D) or a vector (D,)
    layers: tuple[int, ...]  # embedded layers, one column each
    width: int  # width D of a vector
    dtype: str  # `float32` or `float16`
    # Number of rows, and of embedded residues in all rows.
    n_rows: int
    n_residues: int
    provenance: dict[str, Any]  # how the output was made; kept in every file as JSON under the key `protrna`
    # The columns other than the embedding. Outputs of versions before 0.2 have no `md5`.
    row_columns: tuple[str, ...] = ROW_COLUMNS
    # SHA-256 of the rows and of each column of vectors, see `checksum`; None until the output is written, and
    # in outputs of earlier versions. They are not compared: equal runs may differ in the last bit.
    checksums: dict[str, str] | None = field(default=None, compare=False)

    @property
    def is_unproven(self) -> bool:
        """Whether another program wrote the file, or the one it was converted from, without checksums."""
        return self.has_md5 and (not self.checksums or REWRITTEN in self.provenance)

    @property
    def has_md5(self) -> bool:
        """Whether rows have an MD5, as in all outputs since version 0.2."""
        return "md5" in self.row_columns

    @property
    def columns(self) -> tuple[str, ...]:
        """Column name of each layer: `embedding` for one layer; `layer_6`, `layer_33` for several."""
        return ("embedding",) if len(self.layers) == 1 else tuple(f"layer_{layer}" for layer in self.layers)

    def column_index(self, layer: int | None, source: Path) -> int:
        """Index of a layer's column.

        layer: a layer, negatives count from the end of the model; None if the output has only one.
        source: the output, for messages.
        """
        layers = ", ".join(map(str, self.layers))
        if layer is None:
            if len(self.layers) > 1:
                raise UsageError(f"{source}: has layers {layers}; choose one with --layer")
            return 0
        wanted = layer if layer >= 0 else layer + 1 + self.provenance.get("model", {}).get("layers", 0)
        if wanted not in self.layers:
            raise UsageError(
                f"{source}: has no layer {layer}, only {layers}; choose one of these with --layer"
            )
        return self.layers.index(wanted)

    @property
    def n_vectors(self) -> int:
        """Number of vectors (D,) in a layer: one per row, or one per residue."""
        return self.n_residues if self.per_token else self.n_rows

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector in all layers."""
        return len(self.layers) * self.width * np.dtype(self.dtype).itemsize

    def adding(self, **facts: Any) -> Header:
        """Add facts to the provenance, or replace them."""
        return replace(self, provenance={**self.provenance, **facts})

    def n_vectors_of(self, row: Row) -> int:
        """Number of vectors (D,) of a row in a layer."""
        return row.n_embedded if self.per_token else 1

    @property
    def sha256(self) -> str:
        """SHA-256 of this header as JSON with sorted keys, without the checksums."""
        described = {**self._described(), "provenance": self.provenance}
        described.pop("checksums", None)
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    @property
    def json(self) -> str:
        """The provenance and the rest of this header, as JSON text."""
        return json.dumps({**self.provenance, "output": self._described()}, ensure_ascii=False)

    def _described(self) -> dict[str, Any]:
        """All fields but the provenance, without those that outputs of earlier versions do not have."""
        described = asdict(self)
        checksums = described.pop("checksums")
        del described["provenance"], described["row_columns"]
        if self.has_md5:
            described["has_md5"] = True
        if checksums is not None:
            described["checksums"] = checksums
        return described

    @classmethod
    def from_json(cls, text: str, checksums: str | None = None) -> Header:
        """Restore a header from the text in `json`.

        checksums: checksums as JSON, if they are kept apart from the header.
        """
        try:
            provenance = json.loads(text)
            described = provenance.pop("output")
            if checksums:
                described["checksums"] = json.loads(checksums)
            has_md5 = described.pop("has_md5", False)
            described["row_columns"] = ROW_COLUMNS if has_md5 else COLUMNS_BEFORE_MD5
            header = cls(**{**described, "layers": tuple(described["layers"])}, provenance=provenance)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not protrna provenance ({error})") from error
        sound = isinstance(has_md5, bool) and header._is_sound()
        if not sound or (header.checksums or {}).get(HEADER, header.sha256) != header.sha256:
            raise ValueError("its provenance is damaged")
        return header

    def _is_sound(self) -> bool:
        """Whether every field has a value that an output can have."""
        counts = (self.width, self.n_rows, self.n_residues, *self.layers)
        sums = self.checksums
        return (
            isinstance(self.per_token, bool)
            and self.dtype in ("float32", "float16")
            and all(type(count) is int and count >= 0 for count in counts)
            and 0 < len(self.layers) == len(set(self.layers))
            and self.width > 0
            and (sums is None or (isinstance(sums, dict) and all(isinstance(s, str) for s in sums.values())))
        )


@dataclass(frozen=True)
class Block:
    """Some consecutive rows."""

    rows: list[Row]
    values: list[Values]  # one array per layer: (N, D), or (ΣL, D) per token, of the header's dtype

    def bounds(self) -> list[int]:
        """Offsets of the rows in per-token values: the start of each row, and the final end (N + 1)."""
        return [0, *np.cumsum([row.n_embedded for row in self.rows]).tolist()]

    def by_row(self, header: Header) -> Iterator[tuple[Row, list[Values]]]:
        """Give each row with its vectors in every layer, (L, D) per token, otherwise (1, D)."""
        start = 0
        for row in self.rows:
            end = start + header.n_vectors_of(row)
            yield row, [values[start:end] for values in self.values]
            start = end


def spans(rows: Iterable[Row], header: Header) -> Iterator[tuple[list[Row], int, int]]:
    """Group rows into blocks of at most `BLOCK_BYTES`; a row is never split.

    Returns consecutive rows, and the start and end of their vectors within each layer.
    """
    pending: list[Row] = []
    vector_bytes = header.vector_bytes
    first = last = 0
    for row in rows:
        end = last + header.n_vectors_of(row)
        if pending and (end - first) * vector_bytes > BLOCK_BYTES:
            yield pending, first, last
            pending, first = [], last
        pending.append(row)
        last = end
    if pending:
        yield pending, first, last


class OutputFile(ABC):
    """One output in a format, with the files beside it. A format that is only written has just this."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header

    @abstractmethod
    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        """Write a whole output; the caller renames it into place.

        seal: returns the header with its checksums, once all blocks have been read.
        """


def chosen(items: Sequence[_T], columns: Sequence[int] | None) -> list[_T]:
    """Take the items of some columns of vectors, counted from 0; of all for None."""
    return list(items) if columns is None else [items[column] for column in columns]


class ReadableFile(OutputFile):
    """One output in a format that is read, too. A damaged one raises ValueError, or what its library does."""

    @abstractmethod
    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        """Read the blocks, in order.

        columns: columns of vectors to read, counted from 0; by default all.
        """

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Read the rows without their embeddings, in order."""

    @abstractmethod
    def check(self, thorough: bool = False) -> None:
        """Compare sizes, types and counts with the header.

        thorough: also check what takes as long as reading the file.
        """

    @abstractmethod
    def mapped(self, column: int) -> Values | None:
        """Map the vectors (n_vectors, D) of a layer into memory; None if the format cannot be mapped."""

    @abstractmethod
    def schema(self) -> dict[str, str]:
        """List the columns or datasets with type and shape."""


ROWS = "rows"


class Checksum:
    """SHA-256 of the rows, and of the vectors of each layer, computed as the blocks pass.

    A row enters as the JSON list of its columns, with a line feed; vectors enter as little-endian numbers of
    the header's dtype, in row order. SHA-256 costs about 1 ms per MiB, a thousandth of embedding it.

    columns: columns of vectors that the blocks have, counted from 0; by default all.
    """

    def __init__(self, header: Header, columns: Sequence[int] | None = None) -> None:
        self._header, self._columns = header, chosen(header.columns, columns)
        self._dtype = np.dtype(header.dtype).newbyteorder("<")
        self._hashes = {name: hashlib.sha256() for name in (ROWS, *self._columns)}

    def add(self, block: Block) -> None:
        """Add the next rows."""
        self._add_rows(block.rows)
        for name, values in zip(self._columns, block.values, strict=True):
            self._hashes[name].update(np.ascontiguousarray(values, self._dtype).data)

    def _add_rows(self, rows: Iterable[Row]) -> None:
        for row in rows:
            line = json.dumps([getattr(row, name) for name in self._header.row_columns]) + "\n"
            self._hashes[ROWS].update(line.encode())

    def rows_changed(self, rows: Iterable[Row]) -> bool:
        """Whether rows, all of an output, differ from its checksum; vectors are not looked at."""
        self._add_rows(rows)
        stored = self._header.checksums
        return stored is not None and stored.get(ROWS) != self._hashes[ROWS].hexdigest()

    def watch(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Add blocks as they pass."""
        for block in blocks:
            self.add(block)
            yield block

    def seal(self) -> Header:
        """Return the header with the checksums of itself and of all blocks that were added."""
        sums = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        return replace(self._header, checksums={HEADER: self._header.sha256, **sums})

    def flaws(self) -> list[str]:
        """List what differs from the checksums in the header; empty if all agree or the header has none."""
        stored, found = self._header.checksums, self.seal().checksums or {}
        return [
            f"{'ids or counts' if name == ROWS else f'vectors of column {name}'} changed since it was written"
            for name in found
            if stored is not None and stored.get(name) != found[name]
        ]
