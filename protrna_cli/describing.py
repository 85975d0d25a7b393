"""What an output holds at a glance: first rows, norms of the vectors, what repeats, how it was made."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protrna_cli import output
from protrna_cli.merging import parts_of, read_dataset
from protrna_cli.output.rows import COUNT_COLUMNS, Block, Header, Row, Values
from protrna_cli.records import shortened
from protrna_cli.report import amount, counted

FIRST_ROWS = 5
FIRST_NUMBERS = 3

SECONDS = 5.0
"""After which no further block is read, unless all are asked for."""


@dataclass
class Repeats:
    """Rows that repeat something of a row before them.

    Attributes
    ----------
    count
        How many there are.
    first
        Id of the first of them; None when there is none.
    """

    count: int = 0
    first: str | None = None

    def add(self, row: Row) -> None:
        """Count a row."""
        self.count += 1
        self.first = row.id if self.first is None else self.first

    def text(self) -> str:
        """Say it in some words."""
        return (
            "none" if self.first is None else f"{counted(self.count, 'row')}, first {shortened(self.first)}"
        )


@dataclass
class Description:
    """What an output holds.

    Attributes
    ----------
    file, bytes
        Its path, and its size, with what stands beside it.
    header
        What it says of itself.
    schema
        Names of what stands in it, each with its type and shape.
    first
        Its first rows, each with the first numbers of its first vector in every layer.
    rows_read
        Rows that were read; what follows speaks of them.
    norms
        Euclidean length of the vectors, least, median and greatest, by layer; empty when there is no vector.
    repeated_ids, equal_embeddings
        Rows that have the id of a row before them, or its embedding, bit for bit, in all layers.
    """

    file: str
    bytes: int
    header: Header
    schema: dict[str, str]
    first: list[tuple[Row, list[list[float]]]] = field(default_factory=list)
    rows_read: int = 0
    norms: dict[str, dict[str, float]] = field(default_factory=dict)
    repeated_ids: Repeats = field(default_factory=Repeats)
    equal_embeddings: Repeats = field(default_factory=Repeats)

    @property
    def is_sample(self) -> bool:
        """Whether rows were left unread."""
        return self.rows_read < self.header.n_rows

    def json(self) -> str:
        """All of it under its names."""
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
        """A page for people."""
        header = self.header
        kind = "per token" if header.per_token else "pooled"
        read = counted(self.rows_read, "row")
        scope = (
            f"the first {read} of {header.n_rows:,} (--all reads all)" if self.is_sample else f"all {read}"
        )
        lines = [
            f"{self.file}: {counted(header.n_rows, 'row')}, {counted(header.n_residues, 'residue')}, "
            f"{amount(self.bytes)}",
            f"{kind}, layer {', '.join(map(str, header.layers))}, width {header.width}, {header.dtype}",
            *(f"{name}: {kind}" for name, kind in self.schema.items()),
            "",
            *self._first_lines(),
            "",
            f"of {scope}:",
            *(f"norms of {name}: {_listed(norms)}" for name, norms in self.norms.items()),
            f"ids that repeat: {self.repeated_ids.text()}",
            f"embeddings that repeat: {self.equal_embeddings.text()}",
            "",
        ]
        for key, value in header.provenance.items():
            lines.append(
                f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            )
        return "\n".join(lines)

    def _first_lines(self) -> list[str]:
        """The first rows as a table."""
        table = [["id", *COUNT_COLUMNS, *self.header.columns]]
        for row, layers in self.first:
            counts = [str(getattr(row, name)) for name in COUNT_COLUMNS]
            table.append([shortened(row.id), *counts, *(_start(numbers) for numbers in layers)])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]


def describe(path: Path, whole: bool = False) -> Description:
    """Read an output for some seconds, or all of it, and say what it holds.

    Parameters
    ----------
    whole
        Read every row, however long it takes; otherwise rows are read, from the first on, until `SECONDS`
        are over.

    Raises
    ------
    InputUnreadable, InputError
        It cannot be read, is no output of ours, or is damaged.
    """
    header, blocks = read_dataset(path)
    parts = parts_of(path)
    # Only NumPy has files beside it.
    files = [file for part in parts for file in output.files_of(part, "npy") if file.exists()]
    size = sum(file.stat().st_size for file in files)
    found = Description(str(path), size, header, output.schema_of(parts[0]))
    ids: set[int] = set()
    embeddings: set[int] = set()
    norms: list[list[Values]] = [[] for _ in header.columns]
    deadline = time.monotonic() + SECONDS
    for block in blocks:
        for of_layer, values in zip(norms, block.values, strict=True):
            of_layer.append(np.linalg.norm(values.astype(np.float64), axis=1))
        _add_rows(found, block, ids, embeddings)
        if not whole and time.monotonic() > deadline:
            break
    for name, of_layer in zip(header.columns, norms, strict=True):
        if sum(map(len, of_layer)):
            found.norms[name] = _summary(np.concatenate(of_layer))
    return found


def _add_rows(found: Description, block: Block, ids: set[int], embeddings: set[int]) -> None:
    """Count what repeats; ids and embeddings are known by their 64-bit hashes, some 60 bytes each."""
    bounds = block.bounds() if found.header.per_token else range(len(block.rows) + 1)
    for row, start, end in zip(block.rows, bounds, bounds[1:], strict=False):
        vectors = [values[start:end] for values in block.values]
        if len(found.first) < FIRST_ROWS:
            found.first.append((row, [each[:1, :FIRST_NUMBERS].ravel().tolist() for each in vectors]))
        for key, seen, repeats in (
            (row.id, ids, found.repeated_ids),
            (b"".join(each.tobytes() for each in vectors), embeddings, found.equal_embeddings),
        ):
            if hash(key) in seen:
                repeats.add(row)
            seen.add(hash(key))
    found.rows_read += len(block.rows)


def _summary(norms: Any) -> dict[str, float]:
    return {"min": float(norms.min()), "median": float(np.median(norms)), "max": float(norms.max())}


def _listed(norms: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in norms.items())


def _start(numbers: list[float]) -> str:
    return " ".join([*(f"{number:.4g}" for number in numbers), "…"])
