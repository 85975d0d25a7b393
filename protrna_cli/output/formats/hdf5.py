"""HDF5 in any of three layouts, detected from the file; the provenance is the root attribute `protrna`.

Flat: one dataset per row, named after its id, of shape (D,), or (L, D) per token, as the embedding files of
UniProt, bio_embeddings and ProtTrans have it. `/` and `%` are percent-encoded in the name; the attribute
`original_id` is the id itself, and the row's other columns are attributes too. Creation order is tracked.
Several layers are groups `layer_6`, `layer_33`. The root attribute `model_name` is for ProtSpace.

Packed: one matrix per layer, and one dataset (N,) per column. `embeddings` is (N, D), or (ΣL, D) with
`offsets` (N + 1,) per token. With several layers, datasets `layer_6`, `layer_33` replace `embeddings`.

AnnData's `.h5ad`, for scanpy: records are observations, the D dimensions are variables. One layer is `X`
(N, D); several are `obsm["layer_6"]`, `obsm["layer_33"]`, and there is no `X`. `obs` has the other columns,
and the ids as its index; `uns["protrna"]` is the provenance. The file is written block by block, without
AnnData, as specified at https://anndata.readthedocs.io/en/stable/fileformat-prose.html.

Equal runs make equal bytes: datasets of h5py have no timestamps, files and groups are made here without. A
file is closed cleanly when the disk is full, and its SHA-256 stands behind it.
"""

from __future__ import annotations

import io
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import IO, Any, final

import h5py
import numpy as np

from protrna_cli.disk import file_hash
from protrna_cli.errors import OutputUnwritable
from protrna_cli.output.rows import PROVENANCE_KEY, Block, Header, ReadableFile, Values, chosen, spans
from protrna_cli.plan.pieces import COUNT_COLUMNS, ROW_COLUMNS, Row, row_of

OFFSETS = "offsets"
ROWS_PER_READ = 4096

DIMENSION = "dimension"
DICTIONARIES = ("layers", "obsm", "obsp", "uns", "varm", "varp")
"""Groups that every AnnData file has, most of them empty here."""

CHECK_BYTES = 1 << 30
"""Files up to this size are hashed whenever they are opened: it takes less than a second."""

_TRAILER = re.compile(rb"\nprotrna SHA-256 ([0-9a-f]{64})\n")
_TRAILER_BYTES = len("\nprotrna SHA-256 \n") + 64


def open_file(path: Path) -> ReadableFile:
    """Read the header of an HDF5 output, and detect its layout."""
    with opened(path) as file:
        text = file.attrs.get(PROVENANCE_KEY)
        if not isinstance(text, str):
            raise ValueError("an HDF5 file without protrna provenance")
        header = Header.from_json(text)
        if file.attrs.get("encoding-type") == "anndata":
            return Anndata(path, header)
        column = file.get(ROW_COLUMNS[0])
        # In the flat layout columns are attributes, and a dataset `id` is a record with the id `id`.
        is_flat = column is None or "original_id" in column.attrs
    return FlatHdf5(path, header) if is_flat else PackedHdf5(path, header)


