"""What a run will take, counted through the very plan that it will follow; no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from protrna_cli import plan
from protrna_cli.census import Census
from protrna_cli.model.structure import ModelSize, row_count
from protrna_cli.records import Record, Skipped
from protrna_cli.report import amount
from protrna_cli.rules import Rules
from protrna_cli.task import Task

RUNTIME_BYTES = 700 << 20
"""TensorFlow and Python without a model, as measured."""

ACTIVATIONS = 24
"""Arrays (tokens, D) that a layer holds at once at the most; the feed-forward layer's count for 4 each."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes
    ----------
    records, rows, residues, unknown, long, repeats, skipped
        As the census counts them.
    tokens, batches, padding_share
        Tokens that run, in how many batches, and the share of empty rows among all that run.
    output_bytes
        Size of the vectors as they are; Parquet makes them some tenth smaller.
    memory_bytes
        Peak memory of the process, about.
    seconds
        Time without loading the model, at the rate of the last run of this model; None when there was none.
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
        """Every number under its name."""
        return json.dumps(asdict(self))

    def text(self) -> str:
        """A table for people."""
        time = f"{self.seconds:,.0f} s" if self.seconds is not None else "unknown before a first run"
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
            "output": amount(self.output_bytes),
            "peak memory": amount(self.memory_bytes),
            "time": time,
        }
        return "\n".join(f"{name:<17} {value:>14}" for name, value in lines.items())


def estimate(
    records: Iterable[Record | Skipped],
    census: Census,
    rules: Rules,
    size: ModelSize,
    max_tokens: int,
    bytes_a_row: tuple[int, int],
    rate: float | None,
) -> Estimate:
    """Go through the plan of a run without running it.

    Parameters
    ----------
    records
        As the run will read them.
    bytes_a_row
        Bytes of the outputs a pooled row and a residue.
    rate
        Tokens per second, if known.
    """
    tokens = rows = batches = scores = 0
    for window in plan.windows(records):
        task = Task([item for item in window if isinstance(item, Record)], rules, max_tokens)
        batches += len(task.batches)
        for batch in task.batches:
            width = task.pieces[batch[0]].length + 2
            held = sum(task.pieces[i].length + 2 for i in batch)
            tokens += held
            rows += row_count(held)
            scores = max(scores, len(batch) * size.heads * width**2)
    activations = max(max_tokens, census.longest if rules.long == "whole" else 0) * size.width * ACTIVATIONS
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
        output_bytes=census.n_rows * bytes_a_row[0] + census.n_embedded * bytes_a_row[1],
        memory_bytes=RUNTIME_BYTES + 4 * (size.parameters + activations + 2 * scores),
        seconds=tokens / rate if rate else None,
    )
