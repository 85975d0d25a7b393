"""Kill runs at random times with SIGKILL, resume them until they end, and compare with uninterrupted runs.

    python -m tests.tools.kill --kills 200 --seed 1

Every run embeds the same input with the toy checkpoint in many small chunks, in a random format and kind,
some into two outputs, in several processes, or with vectors of an earlier output. It is started with
--resume, killed after a random time, and started again, until it ends by itself. Whenever an output exists,
it must equal that of an uninterrupted run in ids, order and bytes of the values.

In half of the runs that reuse an earlier output, that is replaced at random moments by another one made
alike. Such a run may refuse to go on, and is then started anew; in the end its output must be whole, and its
values those of the uninterrupted run but for rounding. No process of a run may outlive it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.errors import RunMismatch
from protrna_cli.output.files import choose_format, partial_path, skipped_path
from protrna_cli.output.rows import Header
from protrna_cli.output.stored import open_output
from protrna_cli.plan import pieces
from protrna_cli.plan.pieces import Row
from protrna_cli.plan.rules import Region, Regions, Rules
from protrna_cli.run import loop
from protrna_cli.run.report import Progress, Stop, Summary
from protrna_cli.run.verify import find_flaws
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
KINDS += [replace(KINDS[0], workers=2), replace(KINDS[4], workers=2, reuse=("earlier",))]


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
    stored = open_output(path)
    read = list(stored.blocks())
    rows = [row for block in read for row in block.rows]
    values = [[array.tobytes() for array in block.values] for block in read]
    joined = [b"".join(layer) for layer in zip(*values, strict=True)]
    return Content(stored.header, rows, joined, skipped_path(path).read_bytes())


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


THIRDS = (10, 30, 50)
"""Where the thirds of the input begin of which there are earlier outputs; the middle one is used first."""


def earlier_output(source: Path, options: EmbedOptions) -> Path:
    """Put an output of the middle third of an input in its place, unless there is one."""
    earlier = _earlier(source, options)
    if not earlier.exists():
        for first in THIRDS:
            records = source.read_text().split(">")[first : first + 30]
            third = _third(earlier, first)
            third.with_suffix(".fa").write_text("".join(f">{record}" for record in records))
            embed_fasta(third.with_suffix(".fa"), third, replace(options, reuse=(), workers=1))
        replace_earlier(source, options, THIRDS[1])
    return earlier


def _earlier(source: Path, options: EmbedOptions) -> Path:
    kind = f"{options.format}-{options.h5_layout}-{'token' if options.per_token else options.pool}"
    return source.with_name(f"earlier-{kind}-{len(options.layers)}")


def _third(earlier: Path, first: int) -> Path:
    return earlier.with_name(f"third-{first}-{earlier.name}")


def replace_earlier(source: Path, options: EmbedOptions, first: int) -> None:
    """Put the output of another third in the place of the earlier one, as a run with --overwrite does."""
    earlier = _earlier(source, options)
    files = choose_format(earlier, options.format, options.h5_layout).files
    for made, target in zip(files(_third(earlier, first)), files(earlier), strict=True):
        staged = target.with_name(f"{target.name}.staged")
        shutil.copy(made, staged)
        staged.replace(target)


def workers_of(process: int) -> list[str]:
    """Ids of the worker processes that a run has started."""
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []


def assert_ended(processes: list[str]) -> None:
    """Assert that processes end soon; one that waits to be reaped has ended."""
    deadline = time.monotonic() + 30
    while left := [each for each in processes if _runs(each)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.01)


def _runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_whole(source: Path, target: Path, uninterrupted: Path, options: EmbedOptions) -> None:
    """Assert that an output is complete and undamaged, and equals the uninterrupted one but for rounding."""
    assert find_flaws(target, [source]) == [], options
    found, expected = content(target), content(uninterrupted)
    assert (found.rows, found.skipped) == (expected.rows, expected.skipped)
    for one, other in zip(found.values, expected.values, strict=True):
        np.testing.assert_allclose(
            np.frombuffer(one, np.float32), np.frombuffer(other, np.float32), rtol=0, atol=1e-5
        )


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
        pieces.CHUNK_RECORDS, pieces.CHUNK_RESIDUES = 7, 300
        loop.COMMIT_SECONDS = 0.0
        embed(source, target, options)
        code = 0
    except RunMismatch:
        code = RunMismatch.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def kill_until_done(
    source: Path,
    target: Path,
    options: EmbedOptions,
    uninterrupted: Path,
    longest: float,
    rng: random.Random,
    changing: bool,
) -> int:
    """Start and kill a run again and again until it ends by itself; returns how often it was killed.

    Parameters
    ----------
    changing
        Whether its earlier output is replaced at random moments.

    Raises
    ------
    AssertionError
        A run failed, left a process behind, or an output that differs from that of the uninterrupted run.
    """
    kills = 0
    while True:
        child = run_in_child(source, target, options)
        first = rng.uniform(0, longest)
        time.sleep(first)
        if changing:
            replace_earlier(source, options, rng.choice(THIRDS))
            time.sleep(rng.uniform(0, longest))
        workers = workers_of(child)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert_ended(workers)
        if os.WIFEXITED(status):
            code = os.WEXITSTATUS(status)
            if code == 0:
                return kills
            assert changing and code == RunMismatch.exit_code, f"the run failed with {code}"
            for path in outputs(target, options):  # as a user with --overwrite
                shutil.rmtree(partial_path(path), ignore_errors=True)
        kills += 1
        if not changing:
            assert_equal(target, uninterrupted, options)
        longest *= 1.02  # so that it ends


def campaign(kills: int, seed: int) -> dict[str, int]:
    """Kill runs of all kinds until there were this many kills; returns the numbers of kills and runs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf  # once, before forking; it starts no thread until it computes

    del tf
    rng = random.Random(seed)
    counts = {"kills": 0, "runs": 0, "changing": 0}
    times: dict[Path, float] = {}
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
                times[uninterrupted] = time.monotonic() - started
            target = folder / f"killed-{counts['runs']}"
            changing = bool(options.reuse) and rng.random() < 0.5
            counts["kills"] += kill_until_done(
                source, target, options, uninterrupted, times[uninterrupted], rng, changing
            )
            counts["runs"] += 1
            counts["changing"] += changing
            if changing:
                assert_whole(source, target, uninterrupted, options)
                replace_earlier(source, options, THIRDS[1])
            else:
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
    print(
        f"{counts['kills']} kills in {counts['runs']} runs, {counts['changing']} of them with an earlier "
        "output that changed; every output is that of the uninterrupted run, and no process is left"
    )


if __name__ == "__main__":
    main()
