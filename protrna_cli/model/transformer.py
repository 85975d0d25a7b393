"""The forward pass: tokens in; representations, logits, attention weights or pooled rows out.

Legend: B batch, T tokens, H heads, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from protrna_cli.alphabet import Alphabet, Tokens
from protrna_cli.model import layers
from protrna_cli.model.pooling import POOLINGS
from protrna_cli.model.structure import LayerWeights, ModelSize, ModelWeights, weight_shapes

Tensor = Any


class ProtRNA:
    """A ProtRNA model with its weights in memory.

    Parameters
    ----------
    size, weights
        As `read_checkpoint` or `demo_weights` give them, weights as float32 tensors.
    """

    def __init__(self, size: ModelSize, weights: ModelWeights) -> None:
        self.size = size
        self.alphabet = Alphabet()
        self._weights = weights
        self._pool = {name: tf.function(pool, reduce_retracing=True) for name, pool in POOLINGS.items()}

    def __call__(
        self, tokens: Tokens | Tensor, repr_layers: Sequence[int] = (), need_head_weights: bool = False
    ) -> dict[str, Any]:
        """Run the model, as published.

        Parameters
        ----------
        tokens
            int32 (B, T), from the batch converter.
        repr_layers
            Layers to return: 0 is the embedding, `size.layers` the last, after the final LayerNorm;
            negatives count from the end.
        need_head_weights
            Return the attention weights too.

        Returns
        -------
        dict
            `logits` float32 (B, T, V); `representations` {layer: float32 (B, T, D)}; and, when asked,
            `attentions` float32 (B, layers, H, T, T).

        Raises
        ------
        UsageError
            A layer that the model does not have.
        """
        wanted = {layer: self.size.layer_index(layer) for layer in repr_layers}
        attentions: list[Tensor] = []
        hidden = dict(self._hidden(tokens, self.size.layers, attentions if need_head_weights else None))
        last = hidden[self.size.layers]
        results: dict[str, Any] = {
            "logits": layers.lm_head(last, self._weights.embedding, self._weights.lm_head),
            "representations": {layer: hidden[index] for layer, index in wanted.items()},
        }
        if need_head_weights:
            results["attentions"] = tf.stack(attentions, axis=1)
        return results

    def embed(
        self, tokens: Tokens, weights: npt.NDArray[np.float32], repr_layers: Sequence[int], pooling: str
    ) -> list[npt.NDArray[np.float32]]:
        """Run the model for embeddings alone: no LM head, no attention weights, pooled on the device.

        Parameters
        ----------
        tokens, weights
            int32 (B, T), and float32 (B, T): the weight of each token in its row's mean, more than 0 at the
            residues that a row speaks of and 0 elsewhere.
        repr_layers
            Layers, each 0 … `size.layers`.
        pooling
            `mean` (the sum by weight), `max` (of what has a weight), `cls`, or `none` for residues.

        Returns
        -------
        list
            One float32 array a layer, in the order asked: (B, D), or (B, T - 1, D) for `none`, from the first
            residue on; its rows past a sequence's end have no meaning.

        Raises
        ------
        MemoryError
            The batch does not fit on the device.
        """
        pool = self._pool[pooling]
        try:
            pooled = {
                index: pool(hidden, tf.constant(weights))
                for index, hidden in self._hidden(tokens, max(repr_layers))
                if index in repr_layers
            }
            return [pooled[index].numpy() for index in repr_layers]  # where a device that runs ahead fails
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(str(error)) from error

    def _hidden(
        self, tokens: Tokens | Tensor, last: int, attentions: list[Tensor] | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield representations 0 … last; attention weights (B, H, T, T) are kept only where asked for."""
        pad = self.alphabet.padding_idx
        tokens = tf.convert_to_tensor(tokens, tf.int32)
        x = layers.embed_tokens(tokens, self._weights.embedding, pad)
        yield 0, x
        bias = layers.key_bias(tokens, pad)
        cos, sin = layers.rotary_tables(tokens.shape[1], self._weights.layers[0].inv_freq)
        for index, weights in enumerate(self._weights.layers[:last], start=1):
            if attentions is None:
                x = self._layer(x, bias, cos, sin, weights)
            else:
                x, attention = self._layer_with_attention(x, bias, cos, sin, weights)
                attentions.append(attention)
            yield index, layers.layer_norm(x, *self._weights.final_norm) if index == self.size.layers else x

    @cached_property
    def _layer(self) -> Any:
        """One layer, traced once for all layers and all shapes."""

        def run(x: Tensor, bias: Tensor, cos: Tensor, sin: Tensor, w: LayerWeights) -> Tensor:
            return layers.encoder_layer(x, bias, cos, sin, w)[0]

        return tf.function(run, input_signature=self._signature)

    @cached_property
    def _layer_with_attention(self) -> Any:
        return tf.function(layers.encoder_layer, input_signature=self._signature)

    @property
    def _signature(self) -> list[Any]:
        layer = weight_shapes(self.size).layers[0]
        table = tf.TensorSpec((None, self.size.head_width // 2))
        return [
            tf.TensorSpec((None, None, self.size.width)),
            tf.TensorSpec((None, 1, 1, None)),
            table,
            table,
            LayerWeights(*map(tf.TensorSpec, layer)),
        ]
