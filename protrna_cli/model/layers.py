"""The arithmetic of ProtRNA as pure functions of tensors.

Legend: B batch, T tokens, H heads, C head width, D width (D = H * C), V vocabulary.
Source: ESM-2 (Lin et al., Science 2023) as continued by ProtRNA (Zhang et al., Cell Systems 2025).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from protrna_cli.model.structure import HeadWeights, LayerWeights

Tensor = Any

EPSILON = 1e-5
MASKED = -1e30  # finite, so that a row of pads alone stays finite too


def embed_tokens(tokens: Tensor, embedding: Tensor, pad: int) -> Tensor:
    """Tokens (B, T) to their embeddings (B, T, D), zero at pads."""
    present = tf.cast(tokens != pad, embedding.dtype)
    return tf.gather(embedding, tokens) * present[..., None]


def key_bias(tokens: Tensor, pad: int) -> Tensor:
    """Tokens (B, T) to the term added to attention scores (B, 1, 1, T): 0, or MASKED where a key is a pad."""
    return tf.where(tokens != pad, 0.0, MASKED)[:, None, None, :]


def rotary_tables(length: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, C / 2) of the angle of each position; positions count from 0 at `<cls>`."""
    angle = tf.range(length, dtype=inv_freq.dtype)[:, None] * inv_freq
    return tf.cos(angle), tf.sin(angle)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of x (B, H, T, C) against each other by the angle of the position."""
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """LayerNorm over the last axis of x (..., D).

    Written as x * scale + shift, the way Keras 2 rounds it: centring x first is as right, but its last
    bits differ from the published implementation's by two to three times as much.
    """
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)


def dense(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Affine map of the last axis: (..., in) to (..., out)."""
    rows = tf.reshape(x, (-1, kernel.shape[0]))  # one large matmul, which TensorFlow fuses with its bias
    out = tf.nn.bias_add(tf.matmul(rows, kernel), bias)
    return tf.reshape(out, tf.concat([tf.shape(x)[:-1], [kernel.shape[1]]], axis=0))


def attention(x: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, w: LayerWeights) -> tuple[Tensor, Tensor]:
    """Self-attention over x (B, T, D): its output (B, T, D) and its weights (B, H, T, T)."""
    head_width = 2 * cos.shape[-1]
    batch, length, width = tf.shape(x)[0], tf.shape(x)[1], x.shape[-1]

    def heads(kernel: Tensor, offset: Tensor) -> Tensor:
        split = tf.reshape(dense(x, kernel, offset), (batch, length, width // head_width, head_width))
        return tf.transpose(split, (0, 2, 1, 3))  # (B, H, T, C)

    query = rotate(heads(w.query_kernel, w.query_bias) * head_width**-0.5, cos, sin)
    key = rotate(heads(w.key_kernel, w.key_bias), cos, sin)
    value = heads(w.value_kernel, w.value_bias)
    weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) + bias)  # (B, H, T, T)
    mixed = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))  # (B, T, H, C)
    return dense(tf.reshape(mixed, (batch, length, width)), w.out_kernel, w.out_bias), weights


def feed_forward(x: Tensor, w: LayerWeights) -> Tensor:
    """Two dense layers with an exact (erf) GELU between them: (B, T, D) to (B, T, D)."""
    return dense(tf.nn.gelu(dense(x, w.fc1_kernel, w.fc1_bias)), w.fc2_kernel, w.fc2_bias)


def encoder_layer(
    x: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, w: LayerWeights
) -> tuple[Tensor, Tensor]:
    """One pre-norm transformer layer: x (B, T, D) to x (B, T, D) and attention weights (B, H, T, T)."""
    mixed, weights = attention(layer_norm(x, w.norm1_gamma, w.norm1_beta), bias, cos, sin, w)
    x = x + mixed
    x = x + feed_forward(layer_norm(x, w.norm2_gamma, w.norm2_beta), w)
    return x, weights


def lm_head(x: Tensor, embedding: Tensor, w: HeadWeights) -> Tensor:
    """Final representation (B, T, D) to logits (B, T, V)."""
    hidden = layer_norm(tf.nn.gelu(dense(x, w.dense_kernel, w.dense_bias)), w.norm_gamma, w.norm_beta)
    return tf.einsum("btd,vd->btv", hidden, embedding) + w.bias
