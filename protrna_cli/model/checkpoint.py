"""Read and check checkpoints: in the published Keras 2 HDF5 "weights" layout, or exported (see `exported`).

Published layout: the root attribute `layer_names` lists the groups `embedding`, `layer_._0` …,
`emb_layer_norm_after`, `lm_head`; each group's attribute `weight_names` lists its datasets in order.
Weights are identified by this order, never by name, because the counters in the names depend on what else
the saving process had created. Every shape is checked, and every dataset must be used exactly once.

The built-in demo model has synthetic weights from a fixed seed. It runs at once, offline, anywhere. Its
embeddings have the right shapes and come from the real arithmetic, but have no biological meaning.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from protrna_cli.disk import open_regular
from protrna_cli.errors import WeightsError
from protrna_cli.model.exported import is_export, read_export, read_export_size
from protrna_cli.model.reading import FETCH, Flaw, find_foreign, finite_float32, naming, not_protrna
from protrna_cli.model.structure import (
    VOCABULARY,
    HeadWeights,
    LayerWeights,
    ModelSize,
    ModelWeights,
    NormWeights,
    Placer,
    Shape,
    for_each_weight,
    rotary_frequencies,
    weight_names,
    weight_shapes,
)
from protrna_cli.text import counted, size_text, unreadable

DEEPEST = 16
"""Groups inside each other; the published checkpoint has five."""

LARGEST_RATIO = 100
"""Bytes of values for each byte stored; compression hardly saves nine tenths of real weights."""

_DAMAGE = (LookupError, ValueError, TypeError)
"""What h5py raises for damaged names and types, beside OSError and RuntimeError."""

_FIRST, _LAST = ("embedding",), ("emb_layer_norm_after", "lm_head")


def read_checkpoint(path: Path | None, place: Placer) -> tuple[ModelSize, ModelWeights]:
    """Read a checkpoint of any size.

    path: HDF5 file in the published layout, or `model.safetensors` of an export; None for the demo model.
    place: called with the name and values (float32) of each weight as soon as it is read, so that at most one
        weight is in memory twice. Its return values make up the result.
    """
    if path is None:
        return demo_weights(place)
    if is_export(path):
        return read_export(path, place)
    with naming(path), _opened(path) as file:
        size, groups = _survey(file)
        return size, _read_all(size, groups, place)


def read_size(path: Path | None) -> tuple[ModelSize, str]:
    """Read the size and dtype of a checkpoint without reading its values; path as in `read_checkpoint`."""
    if path is None:
        return SIZE, "float32"
    if is_export(path):
        return read_export_size(path)
    with naming(path), _opened(path) as file:
        size, groups = _survey(file)
        dtypes = {str(dataset.dtype) for datasets in groups.values() for dataset in datasets}
        return size, ", ".join(sorted(dtypes))


def check_size(path: Path, size: ModelSize) -> None:
    """Refuse a checkpoint of another size than this."""
    found = read_size(path)[0]
    if found != size:
        raise WeightsError(f"{path}: {_another_size(found, size)}; move it away before you fetch that one")


def find_flaw(path: Path, size: ModelSize) -> str | None:
    """Describe what is wrong with a checkpoint of this size, reading every value; None if nothing is."""
    try:
        with _opened(path) as file:
            found, groups = _survey(file)
            if found != size:
                return _another_size(found, size)
            _read_all(found, groups, lambda name, values: None)
    except Flaw as flaw:
        return str(flaw)
    return None


def is_checkpoint(path: Path) -> bool:
    """Whether a file looks like a checkpoint: HDF5 with the attribute `layer_names`, or safetensors."""
    if is_export(path):
        return True
    try:
        with _open(path) as file:
            return "layer_names" in file.attrs
    except (OSError, RuntimeError, *_DAMAGE):
        return False


def explain_damage(path: Path) -> str | None:
    """Say what is wrong with a file that should be HDF5, and what to do; None if it opens or is missing."""
    try:
        with _opened(path):
            return None
    except Flaw as flaw:
        return f"{flaw}; {flaw.remedy or FETCH}" if path.is_file() else None


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open a checkpoint; raise `Flaw` if that fails."""
    try:
        with _open(path) as file:
            yield file
    except FileNotFoundError:
        raise Flaw("no such checkpoint") from None
    except MemoryError as error:
        raise Flaw("does not fit into memory", "use a machine with more memory") from error
    except (OSError, RuntimeError) as error:
        raise _why_unreadable(path, error) from error


def _open(path: Path) -> h5py.File:
    """Open an HDF5 file without a lock: some file systems have none, and nothing is written."""
    open_regular(path).close()
    return h5py.File(path, "r", locking=False)


