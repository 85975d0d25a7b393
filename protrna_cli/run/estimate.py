"""Estimate a run by counting its batches one by one; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from protrna_cli.fasta.census import Census
from protrna_cli.fasta.records import Record, Skipped
from protrna_cli.model.structure import ModelSize, row_count
from protrna_cli.plan.chunks import into_chunks
from protrna_cli.plan.rules import Rules
from protrna_cli.run.batching import ChunkBatches
from protrna_cli.text import size_text

RUNTIME_BYTES = 700 << 20
"""Memory of TensorFlow and Python without a model, as measured."""

ACTIVATIONS = 24
"""Most arrays (tokens, D) that a layer has in memory at once; each array of the feed-forward counts as 4."""


@dataclass(frozen=True)
class Estimate:
    """Counts and estimates for a run.

    Attributes
    ----------
    records, rows, residues, unknown, long, repeats, skipped
        Counts of the census.
    tokens, batches, padding_share
        Tokens that run, number of batches, and the share of padding rows among all rows that run.
    output_bytes
        Uncompressed size of the vectors; Parquet is about a tenth smaller.
    memory_bytes
        Approximate peak memory of the process.
    seconds
        Time without loading the model, at the speed of the last run with the same model size, precision,
        device and threads; None if there was none.
    """

    records: int
    rows: int
    residues: int
    unknown: int
    long: int
    repeats: int
    skipped: int
    tokens: int
    batches: int
    padding_share: float
    output_bytes: int
    memory_bytes: int
    seconds: float | None

    def json(self) -> str:
        """Return all numbers as JSON."""
        return json.dumps(asdict(self))

    def text(self) -> str:
        """Format the numbers as a table."""
        time = f"{self.seconds:,.0f} s" if self.seconds is not None else "unknown before the first run"
        lines = {
            "records": f"{self.records:,}",
            "rows": f"{self.rows:,}",
            "residues": f"{self.residues:,}",
            "unknown residues": f"{self.unknown:,}",
            "long records": f"{self.long:,}",
            "repeats": f"{self.repeats:,}",
            "skipped records": f"{self.skipped:,}",
            "batches": f"{self.batches:,}",
            "padding": f"{self.padding_share:.1%}",
            "output": size_text(self.output_bytes),
            "peak memory": size_text(self.memory_bytes),
            "time": time,
        }
        return "\n".join(f"{name:<17} {value:>14}" for name, value in lines.items())


def estimate(
    records: Iterable[Record | Skipped],
    census: Census,
    rules: Rules,
    size: ModelSize,
    max_tokens: int,
    bytes_per_row: tuple[int, int],
    rate: float | None,
) -> Estimate:
    """Count the batches of a run without running them.

    Parameters
    ----------
    records
        The records of the run, in order.
    census
        The census of these records.
    bytes_per_row
        Bytes that the outputs need per pooled row, and per residue.
    rate
        Tokens per second, if known.
    """
    tokens = rows = batches = scores = 0
    for items in into_chunks(records):
        chunk = ChunkBatches([item for item in items if isinstance(item, Record)], rules, max_tokens)
        batches += len(chunk.batches)
        for batch in chunk.batches:
            width = chunk.pieces[batch[0]].length + 2
            batch_tokens = sum(chunk.pieces[i].length + 2 for i in batch)
            tokens += batch_tokens
            rows += row_count(batch_tokens)
            scores = max(scores, len(batch) * size.heads * width**2)
    longest = census.longest if rules.long == "whole" else 0
    activations = max(max_tokens, longest) * size.width * ACTIVATIONS
    return Estimate(
        records=census.n_records,
        rows=census.n_rows,
        residues=census.n_embedded,
        unknown=census.n_unknown,
        long=census.n_long,
        repeats=census.n_repeats,
        skipped=census.n_skipped,
        tokens=tokens,
        batches=batches,
        padding_share=1 - tokens / rows if rows else 0.0,
        output_bytes=census.n_rows * bytes_per_row[0] + census.n_embedded * bytes_per_row[1],
        memory_bytes=RUNTIME_BYTES + 4 * (size.parameters + activations + 2 * scores),
        seconds=tokens / rate if rate else None,
    )
