"""Pool hidden states into one vector per row. Special tokens and pads are never part of a mean or maximum.

Legend: B batch, T tokens, D width. Residue j of a sequence is at position j + 1, after `<cls>`. Weights
(B, T) are greater than 0 at the residues that a row covers, and 0 elsewhere.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


def mean(hidden: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over tokens: (B, T, D) to (B, D)."""
    return tf.matmul(weights[:, None, :], hidden)[:, 0]


def maximum(hidden: Tensor, weights: Tensor) -> Tensor:
    """Maximum over the tokens with a weight above 0: (B, T, D) to (B, D)."""
    return tf.reduce_max(tf.where(weights[..., None] > 0, hidden, hidden.dtype.min), axis=1)


def cls(hidden: Tensor, weights: Tensor) -> Tensor:
    """Vector of the `<cls>` token: (B, T, D) to (B, D)."""
    return hidden[:, 0]


def residues(hidden: Tensor, weights: Tensor) -> Tensor:
    """Drop `<cls>`: (B, T, D) to (B, T - 1, D). The caller cuts off what follows the last residue."""
    return hidden[:, 1:]


POOLINGS = {
    name: tf.function(pool, reduce_retracing=True, autograph=False)
    for name, pool in {"mean": mean, "max": maximum, "cls": cls, "residues": residues}.items()
}