def _why_unreadable(path: Path, error: Exception) -> Flaw:
    if foreign := find_foreign(path):
        return foreign
    with suppress(OSError), open_regular(path) as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            return Flaw("not an HDF5 file")
    if isinstance(error, OSError) and error.errno:  # from the system, so the file need not be damaged
        cause = os.strerror(error.errno)
        if "unable to lock" in str(error):
            return Flaw(f"cannot be locked ({cause})", "unset HDF5_USE_FILE_LOCKING")
        return Flaw(unreadable(cause))
    return Flaw(f"truncated or damaged HDF5 ({str(error).splitlines()[0]})")


def _another_size(found: ModelSize, published: ModelSize) -> str:
    return (
        f"a model of {found}, but the published one has {published}; "
        "use a checkpoint of your own with --model PATH"
    )


def _read_all(size: ModelSize, groups: dict[str, list[h5py.Dataset]], place: Placer) -> ModelWeights:
    names = weight_names(size)
    layers = [
        LayerWeights(*_read(groups[f"layer_._{i}"], names.layers[i], place)) for i in range(size.layers)
    ]
    tied_embedding, *head = groups["lm_head"]
    finite_float32(tied_embedding.name, tied_embedding[()])  # a second copy of the embedding
    lm_head = HeadWeights(*_read(head, names.lm_head, place))
    [embedding] = _read(groups["embedding"], [names.embedding], place)
    final_norm = NormWeights(*_read(groups["emb_layer_norm_after"], names.final_norm, place))
    return ModelWeights(embedding, tuple(layers), final_norm, lm_head)


def _survey(file: h5py.File) -> tuple[ModelSize, dict[str, list[h5py.Dataset]]]:
    """Find every weight, and check everything that does not need its values."""
    try:
        groups = {name: _datasets(file, name) for name in _group_names(file)}
        size = _size(groups)
        _check_all_used(file, groups)
        _check_shapes(groups, weight_shapes(size))
        _check_stored(groups)
    except _DAMAGE as error:
        raise Flaw(f"damaged HDF5 ({str(error).splitlines()[0]})") from error
    return size, groups


def _check_shapes(groups: dict[str, list[h5py.Dataset]], shapes: ModelWeights) -> None:
    for i, layer in enumerate(shapes.layers):
        _check_group(groups[f"layer_._{i}"], layer)
    _check_group(groups["lm_head"], (shapes.embedding, *shapes.lm_head))
    _check_group(groups["embedding"], (shapes.embedding,))
    _check_group(groups["emb_layer_norm_after"], shapes.final_norm)


def _names(node: h5py.File | h5py.Group, attribute: str) -> list[str]:
    if attribute not in node.attrs:
        raise not_protrna(f"{node.name} has no attribute {attribute}")
    names = np.atleast_1d(node.attrs[attribute])
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _group_names(file: h5py.File) -> list[str]:
    names = _names(file, "layer_names")
    count = len(names) - len(_FIRST) - len(_LAST)
    expected = [*_FIRST, *(f"layer_._{i}" for i in range(count)), *_LAST]
    if count < 1 or sorted(names) != sorted(expected):
        odd = sorted(set(names).symmetric_difference(expected)) or names
        raise not_protrna(
            f"its groups are not embedding, layer_._0 …, {', '.join(_LAST)} (look at {', '.join(odd[:3])})"
        )
    return expected


def _datasets(file: h5py.File, name: str) -> list[h5py.Dataset]:
    """List the datasets of a group in order, with `inv_freq` in its published position."""
    group = _member(file, name)
    if not isinstance(group, h5py.Group):
        raise not_protrna(f"group {name} is missing")
    datasets = []
    for weight in _names(group, "weight_names"):
        dataset = _member(group, weight)
        if not isinstance(dataset, h5py.Dataset):
            raise not_protrna(f"{name}/{weight} is missing")
        if dataset.is_virtual or dataset.external:
            raise not_protrna(f"{name}/{weight} is stored outside the file")
        datasets.append(dataset)
    if name.startswith("layer_._"):
        # Files saved from a trainable model list it last.
        place = LayerWeights._fields.index("inv_freq")
        datasets.sort(key=lambda variable: "inv_freq" in variable.name)
        datasets.insert(place, datasets.pop())
    return datasets