@final
class FlatHdf5(ReadableFile):
    """An HDF5 file with one dataset per row."""

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        header = self.header
        with created(self.path, seal) as (file, check):
            if name := self._model_name():
                file.attrs["model_name"] = name
            groups = [file]
            if len(header.layers) > 1:
                groups = [new_group(file, name, track_order=True) for name in header.columns]
            for block in blocks:
                for row, vectors in block.by_row(header):
                    check()  # for every row: HDF5 may try to read data whose write failed
                    for group, values in zip(groups, vectors, strict=True):
                        name = dataset_name(row.id)
                        if not name or name in group:
                            raise _id_error(row.id)
                        dataset = group.create_dataset(name, data=values if header.per_token else values[0])
                        dataset.attrs["original_id"] = row.id
                        for column in header.row_columns[1:]:
                            dataset.attrs[column] = getattr(row, column)

    def _model_name(self) -> str | None:
        """Name in ProtSpace: model, layer and pooling; None for vectors that it cannot read.

        ProtSpace merges files of equal names. It refuses a file without one, which it must: of several layers
        it would keep the first and drop the others with a warning.
        """
        header = self.header
        model = header.provenance.get("model")
        if model is None or header.per_token or len(header.layers) > 1:
            return None
        return f"{Path(model['name']).name} layer {header.layers[0]} {header.provenance['pooling']}"

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        with opened(self.path) as file:
            groups = self._groups(file)
            read = chosen(groups, columns)
            for rows, _, _ in spans(self._rows(groups[0]), self.header):
                yield Block(rows, [np.concatenate([self._vectors(g, row) for row in rows]) for g in read])

    def rows(self) -> Iterator[Row]:
        with opened(self.path) as file:
            yield from self._rows(self._groups(file)[0])

    def check(self, thorough: bool = False) -> None:
        n_rows = self.header.n_rows
        with opened(self.path, thorough) as file:
            for group in self._groups(file):
                if len(group) != n_rows:
                    raise ValueError(f"it has {len(group):,} datasets, but its header states {n_rows:,} rows")

    def mapped(self, column: int) -> None:
        """Return None: each row has its own dataset."""

    def schema(self) -> dict[str, str]:
        """Describe the datasets and their attributes, with `ID` for any id."""
        header = self.header
        shape = f"{header.dtype} {'(L, D)' if header.per_token else '(D,)'}"
        groups = [""] if len(header.layers) == 1 else [f"{name}/" for name in header.columns]
        attributes = ", ".join(("original_id", *header.row_columns[1:]))
        return {**{f"{group}ID": shape for group in groups}, "attributes of ID": attributes}

    def _groups(self, file: h5py.File) -> list[Any]:
        """Group with the datasets of each layer; with one layer, the file itself."""
        return [file] if len(self.header.layers) == 1 else [file[name] for name in self.header.columns]

    def _rows(self, group: h5py.Group) -> Iterator[Row]:
        """Read the rows from the attributes."""
        for name, dataset in group.items():
            attributes = dataset.attrs
            if dataset_name(attributes["original_id"]) != name:
                raise ValueError(f"dataset {name!r} belongs to the id {attributes['original_id']!r}")
            yield row_of({**attributes, "id": attributes["original_id"]}, self.header.row_columns)

    def _vectors(self, group: h5py.Group, row: Row) -> Any:
        """Read the vectors (n, D) of a row."""
        dataset, header = group[dataset_name(row.id)], self.header
        shape = (row.n_embedded, header.width) if header.per_token else (header.width,)
        if (dataset.shape, dataset.dtype) != (shape, np.dtype(header.dtype)):
            raise ValueError(
                f"dataset {dataset.name!r} is {dataset.dtype} {dataset.shape}, not {header.dtype} {shape}"
            )
        return np.atleast_2d(dataset[()])


def require_unique_ids(rows: Iterable[Row]) -> None:
    """Check that every id can be the name of a flat HDF5 dataset; the ids are kept in memory."""
    seen: set[str] = set()
    for row in rows:
        if not row.id or row.id in seen:
            raise _id_error(row.id)
        seen.add(row.id)


def dataset_name(row_id: str) -> str:
    """Dataset name of an id: `%`, `/` and the id `.` (to HDF5 "this group") are percent-encoded.

    >>> dataset_name("chr1/+ 50%")
    'chr1%2F+ 50%25'
    """
    name = row_id.replace("%", "%25").replace("/", "%2F")
    return name.replace(".", "%2E") if name == "." else name


def _id_error(row_id: str) -> OutputUnwritable:
    what = f"the id {row_id!r} repeats" if row_id else "a record has no id"
    return OutputUnwritable(
        f"{what}, and flat HDF5 names a dataset by it; use --h5-layout packed, .parquet or .npy"
    )


