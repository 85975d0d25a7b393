"""Write ProtRNA checkpoints of any size: random weights in the published HDF5 layout.

From the command line the defaults give the full-size model (651 M parameters, 2.4 GiB):

    python -m tests.tools.checkpoints OUT.h5 [--layers 33 --width 1280 --heads 20 --seed 0]

Shapes: H heads, D width, C head width (D = H * C), F feed-forward (4 D).
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

VOCABULARY = 38
EMBEDDING = "embedding/embeddings:0"

# Mean and standard deviation by the last part of a name. No bias may be zero: TensorFlow's
# optimiser drops the addition of zeros, and then other kernels run than in the real model.
DISTRIBUTIONS = {
    "embeddings:0": (0.0, 1.0),  # large enough that the tokens stay different in deep layers
    "bias:0": (0.0, 0.02),
    "gamma:0": (1.0, 0.1),
    "beta:0": (0.0, 0.05),
}


class Tensor(NamedTuple):
    """A weight to write: its path inside its group, and its shape."""

    path: str
    shape: tuple[int, ...]


def write_checkpoint(
    path: Path | str, *, layers: int, width: int, heads: int, seed: int = 0, trainable_order: bool = False
) -> None:
    """Write a checkpoint of random weights, one tensor at a time.

    Parameters
    ----------
    path
        The HDF5 file to write, replaced if it exists.
    layers, width, heads
        The size of the model; a head must have an even width.
    seed
        Equal seeds and sizes give equal weights.
    trainable_order
        List `inv_freq` last in its layer, as a file saved from a trainable model may do.
        The weights are the same either way.
    """
    if width % (2 * heads):
        raise ValueError(f"width {width} does not divide into {heads} heads of an even width")
    rng = np.random.default_rng(seed)
    groups = dict(_groups(layers, width, heads))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = _encoded(groups)
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.14.0"
        file.create_group("top_level_model_weights").attrs["weight_names"] = []
        for name, tensors in groups.items():
            _write_group(file.create_group(name), tensors, rng)
            listed = sorted(tensors, key=_is_inv_freq) if trainable_order else tensors
            file[name].attrs["weight_names"] = _encoded(tensor.path for tensor in listed)


def _write_group(group: h5py.Group, tensors: Sequence[Tensor], rng: np.random.Generator) -> None:
    for tensor in tensors:
        if group.name == "/lm_head" and tensor.path == EMBEDDING:  # tied
            group.create_dataset(EMBEDDING, data=group.file["embedding"][EMBEDDING][:])
        else:
            group.create_dataset(tensor.path, data=_values(tensor, rng))


def _values(tensor: Tensor, rng: np.random.Generator) -> NDArray[np.float32]:
    if _is_inv_freq(tensor):
        return _inv_freq(*tensor.shape)
    # A kernel (in, out) keeps the variance of its input, so 33 layers stay well behaved.
    kernel = (0.0, tensor.shape[0] ** -0.5)
    mean, deviation = DISTRIBUTIONS.get(tensor.path.rpartition("/")[2], kernel)
    values = rng.standard_normal(tensor.shape, dtype=np.float32)
    values *= deviation  # in place: the largest tensors take nearly all memory of this program
    values += mean
    return values


def _inv_freq(half: int) -> NDArray[np.float32]:
    return (10000.0 ** -(np.arange(half) / half)).astype(np.float32)


def _is_inv_freq(tensor: Tensor) -> bool:
    return tensor.path.endswith("/inv_freq:0")


def _groups(layers: int, width: int, heads: int) -> Iterator[tuple[str, list[Tensor]]]:
    """List the groups and their weights, both in the order of the published file."""
    yield "embedding", [Tensor(EMBEDDING, (VOCABULARY, width))]
    for index in range(layers):
        yield f"layer_._{index}", _layer(index, width, width // heads)
    yield "emb_layer_norm_after", _norm("ProtRNA/emb_layer_norm_after", width)
    yield "lm_head", _lm_head(width)


def _layer(index: int, width: int, head_width: int) -> list[Tensor]:
    scope = f"ProtRNA/layer_._{index}"
    attention = f"{scope}/{_counted('multihead_attention', index)}"
    rotary = f"{attention}/{_counted('rotary_embedding', index)}"
    # Keras numbers them through all layers: six dense layers and two LayerNorms in each.
    query, key, value, out, fc1, fc2 = (_counted("dense", 6 * index + i) for i in range(6))
    norm1, norm2 = (_counted("layer_normalization", 2 * index + i) for i in range(2))
    return [
        *(t for name in (query, key, value, out) for t in _dense(f"{attention}/{name}", width, width)),
        Tensor(f"{rotary}/inv_freq:0", (head_width // 2,)),
        *_norm(f"{scope}/{norm1}", width),
        *_dense(f"{scope}/{fc1}", width, 4 * width),
        *_dense(f"{scope}/{fc2}", 4 * width, width),
        *_norm(f"{scope}/{norm2}", width),
    ]


def _lm_head(width: int) -> list[Tensor]:
    return [
        Tensor(EMBEDDING, (VOCABULARY, width)),
        Tensor("bias:0", (VOCABULARY,)),
        *_dense("ProtRNA/lm_head/dense", width, width),
        *_norm("ProtRNA/lm_head/layer_norm", width),
    ]


def _dense(scope: str, inputs: int, outputs: int) -> list[Tensor]:
    return [Tensor(f"{scope}/kernel:0", (inputs, outputs)), Tensor(f"{scope}/bias:0", (outputs,))]


def _norm(scope: str, width: int) -> list[Tensor]:
    return [Tensor(f"{scope}/gamma:0", (width,)), Tensor(f"{scope}/beta:0", (width,))]


def _counted(name: str, count: int) -> str:
    """Name the count-th object of its kind as Keras does: dense, dense_1, dense_2."""
    return f"{name}_{count}" if count else name


def _encoded(names: Iterable[str]) -> list[bytes]:
    return [name.encode() for name in names]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a checkpoint of random weights."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.checkpoints", description=main.__doc__)
    parser.add_argument("path", metavar="OUT.h5", type=Path)
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    write_checkpoint(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