def _member(group: h5py.Group, path: str) -> object:
    """Find a member of a group by its path; None if there is none.

    Soft and external links are refused unopened. With them, and with external storage, a checkpoint could
    read any file on this machine as weights, or wait for a pipe.
    """
    node: object = group
    for name in path.split("/"):
        if not isinstance(node, h5py.Group):
            return None
        links, key = node.id.links, name.encode()
        if not links.exists(key):
            return None
        if links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise not_protrna(f"{path} is a link, which may name what is stored outside the file")
        node = node[name]
    return node


def _size(groups: dict[str, list[h5py.Dataset]]) -> ModelSize:
    layers = len(groups) - len(_FIRST) - len(_LAST)
    for i in range(layers):
        if len(groups[f"layer_._{i}"]) != len(LayerWeights._fields):
            raise not_protrna(
                f"layer_._{i} has {len(groups[f'layer_._{i}'])} weights, not {len(LayerWeights._fields)}"
            )
    if len(groups["embedding"]) != 1 or groups["embedding"][0].ndim != 2:
        raise not_protrna("embedding is not a single matrix")
    vocabulary, width = groups["embedding"][0].shape
    if vocabulary != VOCABULARY:
        raise not_protrna(f"its vocabulary has {vocabulary} tokens, not {VOCABULARY}")
    inv_freq = groups["layer_._0"][LayerWeights._fields.index("inv_freq")].shape
    if inv_freq is None or len(inv_freq) != 1:
        raise not_protrna("inv_freq of layer_._0 is not a vector")
    head_width = 2 * inv_freq[0]
    if not head_width or not width or width % head_width:
        raise not_protrna(f"width {width} does not divide into heads of {head_width}")
    return ModelSize(layers, width, width // head_width)


def _check_all_used(file: h5py.File, groups: dict[str, list[h5py.Dataset]]) -> None:
    used = [dataset for datasets in groups.values() for dataset in datasets]
    if repeated := [name for name, n in Counter(dataset.name for dataset in used).items() if n > 1]:
        raise not_protrna(f"{repeated[0]} is listed twice")
    places = {h5py.h5o.get_info(dataset.id).addr for dataset in used}
    extra: list[str] = []

    def look(name: bytes, found: h5py.h5o.ObjInfo) -> None:
        if name.count(b"/") >= DEEPEST:
            raise not_protrna(f"it has more than {DEEPEST} groups inside each other")
        if found.type == h5py.h5o.TYPE_DATASET and found.addr not in places:
            extra.append(f"/{name.decode(errors='replace')}")

    h5py.h5o.visit(file.id, look, info=True)  # opens nothing, so that links and damaged objects do no harm
    if extra:
        raise not_protrna(
            f"it has {counted(len(extra), 'weight')} that the model does not use, such as {min(extra)}"
        )


def _check_stored(groups: dict[str, list[h5py.Dataset]]) -> None:
    """Refuse values that cannot be read, or that are not stored and would only fill the memory with zeros."""
    used = [dataset for datasets in groups.values() for dataset in datasets]
    for dataset in used:
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        if missing := [code for code in filters if not h5py.h5z.filter_avail(code)]:
            raise Flaw(
                f"{dataset.name} is compressed with HDF5 filter {missing[0]}, which is not installed here",
                "save it without compression (h5repack -f NONE)",
            )
    stored = [dataset.id.get_storage_size() for dataset in used]
    if 0 in stored:
        raise not_protrna(f"{used[stored.index(0)].name} has no values")
    stated = sum(dataset.nbytes for dataset in used)
    if stated > LARGEST_RATIO * sum(stored):
        raise not_protrna(f"it states {size_text(stated)} of values, but stores {size_text(sum(stored))}")


def _check_group(datasets: list[h5py.Dataset], shapes: tuple[Shape, ...]) -> None:
    if len(datasets) != len(shapes):
        raise not_protrna(
            f"{datasets[0].parent.name if datasets else 'a group'} does not have {len(shapes)} weights"
        )
    for dataset, shape in zip(datasets, shapes, strict=True):
        if dataset.shape != shape:
            raise not_protrna(f"{dataset.name} has shape {dataset.shape}, not {shape}")
        if dataset.dtype.kind != "f":
            raise not_protrna(f"{dataset.name} has dtype {dataset.dtype}, not floating point")


def _read(datasets: list[h5py.Dataset], names: Sequence[str], place: Placer) -> Iterator[object]:
    for name, dataset in zip(names, datasets, strict=True):
        yield place(name, finite_float32(dataset.name, dataset[()]))


SIZE = ModelSize(layers=6, width=320, heads=20)
SEED = 20250


def demo_weights(place: Placer) -> tuple[ModelSize, ModelWeights]:
    """Make the demo model's weights, the same on every machine.

    place: called with the name and values (float32) of each weight, as in `read_checkpoint`.
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
