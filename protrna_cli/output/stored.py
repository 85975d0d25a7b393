"""Read an output of any format, detected from the content, and check that it is undamaged.

The parts of a sharded run are read as one output; they must be complete and belong together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protrna_cli.disk import open_regular, reading
from protrna_cli.errors import InputError, InputUnreadable, ProtrnaError, RunMismatch
from protrna_cli.output.files import H5_MAGIC, complete_path, is_part, opener_of, partial_path, possible_files
from protrna_cli.output.provenance import first_difference, run_key, shard_of
from protrna_cli.output.rows import Block, Checksum, Header, ReadableFile, Values
from protrna_cli.plan.pieces import Row
from protrna_cli.plan.shard import WHOLE

SMALL_BYTES = 256 << 20
"""Outputs up to this size are read whole where a quick check is asked for: it takes about a second."""


@dataclass(frozen=True)
class Stored:
    """An output on disk: one file of any format, or the parts of a sharded run."""

    header: Header  # that of parts covers all of them
    files: list[ReadableFile]  # in order, each with its own header

    @property
    def paths(self) -> list[Path]:
        """Path of each file."""
        return [file.path for file in self.files]

    @property
    def parts(self) -> list[Stored]:
        """Each file as an output of its own."""
        return [Stored(file.header, [file]) for file in self.files]

    @property
    def size(self) -> int:
        """Size of the files in bytes, with those beside them."""
        beside = (file for path in self.paths for file in possible_files(path))
        return sum(file.stat().st_size for file in beside if file.exists())

    @property
    def unproven(self) -> Path | None:
        """The first file that another program wrote anew, without checksums; None if there is none."""
        return next((file.path for file in self.files if file.header.is_unproven), None)

    def rows(self) -> Iterator[Row]:
        """Read the rows without their embeddings."""
        for file in self.files:
            number = 0
            with _undamaged(file.path):
                for number, row in enumerate(file.rows(), start=1):
                    _check_md5(row, file.header, number)
                    yield row
                _check_count(number, file.header)

    def blocks(self, columns: Sequence[int] | None = None) -> Iterator[Block]:
        """Read the blocks; reading them to the end fails unless the output is complete and undamaged.

        columns: columns of vectors to read and to prove, counted from 0; by default all.
        """
        for file in self.files:
            checksum, n_rows = Checksum(file.header, columns), 0
            with _undamaged(file.path):
                for block in checksum.watch(_blocks(file, columns)):
                    n_rows += len(block.rows)
                    yield block
                _check_count(n_rows, file.header)
            for flaw in checksum.flaws():
                raise damaged(file.path, flaw)

    def blocks_with_flaws(self, flaws: list[str]) -> Iterator[Block]:
        """Read the blocks, although rows may be missing or changed; adds what they differ in to `flaws`.

        It also checks what reading does not: unused bytes, numbers of lines, what is behind the end.
        """
        for file in self.files:
            checksum = Checksum(file.header)
            yield from checksum.watch(_blocks(file))
            flaws += [f"{file.path}: {flaw}" for flaw in checksum.flaws()]
            if not flaws:
                with _undamaged(file.path):
                    file.check(thorough=True)

    def layer(self, column: int) -> tuple[list[Row], Values]:
        """Read the rows and the vectors (n_vectors, D) of a layer; those of one file may be mapped."""
        if len(self.files) > 1:
            read = [part.layer(column) for part in self.parts]
            return [row for rows, _ in read for row in rows], np.concatenate([values for _, values in read])
        [file] = self.files
        with _undamaged(file.path):
            file.check()
            mapped = file.mapped(column)
            if mapped is not None:
                rows = list(self.rows())
                if Checksum(file.header).rows_changed(rows):
                    raise ValueError("ids or counts changed since it was written")
                return rows, mapped
        rows, vectors = [], [np.empty((0, self.header.width), self.header.dtype)]
        for block in self.blocks([column]):
            rows += block.rows
            vectors += block.values
        return rows, np.concatenate(vectors)

    def schema(self) -> dict[str, str]:
        """List the columns or datasets with type and shape."""
        with _undamaged(self.files[0].path):
            return self.files[0].schema()

    def check(self) -> None:
        """Check sizes, types and counts, and all of a file that is small."""
        for file, part in zip(self.files, self.parts, strict=True):
            with _undamaged(file.path):
                file.check()
            if part.size <= SMALL_BYTES:
                for _ in part.blocks():
                    pass


def open_output(path: Path) -> Stored:
    """Open an output, a file or a folder of parts."""
    if _is_folder(path):
        return open_parts(parts_of(path))
    file = _open(path)
    return Stored(file.header, [file])


def open_parts(paths: Sequence[Path]) -> Stored:
    """Open the parts of a sharded run, in any order, as one output."""
    files = _ordered([_open(path) for path in paths])
    return Stored(_merged_header(files), files)


def parts_of(path: Path) -> list[Path]:
    """List the parts in a folder, in order; an output that is one file is its only part."""
    if not _is_folder(path):
        return [path]
    with reading(path, "name another output"):
        parts = sorted(filter(is_part, path.iterdir()))
    if not parts:
        raise InputUnreadable(f"{path}: a folder without parts; name an output of protrna embed")
    return parts


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; False if that cannot be seen, and reading it says why."""
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir raises there)


def make_again(path: Path) -> str:
    """Say what to do about an output that is damaged."""
    if complete_path(path).exists():
        return f"{partial_path(path).name} has it complete: run the command that made it with --resume"
    return "make it again with --overwrite"


