"""Checkpoints: any size is read; a damaged or foreign file is refused in one line."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from protrna_cli.errors import WeightsError
from protrna_cli.model.checkpoint import read_checkpoint, read_size
from protrna_cli.model.structure import ModelSize
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
    assert "\n" not in str(caught.value)
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


@pytest.mark.parametrize("case", ["external link", "external storage"])
def test_no_other_file_is_read(tmp_path: Path, case: str) -> None:
    path, other = tmp_path / "linked.h5", tmp_path / "other.h5"
    for copy in (path, other):
        copy.write_bytes((GOLDEN / "toy.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        del file[FC1]
        if case == "external link":
            file[FC1] = h5py.ExternalLink("other.h5", FC1)
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


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a folder, not a checkpoint"):
        read_checkpoint(tmp_path, keep)