class PackedHdf5(ReadableFile):
    """An HDF5 file with one dataset per column.

    columns: group of the columns.
    """

    columns = "/"

    @property
    def matrices(self) -> tuple[str, ...]:
        """Matrices, one dataset per layer."""
        return ("embeddings",) if len(self.header.layers) == 1 else self.header.columns

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        with created(self.path, seal) as (file, check):
            self.fill(file, blocks, check)

    def fill(self, file: h5py.File, blocks: Iterable[Block], check: Callable[[], None]) -> None:
        """Write columns and matrices, whose groups must be there; `check` raises an earlier write error."""
        header = self.header
        shape = (header.n_vectors, header.width)
        matrices = [file.create_dataset(name, shape, header.dtype) for name in self.matrices]
        table = file[self.columns]
        columns = {
            name: table.create_dataset(
                name, (header.n_rows,), np.int64 if name in COUNT_COLUMNS else h5py.string_dtype()
            )
            for name in header.row_columns
        }
        if header.per_token:
            file.create_dataset(OFFSETS, (header.n_rows + 1,), np.int64)
        n_rows = n_vectors = 0
        for block in blocks:
            check()
            rows = slice(n_rows, n_rows + len(block.rows))
            vectors = slice(n_vectors, n_vectors + len(block.values[0]))
            for name, column in columns.items():
                column[rows] = [getattr(row, name) for row in block.rows]
            for matrix, values in zip(matrices, block.values, strict=True):
                matrix[vectors] = values
            if header.per_token:
                file[OFFSETS][rows.start + 1 : rows.stop + 1] = np.array(block.bounds()[1:]) + n_vectors
            n_rows, n_vectors = rows.stop, vectors.stop

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        with opened(self.path) as file:
            self._check(file)
            read = chosen(self.matrices, columns)
            for rows, start, end in spans(self._rows(file), self.header):
                yield Block(rows, [file[name][start:end] for name in read])

    def rows(self) -> Iterator[Row]:
        with opened(self.path) as file:
            yield from self._rows(file)

    def check(self, thorough: bool = False) -> None:
        with opened(self.path, thorough) as file:
            self._check(file)

    def mapped(self, column: int) -> Values | None:
        with opened(self.path) as file:
            dataset = file[self.matrices[column]]
            offset = dataset.id.get_offset()
            if offset is None:  # another program stored it in chunks
                return None
            return np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)

    def schema(self) -> dict[str, str]:
        found: dict[str, str] = {}

        def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
            if isinstance(item, h5py.Dataset):
                kind = "string" if h5py.check_string_dtype(item.dtype) else item.dtype
                found[name] = f"{kind} {item.shape}"

        with opened(self.path) as file:
            file.visititems(add)
        return found

    def _rows(self, file: h5py.File) -> Iterator[Row]:
        header, table = self.header, file[self.columns]
        for start in range(0, header.n_rows, ROWS_PER_READ):
            part = slice(start, start + ROWS_PER_READ)
            columns = [
                table[name][part].tolist() if name in COUNT_COLUMNS else table[name].asstr()[part]
                for name in header.row_columns
            ]
            rows = [Row(*values) for values in zip(*columns, strict=True)]
            if header.per_token:
                _check_offsets(file[OFFSETS][start : start + len(rows) + 1], rows)
            yield from rows

    def _check(self, file: h5py.File) -> None:
        """Compare shapes and types with the header."""
        header = self.header
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            name: (np.dtype(header.dtype), (header.n_vectors, header.width)) for name in self.matrices
        }
        for name in header.row_columns:
            dtype = np.dtype(np.int64) if name in COUNT_COLUMNS else h5py.string_dtype()
            expected[f"{self.columns}/{name}"] = dtype, (header.n_rows,)
        if header.per_token:
            expected[OFFSETS] = np.dtype(np.int64), (header.n_rows + 1,)
        for name, (dtype, shape) in expected.items():
            dataset = file[name]
            if (dataset.dtype, dataset.shape) != (dtype, shape):
                raise ValueError(f"{name} is {dataset.dtype} {dataset.shape}, not {dtype} {shape}")


def _check_offsets(offsets: Any, rows: list[Row]) -> None:
    """Compare some consecutive offsets (n + 1,) with the lengths of their rows."""
    wrong = np.flatnonzero(np.diff(offsets) != [row.n_embedded for row in rows])
    if wrong.size:
        raise ValueError(f"the offsets of the id {rows[wrong[0]].id!r} do not fit its length")


@final
class Anndata(PackedHdf5):
    """A packed HDF5 file of pooled rows, with the names and attributes of AnnData."""

    columns = "obs"

    @property
    def matrices(self) -> tuple[str, ...]:
        columns = self.header.columns
        return ("X",) if len(columns) == 1 else tuple(f"obsm/{name}" for name in columns)

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        with created(self.path, seal) as (file, check):
            for name in (*DICTIONARIES, "obs", "var"):
                new_group(file, name)
            self.fill(file, blocks, check)
            width = self.header.width if self.matrices == ("X",) else 0
            names = [str(i) for i in range(width)]
            file.create_dataset(f"var/{DIMENSION}", data=names, dtype=h5py.string_dtype())
            file.create_dataset(f"uns/{PROVENANCE_KEY}", data=seal().json)
            self._mark_all(file)

    def _mark_all(self, file: h5py.File) -> None:
        """Add AnnData's encoding attributes to every group and dataset."""
        _mark(file, "anndata", "0.1.0")
        for name in DICTIONARIES:
            _mark(file[name], "dict", "0.1.0")
        row_id, *others = self.header.row_columns
        for name, index, columns in (("obs", row_id, others), ("var", DIMENSION, [])):
            table = file[name]
            _mark(table, "dataframe", "0.2.0")
            table.attrs["_index"] = index
            table.attrs["column-order"] = np.array(columns, h5py.string_dtype())
            for column in table.values():
                _mark(column, "string-array" if h5py.check_string_dtype(column.dtype) else "array", "0.2.0")
        for name in self.matrices:
            _mark(file[name], "array", "0.2.0")
        _mark(file[f"uns/{PROVENANCE_KEY}"], "string", "0.2.0")


