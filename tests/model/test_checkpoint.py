"""Checkpoints: any size is read; a damaged or foreign file is refused in one line."""

import fcntl
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from protrna_cli.errors import WeightsError
from protrna_cli.model.checkpoint import find_flaw, is_checkpoint, read_checkpoint, read_size
from protrna_cli.model.structure import ModelSize, weight_shapes
from tests.conftest import GOLDEN
from tests.tools.checkpoints import write_checkpoint


def keep(name: str, values: np.ndarray) -> np.ndarray:
    return values


@pytest.mark.parametrize("trainable_order", [False, True])
def test_any_size_is_read_in_either_order(tmp_path: Path, trainable_order: bool) -> None:
    path = tmp_path / "small.h5"
    write_checkpoint(path, layers=2, width=24, heads=3, trainable_order=trainable_order)
    size, weights = read_checkpoint(path, keep)
    assert size == ModelSize(layers=2, width=24, heads=3)
    assert read_size(path) == (size, "float32")
    with h5py.File(path) as file:
        scope = file["layer_._1/ProtRNA/layer_._1"]
        assert np.array_equal(
            weights.layers[1].inv_freq, scope["multihead_attention_1/rotary_embedding_1/inv_freq:0"]
        )
        assert np.array_equal(weights.layers[1].norm1_gamma, scope["layer_normalization_2/gamma:0"])
        assert np.array_equal(weights.layers[1].fc2_bias, scope["dense_11/bias:0"])


def test_parameters_are_counted() -> None:
    assert ModelSize(layers=33, width=1280, heads=20).parameters == 651_048_998


