"""Measure `embed_iter` on a long stream, and how fast `read_embeddings` opens outputs.

    python -m tests.benchmarks.in_memory stream [--records 100000] [--model tests/golden/toy.h5]
    python -m tests.benchmarks.in_memory open [--rows 50000] [--width 1280]

Prints JSON lines. The stream has random RNA of 60 to 100 residues; outputs have random normal numbers.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from protrna_cli import embed_iter, read_embeddings
from protrna_cli.machine import resident_memory
from protrna_cli.output.rows import COLUMNS_BEFORE_MD5, Header
from protrna_cli.plan.pieces import Row
from tests.benchmarks.layouts import LAYOUTS, normal_blocks
from tests.conftest import TOY
from tests.tools.formats import named


def random_rna(count: int) -> Iterator[str]:
    """Yield random sequences of 60 to 100 residues."""
    rng = random.Random(1)
    for _ in range(count):
        yield "".join(rng.choices("ACGU", k=rng.randint(60, 100)))


def stream(records: int, model: str) -> None:
    """Print the memory of this process each tenth of a stream."""
    started = time.perf_counter()
    for done, _ in enumerate(embed_iter(random_rna(records), model), start=1):
        if done % (records // 10) == 0:
            seconds = time.perf_counter() - started
            mib = round((resident_memory() or 0) / 2**20)
            print(json.dumps({"records": done, "seconds": round(seconds, 1), "rss_mib": mib}), flush=True)


def opening(rows: int, width: int) -> None:
    """Print the time to open each layout, and then to add up its vectors."""
    header = Header(False, (33,), width, "float32", rows, 100 * rows, {}, COLUMNS_BEFORE_MD5)
    records = [Row(f"record{i}", f"number {i}", 100, 100, 0, 1) for i in range(rows)]
    blocks = list(normal_blocks(records, header))
    for name, format, h5_layout, _ in LAYOUTS:
        if format == "tsv":
            continue  # for other programs; it is not read
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "out"
            named(format, h5_layout).write(path, header, blocks)
            times = [time.perf_counter()]
            embeddings = read_embeddings(path)
            times.append(time.perf_counter())
            np.sum(embeddings.vectors)
            times.append(time.perf_counter())
        opened, added = np.diff(times).round(2).tolist()
        print(json.dumps({"layout": name, "open_seconds": opened, "sum_seconds": added}), flush=True)


def main() -> None:
    """Run one of the two benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.in_memory", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    streamed = commands.add_parser("stream")
    streamed.add_argument("--records", type=int, default=100_000)
    streamed.add_argument("--model", default=str(TOY))
    opened = commands.add_parser("open")
    opened.add_argument("--rows", type=int, default=50_000)
    opened.add_argument("--width", type=int, default=1280)
    arguments = parser.parse_args()
    if arguments.command == "stream":
        stream(arguments.records, arguments.model)
    else:
        opening(arguments.rows, arguments.width)


if __name__ == "__main__":
    main()
