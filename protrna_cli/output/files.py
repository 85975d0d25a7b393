"""The files of an output: its format, and the names of those beside it.

A new format is a class in a module of `formats/`, and a line in `TABLE`. The modules import pyarrow, h5py or
NumPy; each is imported only when its format is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from protrna_cli.errors import UsageError
from protrna_cli.plan.shard import WHOLE, Shard

if TYPE_CHECKING:
    from protrna_cli.output.rows import Block, Header, OutputFile, ReadableFile


def skipped_path(output: Path) -> Path:
    """List of the skipped records of an output."""
    return output.with_name(f"{output.name}.skipped.tsv")


def partial_path(output: Path) -> Path:
    """Folder of an unfinished output."""
    return output.with_name(f"{output.name}.partial")


def journal_path(output: Path) -> Path:
    """Journal of an unfinished output, from which `--resume` continues."""
    return partial_path(output) / "journal"


def complete_path(output: Path) -> Path:
    """Mark of an unfinished output that is complete, and only has to be put in place."""
    return partial_path(output) / "complete"


def reused_path(output: Path) -> Path:
    """Record of the rows of an unfinished output that were filled from earlier outputs."""
    return partial_path(output) / "reused.json"


def manifest_path(folder: Path) -> Path:
    """Manifest of an unfinished folder of parts, from which `--dask --resume` continues."""
    return partial_path(folder) / "manifest.json"


def index_path(output: Path) -> Path:
    """Index of a NumPy array: the columns of its rows."""
    return output.with_name(f"{output.name}.index.tsv")


def meta_path(output: Path) -> Path:
    """Provenance of a NumPy array or of a TSV file."""
    return output.with_name(f"{output.name}.meta.json")


def metadata_path(output: Path) -> Path:
    """Columns of the rows of a TSV file."""
    return output.with_name(f"{output.name}.metadata.tsv")


def shard_path(output: Path, shard: Shard) -> Path:
    """Path of a shard's part of an output; without sharding, the path of the output itself."""
    if shard == WHOLE:
        return output
    return output.with_name(f"{output.stem}.{shard.index}-of-{shard.count}{output.suffix}")


def part_name(shard: Shard) -> str:
    """File name of a shard's part in a folder of parts; these names sort in input order.

    >>> part_name(Shard(7, 42))
    'part-07-of-42.parquet'
    """
    return f"part-{shard.index:0{len(str(shard.count))}}-of-{shard.count}.parquet"


def is_part(path: Path) -> bool:
    """Whether a path has a name made by `part_name`."""
    return re.fullmatch(r"part-\d+-of-\d+\.parquet", path.name) is not None


@dataclass(frozen=True)
class Format:
    """A format of outputs."""

    name: str  # its name in `--format`
    suffixes: tuple[str, ...]  # suffixes of its file names, the usual one first
    writer: str  # module of `formats/` and its class, an `OutputFile`, that writes it
    # Module and its function that opens it, as a `ReadableFile`, and the first four bytes that identify it;
    # None for a format that is never read.
    reader: str | None = None
    magic: bytes | None = None
    layout: str | None = None  # its name in `--h5-layout`, if two formats share a name
    # Functions from the path of the output to the paths of its other files.
    companions: tuple[Callable[[Path], Path], ...] = ()
    unique_ids: bool = False  # whether ids must be unique and not empty
    # Whether only `protrna convert` makes it, for other programs; it then stores pooled rows only.
    is_export: bool = False
    one_layer: bool = False

    def files(self, path: Path) -> list[Path]:
        """List all files of an output, the one with its own name last."""
        return [*(companion(path) for companion in self.companions), path]

    def write(self, path: Path, header: Header, blocks: Iterable[Block]) -> None:
        """Write a whole output with its checksums; the caller renames it into place."""
        from protrna_cli.output.rows import Checksum  # it needs NumPy, which --help must not wait for

        checksum = Checksum(header)
        writer: type[OutputFile] = _find(self.writer)
        writer(path, header).write(checksum.watch(blocks), checksum.seal)


H5_SUFFIXES = (".h5", ".hdf5")
H5_MAGIC = b"\x89HDF"

TABLE = (
    Format("parquet", (".parquet", ".pq"), "parquet:Parquet", "parquet:open_file", b"PAR1"),
    Format("h5", H5_SUFFIXES, "hdf5:FlatHdf5", "hdf5:open_file", H5_MAGIC, layout="flat", unique_ids=True),
    Format("h5", H5_SUFFIXES, "hdf5:PackedHdf5", "hdf5:open_file", H5_MAGIC, layout="packed"),
    Format("npy", (".npy",), "npy:Npy", "npy:open_file", b"\x93NUM", companions=(index_path, meta_path)),
    Format("npz", (".npz",), "exports:Npz", is_export=True, one_layer=True),
    Format("h5ad", (".h5ad",), "hdf5:Anndata", "hdf5:open_file", H5_MAGIC, is_export=True),
    Format(
        "tsv", (".tsv",), "exports:Tsv", companions=(metadata_path, meta_path), is_export=True, one_layer=True
    ),
)

RUN_FORMATS = tuple(dict.fromkeys(format.name for format in TABLE if not format.is_export))
"""Names of the formats that `protrna embed` makes."""

ALL_FORMATS = tuple(dict.fromkeys(format.name for format in TABLE))
"""Names of the formats that `protrna convert` makes."""

H5_LAYOUTS = tuple(format.layout for format in TABLE if format.layout)


def choose_format(
    path: Path, name: str | None = None, h5_layout: str = "flat", exports: bool = False
) -> Format:
    """Choose a format by name, or by the suffix of the file if no name is given.

    h5_layout: which of the two HDF5 layouts; ignored for other formats.
    exports: whether the formats that only `protrna convert` makes may be chosen.
    """
    among = [format for format in TABLE if exports or not format.is_export]
    suffix = path.suffix.lower()
    for format in among:
        matches = format.name == name if name else suffix in format.suffixes
        if matches and format.layout in (None, h5_layout):
            return format
    suffixes = ", ".join(dict.fromkeys(suffix for format in among for suffix in format.suffixes))
    remedy = f"use {suffixes}, or --format"
    if any(suffix in format.suffixes for format in TABLE):
        remedy = f"protrna convert makes {suffix} from an output; {remedy}"
    raise UsageError(f"{path}: no format has the suffix {path.suffix!r}; {remedy}")


def refuse_layout(h5_layout: str, formats: Sequence[Format]) -> None:
    """Refuse an HDF5 layout that no output has. `flat`, the default, may always be given."""
    if h5_layout != "flat" and all(format.layout is None for format in formats):
        names = " and ".join(format.name for format in formats)
        raise UsageError(
            f"--h5-layout {h5_layout} is for HDF5, not for {names}; leave it out, or write a file "
            f"that ends in {H5_SUFFIXES[0]}"
        )


def opener_of(magic: bytes) -> Callable[[Path], ReadableFile] | None:
    """Function that opens a file with these first four bytes; None if no format has them."""
    name = next((format.reader for format in TABLE if format.magic == magic), None)
    opener: Callable[[Path], ReadableFile] | None = _find(name) if name else None
    return opener


def possible_files(path: Path) -> list[Path]:
    """List every file that an output at this path may have, in any format."""
    return list(dict.fromkeys(file for format in TABLE if format.magic for file in format.files(path)))


def _find(name: str) -> Any:
    return resolve_name(f"protrna_cli.output.formats.{name}")
