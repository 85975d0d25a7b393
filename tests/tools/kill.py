"""Kill runs at random times with SIGKILL, resume them until they end, and compare with uninterrupted runs.

    python -m tests.tools.kill --kills 200 --seed 1

Every run embeds the same input with the toy checkpoint in many small chunks, in a random format and kind,
some into two outputs or with vectors of an earlier one. It is started with --resume, killed after a random
time, and started again, until it ends by itself. Whenever an output exists, it must equal that of an
uninterrupted run in ids, order and bytes of the values.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.output.paths import partial_path, skipped_path
from protrna_cli.output.read import read_output
from protrna_cli.output.rows import Header
from protrna_cli.plan import chunks
from protrna_cli.plan.rows import Row
from protrna_cli.plan.rules import Region, Regions, Rules
from protrna_cli.run import pipeline
from protrna_cli.run.report import Progress, Summary
from protrna_cli.run.stop import Stop
from tests.conftest import GOLDEN

RULES = Rules(on_invalid="skip", max_length=60)
REGIONS = Regions(
    "x.bed", "", {f"r{i}": [Region("first", 0, 1, 1)] * (i % 3 + 1) for i in range(1, 90) if i % 17 % 3}
)

KINDS = [
    EmbedOptions(
        model=str(GOLDEN / "toy.h5"),
        format=format,
        h5_layout=h5_layout,
        per_token=per_token,
        pool=pool,
        layers=layers,
        resume=True,
        batch_tokens=150,
        rules=RULES,
    )
    for format, h5_layout in (("parquet", "flat"), ("npy", "flat"), ("h5", "flat"), ("h5", "packed"))
    for per_token, pool, layers in ((False, "mean", (1, 3)), (False, "max", (3,)), (True, "mean", (3, 0)))
]
KINDS += [
    replace(KINDS[0], per_token_output="residues.npy"),
    replace(KINDS[3], per_token_output="residues.h5", rules=replace(RULES, regions=REGIONS), layers=(3,)),
]
KINDS += [replace(KINDS[i], reuse=("earlier",)) for i in (0, 5)]


def write_input(path: Path, far_copies: bool = True) -> None:
    """Write 90 records: short and long ones, copies near and far, and some that are skipped."""
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGU"), size)) for size in rng.integers(1, 100, 90)]
    sequences[::17] = ["*"] * len(sequences[::17])
    sequences[40] = sequences[38]
    if far_copies:
        sequences[60:67] = sequences[5:12]
        sequences[80] = sequences[82] = sequences[10]
    path.write_text("".join(f">r{i} d{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))


class Content(NamedTuple):
    """The content of an output, for comparison; the values are bytes, one string per layer."""

    header: Header
    rows: list[Row]
    values: list[bytes]
    skipped: bytes


def content(path: Path) -> Content:
    """Read a whole output."""
    header, blocks = read_output(path)
    read = list(blocks)
    rows = [row for block in read for row in block.rows]
    values = [[array.tobytes() for array in block.values] for block in read]
    joined = [b"".join(layer) for layer in zip(*values, strict=True)]
    return Content(header, rows, joined, skipped_path(path).read_bytes())


def outputs(target: Path, options: EmbedOptions) -> list[Path]:
    """List the outputs of a run: the target, and the second output beside it, if there is one."""
    second = options.per_token_output
    return [target, target.with_name(f"{target.name}.{second}")] if second else [target]


def embed(
    source: Path,
    target: Path,
    options: EmbedOptions,
    stop: Stop | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Embed into the target, and into the second output if the options ask for one."""
    second = [str(path) for path in outputs(target, options)[1:]]
    options = replace(options, per_token_output=second[0] if second else None)
    if options.reuse:
        options = replace(options, reuse=(str(earlier_output(source, options)),))
    return embed_fasta(source, target, options, progress, stop)


def earlier_output(source: Path, options: EmbedOptions) -> Path:
    """Make an output of the middle third of an input, unless it is there."""
    kind = f"{options.format}-{'token' if options.per_token else options.pool}"
    earlier = source.with_name(f"earlier-{kind}")
    if not earlier.exists():
        records = source.read_text().split(">")[30:60]
        earlier.with_suffix(".fa").write_text("".join(f">{record}" for record in records))
        embed_fasta(earlier.with_suffix(".fa"), earlier, replace(options, reuse=(), resume=True))
    return earlier


def assert_equal(target: Path, uninterrupted: Path, options: EmbedOptions) -> None:
    """Assert that each existing output of a run equals that of the uninterrupted run."""
    for path, expected in zip(outputs(target, options), outputs(uninterrupted, options), strict=True):
        assert not path.exists() or content(path) == content(expected), options


def run_in_child(source: Path, target: Path, options: EmbedOptions) -> int:
    """Start a run in its own process; returns the process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        chunks.CHUNK_RECORDS, chunks.CHUNK_RESIDUES = 7, 300
        pipeline.COMMIT_SECONDS = 0.0
        embed(source, target, options)
        code = 0
    finally:
        os._exit(code)


def kill_until_done(
    source: Path, target: Path, options: EmbedOptions, uninterrupted: Path, longest: float, rng: random.Random
) -> int:
    """Start and kill a run again and again until it ends by itself; returns how often it was killed.

    Raises
    ------
    AssertionError
        A run failed, or left an output that differs from that of the uninterrupted run.
    """
    kills = 0
    while True:
        child = run_in_child(source, target, options)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the run failed"
            return kills
        kills += 1
        assert_equal(target, uninterrupted, options)
        longest *= 1.02  # so that it ends


def campaign(kills: int, seed: int) -> dict[str, int]:
    """Kill runs of all kinds until there were this many kills; returns the numbers of kills and runs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf  # once, before forking; it starts no thread until it computes

    del tf
    rng = random.Random(seed)
    counts = {"kills": 0, "runs": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.fa"
        write_input(source)
        kinds = rng.sample(KINDS, len(KINDS))
        while counts["kills"] < kills:
            options = kinds[counts["runs"] % len(kinds)]
            uninterrupted = folder / f"uninterrupted-{counts['runs'] % len(kinds)}"
            if not uninterrupted.exists():
                started = time.monotonic()
                _, status = os.waitpid(run_in_child(source, uninterrupted, replace(options, resume=False)), 0)
                assert status == 0, "the uninterrupted run failed"
                seconds = time.monotonic() - started
            target = folder / f"killed-{counts['runs']}"
            counts["kills"] += kill_until_done(source, target, options, uninterrupted, seconds, rng)
            counts["runs"] += 1
            assert_equal(target, uninterrupted, options)
            for path in outputs(target, options):
                assert path.exists()
                assert not partial_path(path).exists()
    return counts


def main() -> None:
    """Kill and resume runs, and compare their outputs."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.kill", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts = campaign(arguments.kills, arguments.seed)
    print(f"{counts['kills']} kills in {counts['runs']} runs; every output equals the uninterrupted one")


if __name__ == "__main__":
    main()
