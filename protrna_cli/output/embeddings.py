"""Outputs in memory: read an output of any format as one object.

Shapes: N rows, L residues of a row, ΣL residues of all rows, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import InputError, MissingExtra, RunMismatch, UsageError
from protrna_cli.output.rows import PROVENANCE_KEY, UNPROVEN, Header, Values
from protrna_cli.output.stored import open_output
from protrna_cli.plan.pieces import ROW_COLUMNS, Row
from protrna_cli.plan.rules import AnyPath, path_text, switch, whole_number
from protrna_cli.text import shortened

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

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
        MD5 of the sequence in upper-case DNA letters, as 32 hexadecimal digits: the key by which RNAcentral
        and vsearch know a sequence. Empty in outputs of versions before 0.2.
    vectors
        float32 or float16 array (D,), or (L, D) per token; for several layers, such an array by layer.
    """

    vectors: V = field(kw_only=True)

    @classmethod
    def of(cls, row: Row, vectors: V) -> Embedding[V]:
        """Add its vectors to a row."""
        return cls(*(getattr(row, name) for name in ROW_COLUMNS), vectors=vectors)


class Residues(Sequence[Values]):
    """The vectors of a per-token output: a sequence of N arrays (L, D), each a view of one large array.

    values: array (ΣL, D).
    bounds: start of each row in it, and the final end (N + 1).
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
        return self.between(rows, rows + 1)

    def between(self, start: int, stop: int) -> Values:
        """The vectors (n, D) of some rows, one after another."""
        return self.values[self._bounds[start] : self._bounds[max(start, stop)]]


class Embeddings:
    """One layer of an output: its rows, and their vectors.

    Iterate over it for each row with its vectors, as `Embedding`; `embeddings[0]` is one of these. Slices,
    lists of ids or of numbers, and masks take rows out, as `Embeddings`: `embeddings[:5]`,
    `embeddings[["a", "b"]]`. `embeddings["tRNA_Phe_yeast"]` are the vectors of the row with this id.

    Pickled, it is the path of its output, which is opened again.

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
        self, header: Header, layer: int, rows: list[Row], values: Values, path: Path, files: Sequence[Path]
    ) -> None:
        self._header = header
        self._path = path
        self._files = files
        self._taken: range | list[int] = range(len(rows))
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

    @overload
    def __getitem__(self, rows: str) -> Values: ...

    @overload
    def __getitem__(self, rows: int) -> Embedding[Values]: ...

    @overload
    def __getitem__(self, rows: slice | list[str] | list[int] | npt.NDArray[Any]) -> Embeddings: ...

    def __getitem__(self, rows: Any) -> Any:
        """Return the vectors of the row with an id, the row with a number, or several rows.

        Raises
        ------
        KeyError
            No row has an id, or several have it.
        IndexError
            There is no such row, or a mask has another length.
        """
        if isinstance(rows, str):
            return self.vectors[self._number_of(rows)]
        if isinstance(rows, (int, np.integer)):
            number = range(len(self))[rows]
            return Embedding.of(self._rows[number], self.vectors[number])
        return self._take(self._numbers_of(rows))

    def _number_of(self, id: str) -> int:
        """Find the number of the only row with an id."""
        hits = self._index.get(id, [])
        if len(hits) != 1:
            rows = ", ".join(map(str, hits[:3]))
            raise KeyError(
                f"rows {rows}{', …' if len(hits) > 3 else ''} have the id {shortened(id)}; use vectors[row]"
                if hits
                else f"no row has the id {id!r}"
            )
        return hits[0]

    def _numbers_of(self, rows: Any) -> range | list[int]:
        """List the numbers of the rows of a slice, of a mask, or of ids."""
        every = range(len(self))
        if isinstance(rows, slice):
            return every[rows]
        listed = np.asarray(rows)
        if listed.dtype == bool:
            if listed.shape != (len(self),):
                raise IndexError(f"a mask of {len(self):,} rows is needed, not of shape {listed.shape}")
            return np.flatnonzero(listed).tolist()
        return [self._number_of(row) if isinstance(row, str) else every[row] for row in listed.tolist()]

    def _take(self, numbers: range | list[int]) -> Embeddings:
        """Take rows out; those of a slice share the memory of all."""
        values: Values
        if not isinstance(self.vectors, Residues):
            stop = numbers.stop if isinstance(numbers, range) and numbers.stop >= 0 else None
            in_step = slice(numbers.start, stop, numbers.step) if isinstance(numbers, range) else numbers
            values = self.vectors[in_step]
        elif isinstance(numbers, range) and numbers.step == 1:
            values = self.vectors.between(numbers.start, numbers.stop)
        else:
            values = np.concatenate([self.vectors.between(0, 0), *(self.vectors[i] for i in numbers)])
        rows = [self._rows[i] for i in numbers]
        taken = Embeddings(self._header, self.layer, rows, values, self._path, self._files)
        taken._taken = [self._taken[i] for i in numbers]
        return taken

    def padded(self, pad: float = 0.0) -> tuple[Values, npt.NDArray[np.bool_]]:
        """Return the residues of all rows as one array, as torch and Keras take them.

        Parameters
        ----------
        pad
            The value after the last residue of a row.

        Returns
        -------
        vectors, mask
            Arrays (N, L, D), L that of the longest row, and bool (N, L): True at residues.

        Raises
        ------
        UsageError
            The output has one vector per row.
        """
        if not isinstance(self.vectors, Residues):
            raise UsageError("padded is for outputs with one vector per residue; use vectors")
        lengths = np.array([row.n_embedded for row in self._rows], int)
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        padded = np.full((*mask.shape, self._header.width), pad, self._header.dtype)
        for of_row, vectors in zip(padded, self.vectors, strict=True):
            of_row[: len(vectors)] = vectors
        return padded, mask

    def to_pandas(self) -> pd.DataFrame:
        """Return a frame with the ids as index, the other columns, and the vectors as `embedding`."""
        frame = self.columns.to_pandas().set_index("id")
        frame["embedding"] = list(self.vectors)
        return frame

    def to_anndata(self) -> AnnData:
        """Return what `protrna convert` writes as `.h5ad`: vectors as `X`, the other columns as `obs`.

        Raises
        ------
        MissingExtra
            AnnData is not installed.
        UsageError
            The output has vectors of residues.
        """
        try:
            from anndata import AnnData
        except ImportError:
            raise MissingExtra("to_anndata needs AnnData; run pip install anndata") from None
        if isinstance(self.vectors, Residues):
            raise UsageError("AnnData has one vector per row, but this output has one per residue")
        frame = self.columns.to_pandas().set_index("id")
        return AnnData(np.array(self.vectors), obs=frame, uns={PROVENANCE_KEY: self._header.json})

    def check(self) -> None:
        """Read all of the files, and compare rows and vectors with their checksums.

        Raises
        ------
        InputUnreadable, InputError
            A file cannot be read, was changed since it was written, or has no checksums.
        """
        for file in self._files:
            stored = open_output(file)
            if stored.unproven:
                raise InputError(f"{file}: {UNPROVEN}")
            for _ in stored.blocks():
                pass

    @cached_property
    def _index(self) -> dict[str, list[int]]:
        index: dict[str, list[int]] = {}
        for row, id in enumerate(self.ids):
            index.setdefault(id, []).append(row)
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

    def __reduce__(self) -> tuple[Callable[..., Embeddings], tuple[object, ...]]:
        return _reopen, (str(self._path.absolute()), self.layer, self._taken, self._header.sha256)


def _reopen(path: str, layer: int, taken: range | list[int], sha256: str) -> Embeddings:
    """Open the output of a pickle again; raises RunMismatch if it is another one by now."""
    whole = open_embeddings(path, layer)
    if whole._header.sha256 != sha256:
        raise RunMismatch(f"{path}: another output than the pickled one; read it again with read_embeddings")
    return whole if len(taken) == len(whole) and isinstance(taken, range) else whole._take(taken)


def open_embeddings(path: AnyPath, layer: int | None = None, check: bool = False) -> Embeddings:
    """Open an output of any format, or a folder of parts, as `read_embeddings` describes."""
    file = Path(path_text("path", path))
    if layer is not None:
        whole_number("--layer", layer)
    switch("check", check)
    stored = open_output(file)
    header = stored.header
    column = header.column_index(layer, file)
    rows, values = stored.layer(column)
    embeddings = Embeddings(header, header.layers[column], rows, values, file, stored.paths)
    if check:
        embeddings.check()
    elif part := stored.unproven:
        warnings.warn(f"{part}: {UNPROVEN}", stacklevel=3)
    return embeddings
