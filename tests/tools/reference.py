"""The ProtRNA forward pass in plain NumPy float64: the reference of the tests.

It shares no code with the package, reads the published HDF5 layout itself and prefers the simplest formula to
the fastest one.

Shapes: B batch, T tokens, H heads, D width, C head width (D = H * C), F feed-forward (4 D).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Pair = tuple[Array, Array]
"""Kernel (in, out) and bias (out,) of a dense layer, or gamma (D,) and beta (D,) of a LayerNorm."""

PAD = 1
EPSILON = 1e-5

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class LayerWeights:
    """One transformer layer; after `inv_freq` the fields are in the order of the checkpoint."""

    inv_freq: Array  # (C / 2,)
    query: Pair
    key: Pair
    value: Pair
    out: Pair
    norm1: Pair
    fc1: Pair
    fc2: Pair
    norm2: Pair


@dataclass(frozen=True)
class ReferenceWeights:
    """All weights, float32 as stored: products with float64 activations are float64."""

    embedding: Array  # (38, D)
    layers: list[LayerWeights]
    norm: Pair
    head_bias: Array  # (38,)
    head_dense: Pair
    head_norm: Pair


@dataclass(frozen=True)
class ReferenceOutput:
    """All outputs of the model, float64."""

    representations: list[Array]  # layers + 1 of (B, T, D)
    logits: Array  # (B, T, 38)
    attentions: Array  # (B, layers, H, T, T)


def read_weights(path: Path | str) -> ReferenceWeights:
    """Read a checkpoint by the order of its `layer_names` and `weight_names`.

    Parameters
    ----------
    path
        An HDF5 file of any size, in the published layout.

    Returns
    -------
    ReferenceWeights
        The weights, unchanged.
    """
    with h5py.File(path) as file:
        groups = [_tensors(file[name]) for name in file.attrs["layer_names"]]
    [embedding], *layers, [gamma, beta], [_, head_bias, *head] = groups
    head_dense, head_norm = _pairs(head)
    return ReferenceWeights(
        embedding, [_layer_weights(each) for each in layers], (gamma, beta), head_bias, head_dense, head_norm
    )


def forward(weights: ReferenceWeights, tokens: NDArray[np.integer]) -> ReferenceOutput:
    """Run the whole model in float64.

    Parameters
    ----------
    weights
        The weights of a checkpoint.
    tokens
        Token ids (B, T); a row with only padding would have no key to attend to.

    Returns
    -------
    ReferenceOutput
        All representations, the logits and all attentions.
    """
    pad = tokens == PAD  # (B, T)
    x = np.where(pad[..., None], 0.0, weights.embedding[tokens].astype(np.float64))  # (B, T, D)
    representations, attentions = [x], []
    for layer in weights.layers:
        mixed, attention = _attend(_norm(x, layer.norm1), layer, pad)
        x = x + mixed
        x = x + _dense(_gelu(_dense(_norm(x, layer.norm2), layer.fc1)), layer.fc2)
        representations.append(x)
        attentions.append(attention)
    last = representations[-1] = _norm(x, weights.norm)
    hidden = _norm(_gelu(_dense(last, weights.head_dense)), weights.head_norm)  # (B, T, D)
    logits = hidden @ weights.embedding.T + weights.head_bias
    return ReferenceOutput(representations, logits, np.stack(attentions, axis=1))


def _attend(x: Array, layer: LayerWeights, pad: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Self-attention over x (B, T, D): its output (B, T, D) and its weights (B, H, T, T)."""
    head_width = 2 * layer.inv_freq.size
    query = _rotate(_heads(_dense(x, layer.query), head_width) * head_width**-0.5, layer.inv_freq)
    key = _rotate(_heads(_dense(x, layer.key), head_width), layer.inv_freq)
    value = _heads(_dense(x, layer.value), head_width)  # (B, H, T, C)
    scores = np.where(pad[:, None, None, :], -np.inf, query @ key.swapaxes(2, 3))  # (B, H, T, T)
    attention = _softmax(scores)
    merged = (attention @ value).swapaxes(1, 2).reshape(x.shape)  # (B, T, D)
    return _dense(merged, layer.out), attention


def _rotate(x: Array, inv_freq: Array) -> Array:
    """Rotate x (B, H, T, C) by its position, in pairs of its first and its second half."""
    angle = np.arange(x.shape[2])[:, None] * inv_freq.astype(np.float64)  # (T, C / 2)
    first, second = np.split(x, 2, axis=-1)
    rotated = first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)
    return np.concatenate(rotated, axis=-1)


def _heads(x: Array, head_width: int) -> Array:
    """(B, T, D) -> (B, H, T, C)."""
    return x.reshape(*x.shape[:2], -1, head_width).swapaxes(1, 2)


def _dense(x: Array, weights: Pair) -> Array:
    kernel, bias = weights
    return x @ kernel + bias


def _norm(x: Array, weights: Pair) -> Array:
    gamma, beta = weights
    centred: Array = x - x.mean(-1, keepdims=True)
    deviation: Array = np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    return centred / deviation * gamma + beta


def _gelu(x: Array) -> Array:
    erf: Array = _erf(x / math.sqrt(2))
    return x * (1 + erf) / 2


def _softmax(x: Array) -> Array:
    exponentials: Array = np.exp(x - x.max(-1, keepdims=True))
    total: Array = exponentials.sum(-1, keepdims=True)
    return exponentials / total


def _tensors(group: h5py.Group) -> list[Array]:
    return [group[name][:] for name in group.attrs["weight_names"]]


def _layer_weights(tensors: list[Array]) -> LayerWeights:
    # inv_freq is ninth or last; it is shorter than every bias and scale.
    width = len(tensors[0])
    [index] = [i for i, tensor in enumerate(tensors) if tensor.ndim == 1 and tensor.size < width]
    return LayerWeights(tensors[index], *_pairs(tensors[:index] + tensors[index + 1 :]))


def _pairs(tensors: list[Array]) -> list[Pair]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
