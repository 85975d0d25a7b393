"""From hidden states to one vector a row. Special tokens and pads never enter a mean or a maximum.

Legend: B batch, T tokens, D width. Residue j of a sequence stands at position j + 1, after `<cls>`. Weights
(B, T) are more than 0 at the residues that a row speaks of, and 0 elsewhere.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


def mean(hidden: Tensor, weights: Tensor) -> Tensor:
    """Sum over tokens by weight: (B, T, D) to (B, D)."""
    return tf.matmul(weights[:, None, :], hidden)[:, 0]


def maximum(hidden: Tensor, weights: Tensor) -> Tensor:
    """Maximum over the tokens that have a weight: (B, T, D) to (B, D)."""
    return tf.reduce_max(tf.where(weights[..., None] > 0, hidden, hidden.dtype.min), axis=1)


def cls(hidden: Tensor, weights: Tensor) -> Tensor:
    """Vector of the `<cls>` token: (B, T, D) to (B, D)."""
    return hidden[:, 0]


def residues(hidden: Tensor, weights: Tensor) -> Tensor:
    """Leave out `<cls>`; what follows a sequence's end is the caller's to cut: (B, T, D) to (B, T - 1, D)."""
    return hidden[:, 1:]


POOLINGS = {"mean": mean, "max": maximum, "cls": cls, "residues": residues}
