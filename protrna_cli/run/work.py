"""What a run computes, counted batch by batch: the basis of the estimates of its time and memory.

Legend: B pieces of a batch, T tokens of the longest, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protrna_cli.model.structure import ModelSize, row_count

BATCH_LAYER_SECONDS = 0.002
"""Fixed time of a batch in a layer, as measured."""

COMPILE_SECONDS = 0.4
"""Time to compile the fused operations for a new number of rows, as measured."""

SCORE_OPERATIONS = 70
"""What the softmax costs for one attention score, in operations of a matmul, as measured for 16 to 6,000
tokens."""


@dataclass
class Work:
    """Counts of the batches of a run.

    Attributes
    ----------
    tokens, batches
        Tokens that run, and batches.
    rows
        Rows of matmuls: the tokens, and the empty rows at the end of each batch.
    scores
        Attention scores per head and layer, with padding: B T² per batch.
    shapes
        The different (B, T).
    row_counts
        The different numbers of rows of a batch.
    """

    tokens: int = 0
    batches: int = 0
    rows: int = 0
    scores: int = 0
    shapes: set[tuple[int, int]] = field(default_factory=set)
    row_counts: set[int] = field(default_factory=set)

    def add(self, token_counts: list[int]) -> None:
        """Count a batch, given the tokens of each of its pieces."""
        longest, tokens = max(token_counts), sum(token_counts)
        self.tokens += tokens
        self.batches += 1
        self.rows += row_count(tokens)
        self.scores += len(token_counts) * longest**2
        self.shapes.add((len(token_counts), longest))
        self.row_counts.add(row_count(tokens))

    def operations(self, size: ModelSize, layers: int) -> int:
        """Count the operations of the first `layers` layers.

        Per layer: 24 D² for a row; for a score, 4 D in the two matmuls of all heads, and the softmax of each.
        """
        per_score = 4 * size.width + SCORE_OPERATIONS * size.heads
        return layers * (24 * size.width**2 * self.rows + per_score * self.scores)

    def fixed_seconds(self, layers: int) -> float:
        """Time that does not depend on the speed of matmuls."""
        return BATCH_LAYER_SECONDS * layers * self.batches + COMPILE_SECONDS * len(self.row_counts)

    def speed(self, size: ModelSize, layers: int, seconds: float) -> float:
        """Operations per second of a run that took `seconds`."""
        computing = max(seconds - self.fixed_seconds(layers), seconds / 2)  # another machine's may be shorter
        return self.operations(size, layers) / computing

    def seconds(self, size: ModelSize, layers: int, speed: float) -> float:
        """Time of a run at this speed, in operations per second."""
        return self.fixed_seconds(layers) + self.operations(size, layers) / speed
