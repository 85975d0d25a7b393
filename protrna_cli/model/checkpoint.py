"""Checkpoints in the published Keras 2 HDF5 "weights" layout, read with suspicion.

Layout: the root attribute `layer_names` lists the groups `embedding`, `layer_._0` …,
`emb_layer_norm_after`, `lm_head`; each group's attribute `weight_names` lists its datasets in order.
The order decides what a weight is, never its name: the counters in the names run on through the process
that saved the file. Every shape is checked and every dataset of the file must be used exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from protrna_cli.errors import WeightsError
from protrna_cli.model.structure import (
    VOCABULARY,
    HeadWeights,
    LayerWeights,
    ModelSize,
    ModelWeights,
    NormWeights,
    Place,
    Shape,
    weight_shapes,
)

_FIRST, _LAST = ("embedding",), ("emb_layer_norm_after", "lm_head")


def read_checkpoint(path: Path, place: Place) -> tuple[ModelSize, ModelWeights]:
    """Read a checkpoint of any size.

    Parameters
    ----------
    path
        HDF5 file in the published layout.
    place
        Called with every weight (float32) as soon as it is read, so that no more than one weight is held
        twice; the result holds what it returns.

    Raises
    ------
    WeightsError
        The file cannot be read, is not HDF5, or is not a whole ProtRNA checkpoint.
    """
    with _opened(path) as file:
        groups = {name: _datasets(file, name) for name in _group_names(file)}
        size = _size(groups)
        shapes = weight_shapes(size)
        _check_all_used(file, groups)
        layers = [
            LayerWeights(*_read(groups[f"layer_._{i}"], shape, place))
            for i, shape in enumerate(shapes.layers)
        ]
        tied, *head = _read(groups["lm_head"], (shapes.embedding, *shapes.lm_head), place)
        del tied  # the embedding once more
        [embedding] = _read(groups["embedding"], (shapes.embedding,), place)
        final_norm = NormWeights(*_read(groups["emb_layer_norm_after"], shapes.final_norm, place))
    return size, ModelWeights(embedding, tuple(layers), final_norm, HeadWeights(*head))


def read_size(path: Path) -> ModelSize:
    """Size of the model in a checkpoint, from its shapes alone.

    Raises
    ------
    WeightsError
        As `read_checkpoint`, short of what only the values can show.
    """
    with _opened(path) as file:
        return _size({name: _datasets(file, name) for name in _group_names(file)})


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a checkpoint; whatever is wrong with it becomes one line that names the file."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such checkpoint") from None
    except (OSError, RuntimeError) as error:
        reason = _why_unreadable(path, error)
        raise WeightsError(
            f"{path}: {reason}; fetch the checkpoint again or name another with --model"
        ) from error
    except _Flaw as flaw:
        raise WeightsError(f"{path}: not a ProtRNA checkpoint: {flaw}; name another with --model") from None


class _Flaw(Exception):
    """What is wrong with a file, before its name is known to the message."""


def _why_unreadable(path: Path, error: Exception) -> str:
    try:
        if path.is_dir():
            return "a folder, not a checkpoint"
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as denied:
        return f"cannot be read ({denied.strerror})"
    if magic != b"\x89HDF\r\n\x1a\n":
        return "not an HDF5 file"
    return f"truncated or damaged HDF5 ({str(error).splitlines()[0]})"


def _names(holder: h5py.File | h5py.Group, attribute: str) -> list[str]:
    if attribute not in holder.attrs:
        raise _Flaw(f"{holder.name} has no attribute {attribute}")
    names = np.atleast_1d(holder.attrs[attribute])
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _group_names(file: h5py.File) -> list[str]:
    names = _names(file, "layer_names")
    count = len(names) - len(_FIRST) - len(_LAST)
    expected = [*_FIRST, *(f"layer_._{i}" for i in range(count)), *_LAST]
    if count < 1 or sorted(names) != sorted(expected):
        odd = sorted(set(names).symmetric_difference(expected)) or names
        raise _Flaw(
            f"its groups are not embedding, layer_._0 …, {', '.join(_LAST)} (look at {', '.join(odd[:3])})"
        )
    return expected


def _datasets(file: h5py.File, name: str) -> list[h5py.Dataset]:
    """List a group's datasets in order, `inv_freq` in its published place."""
    group = file.get(name)
    if not isinstance(group, h5py.Group):
        raise _Flaw(f"group {name} is missing")
    datasets = []
    for weight in _names(group, "weight_names"):
        dataset = group.get(weight)
        if not isinstance(dataset, h5py.Dataset):
            raise _Flaw(f"{name}/{weight} is missing")
        datasets.append(dataset)
    if name.startswith("layer_._"):
        # A file saved from a trainable model lists it last.
        place = LayerWeights._fields.index("inv_freq")
        datasets.sort(key=lambda each: "inv_freq" in each.name)
        datasets.insert(place, datasets.pop())
    return datasets


def _size(groups: dict[str, list[h5py.Dataset]]) -> ModelSize:
    layers = len(groups) - len(_FIRST) - len(_LAST)
    for i in range(layers):
        if len(groups[f"layer_._{i}"]) != len(LayerWeights._fields):
            raise _Flaw(
                f"layer_._{i} has {len(groups[f'layer_._{i}'])} weights, not {len(LayerWeights._fields)}"
            )
    if len(groups["embedding"]) != 1 or groups["embedding"][0].ndim != 2:
        raise _Flaw("embedding does not hold one matrix")
    vocabulary, width = groups["embedding"][0].shape
    if vocabulary != VOCABULARY:
        raise _Flaw(f"its vocabulary has {vocabulary} tokens, not {VOCABULARY}")
    head_width = 2 * groups["layer_._0"][LayerWeights._fields.index("inv_freq")].size
    if not head_width or width % head_width:
        raise _Flaw(f"width {width} does not divide into heads of {head_width}")
    return ModelSize(layers, width, width // head_width)


def _check_all_used(file: h5py.File, groups: dict[str, list[h5py.Dataset]]) -> None:
    used = [dataset.name for datasets in groups.values() for dataset in datasets]
    present: set[str] = set()
    file.visititems(lambda _, item: present.add(item.name) if isinstance(item, h5py.Dataset) else None)
    if repeated := sorted({name for name in used if used.count(name) > 1}):
        raise _Flaw(f"{repeated[0]} is listed twice")
    if extra := sorted(present.difference(used)):
        raise _Flaw(f"it holds {len(extra)} weights that the model has no place for, such as {extra[0]}")


def _read(datasets: list[h5py.Dataset], shapes: tuple[Shape, ...], place: Place) -> Iterator[object]:
    if len(datasets) != len(shapes):
        raise _Flaw(f"{datasets[0].parent.name if datasets else 'a group'} has not {len(shapes)} weights")
    for dataset, shape in zip(datasets, shapes, strict=True):
        if dataset.shape != shape:
            raise _Flaw(f"{dataset.name} has shape {dataset.shape}, not {shape}")
        if dataset.dtype.kind != "f":
            raise _Flaw(f"{dataset.name} holds {dataset.dtype}, not floating point")
        values = dataset[()].astype(np.float32, copy=False)
        # The sum is a tenth of the cost of isfinite over every value, and as telling.
        if not np.isfinite(values.sum()):
            raise _Flaw(f"{dataset.name} holds values that are not finite")
        yield place(values)
