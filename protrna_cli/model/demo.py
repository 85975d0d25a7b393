"""The built-in demo model: synthetic weights from a fixed seed. It runs at once, offline, anywhere.

Its embeddings have the right shapes and come from the real arithmetic, but have no biological meaning.
"""

from __future__ import annotations

import numpy as np

from protrna_cli.model.structure import (
    HeadWeights,
    LayerWeights,
    ModelSize,
    ModelWeights,
    NormWeights,
    Placer,
    Shape,
    weight_shapes,
)

SIZE = ModelSize(layers=6, width=320, heads=20)
SEED = 20250


def demo_weights(place: Placer) -> tuple[ModelSize, ModelWeights]:
    """Make the demo model's weights, the same on every machine.

    Parameters
    ----------
    place
        Called with the name and values (float32) of each weight, as in `read_checkpoint`.
    """
    # RandomState, not Generator: only its stream is guaranteed never to change.
    rng = np.random.RandomState(SEED)

    def make(name: str, shape: Shape) -> object:
        if name == "inv_freq":
            values = 10000.0 ** -(np.arange(*shape) / shape[0])
        elif name.endswith("kernel"):
            values = rng.standard_normal(shape) * shape[0] ** -0.5
        elif name.endswith("gamma"):
            values = 1 + 0.1 * rng.standard_normal(shape)
        else:
            values = (1.0 if name == "embedding" else 0.02) * rng.standard_normal(shape)
        return place(name, values.astype(np.float32))

    shapes = weight_shapes(SIZE)
    return SIZE, ModelWeights(
        make("embedding", shapes.embedding),
        tuple(LayerWeights(*map(make, LayerWeights._fields, layer)) for layer in shapes.layers),
        NormWeights(*map(make, NormWeights._fields, shapes.final_norm)),
        HeadWeights(*map(make, HeadWeights._fields, shapes.lm_head)),
    )
