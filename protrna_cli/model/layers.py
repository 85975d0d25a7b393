"""The arithmetic of ProtRNA as pure functions of tensors.

The tokens of a batch are stored one after another as rows; a layout says which row is which token. On a CPU
only attention, which needs them by sequence, computes padding. Matmuls run in the dtype of their kernel,
float32 or bfloat16; the residual stream, LayerNorm, rotation, biases and the sums of the softmax are always
float32.

Pooling makes one vector of the hidden states of a row. Residue j of a sequence is at position j + 1, after
`<cls>`. Weights (B, T) are greater than 0 at the residues that a row covers, and 0 elsewhere: special tokens
and pads are never part of a mean or maximum.

Legend: N rows, B sequences, T tokens of the longest, H heads, C head width, D = H * C width, V vocabulary.
Source: ESM-2 (Lin et al., Science 2023) as continued by ProtRNA (Zhang et al., Cell Systems 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from protrna_cli.model.structure import HeadWeights, LayerWeights

Tensor = Any
_F = TypeVar("_F", bound=Callable[..., Any])

EPSILON = 1e-5
MASKED = -1e30  # finite, so that a row of only pads stays finite too


class PackedLayout(NamedTuple):
    """A row per token and none per pad, with index tables between rows and sequences."""

    rows: Tensor  # (B, T) int32: row of each token; for a pad, any row
    heads: Tensor  # (B, H, T) int32: the same for each head, as flat index into (N, H)
    back: Tensor  # (N, H) int32: the inverse, from heads of rows to flat indices into (B, H, T)
    key_bias: Tensor  # (B, 1, 1, T): added to attention scores; 0, or MASKED where the key is a pad
    cos: Tensor  # (N, 1, C / 2): cosine of the angle at each row's position
    sin: Tensor  # (N, 1, C / 2): sine of it

    def by_head(self, x: Tensor) -> Tensor:
        """From rows (N, H, C) to sequences (B, H, T, C)."""
        return tf.gather(tf.reshape(x, (-1, x.shape[-1])), self.heads)

    def by_row(self, x: Tensor) -> Tensor:
        """From sequences (B, H, T, C) to rows (N, D)."""
        rows = tf.gather(tf.reshape(x, (-1, x.shape[-1])), self.back)  # (N, H, C)
        return tf.reshape(rows, (-1, x.shape[1] * x.shape[-1]))

    def by_token(self, x: Tensor) -> Tensor:
        """From rows (N, D) to tokens (B, T, D)."""
        return tf.gather(x, self.rows)


class PaddedLayout(NamedTuple):
    """A row per token and per pad: N = B * T, so that sequences are a view of the rows."""

    key_bias: Tensor  # (B, 1, 1, T): as in PackedLayout
    cos: Tensor  # (N, 1, C / 2): likewise
    sin: Tensor  # (N, 1, C / 2): likewise

    def by_head(self, x: Tensor) -> Tensor:
        """From rows (N, H, C) to sequences (B, H, T, C)."""
        sequences, _, _, tokens = tf.unstack(tf.shape(self.key_bias))
        return tf.transpose(tf.reshape(x, (sequences, tokens, x.shape[1], x.shape[2])), (0, 2, 1, 3))

    def by_row(self, x: Tensor) -> Tensor:
        """From sequences (B, H, T, C) to rows (N, D)."""
        return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, x.shape[1] * x.shape[-1]))

    def by_token(self, x: Tensor) -> Tensor:
        """From rows (N, D) to tokens (B, T, D)."""
        sequences, _, _, tokens = self.key_bias.shape
        return tf.reshape(x, (sequences, tokens, x.shape[-1]))


BatchLayout = PackedLayout | PaddedLayout


def fused(function: _F) -> _F:
    """Compile element-wise arithmetic with XLA into one pass over memory.

    In places that takes a third of the time. Every new N is compiled once, in about 0.2 s. Matmuls stay
    outside: oneDNN's are faster than XLA's.
    """
    return tf.function(function, jit_compile=True, autograph=False)  # type: ignore[no-any-return]


def embed_tokens(tokens: Tensor, embedding: Tensor, pad: int) -> Tensor:
    """Look up the embeddings (N, D) of tokens (N,); zero at pads."""
    present = tf.cast(tokens != pad, embedding.dtype)
    return tf.gather(embedding, tokens) * present[:, None]


def key_bias(tokens: npt.NDArray[np.int32], pad: int) -> npt.NDArray[np.float32]:
    """What is added to attention scores (B, 1, 1, T) for each key: 0, or MASKED where it is a pad."""
    return np.where(tokens != pad, np.float32(0), np.float32(MASKED))[:, None, None, :]


def rotary_tables(positions: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (N, 1, C / 2) of the angle at each position (N,). Position 0 is `<cls>`."""
    angle = tf.cast(positions, inv_freq.dtype)[:, None, None] * inv_freq
    return tf.cos(angle), tf.sin(angle)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (N, H, C) by the angle of its position: the first half of C pairs with the second."""
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


@fused
def biased_heads(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, biases: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the biases to query, key and value (N, D), and split them into heads (N, H, C).

    The query is scaled, and query and key are rotated.
    """
    shape = (-1, query.shape[-1] // (2 * cos.shape[-1]), 2 * cos.shape[-1])

    def heads(x: Tensor, bias: Tensor) -> Tensor:
        return tf.reshape(tf.cast(x, tf.float32) + bias, shape)

    results = (
        rotate(heads(query, biases[0]) * shape[-1] ** -0.5, cos, sin),
        rotate(heads(key, biases[1]), cos, sin),
        heads(value, biases[2]),
    )
    return tuple(tf.cast(x, query.dtype) for x in results)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """LayerNorm over the last axis of x (..., D).

    Computed as x * scale + shift, as in Keras 2. Centring x first is just as accurate, but its last bits
    differ from the published implementation's two to three times as much.
    """
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)


