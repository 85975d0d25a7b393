"""Kill runs at random instants with SIGKILL, resume them until they end, and compare with runs left alone.

    python -m tests.kill --kills 200 --seed 1

Every run embeds the same input with the toy checkpoint in many small windows, in a random format and kind. It
is started with --resume, killed after a random time, and started again, until it ends by itself. Whenever an
output is there it must equal that of an uninterrupted run in ids, order and bytes of the values.
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

from protrna_cli import EmbedOptions, embed_fasta, pipeline, plan
from protrna_cli.output import read_output
from protrna_cli.output.rows import Header, Row
from protrna_cli.rules import Rules
from protrna_cli.spool import partial_path, skipped_path
from tests.conftest import GOLDEN

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
        rules=Rules(on_invalid="skip", max_length=60),
    )
    for format, h5_layout in (("parquet", "flat"), ("npy", "flat"), ("h5", "flat"), ("h5", "packed"))
    for per_token, pool, layers in ((False, "mean", (1, 3)), (False, "max", (3,)), (True, "mean", (3, 0)))
]


def write_input(path: Path) -> None:
    """Ninety records: short ones, long ones, repeats, and some that are skipped."""
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGU"), size)) for size in rng.integers(1, 100, 90)]
    sequences[::17] = ["*"] * len(sequences[::17])
    sequences[40] = sequences[38]
    path.write_text("".join(f">r{i} d{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))


class Content(NamedTuple):
    """All of an output that must be equal: the values as bytes, one string a layer."""

    header: Header
    rows: list[Row]
    values: list[bytes]
    skipped: bytes


def content(path: Path) -> Content:
    """Read an output whole."""
    header, blocks = read_output(path)
    read = list(blocks)
    rows = [row for block in read for row in block.rows]
    values = [[array.tobytes() for array in block.values] for block in read]
    joined = [b"".join(layer) for layer in zip(*values, strict=True)]
    return Content(header, rows, joined, skipped_path(path).read_bytes())


def run_in_child(source: Path, target: Path, options: EmbedOptions) -> int:
    """Start a run in a process of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        plan.windows.__defaults__ = (7, 300)  # type: ignore[attr-defined]
        pipeline.COMMIT_SECONDS = 0.0
        embed_fasta(source, target, options)
        code = 0
    finally:
        os._exit(code)


def kill_until_done(
    source: Path, target: Path, options: EmbedOptions, alone: Path, longest: float, rng: random.Random
) -> int:
    """Start, kill and start again until a run ends by itself; returns how often it was killed.

    Raises
    ------
    AssertionError
        A run failed, or left an output that is not that of the run left alone.
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
        assert not target.exists() or content(target) == content(alone), options
        longest *= 1.02  # so that it ends


def campaign(kills: int, seed: int) -> dict[str, int]:
    """Kill runs of all kinds until there were this many kills; returns what happened."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf  # once, before the children are made; it starts no thread until it computes

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
            alone = folder / f"alone-{counts['runs'] % len(kinds)}"
            if not alone.exists():
                started = time.monotonic()
                _, status = os.waitpid(run_in_child(source, alone, replace(options, resume=False)), 0)
                assert status == 0, "the run left alone failed"
                seconds = time.monotonic() - started
            target = folder / f"killed-{counts['runs']}"
            counts["kills"] += kill_until_done(source, target, options, alone, seconds, rng)
            counts["runs"] += 1
            assert content(target) == content(alone), options
            assert not partial_path(target).exists()
    return counts


def main() -> None:
    """Kill as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts = campaign(arguments.kills, arguments.seed)
    print(f"{counts['kills']} kills in {counts['runs']} runs; every output equals the uninterrupted one")


if __name__ == "__main__":
    main()
