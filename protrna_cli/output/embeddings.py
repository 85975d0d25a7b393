"""Outputs in memory: read an output of any format as one object.

Shapes: N rows, L residues of a row, ΣL residues of all rows, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from protrna_cli.errors import InputError
from protrna_cli.output.parts import is_folder, parts_of, read_parts, unproven_part
from protrna_cli.output.read import read_layer, read_output, read_whole
from protrna_cli.output.rows import UNPROVEN, Header, Values
from protrna_cli.plan.rows import Row
from protrna_cli.plan.values import AnyPath, path_text, switch, whole_number
from protrna_cli.text import shortened

if TYPE_CHECKING:
    import pyarrow as pa

V = TypeVar("V")


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(Row, Generic[V]):
    """One row of an output with its vectors.

    Attributes
    ----------
    id, description
        First word of the FASTA header, and the rest of it. The id of a region is `ID:NAME`.
    length
        Residues of the record or region.
    n_embedded
        Residues that the embedding covers.
    n_unknown
        Unknown residues (`x`).
    n_windows
        Number of pieces in which the record ran.
    md5
        MD5 of the sequence in upper-case DNA letters, see `Row`.
    vectors
        float32 or float16 array (D,), or (L, D) per token; for several layers, such an array by layer.
    """

    vectors: V = field(kw_only=True)

    @classmethod
    def of(cls, row: Row, vectors: V) -> Embedding[V]:
        """Add its vectors to a row."""
        counts = row.length, row.n_embedded, row.n_unknown, row.n_windows
        return cls(row.id, row.description, *counts, row.md5, vectors=vectors)


class Residues(Sequence[Values]):
    """The vectors of a per-token output: a sequence of N arrays (L, D), each a view of one large array.

    Parameters
    ----------
    values
        Array (ΣL, D).
    bounds
        Start of each row in it, and the final end (N + 1).
    """

    def __init__(self, values: Values, bounds: Sequence[int]) -> None:
        self.values = values
        self._bounds = bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, index: int) -> Values: ...

    @overload
    def __getitem__(self, index: slice) -> list[Values]: ...

    def __getitem__(self, index: int | slice) -> Values | list[Values]:
        rows = range(len(self))[index]  # refuses an index beyond the end, and counts negatives from it
        if isinstance(rows, range):
            return [self[row] for row in rows]
        return self.values[self._bounds[rows] : self._bounds[rows + 1]]


class Embeddings:
    """One layer of an output: its rows, and their vectors.

    Iterate over it for each row with its vectors, as `Embedding`; `embeddings["tRNA_Phe_yeast"]` are the
    vectors of the row with this id.

    Attributes
    ----------
    ids
        Id of each row.
    vectors
        Array (N, D), or per token a sequence of N arrays (L, D); float32 or float16. NumPy, packed HDF5 and
        AnnData files are mapped into memory, and read only where they are used.
    layer
        The layer.
    per_token
        Whether `vectors` has one vector per residue.
    provenance
        How the output was made: version, model, SHA-256 of weights and inputs, rules.
    """

    def __init__(
        self, header: Header, layer: int, rows: list[Row], values: Values, files: Sequence[Path] = ()
    ) -> None:
        self._header = header
        self._files = files
        self._rows = rows
        self.ids: list[str] = [row.id for row in rows]
        self.layer = layer
        self.per_token = header.per_token
        self.provenance: dict[str, Any] = header.provenance
        self.vectors: Values | Residues = values
        if header.per_token:
            bounds = [0, *np.cumsum([row.n_embedded for row in rows]).tolist()]
            self.vectors = Residues(values, bounds)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Embedding[Values]]:
        for row, vectors in zip(self._rows, self.vectors, strict=True):
            yield Embedding.of(row, vectors)

    def __contains__(self, id: object) -> bool:
        return id in self._index

    def __getitem__(self, id: str) -> Values:
        """Return the vectors of the row with an id.

        Raises
        ------
        KeyError
            No row has the id, or several have it.
        """
        places = self._index.get(id, [])
        if len(places) != 1:
            rows = ", ".join(map(str, places[:3]))
            raise KeyError(
                f"rows {rows}{', …' if len(places) > 3 else ''} have the id {shortened(id)}; use vectors[row]"
                if places
                else f"no row has the id {id!r}"
            )
        vectors: Values = self.vectors[places[0]]
        return vectors

    def check(self) -> None:
        """Read all of the files, and compare rows and vectors with their checksums.

        Raises
        ------
        InputUnreadable, InputError
            A file cannot be read, was changed since it was written, or has no checksums.
        """
        for file in self._files:
            header, blocks = read_whole(file)
            if header.is_unproven:
                raise InputError(f"{file}: {UNPROVEN}")
            for _ in blocks:
                pass

    @cached_property
    def _index(self) -> dict[str, list[int]]:
        index: dict[str, list[int]] = {}
        for place, id in enumerate(self.ids):
            index.setdefault(id, []).append(place)
        return index

    @cached_property
    def columns(self) -> pa.Table:
        """The other columns, N rows: `id`, `description`, the counts and `md5`."""
        import pyarrow as pa

        columns = self._header.row_columns
        return pa.table({name: [getattr(row, name) for row in self._rows] for name in columns})

    def __repr__(self) -> str:
        kind = "per token" if self.per_token else "pooled"
        return f"<Embeddings: {len(self):,} rows of layer {self.layer}, {kind}>"


def open_embeddings(path: AnyPath, layer: int | None = None, check: bool = False) -> Embeddings:
    """Open an output of any format, or a folder of parts, as `read_embeddings` describes."""
    file = Path(path_text("path", path))
    if layer is not None:
        whole_number("--layer", layer)
    switch("check", check)
    parts = parts_of(file)
    if is_folder(file):
        parts, header, _ = read_parts(parts)
    else:
        header, _ = read_output(file)
    column = header.column_index(layer, file)
    read = [read_layer(part, column) for part in parts]
    rows = list(chain.from_iterable(of_part for of_part, _ in read))
    if len(rows) != header.n_rows:
        raise InputError(
            f"{file}: damaged (it has {len(rows):,} rows, but its header states {header.n_rows:,}); make it "
            "again with --overwrite"
        )
    values = read[0][1] if len(read) == 1 else np.concatenate([vectors for _, vectors in read])
    embeddings = Embeddings(header, header.layers[column], rows, values, parts)
    if check:
        embeddings.check()
    elif part := unproven_part(file):
        warnings.warn(f"{part}: {UNPROVEN}", stacklevel=3)
    return embeddings