def _mark(item: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version


class _DeferredErrorFile(io.FileIO):
    """A file that keeps its first write error for later and reports every write as successful.

    HDF5 cannot close a file whose writes fail: its handles stay open, print errors on stderr until the
    process ends, and keep using the disk. So HDF5 sees no error, and `check` raises it after the close.
    Ctrl-C is kept as well: Python may raise it as `write` begins, which is a failed write to HDF5.
    """

    failure: BaseException | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            while view and self.failure is None:
                view = view[super().write(view) or 0 :]
        except OSError as error:
            self.failure = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def check(self) -> None:
        """Raise the first write error or interrupt, if there was one."""
        if self.failure:
            raise self.failure

    @contextmanager
    def interrupts_kept(self) -> Iterator[None]:
        """Keep what the handler of SIGINT raises until `check`; handlers are the main thread's alone."""
        before = signal.getsignal(signal.SIGINT)
        if not callable(before) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def keep(number: int, frame: FrameType | None) -> None:
            try:
                before(number, frame)
            except BaseException as error:
                self.failure = self.failure or error

        signal.signal(signal.SIGINT, keep)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def created(path: Path, seal: Callable[[], Header]) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Create a file, which gets its provenance when the context ends without an error.

    seal: returns the header with its checksums.

    Yields the file, and a function that raises an earlier write error or Ctrl-C, to be called regularly.
    """
    with _DeferredErrorFile(path, "w+") as raw:
        with raw.interrupts_kept(), h5py.File(_new_file(raw)) as file:
            yield file, raw.check
            file.attrs[PROVENANCE_KEY] = seal().json
        raw.check()
        sha256 = file_hash(path, "sha256", raw.seek(0, io.SEEK_END))
        raw.write(f"\nprotrna SHA-256 {sha256}\n".encode())  # readers of HDF5 ignore what follows it
        raw.check()


def opened(path: Path, thorough: bool = False) -> h5py.File:
    """Open a file for reading, if its bytes are those that were written, as `check` finds.

    It is opened without a lock, which some network file systems would refuse.
    """
    check(path, thorough)
    return h5py.File(path, "r", locking=False)


def check(path: Path, thorough: bool = False) -> None:
    """Check the bytes of a file as `_check_bytes` does; those of one that is large only if thorough."""
    status = path.stat()
    if thorough or status.st_size <= CHECK_BYTES:
        _check_bytes(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _check_bytes(path: Path, size: int, changed: int) -> None:
    """Compare the SHA-256 of a file with the one behind it, before HDF5 parses it.

    libhdf5 can crash or loop for ever on damaged metadata, so that such a file must not be opened at all.

    size, changed: size in bytes, and time of change in nanoseconds: the result is remembered as long as they
        stay.

    Raises ValueError: they differ, or a file that had a SHA-256 has lost it. Files of earlier versions have
        none.
    """
    with path.open("rb") as file:
        file.seek(max(0, size - _TRAILER_BYTES))
        match = _TRAILER.fullmatch(file.read())
        if not match and _has_checksums(file):
            raise ValueError("its SHA-256 is missing: cut short, or written anew by another program")
    if match and file_hash(path, "sha256", size - _TRAILER_BYTES) != match[1].decode():
        raise ValueError("its bytes changed since it was written")


def _has_checksums(file: IO[bytes]) -> bool:
    """Whether the provenance of a file, found in its bytes without HDF5, has checksums."""
    file.seek(0)
    behind = b""
    while block := file.read(1 << 20):
        if b'"checksums": {' in behind + block:
            return True
        behind = block[-16:]
    return False


def new_group(parent: h5py.Group, name: str, track_order: bool = False) -> h5py.Group:
    """Create a group without timestamps; h5py has no argument for that."""
    creation = _creation(h5py.h5p.GROUP_CREATE, track_order)
    return h5py.Group(h5py.h5g.create(parent.id, name.encode(), gcpl=creation))


def _new_file(raw: io.FileIO) -> Any:
    """Create a file as h5py does for a Python file, but without timestamps in its root group."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, raw)
    # The file format of HDF5 1.8 (2008) and later: it does not limit the size of attributes and groups.
    access.set_libver_bounds(h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)
    creation = _creation(h5py.h5p.FILE_CREATE, track_order=True)
    return h5py.h5f.create(repr(raw).encode(), h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)


def _creation(kind: Any, track_order: bool) -> Any:
    creation = h5py.h5p.create(kind)
    creation.set_obj_track_times(False)
    if track_order:
        order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
        creation.set_link_creation_order(order)
        creation.set_attr_creation_order(order)
    return creation
