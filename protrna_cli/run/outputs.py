"""The outputs of a run, and the checks before it starts: may one be written, is it complete, does it fit.

The folder `OUT.partial` collects the embeddings until the output is complete. An incomplete file never has
its final name, and committed work survives any end of the process.

The journal in it says which run it belongs to, and how far that run got. It is a text file of JSON lines: the
first one is the key of the run; every other one is a position, written and synced after all the work that it
counts. An incomplete last line is ignored.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from protrna_cli.disk import creating, sync, write_whole, writing
from protrna_cli.errors import InputError, InputUnreadable, OutputUnwritable, RunMismatch, UsageError
from protrna_cli.fasta.records import Skipped
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.files import (
    Format,
    choose_format,
    complete_path,
    journal_path,
    manifest_path,
    partial_path,
    refuse_layout,
    reused_path,
    shard_path,
    skipped_path,
)
from protrna_cli.output.formats import npy
from protrna_cli.output.make import publish
from protrna_cli.output.protect import (
    files_read,
    make_partial,
    protect,
    real_path,
    remove_partial,
    written_files,
)
from protrna_cli.output.provenance import RunKey, compare_keys, exact_key, run_key
from protrna_cli.output.rows import UNPROVEN, Block, Checksum, Header, Values
from protrna_cli.output.stored import Stored, damaged, make_again, open_output
from protrna_cli.plan.pieces import SKIPPED_COLUMNS, Row
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.report import Progress
from protrna_cli.text import printable, size_text
from protrna_cli.weights.checkpoint import Checkpoint


@dataclass(frozen=True)
class Target:
    """One output file of a run."""

    # Where it is written, and in which format.
    path: Path
    format: Format
    per_token: bool  # whether it has one vector per residue instead of pooled rows


def targets_of(path: Path, options: EmbedOptions) -> list[Target]:
    """List all output files of a run."""
    format = choose_format(path, options.format, options.h5_layout)
    targets = [Target(shard_path(path, options.shard), format, options.per_token)]
    if options.per_token_output:
        second = Path(options.per_token_output)
        if real_path(second) == real_path(path):
            name = "" if second == path else f" as {second}"
            raise UsageError(f"{path}: given to both -o and --per-token-output{name}; give each its own file")
        format = choose_format(second, h5_layout=options.h5_layout)
        targets.append(Target(shard_path(second, options.shard), format, per_token=True))
    refuse_layout(options.h5_layout, [target.format for target in targets])
    return targets


def need_unique_ids(targets: Sequence[Target], options: EmbedOptions) -> bool:
    """Whether a target needs a unique id per row; the ids of records with regions are unique anyway."""
    return any(
        target.format.unique_ids and not (target.per_token and options.rules.regions) for target in targets
    )


def run_settings(options: EmbedOptions, size: ModelSize, per_token: bool) -> dict[str, Any]:
    """Give the fields of the provenance that are known before weights and input are read."""
    return {
        "model": {"name": printable(options.model), **asdict(size)},
        "layers": list(size.layer_indices(options.layers)),
        "pooling": None if per_token else options.pool,
        "precision": options.precision,
        "dtype": options.dtype,
        "batch_tokens": options.budget,
        "rules": {
            **asdict(replace(options.rules, regions=None)),
            "overlap": options.rules.shared,
            "regions": options.rules.regions and options.rules.regions.origin,
        },
    }


def protect_targets(
    targets: Sequence[Target],
    inputs: Sequence[str | os.PathLike[str]],
    checkpoint: Checkpoint,
    options: EmbedOptions,
) -> None:
    """Refuse outputs that would replace what the run reads, one another, or what protrna did not make."""
    read: list[str | Path] = [*inputs_of_run(inputs, checkpoint, options), *_files_reused(targets, options)]
    for target in targets:
        others = [
            file for other in targets if other != target for file in written_files(other.path, other.format)
        ]
        protect(target.path, target.format, [*read, *others], options.overwrite)


def _files_reused(targets: Sequence[Target], options: EmbedOptions) -> list[Path]:
    """List the files of earlier outputs, without those that the run itself replaces as a whole."""
    replaced = [real_path(target.path) for target in targets]
    earlier = [path for path in map(Path, options.reuse) if real_path(path) not in replaced]
    found: list[Path] = []
    for path in earlier:
        with suppress(InputUnreadable):  # reading it says why
            found += files_read(path)
    return found


def inputs_of_run(
    inputs: Sequence[str | os.PathLike[str]], checkpoint: Checkpoint, options: EmbedOptions
) -> list[str]:
    """List every path that a run reads."""
    read = [os.fspath(path) for path in inputs]
    if options.rules.regions:
        read.append(options.rules.regions.file)
    if checkpoint.path:
        read.append(str(checkpoint.path))
    return read


def refuse_existing(target: Target, options: EmbedOptions) -> None:
    """Refuse an existing output, unless the options ask to resume or replace it."""
    partial = partial_path(target.path)
    if complete_path(target.path).exists() and not options.resume:
        raise OutputUnwritable(
            f"{partial}: a complete output that is not in its place yet; use --resume to put it there, or "
            "remove that folder to give it up"
        )
    if options.overwrite:
        return
    if options.resume:
        _refuse_companions_alone(target)
        return
    for file in [*target.format.files(target.path), skipped_path(target.path)]:
        if file.exists():
            raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")
    if partial.exists():
        raise OutputUnwritable(
            f"{partial}: an unfinished run; use --resume to continue it, or --overwrite to start again"
        )


def _refuse_companions_alone(target: Target) -> None:
    """Refuse companions without their output, where there is nothing to resume: they belong to others."""
    if target.path.exists() or journal_path(target.path).exists():
        return
    for file in target.format.files(target.path):
        if file.exists():
            raise OutputUnwritable(
                f"{file}: exists, but there is nothing to resume; "
                "use --overwrite to replace it, or choose another -o"
            )


def is_whole(path: Path, header: Header) -> bool:
    """Whether the output exists already and was made by the same run."""
    if not path.exists():
        return False
    try:
        stored, found = _open_existing(path)
        compare_keys(found, run_key(header), str(path))
        _check_undamaged(path, stored, header)
    except (RunMismatch, InputError):
        if partial_path(path).exists():
            return False
        raise
    return True


def _open_existing(path: Path) -> tuple[Stored, RunKey]:
    try:
        stored = open_output(path)
        return stored, run_key(stored.header, str(path))
    except InputError as error:
        found = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise RunMismatch(
            f"{path}: exists, but was not made by protrna embed, or is damaged ({found}); use --overwrite to "
            "replace it, or choose another -o"
        ) from None


def _check_undamaged(path: Path, stored: Stored, header: Header) -> None:
    if part := stored.unproven:
        raise InputError(f"{part}: {UNPROVEN}; {make_again(path)}")
    stored.check()
    if header.provenance["skipped"] and not skipped_path(path).exists():
        raise damaged(path, f"{skipped_path(path).name} is missing")


def check_space(headers: Mapping[Target, Header], progress: Progress) -> None:
    """Refuse outputs that together do not fit on their disks, before anything runs."""
    claimed: dict[int, int] = {}  # bytes that the earlier outputs need on each disk
    for target, header in headers.items():
        path, partial = target.path, partial_path(target.path)
        if partial.exists():  # it uses its space already
            continue
        vectors = header.n_vectors * header.vector_bytes
        disk = path.parent.stat().st_dev
        free = max(0, shutil.disk_usage(path.parent).free - claimed.get(disk, 0))
        claimed[disk] = claimed.get(disk, 0) + vectors
        if vectors > free:
            raise OutputUnwritable(
                f"{path}: needs {size_text(vectors)}, but only {size_text(free)} are free; "
                "choose another -o, or --dtype float16"
            )
        if target.format.name != "npy" and 2 * vectors > free:
            progress.note(
                f"{path} is made from {partial.name} at the end; together they need up to "
                f"{size_text(2 * vectors)}, but only {size_text(free)} are free"
            )


UNUSED = ("vectors", "index_bytes", "skipped_bytes")
"""Fields of a position in a journal of version 0.2.0 that are not needed."""


@dataclass(frozen=True, order=True)
class Position:
    """How far a run got."""

    # Finished chunks, and finished batches of the next chunk.
    chunks: int = 0
    batches: int = 0
    # Records in all of these, and their embedded residues.
    records: int = 0
    residues: int = 0
    reused: int = 0  # 1 if the vectors of earlier outputs are filled in
    fits: int = 0  # tokens at once that fit into memory, if it ran out; otherwise 0

    def batches_of(self, chunk: int) -> int:
        """Count the finished batches of a chunk that is not finished."""
        return self.batches if chunk == self.chunks else 0

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Position:
        """Restore a position from a line of a journal.

        Raises ValueError, TypeError: the line is not a position.
        """
        position = cls(**{name: value for name, value in {**entry}.items() if name not in UNUSED})
        if not all(type(value) is int and value >= 0 for value in asdict(position).values()):
            raise ValueError("not counts")
        return position


def read_position(path: Path) -> Position:
    """Read the last position in a journal.

    Raises ValueError, TypeError: the journal is damaged.
    """
    lines = path.read_bytes().split(b"\n")[1:-1]  # without the key and an incomplete last line
    return Position.of(json.loads(lines[-1])) if lines else Position()


def _named(found: RunKey, key: RunKey) -> RunKey:
    """Fill in what version 0.2.0 left out of a key: the earlier output that the run replaces."""
    before, now = found.get("reuse", []), key.get("reuse", [])
    if None not in before or len(before) != len(now):
        return found
    return {**found, "reuse": [new if old is None else old for old, new in zip(before, now, strict=True)]}


class Journal:
    """The journal of one run, open for appending.

    position: the last position committed, by this process or an earlier one.
    """

    def __init__(self, file: IO[bytes], position: Position) -> None:
        self._file = file
        self.position = position

    @classmethod
    def create(cls, path: Path, key: RunKey) -> Journal:
        journal = cls(path.open("xb", buffering=0), Position())
        journal._append(key)
        return journal

    @classmethod
    def resume(cls, path: Path, key: RunKey) -> Journal:
        lines = path.read_bytes().split(b"\n")[:-1]  # an incomplete last line is ignored
        if not lines:
            path.unlink()
            return cls.create(path, key)
        try:
            compare_keys(_named(dict(json.loads(lines[0])), key), key, str(path.parent))
            position = read_position(path)
        except (ValueError, TypeError, KeyError):
            raise RunMismatch(f"{path}: a damaged journal; use --overwrite to start again") from None
        os.truncate(path, sum(len(line) + 1 for line in lines))
        return cls(path.open("ab", buffering=0), position)

    def commit(self, position: Position) -> None:
        """Make a position durable; all the work that it counts must be durable already."""
        self._append(asdict(position))
        self.position = position

    def close(self) -> None:
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        start = self._file.tell()
        if self._file.write(line) != len(line):  # the disk is full: remove the incomplete line
            os.truncate(self._file.fileno(), start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())


class PartialOutput:
    """An unfinished output: its vectors, a journal of those that are durable, the index, and what is skipped.

    Only the vectors are kept from one process to the next. The index and the list of skipped records follow
    from the input, which every process reads from its start.

    output: its folder `OUT.partial` is beside it.
    header: what was reused may be known only after it is opened.
    resume: continue the unfinished run in the folder, if there is one; otherwise the folder is replaced.
    position: how far the run got, and so where to continue.
    """

    def __init__(self, output: Path, header: Header, resume: bool = False) -> None:
        self.per_token, self.pooling = header.per_token, header.provenance["pooling"]
        self._output = output
        self.header = header
        self._folder = partial_path(output)
        self._array = self._folder / "vectors.npy"
        key = exact_key(header)
        with creating(output):
            if resume and journal_path(output).exists():
                self._journal = Journal.resume(journal_path(output), key)
            else:
                if resume and manifest_path(output).exists():
                    raise RunMismatch(
                        f"{self._folder}: an unfinished run with --dask; "
                        "add --dask to continue it, or use --overwrite to start again"
                    )
                make_partial(output)
                self._journal = Journal.create(journal_path(output), key)
            self.position = self._journal.position
            self._vectors = npy.Vectors(self._array, header, resume=self.position != Position())
            self._index = npy.Index(self._array, header)
            self._skipped = (self._folder / "skipped.tsv").open("w", encoding="utf-8", newline="")
            self._files = (self._vectors, self._index, self._skipped, self._journal)
            for folder in (self._folder, output.parent):  # the file names must survive a crash too
                sync(folder)

    def add(self, rows: list[Row], skipped: Sequence[Skipped]) -> None:
        """Add the rows and the skipped records of the next chunk, in input order."""
        with self._writing():
            self._index.add(rows)
            lines = csv.writer(self._skipped, dialect="excel-tab", lineterminator="\n")
            if skipped and not self._skipped.tell():
                lines.writerow(SKIPPED_COLUMNS)
            lines.writerows([getattr(record, column) for column in SKIPPED_COLUMNS] for record in skipped)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        with self._writing():
            self._vectors.fill(layer, start, vectors)

    def read(self, layer: int, start: int, count: int) -> Values:
        with self._writing():
            return self._vectors.read(layer, start, count)

    def commit_reused(self, filled: str) -> None:
        """Make the vectors durable that were filled in before the first chunk, and record which these are."""
        with self._writing():
            write_whole(reused_path(self._output), filled)
        self.commit(replace(self.position, reused=1))

    def commit(self, position: Position) -> None:
        """Make all vectors durable that were filled up to a position."""
        with self._writing():
            self._vectors.sync()
            self._journal.commit(position)
            self.position = position

    def complete(self) -> None:
        """Record that every row is filled: what is left is to write the output, and to put it in place."""
        with self._writing():
            self._vectors.sync()
            write_whole(complete_path(self._output), "")

    def finish(self, format: Format, check: Callable[[], None]) -> None:
        """Write the output in its format and rename it into place; refuses it if a row was not filled.

        check: called between blocks; if it raises, a later run can call `finish` again.
        """
        if self.position.fits:
            self.header = self.header.adding(halved_to=self.position.fits)
        with self._writing():
            for file in self._files:
                file.close()
            blocks = self._checked(npy.Npy(self._array, self.header).blocks(), check)
            if format.name == "npy":
                made, checksum = self._array, Checksum(self.header)
                deque(checksum.watch(blocks), maxlen=0)
                npy.write_meta(made, checksum.seal())
            else:
                made = self._folder / self._output.name
                format.write(made, self.header, blocks)
            skipped = self._folder / "skipped.tsv"
            publish(made, self._output, format, skipped if skipped.stat().st_size else None)
        remove_partial(self._output)

    def _checked(self, blocks: Iterator[Block], check: Callable[[], None]) -> Iterator[Block]:
        """Pass blocks on, unless a vector is zero: these are the bytes of one that nothing has filled."""
        for block in blocks:
            check()
            for values in block.values:
                if not values.any(axis=1).all():
                    raise InputError(
                        f"{self._output}: a row of it was never computed, which is a fault of protrna; the "
                        f"output is not finished. Please report it, and keep {self._folder}"
                    )
            yield block

    def _writing(self) -> AbstractContextManager[None]:
        return writing(
            self._output,
            "make room, then run the same command with --resume",
            f"if it stays so, move {self._folder.name} to another file system, and run the same command with "
            "-o there and --resume",
        )

    def __enter__(self) -> PartialOutput:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            with suppress(OSError):  # a full disk fails again when the buffers are flushed
                file.close()
        if self.position == Position():
            remove_partial(self._output)  # nothing was committed, so there is nothing to resume
