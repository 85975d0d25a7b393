"""The forward pass, from tokens to representations, logits, attention weights or pooled rows.

Legend: B sequences, T tokens of the longest, N rows (all tokens of a batch, one after another), H heads,
D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from protrna_cli.errors import UsageError
from protrna_cli.model import layers
from protrna_cli.model.alphabet import Alphabet, Floats, Tokens
from protrna_cli.model.layers import POOLINGS, BatchLayout, PackedLayout, PaddedLayout
from protrna_cli.model.runtime import running_on, threads
from protrna_cli.model.structure import (
    LayerWeights,
    ModelSize,
    ModelWeights,
    batches_at_once,
    padded_shape,
    row_count,
)

Tensor = Any

GPU_BATCHES = 2
"""Batches at once on a GPU: while it computes one, the next is prepared."""


def pads_batches(device: str) -> bool:
    """Whether pads are computed too on a device, by TensorFlow's name.

    On a GPU the whole layer is then one function compiled by XLA. On an H200, in bfloat16, one of 128
    sequences of 256 tokens takes 3.3 ms, against 5.7 ms with a row per token, where the processor that starts
    the many operations of a layer is what limits it. On a CPU a pad costs as much as a token.
    """
    return "GPU" in device


class ProtRNA:
    """A ProtRNA model with its weights in memory.

    Parameters
    ----------
    size, weights
        From `read_checkpoint` or `demo_weights`, with weights as tensors: kernels in the dtype for matmuls
        (float32 or bfloat16), all others in float32.
    precision
        Precision of matrix multiplication: `float32` or `bfloat16`.
    device
        TensorFlow's name of the device that has the weights.
    """

    def __init__(
        self,
        size: ModelSize,
        weights: ModelWeights,
        precision: str = "float32",
        device: str = "/device:CPU:0",
    ) -> None:
        self.size = size
        self.precision = precision
        self.device = device
        self.alphabet = Alphabet()
        self._weights = weights
        self._padded = pads_batches(device)

    def __call__(
        self, tokens: Tokens | Tensor, repr_layers: Sequence[int] = (), need_head_weights: bool = False
    ) -> dict[str, Any]:
        """Run the model, as published.

        Parameters
        ----------
        tokens
            int32 (B, T) from the batch converter.
        repr_layers
            Layers to return: 0 is the embedding, `size.layers` the last (after the final LayerNorm);
            negatives count from the end.
        need_head_weights
            Whether to return attention weights too.

        Returns
        -------
        dict
            `logits` float32 (B, T, V); `representations` {layer: float32 (B, T, D)}; with
            `need_head_weights` also `attentions` float32 (B, layers, H, T, T).

        Raises
        ------
        UsageError
            These are no tokens, the model does not have one of the layers, or this process was forked after
            it was loaded.
        """
        try:
            ids = np.asarray(tokens, np.int32)
        except (TypeError, ValueError):
            ids = np.empty(0, np.int32)
        if ids.ndim != 2:
            raise UsageError(
                "a model takes tokens, int32 (B, T); make them with model.alphabet.get_batch_converter(), or "
                "use embed(sequences, model)"
            )
        wanted = {layer: self.size.layer_index(layer) for layer in repr_layers}
        with running_on(self.device):
            return self._run(ids, wanted, need_head_weights)

    def _run(self, tokens: Tokens, wanted: dict[int, int], need_head_weights: bool) -> dict[str, Any]:
        """Run the model; `wanted` has the index of each layer to return."""
        attentions: list[Tensor] = []
        all_tokens = np.ones(tokens.shape, bool)  # as published, pads have representations too
        x, layout = self._rows(tokens, all_tokens)
        n_sequences, n_tokens = tokens.shape
        indices = {*wanted.values(), self.size.layers}
        hidden = dict(self._hidden(x, layout, indices, attentions if need_head_weights else None))
        logits = layers.lm_head(hidden[self.size.layers], self._weights.embedding, self._weights.lm_head)
        results: dict[str, Any] = {
            "logits": layout.by_token(logits)[:n_sequences, :n_tokens],
            "representations": {
                layer: layout.by_token(hidden[i])[:n_sequences, :n_tokens] for layer, i in wanted.items()
            },
        }
        if need_head_weights:
            results["attentions"] = tf.stack(attentions, axis=1)[:n_sequences, ..., :n_tokens, :n_tokens]
        return results

    def _embed_batch(
        self,
        tokens: Tokens,
        weights: Floats,
        repr_layers: Sequence[int],
        *poolings: str,
        check: Callable[[], None] = lambda: None,
    ) -> list[Floats]:
        """Run the model for embeddings only: no LM head, no attention weights; pooled on the device.

        tokens, weights: int32 (B, T), and float32 (B, T): the weight of each token in the mean of its row,
            greater than 0 at the residues that the row covers and 0 elsewhere.
        repr_layers: layers, each 0 … `size.layers`.
        poolings: one or more of `mean` (weighted sum), `max` (over tokens with a weight above 0), `cls`, and
            `residues` for one vector per residue.
        check: called before each layer; what it raises ends the call.

        Returns float32 arrays in the order given: all layers of the first pooling, then of the next. Shape
            (B, D), or (B, T - 1, D) for `residues`: from the first residue on, and without meaning after the
            last residue of a sequence.

        Raises MemoryError: the batch does not fit on the device.
        """
        try:
            with running_on(self.device):
                return self._pooled(tokens, weights, repr_layers, poolings, check)
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(str(error)) from error

    def _pooled(
        self,
        tokens: Tokens,
        weights: Floats,
        repr_layers: Sequence[int],
        poolings: Sequence[str],
        check: Callable[[], None],
    ) -> list[Floats]:
        pooled: dict[tuple[str, int], Tensor] = {}
        x, layout = self._rows(tokens, tokens != self.alphabet.padding_idx)
        for index, hidden in self._hidden(x, layout, repr_layers, check=check):
            batch = layout.by_token(hidden)[: len(tokens), : tokens.shape[1]]
            for pooling in poolings:
                pooled[pooling, index] = POOLINGS[pooling](batch, tf.constant(weights))
        # A device that runs asynchronously reports errors here.
        return [pooled[pooling, index].numpy() for pooling in poolings for index in repr_layers]

    def _rows(self, tokens: Tokens, computed: npt.NDArray[np.bool_]) -> tuple[Tensor, BatchLayout]:
        """Embed the tokens (B, T) where `computed` is True. Returns rows (N, D) and their layout."""
        return self._padded_rows(tokens) if self._padded else self._packed_rows(tokens, computed)

    def _padded_rows(self, tokens: Tokens) -> tuple[Tensor, PaddedLayout]:
        """Embed all tokens (B, T), padded to one of few shapes."""
        pad = self.alphabet.padding_idx
        tokens = _padded(tokens, *padded_shape(*tokens.shape), pad)
        position = np.tile(np.arange(tokens.shape[1], dtype=np.int32), len(tokens))
        cos, sin = layers.rotary_tables(position, self._weights.layers[0].inv_freq)
        layout = PaddedLayout(tf.constant(layers.key_bias(tokens, pad)), cos, sin)
        return layers.embed_tokens(tf.constant(tokens.ravel()), self._weights.embedding, pad), layout

    def _packed_rows(self, tokens: Tokens, computed: npt.NDArray[np.bool_]) -> tuple[Tensor, PackedLayout]:
        """Embed the tokens (B, T) where `computed` is True, a row each."""
        pad = self.alphabet.padding_idx
        n_tokens = int(computed.sum())
        sequence, position = np.zeros((2, row_count(n_tokens)), np.int32)
        sequence[:n_tokens], position[:n_tokens] = np.nonzero(computed)
        ids = np.where(np.arange(len(sequence)) < n_tokens, tokens[sequence, position], pad)
        rows = np.zeros(tokens.shape, np.int32)
        rows[computed] = np.arange(n_tokens)
        head = np.arange(self.size.heads, dtype=np.int32)
        heads = rows[:, None, :] * len(head) + head[:, None]
        back = (sequence[:, None] * len(head) + head) * np.int32(tokens.shape[1]) + position[:, None]
        cos, sin = layers.rotary_tables(position, self._weights.layers[0].inv_freq)
        tables = (rows, heads, back, layers.key_bias(tokens, pad), cos, sin)
        layout = PackedLayout(*map(tf.constant, tables))
        return layers.embed_tokens(tf.constant(ids), self._weights.embedding, pad), layout

    def _hidden(
        self,
        x: Tensor,
        layout: BatchLayout,
        wanted: Collection[int],
        attentions: list[Tensor] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the wanted representations (N, D), in order; append attention weights to `attentions`."""
        if 0 in wanted:
            yield 0, x
        change = tf.zeros_like(x, self._kernel_dtype)
        for index, weights in enumerate(self._weights.layers[: max(wanted)], start=1):
            check()
            if attentions is None:
                x, change = self._layer(x, change, layout, weights)
            else:
                x, change, attention = self._layer_with_attention(x, change, layout, weights)
                attentions.append(tf.cast(attention, tf.float32))
            if index in wanted:
                hidden = x + tf.cast(change, x.dtype)
                final = index == self.size.layers
                yield index, layers.layer_norm(hidden, *self._weights.final_norm) if final else hidden

    @property
    def at_once(self) -> int:
        """How many batches to run at once for the most tokens per second."""
        return GPU_BATCHES if "GPU" in self.device else batches_at_once(threads())

    @property
    def _kernel_dtype(self) -> Any:
        return self._weights.layers[0].query_kernel.dtype

    @cached_property
    def _layer(self) -> Any:
        return self._layer_function(with_attention=False)

    @cached_property
    def _layer_with_attention(self) -> Any:
        return self._layer_function(with_attention=True)

    def _layer_function(self, with_attention: bool) -> Any:
        narrow = self.precision == "bfloat16" and layers.softmax_adds_in_float32()
        weights = LayerWeights(*(tf.TensorSpec(w.shape, w.dtype) for w in self._weights.layers[0]))
        return _layer_function(self.size.heads, weights, narrow, with_attention, self._padded)