def damaged(path: Path, flaw: object) -> InputError:
    """Say what is damaged about an output, and what to do."""
    return InputError(f"{path}: damaged ({flaw}); {make_again(path)}")


def refuse_changed_bytes(path: Path) -> None:
    """Refuse an HDF5 file whose bytes are not those that protrna wrote, before libhdf5 opens it."""
    from protrna_cli.output.formats import hdf5  # imports h5py

    with suppress(OSError):  # opening it says why
        with open_regular(path) as file:
            is_hdf5 = file.read(4) == H5_MAGIC
        if is_hdf5:
            try:
                hdf5.check(path)
            except ValueError as error:
                raise damaged(path, error) from None


def _open(path: Path) -> ReadableFile:
    """Detect the format of a file, and read its header."""
    with reading(path), open_regular(path) as file:
        opener = opener_of(file.read(4))
    if not opener:
        raise InputError(f"{path}: neither Parquet, HDF5 nor NumPy; name an output of protrna embed")
    try:
        return opener(path)
    except Exception as error:  # whatever a library raises on damaged bytes
        raise InputError(f"{path}: {_first_line(error)}; name an output of protrna embed") from error


def _blocks(file: ReadableFile, columns: Sequence[int] | None = None) -> Iterator[Block]:
    """Read the blocks of a file, whether some are missing or not."""
    n_rows = 0
    with _undamaged(file.path):
        for block in file.blocks(columns):
            for number, row in enumerate(block.rows, start=n_rows + 1):
                _check_md5(row, file.header, number)
            n_rows += len(block.rows)
            yield block


def _check_md5(row: Row, header: Header, number: int) -> None:
    if header.has_md5 and not re.fullmatch("[0-9a-f]{32}", row.md5):
        raise ValueError(f"row {number}: its md5 is {row.md5!r}")


def _check_count(n_rows: int, header: Header) -> None:
    if n_rows != header.n_rows:
        raise ValueError(f"it has {n_rows:,} rows, but its header states {header.n_rows:,}")


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Turn whatever a library raises while it reads an output into our error."""
    try:
        yield
    except ProtrnaError:
        raise
    except Exception as error:
        raise damaged(path, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _ordered(files: Sequence[ReadableFile]) -> list[ReadableFile]:
    """Order the parts of a run; all of them must be there."""
    for file in files:
        run_key(file.header, str(file.path))  # refuses an incomplete header
    count = shard_of(files[0].header).count
    by_index: dict[int, ReadableFile] = {}
    for file in files:
        _refuse_foreign(file, files[0])
        shard = shard_of(file.header)
        if shard.index in by_index:
            other = by_index[shard.index].path
            raise RunMismatch(f"{file.path}: is shard {shard}, and so is {other}; name every part once")
        by_index[shard.index] = file
    if missing := [f"{index}/{count}" for index in range(1, count + 1) if index not in by_index]:
        raise RunMismatch(
            f"no part for shard {', '.join(missing)}; run protrna embed with --shard {missing[0]}"
        )
    return [by_index[index] for index in range(1, count + 1)]


def _refuse_foreign(part: ReadableFile, first: ReadableFile) -> None:
    """Refuse a part that is not of the same run as the first part, and say how to make it again."""
    # The size of a batch changes the last bits only, as another processor does, and is chosen by machine.
    keys = [{**run_key(file.header), "shard": None, "batch_tokens": None} for file in (part, first)]
    shard, other = shard_of(part.header), shard_of(first.header)
    if shard.count != other.count:
        raise RunMismatch(
            f"{part.path}: is shard {shard}, but {first.path} is {other}; name the parts of one run"
        )
    if difference := first_difference(*keys):
        field, found, wanted = difference
        raise RunMismatch(
            f"{part.path}: its {field} is {found}, but that of {first.path} is {wanted}; make one of them "
            f"again as the other, for example with protrna embed --shard {shard} --overwrite and the input "
            f"and options that protrna info {first.path} shows"
        )


def _merged_header(files: Sequence[ReadableFile]) -> Header:
    """Merge the headers; together the parts must have embedded or skipped every record of the input."""
    headers = [file.header for file in files]
    told = [header.provenance for header in headers]
    embedded, skipped = (sum(part[name] for part in told) for name in ("embedded", "skipped"))
    records = told[0]["records"]
    if embedded + skipped != records:
        raise RunMismatch(
            f"{', '.join(str(file.path) for file in files)}: {embedded:,} embedded and {skipped:,} skipped "
            f"records, but the input has {records:,}; make the parts again, all with one version"
        )
    facts = {
        "shard": str(WHOLE),
        "batch_tokens": max(part["batch_tokens"] for part in told),
        "embedded": embedded,
        "skipped": skipped,
    }
    if all("distinct" in part for part in told):
        facts["distinct"] = sum(part["distinct"] for part in told)
    if "reuse" in told[0]:
        counts = [[source["sequences"] for source in part["reuse"]] for part in told]
        facts["reuse"] = [
            {**source, "sequences": sum(taken)}
            for source, taken in zip(told[0]["reuse"], zip(*counts, strict=True), strict=True)
        ]
    if devices := dict.fromkeys(part["device"] for part in told if "device" in part):
        facts["device"] = " and ".join(devices)
    if halved := [part["halved_to"] for part in told if "halved_to" in part]:
        facts["halved_to"] = min(halved)
    rows = sum(header.n_rows for header in headers)
    residues = sum(header.n_residues for header in headers)
    return replace(headers[0].adding(**facts), n_rows=rows, n_residues=residues, checksums=None)
