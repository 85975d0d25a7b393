"""The size of a model, and the name and shape of every weight.

Legend: D width, H heads, C head width (D = H * C), V vocabulary. Kernels are (in, out) in a checkpoint, and
(out, in) in a model: oneDNN multiplies by these faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import UsageError
from protrna_cli.plan.rules import ALL
from protrna_cli.text import counted

VOCABULARY = 38

Shape = tuple[int, ...]
Placer = Callable[[str, npt.NDArray[np.float32]], Any]
"""Called with the name (see `weight_names`) and values of each weight as it is read; returns what the model
computes with."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelSize:
    """The three numbers that determine every shape of the model."""

    layers: int
    width: int
    heads: int

    def __str__(self) -> str:
        return f"{counted(self.layers, 'layer')} × {self.width}, {counted(self.heads, 'head')}"

    @property
    def head_width(self) -> int:
        """C, the width of one attention head."""
        return self.width // self.heads

    @property
    def parameters(self) -> int:
        """Count of trained values, without the rotary frequencies, which are constants."""
        shapes = weight_shapes(self)
        trained = [shape for layer in shapes.layers for shape in layer._replace(inv_freq=(0,))]
        trained += [shapes.embedding, *shapes.final_norm, *shapes.lm_head]
        return sum(int(np.prod(shape)) for shape in trained)

    def layer_index(self, layer: int) -> int:
        """Resolve a layer, which may be negative to count from the end, to 0 … `layers`."""
        index = layer + self.layers + 1 if layer < 0 else layer
        if not 0 <= index <= self.layers:
            raise UsageError(
                f"this model has layers 0 to {self.layers}, not {layer}; -1 is the last (--layer)"
            )
        return index

    def layer_indices(self, layers: Sequence[int] | str) -> tuple[int, ...]:
        """Resolve layers with `layer_index`, in the order given and without repeats; `all` is every one."""
        if isinstance(layers, str):
            assert layers == ALL
            return tuple(range(self.layers + 1))
        return tuple(dict.fromkeys(map(self.layer_index, layers)))

    @property
    def operations(self) -> int:
        """Floating-point operations per token in matmuls, without attention scores: 24 D² per layer."""
        return self.layers * 24 * self.width**2

    def attention_bytes(self, width: int) -> int:
        """Bytes that attention needs for a sequence of `width` tokens: twice its scores (H, T, T).

        Measured: 1.4 times the scores, on a CPU, for 2,000 and 4,000 tokens.
        """
        return 2 * 4 * self.heads * width**2


def row_count(tokens: int) -> int:
    """Number of rows for this many tokens: the next multiple of 128, or of 32 below. The last rows are empty.

    Every new number of rows is compiled once, so there should be few. A job of one short record has one
    batch: 32 rows instead of 128 save half a second of it with the published model on two cores.
    """
    step = 32 if tokens <= 96 else 128
    return -(-tokens // step) * step


def padded_shape(sequences: int, tokens: int) -> tuple[int, int]:
    """Sequences and tokens to which a batch on a GPU is padded: few shapes, as each is compiled once, in 1 s.

    Tokens are rounded up to a multiple of 16, and sequences to one of 16 steps between powers of 2. With
    batches of 32,768 tokens of 1,487 non-coding RNAs, a tenth of what is computed are then pads.
    """
    step = 1 << max(0, sequences.bit_length() - 5)
    return -(-sequences // step) * step, -(-tokens // 16) * 16


def batches_at_once(threads: int) -> int:
    """How many batches to run at once on the threads of a CPU.

    Two share all threads: while some wait for the slowest one of an operation, the others work on the other
    batch. Measured on two cores with AMX: 1.4 to 1.5 times the rate in bfloat16, 1.03 times in float32; three
    gain no more.
    """
    return 2 if threads > 1 else 1


PUBLISHED_SIZE = ModelSize(layers=33, width=1280, heads=20)


class LayerWeights(NamedTuple):
    """Weights of one transformer layer, in the order of the published checkpoint."""

    query_kernel: Any  # (D, D)
    query_bias: Any  # (D,)
    key_kernel: Any  # (D, D)
    key_bias: Any  # (D,)
    value_kernel: Any  # (D, D)
    value_bias: Any  # (D,)
    out_kernel: Any  # (D, D)
    out_bias: Any  # (D,)
    inv_freq: Any  # (C / 2,)
    norm1_gamma: Any  # (D,)
    norm1_beta: Any  # (D,)
    fc1_kernel: Any  # (D, 4 D); in a model (4 D, D)
    fc1_bias: Any  # (4 D,)
    fc2_kernel: Any  # (4 D, D); in a model (D, 4 D)
    fc2_bias: Any  # (D,)
    norm2_gamma: Any  # (D,)
    norm2_beta: Any  # (D,)


class NormWeights(NamedTuple):
    """Weights of a LayerNorm."""

    gamma: Any  # (D,)
    beta: Any  # (D,)


class HeadWeights(NamedTuple):
    """Weights of the language-model head, whose output kernel is the transposed embedding."""

    bias: Any  # (V,)
    dense_kernel: Any  # (D, D)
    dense_bias: Any  # (D,)
    norm_gamma: Any  # (D,)
    norm_beta: Any  # (D,)


class ModelWeights(NamedTuple):
    """All weights of a model: arrays, tensors, or (from `weight_shapes`) their shapes."""

    embedding: Any  # (V, D)
    layers: tuple[LayerWeights, ...]
    final_norm: NormWeights
    lm_head: HeadWeights


def weight_shapes(size: ModelSize) -> ModelWeights:
    """Return the shape of every weight of a model of this size."""
    vector, square = (size.width,), (size.width, size.width)
    wide = 4 * size.width
    layer = LayerWeights(
        *(square, vector) * 4,
        (size.head_width // 2,),
        *(vector, vector),
        *((size.width, wide), (wide,)),
        *((wide, size.width), vector),
        *(vector, vector),
    )
    return ModelWeights(
        embedding=(VOCABULARY, size.width),
        layers=(layer,) * size.layers,
        final_norm=NormWeights(vector, vector),
        lm_head=HeadWeights((VOCABULARY,), square, vector, vector, vector),
    )


def weight_names(size: ModelSize) -> ModelWeights:
    """Return the name of every weight of a model of this size, such as `layers.0.query_kernel`."""
    return ModelWeights(
        embedding="embedding",
        layers=tuple(
            LayerWeights(*(f"layers.{i}.{field}" for field in LayerWeights._fields))
            for i in range(size.layers)
        ),
        final_norm=NormWeights(*(f"final_norm.{field}" for field in NormWeights._fields)),
        lm_head=HeadWeights(*(f"lm_head.{field}" for field in HeadWeights._fields)),
    )


def for_each_weight(function: Callable[..., Any], *models: ModelWeights) -> ModelWeights:
    """Call a function with each weight, or with what several models of one size have in its place."""
    return ModelWeights(
        function(*(model.embedding for model in models)),
        tuple(
            LayerWeights(*map(function, *layers))
            for layers in zip(*(model.layers for model in models), strict=True)
        ),
        NormWeights(*map(function, *(model.final_norm for model in models))),
        HeadWeights(*map(function, *(model.lm_head for model in models))),
    )


def rotary_frequencies(head_width: int) -> npt.NDArray[np.float32]:
    """Return the inverse frequencies of the rotary positions, 10000^(-2i / C): float32 (C / 2,)."""
    half = head_width // 2
    return (10000.0 ** -(np.arange(half) / half)).astype(np.float32)
