"""From hidden states to one vector a record. Special tokens and pads never enter a mean or a maximum.

Legend: B batch, T tokens, D width. Residue j of a record stands at position j + 1, after `<cls>`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


def residue_mask(lengths: Tensor, width: Tensor) -> Tensor:
    """Lengths (B,) in residues to a boolean mask (B, T, 1), true at residues."""
    position = tf.range(width)[None, :, None]
    return (position >= 1) & (position <= lengths[:, None, None])


def mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Mean over residues: (B, T, D) to (B, D)."""
    kept = tf.where(residue_mask(lengths, tf.shape(hidden)[1]), hidden, 0.0)
    return tf.reduce_sum(kept, axis=1) / tf.cast(lengths[:, None], hidden.dtype)


def maximum(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Maximum over residues: (B, T, D) to (B, D)."""
    return tf.reduce_max(
        tf.where(residue_mask(lengths, tf.shape(hidden)[1]), hidden, hidden.dtype.min), axis=1
    )


def cls(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Vector of the `<cls>` token: (B, T, D) to (B, D)."""
    return hidden[:, 0]


def residues(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Leave out `<cls>`; rows past a record's length are the caller's to cut: (B, T, D) to (B, T - 1, D)."""
    return hidden[:, 1:]


POOLINGS = {"mean": mean, "max": maximum, "cls": cls, "none": residues}
