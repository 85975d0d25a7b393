"""The folder `OUT.partial`, which collects the embeddings until the output is complete.

An incomplete file never has its final name, and committed work survives any end of the process.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from protrna_cli.disk import creating, sync, write_whole, writing
from protrna_cli.errors import InputError, RunMismatch
from protrna_cli.fasta.records import Skipped
from protrna_cli.output.checksum import Checksum
from protrna_cli.output.formats import npy
from protrna_cli.output.formats.table import Format
from protrna_cli.output.paths import complete_path, journal_path, manifest_path, partial_path, reused_path
from protrna_cli.output.protect import make_partial, remove_partial
from protrna_cli.output.provenance import RunKey
from protrna_cli.output.publish import publish
from protrna_cli.output.rows import Block, Header, Values
from protrna_cli.plan.rows import SKIPPED_COLUMNS, Row
from protrna_cli.run.journal import Journal, Position
from protrna_cli.run.report import Amount


class PartialOutput:
    """An unfinished output: an array with its index, the list of skipped records, and the journal.

    Parameters
    ----------
    output
        The output; its folder `OUT.partial` is beside it.
    header, key
        The header of the output, and the key of its run.
    resume
        Continue the unfinished run in the folder, if there is one. Without `resume` the folder is replaced.

    Attributes
    ----------
    header
        Its header; what was reused may be known only after it is opened.
    position
        How far the run got, and so where to continue.
    """

    def __init__(self, output: Path, header: Header, key: RunKey, resume: bool = False) -> None:
        self._output = output
        self.header = header
        self._folder = partial_path(output)
        self._array = self._folder / "vectors.npy"
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
            self._open_files()
            for folder in (self._folder, output.parent):  # the file names must survive a crash too
                sync(folder)

    def _open_files(self) -> None:
        """Open the files as they were at the position; before the first commit they start empty."""
        at = self.position = self._journal.position
        self._fits = at.fits
        resume = (at.vectors, at.index_bytes) if at != Position() else None
        self._vectors = npy.ArrayWriter(self._array, self.header, resume)
        self._skipped = (self._folder / "skipped.tsv").open("r+b" if resume else "wb", buffering=0)
        self._skipped.truncate(at.skipped_bytes)

    def open_chunk(self, rows: list[Row], skipped: Sequence[Skipped]) -> list[int]:
        """Add the rows and the skipped records of the next chunk, in input order.

        Returns
        -------
        list
            The index of each row's first vector.
        """
        with self._writing():
            at = self.position
            self._start = Position(
                reused=at.reused,
                chunks=at.chunks,
                vectors=self._vectors.announced,
                index_bytes=self._vectors.sync(),
                skipped_bytes=os.fstat(self._skipped.fileno()).st_size,
            )
            self._write_skipped(skipped)
            return self._vectors.announce(rows)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the `layer`-th layer of the output, from vector `start` on."""
        with self._writing():
            self._vectors.fill(layer, start, vectors)

    def read(self, layer: int, start: int, count: int) -> Values:
        """Read vectors (count, D) that were filled earlier."""
        with self._writing():
            return self._vectors.read(layer, start, count)

    def halve(self, fits: int) -> None:
        """Keep how many tokens at once fit into memory, for the next commit."""
        self._fits = fits

    def commit_reused(self, filled: str) -> None:
        """Make the vectors durable that were filled in before the first chunk, and record which these are."""
        with self._writing():
            write_whole(reused_path(self._output), filled)
            self._advance(replace(self.position, index_bytes=self._vectors.sync(), reused=1))

    def commit(self, batches: int, done: Amount) -> None:
        """Make the first `batches` batches of the open chunk durable; see `Sink`."""
        with self._writing():
            self._vectors.sync()
            self._advance(replace(self._start, batches=batches, records=done.records, residues=done.residues))

    def close_chunk(self, done: Amount) -> None:
        """Make the open chunk durable, once all its rows are filled."""
        with self._writing():
            index_bytes = self._vectors.sync()
            os.fsync(self._skipped.fileno())
            self._advance(
                Position(
                    reused=self._start.reused,
                    chunks=self._start.chunks + 1,
                    records=done.records,
                    residues=done.residues,
                    vectors=self._vectors.announced,
                    index_bytes=index_bytes,
                    skipped_bytes=os.fstat(self._skipped.fileno()).st_size,
                )
            )

    def _advance(self, position: Position) -> None:
        position = replace(position, fits=self._fits)
        self._journal.commit(position)
        self.position = position

    def complete(self) -> None:
        """Record that every row is filled: what is left is to write the output, and to put it in place."""
        with self._writing():
            self._vectors.sync()
            write_whole(complete_path(self._output), "")

    def finish(self, format: Format, check: Callable[[], None]) -> None:
        """Write the output in its format and rename it into place; refuses it if a row was not filled.

        Parameters
        ----------
        check
            Called between blocks; if it raises, a later run can call `finish` again.
        """
        if self._fits:
            provenance = {**self.header.provenance, "halved_to": self._fits}
            self.header = replace(self.header, provenance=provenance)
        with self._writing():
            self._vectors.close()
            blocks = self._checked(npy.read_blocks(self._array, self.header), check)
            if format.name == "npy":
                made = self._array
                npy.write_header(made, _sealed(self.header, blocks))
            else:
                made = self._folder / self._output.name
                format.write(made, self.header, blocks)
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

    def _remove(self) -> None:
        remove_partial(self._output)

    def __enter__(self) -> PartialOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk fails again when the buffers are flushed
            self._vectors.close()
        self._skipped.close()
        self._journal.close()
        if self._journal.position == Position():
            self._remove()  # nothing was committed, so there is nothing to resume


def _sealed(header: Header, blocks: Iterator[Block]) -> Header:
    """Read all blocks, and return the header with their checksums."""
    checksum = Checksum(header)
    for block in blocks:
        checksum.add(block)
    return checksum.seal()