def test_at_most_one_weight_is_in_memory_twice(tmp_path: Path) -> None:
    path = tmp_path / "wide.h5"
    write_checkpoint(path, layers=3, width=512, heads=8)
    largest = 512 * 2048 * 4
    tracemalloc.start()
    try:
        read_checkpoint(path, lambda name, values: None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < largest * 1.1


def move(file: h5py.File, source: str, target: str) -> None:
    file.move(source, target)


FC1 = "layer_._1/ProtRNA/layer_._1/dense_10/kernel:0"


def replace(name: str, values: np.ndarray) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return change


def unlist(file: h5py.File) -> None:
    names = file["layer_._1"].attrs["weight_names"]
    file["layer_._1"].attrs["weight_names"] = list(names)[:-1]


def list_twice(file: h5py.File) -> None:
    names = list(file["layer_._1"].attrs["weight_names"])
    file["layer_._1"].attrs["weight_names"] = [*names[:-1], names[-2]]


def rename_group(file: h5py.File) -> None:
    file.attrs["layer_names"] = ["embedding", "blocks_0", "emb_layer_norm_after", "lm_head"]


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:9f86d081\nsize 2604300123\n"


def spoil(file: h5py.File) -> None:
    file[FC1][3, 3] = np.nan


def list_names(group: str, *names: object) -> Callable[[h5py.File], None]:
    """Replace the attribute of a group, or of the file, that lists what belongs to it."""

    def change(file: h5py.File) -> None:
        attribute = "layer_names" if group == "/" else "weight_names"
        del file[group].attrs[attribute]
        file[group].attrs[attribute] = names[0] if len(names) == 1 else list(names)

    return change


def stored_as(dtype: object) -> Callable[[h5py.File], None]:
    """Store a weight with another type."""

    def change(file: h5py.File) -> None:
        del file[FC1]
        file.create_dataset(FC1, (40, 160), dtype)

    return change


def link(name: str, target: object) -> Callable[[h5py.File], None]:
    """Replace a weight or a group by a link."""

    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return change


def infinite(file: h5py.File) -> None:
    file[FC1][0, :2] = np.inf, -np.inf


def unwritten(file: h5py.File) -> None:
    """State a model of 1 TiB; nothing of it is stored."""
    for name in list(file):
        del file[name]
    shapes = weight_shapes(ModelSize(layers=1, width=1 << 17, heads=1))
    groups = {
        "embedding": (shapes.embedding,),
        "layer_._0": shapes.layers[0],
        "emb_layer_norm_after": shapes.final_norm,
        "lm_head": (shapes.embedding, *shapes.lm_head),
    }
    list_names("/", *groups)(file)
    for group, weights in groups.items():
        names = [f"inv_freq {i}" if shape == (1 << 16,) else f"weight {i}" for i, shape in enumerate(weights)]
        for name, shape in zip(names, weights, strict=True):
            file.create_dataset(f"{group}/{name}", shape, "f4", chunks=tuple(min(n, 256) for n in shape))
            file[group][name][(0,) * len(shape)] = 1  # of a matrix, 256 KiB are stored
        file[group].attrs["weight_names"] = names


def without_width(file: h5py.File) -> None:
    for group in ("embedding", "lm_head"):
        replace(f"{group}/embedding/embeddings:0", np.zeros((38, 0), "f4"))(file)


def without_inv_freq(file: h5py.File) -> None:
    [name] = [name for name in file["layer_._0"].attrs["weight_names"] if "inv_freq" in name]
    link(f"layer_._0/{name}", h5py.Empty("f4"))(file)


def with_a_filter(file: h5py.File) -> None:
    """Compress a weight as Zstandard's plugin does, which is not part of HDF5."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((40, 160))
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    del file[FC1]
    space = h5py.h5s.create_simple((40, 160))
    made = h5py.h5d.create(file.id, FC1.encode(), h5py.h5t.IEEE_F32LE, space, properties)
    made.write_direct_chunk((0, 0), b"compressed")


def nest(file: h5py.File) -> None:
    file.create_group("/".join(["deeper"] * 500))


def in_a_loop(file: h5py.File) -> None:
    """Name the same group again and again, as a hard link to itself allows."""
    file["lm_head/loop"] = file["lm_head"]
    list_names("lm_head", *["loop/" * i + "bias:0" for i in range(6)])(file)


NOT_GROUPS = "its groups are not embedding, layer_._0 …, emb_layer_norm_after, lm_head"

BROKEN: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "no layer_names": (lambda f: f.attrs.pop("layer_names"), "/ has no attribute layer_names"),
    "foreign groups": (rename_group, "its groups are not embedding"),
    "missing group": (lambda f: f.pop("lm_head"), "group lm_head is missing"),
    "missing weight": (lambda f: f.pop(FC1), f"{FC1} is missing"),
    "unlisted weight": (unlist, "layer_._1 has 16 weights, not 17"),
    "weight listed twice": (list_twice, "is listed twice"),
    "extra weight": (
        lambda f: f.create_dataset("lm_head/more", data=1.0),
        "1 weight that the model does not use",
    ),
    "swapped shape": (replace(FC1, np.zeros((160, 40), "f4")), r"has shape \(160, 40\), not \(40, 160\)"),
    "integers": (replace(FC1, np.zeros((40, 160), "i4")), "has dtype int32, not floating point"),
    "not finite": (spoil, "has values that are not finite"),
    "vocabulary": (
        replace("embedding/embedding/embeddings:0", np.zeros((33, 40), "f4")),
        "vocabulary has 33 tokens, not 38",
    ),
    "infinite": (infinite, "has values that are not finite"),
    "too large": (replace(FC1, np.full((40, 160), 1e300)), "has values that are not finite"),
    "complex": (stored_as("c8"), "has dtype complex64, not floating point"),
    "bytes": (stored_as("S4"), "not floating point"),
    "text": (stored_as(h5py.string_dtype()), "not floating point"),
    "lists": (stored_as(h5py.vlen_dtype("f4")), "not floating point"),
    "references": (stored_as(h5py.ref_dtype), "not floating point"),
    "a table": (stored_as([("a", "f4")]), "not floating point"),
    "no dataspace": (replace(FC1, h5py.Empty("f4")), "has shape None"),
    "an embedding without dataspace": (
        replace("embedding/embedding/embeddings:0", h5py.Empty("f4")),
        "embedding is not a single matrix",
    ),
    "no width": (without_width, "width 0 does not divide into heads"),
    "no inv_freq": (without_inv_freq, "inv_freq of layer_._0 is not a vector"),
    "not written": (stored_as("f4"), f"{FC1} has no values"),
    "hardly written": (unwritten, r"it states 832\..* GiB of values, but stores .* MiB"),
    "an unknown filter": (with_a_filter, r"HDF5 filter 32015, which is not installed here; .*h5repack"),
    "a loop of links": (link(FC1, h5py.SoftLink(f"/{FC1}")), "is a link"),
    "a link to a missing file": (link("lm_head", h5py.ExternalLink("gone.h5", "/")), "lm_head is a link"),
    "a loop of groups": (in_a_loop, "weights that the model does not use"),
    "deep groups": (nest, "more than 16 groups inside each other"),
    "a dataset for a group": (link("lm_head", np.ones(3)), "group lm_head is missing"),
    "a type for a group": (link("lm_head", np.dtype("f4")), "group lm_head is missing"),
    "a number for names": (list_names("/", 5), NOT_GROUPS),
    "numbers for names": (list_names("/", np.ones(4)), NOT_GROUPS),
    "nothing for names": (list_names("/", h5py.Empty("S1")), NOT_GROUPS),
    "a matrix of names": (list_names("/", np.array([[b"embedding", b"lm_head"]])), NOT_GROUPS),
    "names of weights are numbers": (list_names("lm_head", np.arange(6)), "lm_head/0 is missing"),
    "no names of weights": (lambda f: f["lm_head"].attrs.pop("weight_names"), "no attribute weight_names"),
    "empty names": (list_names("lm_head", *["/", ".", "..", "", "//", "/etc"]), "."),
    "names of several lines": (list_names("lm_head", "a\nb", "\x1b[31m"), "lm_head/a�b is missing"),
    "a very long name": (list_names("lm_head", "a" * 9000, "b"), "a{400}"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "broken.h5"
    path.write_bytes((GOLDEN / "toy.h5").read_bytes())
    breaks, words = BROKEN[case]
    with h5py.File(path, "r+") as file:
        breaks(file)
    with pytest.raises(WeightsError, match=words) as caught:
        read_checkpoint(path, keep)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert "--model" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such checkpoint"),
        (b"", "an empty file; run protrna weights fetch"),
        (b"PK\x03\x04weights", "not an HDF5 file; run protrna weights fetch"),
        (b"\n<!DOCTYPE html><html>504</html>", "an HTML page, such as a server's error or login page"),
        (b"<HTML>Sign in</HTML>", "an HTML page"),
        (LFS_POINTER, "a Git LFS pointer, not the weights themselves; run git lfs pull"),
        ((GOLDEN / "toy.h5").read_bytes()[:200_000], "truncated or damaged HDF5"),
        ((GOLDEN / "toy.h5").read_bytes()[:100], "truncated or damaged HDF5"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "foreign.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        read_checkpoint(path, keep)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_cut_checkpoint_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    content = (GOLDEN / "toy.h5").read_bytes()
    path = tmp_path / "cut.h5"
    for length in [*range(1, 3000, 100), *range(3000, len(content), 10_000), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"cut\.h5: ") as caught:
            read_checkpoint(path, keep)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("case", ["external link", "external storage", "virtual dataset"])
@pytest.mark.parametrize("kind", ["checkpoint", "pipe"])
def test_no_other_file_is_read(tmp_path: Path, case: str, kind: str) -> None:
    path, other = tmp_path / "linked.h5", tmp_path / "other.h5"
    path.write_bytes((GOLDEN / "toy.h5").read_bytes())
    if kind == "checkpoint":
        other.write_bytes(path.read_bytes())
    else:
        os.mkfifo(other)  # whoever opens it waits for ever
    with h5py.File(path, "r+") as file:
        del file[FC1]
        if case == "external link":
            file[FC1] = h5py.ExternalLink("other.h5", FC1)
        elif case == "virtual dataset":
            layout = h5py.VirtualLayout((40, 160), "f4")
            layout[...] = h5py.VirtualSource(str(other), FC1, (40, 160))
            file.create_virtual_dataset(FC1, layout)
        else:
            external = [(str(other), 0, 40 * 160 * 4)]
            file.create_dataset(FC1, (40, 160), "f4", external=external)
    with pytest.raises(WeightsError, match="is stored outside the file"):
        read_checkpoint(path, keep)


def test_damaged_names_are_refused(tmp_path: Path) -> None:
    """A flipped byte in a name, for which h5py raises a different exception."""
    content = (GOLDEN / "toy.h5").read_bytes()
    path = tmp_path / "flipped.h5"
    path.write_bytes(content.replace(b"layer_._1/dense_10/kernel:0", b"layer_._1/dense_10/k\xffrnel:0", 1))
    with pytest.raises(WeightsError, match="damaged HDF5"):
        read_checkpoint(path, keep)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint that another process has locked: to lock it fails, as it does where there are no locks."""
    path = tmp_path / "locked.h5"
    path.write_bytes((GOLDEN / "toy.h5").read_bytes())
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(path, "r", locking=True)
        yield path


def test_a_checkpoint_is_read_without_a_lock(held: Path) -> None:
    assert read_checkpoint(held, keep)[0] == read_size(held)[0]
    assert find_flaw(held, read_size(held)[0]) is None
    assert is_checkpoint(held)


def test_a_lock_that_hdf5_is_told_to_take_is_no_damage(held: Path) -> None:
    script = "import sys; from protrna_cli.cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, "weights", "verify", held],
        env=os.environ | {"HDF5_USE_FILE_LOCKING": "TRUE"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 69
    assert "cannot be locked (Resource temporarily unavailable); unset HDF5_USE_FILE_LOCKING" in done.stderr


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a folder, not a checkpoint"):
        read_checkpoint(tmp_path, keep)