@fused
def add_norm(
    x: Tensor, change: Tensor, gamma: Tensor, beta: Tensor, next_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Add a change to x (N, D). Returns the sum, and its LayerNorm in the dtype of the change.

    The returned sum has the bias of the next change added to it already.
    """
    x = x + tf.cast(change, x.dtype)
    return x + next_bias, tf.cast(layer_norm(x, gamma, beta), change.dtype)


@fused
def biased_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Exact (erf) GELU of x (N, D) after adding a bias, computed in float32.

    TensorFlow's own divides by the root of 2 and takes `erfc`: twice the time.
    """
    total = tf.cast(x, tf.float32) + bias
    half = 0.5 * total
    return tf.cast(half + half * tf.math.erf(total * 2**-0.5), x.dtype)


def matmul(x: Tensor, kernel: Tensor) -> Tensor:
    """Multiply rows (N, in) by a kernel (out, in): (N, out).

    TensorFlow fuses a bias that is added to the result into the matmul, for which it then takes another
    kind of oneDNN's: as fast in float32, but in bfloat16 at 55 to 75 % of the rate (2,048 rows, D = 1280,
    AMX). So biases are added where the results are next read. With kernels (in, out), the rate is 85 % in
    bfloat16, and the same in float32.
    """
    return tf.matmul(x, kernel, transpose_b=True)


def dense(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Affine map of rows: (N, in) to (N, out)."""
    return tf.nn.bias_add(matmul(x, kernel), tf.cast(bias, kernel.dtype))


def softmax_adds_in_float32() -> bool:
    """Whether the softmax of bfloat16 adds up in float32 on this device, as oneDNN's does with AVX-512.

    In bfloat16 a sum of ones ends at 256, so that each of 4,096 equal shares would be 1/256.
    """
    shares = tf.function(tf.nn.softmax, autograph=False)(tf.zeros((1, 1, 1, 4096), tf.bfloat16))
    return bool(tf.reduce_all(shares == 2**-12))


def masked_softmax(scores: Tensor, key_bias: Tensor, narrow: bool) -> Tensor:
    """Softmax of scores (B, H, T, T) after adding the bias of each key; float32 unless `narrow`.

    In float32 the scores of bfloat16 are copied twice and three times as large. In bfloat16 the values are
    the same where `softmax_adds_in_float32`, in half the time, as the bias is added in the matmul before.
    """
    dtype = scores.dtype if narrow else tf.float32
    return tf.nn.softmax(tf.cast(scores, dtype) + tf.cast(key_bias, dtype))


def attention(x: Tensor, layout: BatchLayout, w: LayerWeights, narrow: bool) -> tuple[Tensor, Tensor]:
    """Self-attention over rows (N, D). Returns its output (N, D) and its weights (B, H, T, T).

    The output is without its bias. `narrow` is for `masked_softmax`.
    """
    query, key, value = biased_heads(
        matmul(x, w.query_kernel),
        matmul(x, w.key_kernel),
        matmul(x, w.value_kernel),
        layout.cos,
        layout.sin,
        (w.query_bias, w.key_bias, w.value_bias),
    )
    scores = tf.matmul(layout.by_head(query), layout.by_head(key), transpose_b=True)
    weights = masked_softmax(scores, layout.key_bias, narrow)  # (B, H, T, T)
    mixed = tf.matmul(tf.cast(weights, x.dtype), layout.by_head(value))  # (B, H, T, C)
    return matmul(layout.by_row(mixed), w.out_kernel), weights


def feed_forward(x: Tensor, w: LayerWeights) -> Tensor:
    """Two dense layers with an exact (erf) GELU between them, without the last bias: (N, D) to (N, D)."""
    if x.dtype == tf.float32:  # fused by oneDNN into one operation, in the time of the matmul
        hidden = tf.nn.gelu(dense(x, w.fc1_kernel, w.fc1_bias))
    else:
        hidden = biased_gelu(matmul(x, w.fc1_kernel), w.fc1_bias)
    return matmul(hidden, w.fc2_kernel)


def encoder_layer(
    x: Tensor, change: Tensor, layout: BatchLayout, w: LayerWeights, narrow: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One pre-norm transformer layer.

    Its input is x + change, and so is its output: the last addition is left to the LayerNorm of the next
    layer, which saves a pass over memory. The bias of a change is added to x beforehand.

    x, change: (N, D): the input but for the change, in float32; the change, in the dtype of the kernels.
    narrow: for `masked_softmax`.

    Returns x and change (N, D) after the layer, and its attention weights (B, H, T, T).
    """
    x, normed = add_norm(x, change, w.norm1_gamma, w.norm1_beta, w.out_bias)
    change, weights = attention(normed, layout, w, narrow)
    x, normed = add_norm(x, change, w.norm2_gamma, w.norm2_beta, w.fc2_bias)
    return x, feed_forward(normed, w), weights


def lm_head(x: Tensor, embedding: Tensor, w: HeadWeights) -> Tensor:
    """Compute logits (N, V) from the final representation (N, D)."""
    hidden = tf.nn.gelu(dense(tf.cast(x, w.dense_kernel.dtype), w.dense_kernel, w.dense_bias))
    hidden = layer_norm(tf.cast(hidden, tf.float32), w.norm_gamma, w.norm_beta)
    return tf.matmul(hidden, embedding, transpose_b=True) + w.bias


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
