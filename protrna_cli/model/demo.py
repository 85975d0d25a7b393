"""The built-in demo model: synthetic weights from a fixed seed. It runs at once, offline, anywhere.

Its embeddings have the right shapes and come from the real arithmetic, but have no biological meaning.
"""

from __future__ import annotations

import numpy as np

from protrna_cli.model.structure import (
    ModelSize,
    ModelWeights,
    Placer,
    Shape,
    for_each_weight,
    rotary_frequencies,
    weight_names,
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
        if name.endswith("inv_freq"):
            return place(name, rotary_frequencies(SIZE.head_width))
        if name.endswith("kernel"):
            values = rng.standard_normal(shape) * shape[0] ** -0.5
        elif name.endswith("gamma"):
            values = 1 + 0.1 * rng.standard_normal(shape)
        else:
            values = (1.0 if name == "embedding" else 0.02) * rng.standard_normal(shape)
        return place(name, values.astype(np.float32))

    return SIZE, for_each_weight(make, weight_names(SIZE), weight_shapes(SIZE))
