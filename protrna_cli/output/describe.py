"""Describe an output: first rows, norms of the vectors, repeated ids and embeddings, provenance."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from protrna_cli.output.provenance import account
from protrna_cli.output.rows import Block, Header, Values
from protrna_cli.output.stored import open_output
from protrna_cli.plan.pieces import COUNT_COLUMNS, Row
from protrna_cli.text import aligned, counted, printable, shortened, size_text

FIRST_ROWS = 5
FIRST_NUMBERS = 3

SECONDS = 5.0
"""Reading stops after this time, unless all rows are requested."""


@dataclass
class Repeats:
    """Rows that repeat the id or the embedding of an earlier row."""

    count: int = 0
    first: str | None = None  # id of the first such row, if there is one

    def add(self, row: Row) -> None:
        """Count a row."""
        self.count += 1
        self.first = row.id if self.first is None else self.first

    def text(self) -> str:
        """Text with the number of rows and the first id."""
        return (
            "none" if self.first is None else f"{counted(self.count, 'row')}, first {shortened(self.first)}"
        )


@dataclass
class Description:
    """Description of an output."""

    # Its path, and the total size of its files in bytes.
    file: str
    bytes: int
    header: Header
    schema: dict[str, str]  # its columns or datasets, each with its type and shape
    # Its first rows, each with the first numbers of its first vector in every layer.
    first: list[tuple[Row, list[list[float]]]] = field(default_factory=list)
    rows_read: int = 0  # number of rows read; the fields below cover these
    # Minimum, median and maximum Euclidean norm of the vectors, by layer; empty if there are no vectors.
    norms: dict[str, dict[str, float]] = field(default_factory=dict)
    # Rows that repeat the id of an earlier row, or its embedding (bit for bit, in all layers).
    repeated_ids: Repeats = field(default_factory=Repeats)
    equal_embeddings: Repeats = field(default_factory=Repeats)

    @property
    def is_sample(self) -> bool:
        """Whether some rows were not read."""
        return self.rows_read < self.header.n_rows

    def json(self) -> str:
        """All fields as a JSON object."""
        described = asdict(self)
        header = described.pop("header")
        first = [
            {**asdict(row), **dict(zip(self.header.columns, numbers, strict=True))}
            for row, numbers in self.first
        ]
        return json.dumps(
            {**described, "first": first, "is_sample": self.is_sample, **header}, ensure_ascii=False
        )

    def text(self) -> str:
        """The description as text for people."""
        header = self.header
        kind = "per token" if header.per_token else "pooled"
        read = counted(self.rows_read, "row")
        scope = (
            f"the first {read} of {header.n_rows:,} (--all reads all)" if self.is_sample else f"all {read}"
        )
        lines = [
            f"{self.file}: {counted(header.n_rows, 'row')}, {counted(header.n_residues, 'residue')}, "
            f"{size_text(self.bytes)}",
            f"{kind}, layer {', '.join(map(str, header.layers))}, width {header.width}, {header.dtype}",
            "",
            aligned(self.schema),
            "",
            *self._first_lines(),
            "",
            f"of {scope}:",
            *(f"norms of {name}: {_norms_text(norms)}" for name, norms in self.norms.items()),
            f"ids that repeat: {self.repeated_ids.text()}",
            f"embeddings that repeat: {self.equal_embeddings.text()}",
            "",
            "how it was made:",
            aligned(account(header.provenance)),
        ]
        return "\n".join(lines)

    def _first_lines(self) -> list[str]:
        """The first rows as the lines of a table."""
        table = [["id", *COUNT_COLUMNS, *self.header.columns]]
        for row, layers in self.first:
            counts = [str(getattr(row, name)) for name in COUNT_COLUMNS]
            table.append([shortened(row.id), *counts, *(_numbers_text(numbers) for numbers in layers)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]


def describe(path: Path, whole: bool = False) -> Description:
    """Describe an output from the rows that can be read in `SECONDS`, or from all rows.

    whole: read every row, however long it takes; by default, reading stops after `SECONDS`.
    """
    stored = open_output(path)
    header = stored.header
    found = Description(printable(str(path)), stored.size, header, stored.schema())
    ids: set[int] = set()
    embeddings: set[int] = set()
    norms: list[list[Values]] = [[] for _ in header.columns]
    deadline = time.monotonic() + SECONDS
    for block in stored.blocks():
        for of_layer, values in zip(norms, block.values, strict=True):
            with np.errstate(invalid="ignore", over="ignore"):  # damaged values may be any bits
                of_layer.append(np.linalg.norm(values.astype(np.float64), axis=1))
        _add_rows(found, block, ids, embeddings)
        if not whole and time.monotonic() > deadline:
            break
    for name, of_layer in zip(header.columns, norms, strict=True):
        if sum(map(len, of_layer)):
            joined = np.concatenate(of_layer)
            found.norms[name] = {"min": joined.min(), "median": np.median(joined), "max": joined.max()}
    return found


def _add_rows(found: Description, block: Block, ids: set[int], embeddings: set[int]) -> None:
    """Add the rows of a block. Ids and embeddings are kept as 64-bit hashes, about 60 bytes each."""
    for row, vectors in block.by_row(found.header):
        if len(found.first) < FIRST_ROWS:
            found.first.append((row, [values[:1, :FIRST_NUMBERS].ravel().tolist() for values in vectors]))
        for key, seen, repeats in (
            (row.id, ids, found.repeated_ids),
            (b"".join(values.tobytes() for values in vectors), embeddings, found.equal_embeddings),
        ):
            if hash(key) in seen:
                repeats.add(row)
            seen.add(hash(key))
    found.rows_read += len(block.rows)


def _norms_text(norms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in norms.items())


def _numbers_text(numbers: list[float]) -> str:
    return " ".join([*(f"{number:.4g}" for number in numbers), "…"])