@cache
def _layer_function(
    heads: int, weights: LayerWeights, narrow: bool, with_attention: bool, padded: bool
) -> Any:
    """Make the function of one layer, traced once for all layers, shapes, and models of a size.

    weights: their shapes and dtypes.
    narrow: for `masked_softmax`.
    padded: whether it takes a `PaddedLayout`; XLA then compiles it as a whole, once for every shape.
    """

    def run(x: Tensor, change: Tensor, layout: BatchLayout, w: LayerWeights) -> Any:
        results = layers.encoder_layer(x, change, layout, w, narrow)
        return results if with_attention else results[:2]

    [width] = weights.out_bias.shape
    table = tf.TensorSpec((None, 1, *weights.inv_freq.shape))
    positions = (tf.TensorSpec((None, 1, 1, None)), table, table)
    layout: BatchLayout = PaddedLayout(*positions)
    if not padded:
        layout = PackedLayout(
            tf.TensorSpec((None, None), tf.int32),
            tf.TensorSpec((None, heads, None), tf.int32),
            tf.TensorSpec((None, heads), tf.int32),
            *positions,
        )
    x = tf.TensorSpec((None, width))
    change = tf.TensorSpec((None, width), weights.out_kernel.dtype)
    return tf.function(
        run,
        input_signature=[x, change, layout, weights],
        autograph=False,
        jit_compile=padded or None,
    )


def _padded(array: npt.NDArray[Any], rows: int, columns: int, value: int) -> npt.NDArray[Any]:
    """Pad a table to so many rows and columns."""
    if array.shape == (rows, columns):
        return array
    padded = np.full((rows, columns), value, array.dtype)
    padded[: len(array), : array.shape[1]] = array
    return padded
