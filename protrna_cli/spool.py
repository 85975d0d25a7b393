"""Where embeddings wait until all are there: the folder `OUT.partial`, and the one rename that ends a run.

Nothing half-written ever bears its final name.
"""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import fields
from pathlib import Path
from types import TracebackType

from protrna_cli.errors import OutputUnwritable, WriteFailed
from protrna_cli.output import files_of, npy, write_output
from protrna_cli.output.rows import Header, Row, Values
from protrna_cli.records import Skipped

SKIPPED_COLUMNS = tuple(field.name for field in fields(Skipped))


def skipped_path(output: Path) -> Path:
    """Where the records that an output leaves out are listed."""
    return output.with_name(f"{output.name}.skipped.tsv")


class Spool:
    """The rows of an unfinished output, kept as an array with its index.

    Parameters
    ----------
    output
        The output; the spool is the folder `OUT.partial` beside it.
    header
        What the output will hold.

    Raises
    ------
    OutputUnwritable
        The folder cannot be made.
    """

    def __init__(self, output: Path, header: Header) -> None:
        self._output = output
        self._header = header
        self._folder = output.with_name(f"{output.name}.partial")
        self._array = self._folder / "vectors.npy"
        self._skipped = self._folder / "skipped.tsv"
        try:
            if self._folder.exists():
                shutil.rmtree(self._folder)
            self._folder.mkdir()
            self._slots = npy.Slots(self._array, header)
        except OSError as error:
            raise OutputUnwritable(
                f"{output}: cannot be created ({error.strerror}); choose another -o"
            ) from error

    def announce(self, rows: list[Row]) -> list[int]:
        """Add rows, in input order; returns the place of each row's first vector."""
        try:
            return self._slots.announce(rows)
        except OSError as error:
            raise self._failure(error) from error

    def skip(self, record: Skipped) -> None:
        """Note a record that is left out: a line of `OUT.skipped.tsv`."""
        try:
            new = not self._skipped.exists()
            with self._skipped.open("a", encoding="utf-8", newline="") as file:
                lines = csv.writer(file, dialect="excel-tab", lineterminator="\n")
                if new:
                    lines.writerow(SKIPPED_COLUMNS)
                lines.writerow([getattr(record, column) for column in SKIPPED_COLUMNS])
        except OSError as error:
            raise self._failure(error) from error

    def fill(self, layer: int, start: int, vectors: Values) -> None:
        """Write vectors (n, D) of the layer-th layer from place `start` on."""
        try:
            self._slots.fill(layer, start, vectors)
        except OSError as error:
            raise self._failure(error) from error

    def finish(self, format: str, h5_layout: str) -> None:
        """Write the output in its format and rename it into place; every row must be there.

        Raises
        ------
        WriteFailed
            The output cannot be written.
        """
        try:
            self._slots.close()
            made = self._array
            if format != "npy":
                made = self._folder / self._output.name
                blocks = npy.read_blocks(self._array, self._header)
                write_output(made, format, h5_layout, self._header, blocks)
            skipped_path(self._output).unlink(missing_ok=True)
            moves = list(zip(files_of(made, format), files_of(self._output, format), strict=True))
            if self._skipped.exists():
                moves.insert(0, (self._skipped, skipped_path(self._output)))
            for source, target in moves:
                _sync(source)
                source.replace(target)
            _sync(self._output.parent)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> WriteFailed:
        return WriteFailed(
            f"{self._output}: writing failed ({error.strerror or error}); free space or choose another -o"
        )

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Make a file or a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
