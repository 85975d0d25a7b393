"""The folder `OUT.partial`, which collects the embeddings until the output is complete.

An incomplete file never has its final name, and committed work survives any end of the process.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from protrna_cli.disk import creating, sync, write_whole, writing
from protrna_cli.errors import InputError, RunMismatch
from protrna_cli.fasta.records import Skipped
from protrna_cli.output.checksum import Checksum
from protrna_cli.output.formats import npy
from protrna_cli.output.formats.table import Format
from protrna_cli.output.paths import complete_path, journal_path, manifest_path, partial_path, reused_path
from protrna_cli.output.protect import make_partial, remove_partial
from protrna_cli.output.provenance import exact_key
from protrna_cli.output.publish import publish
from protrna_cli.output.rows import Block, Header, Values
from protrna_cli.plan.rows import SKIPPED_COLUMNS, Row
from protrna_cli.run.journal import Journal, Position


class PartialOutput:
    """An unfinished output: its vectors, a journal of those that are durable, the index, and what is skipped.

    Only the vectors are kept from one process to the next. The index and the list of skipped records follow
    from the input, which every process reads from its start.

    Parameters
    ----------
    output
        The output; its folder `OUT.partial` is beside it.
    header
        The header of the output.
    resume
        Continue the unfinished run in the folder, if there is one. Without `resume` the folder is replaced.

    Attributes
    ----------
    header
        Its header; what was reused may be known only after it is opened.
    position
        How far the run got, and so where to continue.
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
            lines.writerows([getattr(each, column) for column in SKIPPED_COLUMNS] for each in skipped)

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the `layer`-th layer of the output, from vector `start` on."""
        with self._writing():
            self._vectors.fill(layer, start, vectors)

    def read(self, layer: int, start: int, count: int) -> Values:
        """Read vectors (count, D) that were filled earlier."""
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

        Parameters
        ----------
        check
            Called between blocks; if it raises, a later run can call `finish` again.
        """
        if self.position.fits:
            provenance = {**self.header.provenance, "halved_to": self.position.fits}
            self.header = replace(self.header, provenance=provenance)
        with self._writing():
            for file in self._files:
                file.close()
            blocks = self._checked(npy.read_blocks(self._array, self.header), check)
            if format.name == "npy":
                made = self._array
                npy.write_header(made, _sealed(self.header, blocks))
            else:
                made = self._folder / self._output.name
                format.write(made, self.header, blocks)
            skipped = self._folder / "skipped.tsv"
            publish(made, self._output, format, skipped if skipped.stat().st_size else None)
        self._remove()

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

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            with suppress(OSError):  # a full disk fails again when the buffers are flushed
                file.close()
        if self.position == Position():
            self._remove()  # nothing was committed, so there is nothing to resume


def _sealed(header: Header, blocks: Iterator[Block]) -> Header:
    """Read all blocks, and return the header with their checksums."""
    checksum = Checksum(header)
    for block in blocks:
        checksum.add(block)
    return checksum.seal()
