"""Measure every output layout: size on disk, time to write, time to read it back whole.

    python -m tests.benchmarks.layouts --lengths records.fa

Two outputs of width 1280, float32: 50,000 pooled rows, and 1,000 records per token with the lengths of the
records of a FASTA file. Values are random, standard normal. Each layout is written by its format's `write`
and synced, then read whole into memory with the library that its users have. It was just written, so reading
is from the page cache and measures the layout, not a disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.csv
import pyarrow.parquet
from Bio.SeqIO.FastaIO import SimpleFastaParser

from protrna_cli.output.rows import COLUMNS_BEFORE_MD5, Block, Header, spans
from protrna_cli.plan.pieces import Row
from protrna_cli.text import size_text
from tests.conftest import SAMPLE
from tests.tools.formats import named

WIDTH = 1280


def read_flat(path: Path) -> Any:
    """Read every dataset of a file."""
    with h5py.File(path) as file:
        return [dataset[()] for dataset in file.values()]


def matrix_reader(name: str) -> Callable[[Path], Any]:
    """Return a function that reads one matrix of a file."""

    def read(path: Path) -> Any:
        with h5py.File(path) as file:
            return file[name][()]

    return read


def read_parquet(path: Path) -> Any:
    """Read the embedding column as one matrix."""
    column = pyarrow.parquet.read_table(path, columns=["embedding"])["embedding"].combine_chunks()
    return column.flatten(recursive=True).to_numpy().reshape(-1, WIDTH)


def read_tsv(path: Path) -> Any:
    """Read a table of numbers."""
    options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
    return pyarrow.csv.read_csv(path, options, pyarrow.csv.ParseOptions(delimiter="\t"))


LAYOUTS: list[tuple[str, str, str, Callable[[Path], Any]]] = [
    ("Parquet", "parquet", "", read_parquet),
    ("NumPy", "npy", "", np.load),
    ("HDF5 flat", "h5", "flat", read_flat),
    ("HDF5 packed", "h5", "packed", matrix_reader("embeddings")),
    ("AnnData", "h5ad", "", matrix_reader("X")),
    ("TSV", "tsv", "", read_tsv),
]


def normal_blocks(rows: list[Row], header: Header) -> Iterator[Block]:
    """Yield blocks of random values."""
    rng = np.random.default_rng(0)
    for part, start, end in spans(rows, header):
        yield Block(part, [rng.standard_normal((end - start, header.width), np.float32)])


def measure(lengths: list[int], per_token: bool) -> Iterator[tuple[str, str]]:
    """Write and read every layout. Yields its name and its cells of the table."""
    rows = [Row(f"record{i}", f"number {i}", n, n, 0, 1) for i, n in enumerate(lengths)]
    header = Header(per_token, (33,), WIDTH, "float32", len(rows), sum(lengths), {}, COLUMNS_BEFORE_MD5)
    blocks = list(normal_blocks(rows, header))
    for name, format, h5_layout, read in LAYOUTS:
        if per_token and format in ("h5ad", "tsv"):
            yield name, "| | |"
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "out"
            started = time.perf_counter()
            named(format, h5_layout).write(path, header, blocks)
            for file in named(format).files(path):
                with file.open("rb+") as opened:
                    os.fsync(opened)
            written = time.perf_counter()
            size = sum(file.stat().st_size for file in named(format).files(path))
            read(path)
            seconds = time.perf_counter() - written
        yield name, f"| {size_text(size)} | {written - started:.1f} s | {seconds:.1f} s "


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.layouts", description=main.__doc__)
    parser.add_argument("--lengths", type=Path, default=SAMPLE, help="FASTA file to take record lengths from")
    parser.add_argument("--pooled", type=int, default=50_000, help="number of pooled rows")
    parser.add_argument("--records", type=int, default=1_000, help="number of records per token")
    arguments = parser.parse_args()
    with arguments.lengths.open() as file:
        lengths = [len(sequence) for _, sequence in SimpleFastaParser(file)]
    pooled = measure([100] * arguments.pooled, per_token=False)
    residues = list(islice(cycle(lengths), arguments.records))
    print(f"{arguments.pooled:,} pooled rows; {arguments.records:,} records of {sum(residues):,} residues")
    for (name, cells), (_, more) in zip(pooled, measure(residues, per_token=True), strict=True):
        print(f"| {name} {cells}{more}|", flush=True)


if __name__ == "__main__":
    main()
