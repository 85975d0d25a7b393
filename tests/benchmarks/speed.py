"""Measure how fast protrna embeds a FASTA file: the whole command, and the engine alone.

    python -m tests.benchmarks.speed INPUT.fa CHECKPOINT.h5 [--precision float32 bfloat16] [--repeats 3]

Prints one JSON line per measurement, each made in its own process. Tokens are residues plus two per piece.
`share` is relative to the rate of a plain matmul, measured just before and after. On a shared machine,
compare only measurements made in turn.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from protrna_cli.plan.shard import WHOLE


def command(fasta: Path, checkpoint: Path, precision: str, budget: int) -> dict[str, Any]:
    """Time `protrna embed`, from the command to the finished file."""
    words = [sys.executable, "-m", "protrna_cli", "embed", fasta, "--model", checkpoint, "-q"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"
        words += ["-o", out, "--precision", precision, "--batch-tokens", budget]
        started = time.perf_counter()
        subprocess.run([str(word) for word in words], check=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": round(seconds, 2), "peak_gib": round(peak, 2)}


def embed_batches(embedder: Any, chunk: Any, batches: list[list[int]], layer: int) -> None:
    """Run batches of a chunk as a run does: some are submitted ahead."""
    waiting: deque[Any] = deque()
    for batch in batches:
        waiting.append(embedder.submit(*chunk.tokens(batch), [layer], "mean"))
        if len(waiting) > embedder.ahead:
            waiting.popleft()()
    for pending in waiting:
        pending()


def chunk_of(records: list[Any], budget: int) -> Any:
    """Pack all records into one chunk; those with equal sequences run, too."""
    from protrna_cli.fasta.copies import Copies
    from protrna_cli.plan.rules import DEFAULT_RULES
    from protrna_cli.run.loop import Chunk
    from protrna_cli.run.options import EmbedOptions

    chunk = Chunk(0, records, Copies(DEFAULT_RULES), EmbedOptions(batch_tokens=budget))
    chunk.running = {i: [i] for i in range(len(records))}
    return chunk


def engine(fasta: Path, checkpoint: Path, precision: str, budget: int) -> dict[str, Any]:
    """Time the forward pass and pooling of all batches, with compilation; loading is timed separately."""
    started = time.perf_counter()
    from protrna_cli import load_model
    from protrna_cli.fasta.census import take_census
    from protrna_cli.fasta.records import Record
    from protrna_cli.fasta.sources import open_sources
    from protrna_cli.model import trial
    from protrna_cli.plan.rules import DEFAULT_RULES
    from protrna_cli.run.workers import InProcess

    model = load_model(checkpoint, precision=precision)
    startup = time.perf_counter() - started
    with open_sources([fasta]) as sources:
        items = take_census(sources, DEFAULT_RULES).records(WHOLE, model.size.width)
        records = [item for item in items if isinstance(item, Record)]
    chunk = chunk_of(records, budget)
    before = trial.matmul_rate(precision)
    started = time.perf_counter()
    with InProcess(model) as embedder:
        embed_batches(embedder, chunk, chunk.batches, model.size.layers)
    seconds = time.perf_counter() - started
    matmul = statistics.mean([before, trial.matmul_rate(precision)])
    tokens = sum(piece.length + 2 for piece in chunk.pieces)
    return {
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(tokens / seconds, 1),
        "matmul_gflops": round(matmul / 1e9),
        "share": round(tokens / seconds * model.size.operations / matmul, 3),
        "startup_s": round(startup, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


MEASUREMENTS = {"command": command, "engine": engine}


def main() -> None:
    """Run all measurements in turn, each in its own process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fasta", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch-tokens", nargs="+", type=int, default=[2048])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=MEASUREMENTS, help="measure once, in this process")
    args = parser.parse_args()
    if args.only:
        [precision], [budget] = args.precision, args.batch_tokens
        found = MEASUREMENTS[args.only](args.fasta, args.checkpoint, precision, budget)
        print(
            json.dumps({"what": args.only, "precision": precision, "batch_tokens": budget, **found}),
            flush=True,
        )
        return
    for _ in range(args.repeats):
        for budget in map(str, args.batch_tokens):
            for precision in args.precision:
                for what in MEASUREMENTS:
                    words = [args.fasta, args.checkpoint, "--only", what, "--precision", precision]
                    again = [sys.executable, "-m", "tests.benchmarks.speed", *words, "--batch-tokens", budget]
                    subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
