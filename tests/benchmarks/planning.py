"""Measure what a user can plan with: tokens per second, and the time that some usual jobs take.

    python -m tests.benchmarks.planning CHECKPOINT.h5 [--precision float32 bfloat16] [--batches 4]

The jobs have made-up sequences of usual lengths. Of each, some batches from all over the job run, and its
time is that of all its tokens at their rate, without loading the model. The jobs and the plain matmul are
measured in turn, `--rounds` times; medians are shown. Prints a table for the manual.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from protrna_cli import load_model
from protrna_cli.fasta.records import Record
from protrna_cli.libraries import own_process
from protrna_cli.model import trial
from protrna_cli.run.auto import batch_tokens_of
from protrna_cli.run.workers import InProcess
from protrna_cli.text import duration_text
from tests.benchmarks.speed import chunk_of, embed_batches

RNG = np.random.default_rng(1)

JOBS = {
    "1,000 tRNAs of 70 to 90 nt": RNG.integers(70, 91, 1000),
    "1,000 5'UTRs, half of them under 150 nt": RNG.lognormal(np.log(150), 0.8, 1000)
    .clip(20, 3000)
    .astype(int),
    "a genome of 30,000 nt": np.array([30_000]),
}
"""Lengths of the sequences of each job."""


class Job:
    """A job and what was measured of it.

    Parameters
    ----------
    lengths
        Residues of each sequence.
    """

    def __init__(self, lengths: np.ndarray, budget: int, n_batches: int) -> None:
        records = [
            Record(i, str(i), "", "".join(RNG.choice(list("acgu"), length)), n_unknown=0)
            for i, length in enumerate(lengths, start=1)
        ]
        self.chunk = chunk_of(records, budget)
        self.tokens = sum(piece.length + 2 for piece in self.chunk.pieces)
        batches = self.chunk.batches
        self.sample = [batches[i] for i in np.linspace(0, len(batches) - 1, n_batches).round().astype(int)]
        self.rates: list[float] = []

    @property
    def rate(self) -> float:
        """Tokens per second, the median of all rounds."""
        return statistics.median(self.rates)


def measure(checkpoint: Path, precision: str, n_batches: int, rounds: int) -> list[str]:
    """Measure all jobs; returns the lines of the table."""
    model = load_model(checkpoint, precision=precision)
    budget = batch_tokens_of(model)
    jobs = {name: Job(lengths, budget, n_batches) for name, lengths in JOBS.items()}

    def run(job: Job) -> None:
        with InProcess(model) as embedder:
            embed_batches(embedder, job.chunk, job.sample, model.size.layers)

    matmuls = []
    for number in range(rounds + 1):  # the first round compiles
        matmuls.append(trial.matmul_rate(precision))
        for job in jobs.values():
            started = time.perf_counter()
            run(job)
            seconds = time.perf_counter() - started
            if number:
                job.rates.append(sum(sum(job.chunk.token_counts(each)) for each in job.sample) / seconds)
    matmul = statistics.median(matmuls)
    return [
        f"| {precision} | {name} | {job.rate:,.0f} | {job.rate * model.size.operations / matmul:.0%} | "
        f"{duration_text(job.tokens / job.rate)} |"
        for name, job in jobs.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    own_process()
    print("| precision | job | tokens/s | share of matmul | time |\n|---|---|---:|---:|---:|")
    for precision in arguments.precision:
        for line in measure(arguments.checkpoint, precision, arguments.batches, arguments.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
