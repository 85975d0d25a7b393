"""Where embeddings wait until all are there: the folder `OUT.partial`, and the one rename that ends a run.

Nothing half-written ever bears its final name, and what is committed survives whatever ends the process.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType

from protrna_cli.errors import OutputUnwritable, WriteFailed
from protrna_cli.journal import Journal, Position, RunKey
from protrna_cli.output import files_of, npy, write_output
from protrna_cli.output.rows import Block, Header, Row, Values
from protrna_cli.records import Skipped
from protrna_cli.shard import WHOLE, Shard

SKIPPED_COLUMNS = tuple(field.name for field in fields(Skipped) if field.compare)


def skipped_path(output: Path) -> Path:
    """Where the records that an output leaves out are listed."""
    return output.with_name(f"{output.name}.skipped.tsv")


def shard_path(output: Path, shard: Shard) -> Path:
    """Name of a shard's part of an output; a run that is not cut has the output's own name."""
    if shard == WHOLE:
        return output
    return output.with_name(f"{output.stem}.{shard.index}-of-{shard.count}{output.suffix}")


def part_name(shard: Shard) -> str:
    """Name of a shard's part in a dataset; such names sort in input order.

    >>> part_name(Shard(7, 42))
    'part-07-of-42.parquet'
    """
    return f"part-{shard.index:0{len(str(shard.count))}}-of-{shard.count}.parquet"


def is_part(path: Path) -> bool:
    """Whether a path has a name that `part_name` gives."""
    return re.fullmatch(r"part-\d+-of-\d+\.parquet", path.name) is not None


def partial_path(output: Path) -> Path:
    """The folder of an output that is not finished."""
    return output.with_name(f"{output.name}.partial")


class Spool:
    """The rows of an unfinished output: an array with its index, the skipped records, and the journal.

    Parameters
    ----------
    output
        The output; the spool is the folder `OUT.partial` beside it.
    header, key
        What the output will hold, and of which run.
    resume
        Go on with what stands there, if anything does; otherwise it is removed.

    Attributes
    ----------
    position
        How far the run is: where to go on.

    Raises
    ------
    OutputUnwritable
        The folder cannot be made.
    RunMismatch
        What stands there is another run's.
    """

    def __init__(self, output: Path, header: Header, key: RunKey, resume: bool = False) -> None:
        self._output = output
        self._header = header
        self._folder = partial_path(output)
        self._array = self._folder / "vectors.npy"
        try:
            if resume and (self._folder / "journal").exists():
                self._journal = Journal.resume(self._folder / "journal", key)
            else:
                if self._folder.exists():
                    shutil.rmtree(self._folder)
                self._folder.mkdir()
                self._journal = Journal.create(self._folder / "journal", key)
            self._open_files()
            for folder in (self._folder, output.parent):  # the names, too, outlast a lost node
                sync(folder)
        except OSError as error:
            raise OutputUnwritable(
                f"{output}: cannot be created ({error.strerror}); choose another -o"
            ) from error

    def _open_files(self) -> None:
        """Open the files as they were at the position; before the first commit they begin anew."""
        at = self.position = self._journal.position
        resume = (at.vectors, at.index_bytes) if at != Position() else None
        self._slots = npy.Slots(self._array, self._header, resume)
        self._skipped = (self._folder / "skipped.tsv").open("r+b" if resume else "wb", buffering=0)
        self._skipped.truncate(at.skipped_bytes)

    def open_window(self, rows: list[Row], skipped: Sequence[Skipped]) -> list[int]:
        """Add the rows and the skipped records of the next window, in input order.

        Returns
        -------
        list
            The place of each row's first vector.
        """
        with self._writing():
            at = self.position
            self._start = Position(
                at.windows,
                0,
                at.rows,
                self._slots.announced,
                self._slots.sync(),
                os.fstat(self._skipped.fileno()).st_size,
            )
            self._n_rows = len(rows)
            self._write_skipped(skipped)
            return self._slots.announce(rows)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the layer-th layer from place `start` on."""
        with self._writing():
            self._slots.fill(layer, start, vectors)

    def commit(self, batches: int) -> None:
        """Make durable what was written; `batches` batches of the open window are whole."""
        with self._writing():
            self._slots.sync()
            self._advance(replace(self._start, batches=batches))

    def close_window(self) -> None:
        """Make the open window durable; all its rows are filled."""
        with self._writing():
            index_bytes = self._slots.sync()
            os.fsync(self._skipped.fileno())
            start = self._start
            self._advance(
                Position(
                    windows=start.windows + 1,
                    rows=start.rows + self._n_rows,
                    vectors=self._slots.announced,
                    index_bytes=index_bytes,
                    skipped_bytes=os.fstat(self._skipped.fileno()).st_size,
                )
            )

    def _advance(self, position: Position) -> None:
        self._journal.commit(position)
        self.position = position

    def finish(self, format: str, h5_layout: str, check: Callable[[], None]) -> None:
        """Write the output in its format and rename it into place; every row must be there.

        Parameters
        ----------
        check
            Called between blocks; what it raises ends the work, which can be done again.

        Raises
        ------
        WriteFailed
            The output cannot be written.
        """
        with self._writing():
            self._slots.close()
            made = self._array
            if format != "npy":
                made = self._folder / self._output.name
                blocks = _checked(npy.read_blocks(self._array, self._header), check)
                write_output(made, format, h5_layout, self._header, blocks)
            skipped = self._folder / "skipped.tsv" if self.position.skipped_bytes else None
            publish(made, self._output, format, skipped)
        self._remove()

    def _write_skipped(self, skipped: Sequence[Skipped]) -> None:
        text = io.StringIO(newline="")
        lines = csv.writer(text, dialect="excel-tab", lineterminator="\n")
        if skipped and not self._start.skipped_bytes:
            lines.writerow(SKIPPED_COLUMNS)
        lines.writerows([getattr(each, column) for column in SKIPPED_COLUMNS] for each in skipped)
        npy.write_all(self._skipped.fileno(), text.getvalue().encode(), self._start.skipped_bytes)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what goes wrong while writing into our error."""
        try:
            yield
        except OSError as error:
            raise WriteFailed(
                f"{self._output}: writing failed ({error.strerror or error}); "
                "make room, then go on with the same command and --resume"
            ) from error

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk shows again when what is buffered is flushed
            self._slots.close()
        self._skipped.close()
        self._journal.close()
        if self._journal.position == Position():
            self._remove()  # nothing was committed, so that nothing is kept for --resume


def publish(made: Path, output: Path, format: str, skipped: Path | None) -> None:
    """Rename a finished output into place, what stands beside it first; all of it is durable before.

    Parameters
    ----------
    made, output
        Where it is, and where it goes.
    skipped
        The list of its skipped records, if there are any; a list left by an earlier run is removed.
    """
    *companions, (last, _) = zip(files_of(made, format), files_of(output, format), strict=True)
    if skipped:
        companions.insert(0, (skipped, skipped_path(output)))
    else:
        skipped_path(output).unlink(missing_ok=True)
    for source, target in companions:
        # Copied, so that an end between two renames leaves all that --resume needs.
        staged = source.with_name(f"{source.name}.copy")
        shutil.copyfile(source, staged)
        sync(staged)
        staged.replace(target)
    sync(last)
    last.replace(output)
    sync(output.parent)


def _checked(blocks: Iterator[Block], check: Callable[[], None]) -> Iterator[Block]:
    for block in blocks:
        check()
        yield block


def sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
