"""The reference model against the published implementation, and the checkpoints that the tests write.

Shapes: B batch, T tokens, H heads, D width.
"""

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tools.checkpoints import EMBEDDING, main, write_checkpoint
from tests.tools.reference import PAD, ReferenceOutput, ReferenceWeights, forward, read_weights

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENS = np.array([[0, 33, 34, 35, 36, 37, 2], [0, 35, 35, 2, 1, 1, 1]])  # (B, T)


class Golden(NamedTuple):
    """A golden checkpoint, and the outputs of the published implementation for it."""

    weights: ReferenceWeights
    arrays: dict[str, NDArray[Any]]
    batch: ReferenceOutput

    def check(self, key: str, actual: NDArray[Any]) -> None:
        """Compare with the published output. Float32 and float64 differ by up to 7e-5 for logits near 50."""
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, self.arrays[key], rtol=0, atol=1e-4, err_msg=key)

    def last_layer(self, tokens: NDArray[Any]) -> NDArray[Any]:
        return forward(self.weights, tokens).representations[-1]


@pytest.fixture(scope="module", params=["toy", "head64"])
def golden(request: pytest.FixtureRequest) -> Golden:
    weights = read_weights(GOLDEN / f"{request.param}.h5")
    with np.load(GOLDEN / f"{request.param}.npz") as arrays:
        return Golden(weights, dict(arrays), forward(weights, arrays["tokens"]))


def write_toy(path: Path, *, trainable_order: bool = False) -> None:
    """Write a checkpoint of toy.h5's size."""
    write_checkpoint(path, layers=3, width=40, heads=5, trainable_order=trainable_order)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "toy.h5"
    write_toy(path)
    return path


def test_representations(golden: Golden) -> None:
    assert len(golden.batch.representations) == sum(key.startswith("layer_") for key in golden.arrays)
    for index, representation in enumerate(golden.batch.representations):
        golden.check(f"layer_{index}", representation)


def test_logits(golden: Golden) -> None:
    golden.check("logits", golden.batch.logits)


def test_attentions(golden: Golden) -> None:
    longest = golden.arrays["attentions_seq3to5"].shape[-1]
    tokens = golden.arrays["tokens"][3:6, :longest]
    golden.check("attentions_seq3to5", forward(golden.weights, tokens).attentions)


@pytest.mark.parametrize("record", range(6))
def test_alone(golden: Golden, record: int) -> None:
    padded = golden.arrays["tokens"][record]  # (T,)
    golden.check(f"alone_{record}", golden.last_layer(padded[padded != PAD][None])[0])


@pytest.mark.parametrize("kind", ["long", "protein"])
def test_other_batches(golden: Golden, kind: str) -> None:
    golden.check(f"{kind}_layer_last", golden.last_layer(golden.arrays[f"{kind}_tokens"]))


def test_padding_changes_nothing() -> None:
    weights = read_weights(GOLDEN / "toy.h5")
    together, alone = forward(weights, TOKENS), forward(weights, TOKENS[1:, :4])
    np.testing.assert_allclose(together.logits[1:, :4], alone.logits, rtol=0, atol=1e-12)
    np.testing.assert_allclose(together.attentions[1:, ..., :4, :4], alone.attentions, rtol=0, atol=1e-12)
    assert not together.attentions[1, ..., 4:].any()


def tree(path: Path) -> dict[str, tuple[Any, ...]]:
    """Map the path of every group and dataset to its attributes, and for datasets shape and dtype."""
    found: dict[str, tuple[Any, ...]] = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        is_dataset = isinstance(node, h5py.Dataset)
        found[name] = (attributes(node), node.shape, node.dtype) if is_dataset else (attributes(node),)

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
    return found


def attributes(node: h5py.Group | h5py.Dataset) -> dict[str, tuple[Any, ...]]:
    """Dtype, string encoding (which tells bytes from text), shape and value of every attribute."""
    stored = {name: node.attrs.get_id(name) for name in node.attrs}
    return {
        name: (
            each.dtype,
            h5py.check_string_dtype(each.dtype),
            each.shape,
            np.asarray(node.attrs[name]).tolist(),
        )
        for name, each in stored.items()
    }


def test_checkpoint_has_the_published_tree(checkpoint: Path) -> None:
    assert tree(checkpoint) == tree(GOLDEN / "toy.h5")


def test_checkpoint_ties_its_embedding_and_has_no_zeros(checkpoint: Path) -> None:
    with h5py.File(checkpoint) as file:
        np.testing.assert_array_equal(file["embedding"][EMBEDDING], file["lm_head"][EMBEDDING])
        for group in file.values():
            assert all(np.all(group[name][:]) for name in group.attrs["weight_names"])


def test_checkpoint_inverse_frequencies(checkpoint: Path) -> None:
    written, published = read_weights(checkpoint), read_weights(GOLDEN / "toy.h5")
    for ours, theirs in zip(written.layers, published.layers, strict=True):
        np.testing.assert_array_equal(ours.inv_freq, theirs.inv_freq)


def test_trainable_order_moves_inv_freq_only(checkpoint: Path, tmp_path: Path) -> None:
    write_toy(tmp_path / "trainable.h5", trainable_order=True)
    with h5py.File(checkpoint) as default, h5py.File(tmp_path / "trainable.h5") as trainable:
        names = list(default["layer_._1"].attrs["weight_names"])
        names.append(names.pop(8))
        assert list(trainable["layer_._1"].attrs["weight_names"]) == names
    expected = forward(read_weights(checkpoint), TOKENS).logits
    np.testing.assert_array_equal(forward(read_weights(tmp_path / "trainable.h5"), TOKENS).logits, expected)


def test_equal_seeds_equal_bytes(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--layers=3", "--width=40", "--heads=5"]
    main([str(tmp_path / "same.h5"), *options])
    main([str(tmp_path / "other.h5"), *options, "--seed=1"])
    assert (tmp_path / "same.h5").read_bytes() == checkpoint.read_bytes()
    assert (tmp_path / "other.h5").read_bytes() != checkpoint.read_bytes()


def test_depth_stays_well_behaved(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "deep.h5", layers=33, width=64, heads=4)
    output = forward(read_weights(tmp_path / "deep.h5"), TOKENS)
    assert 0.1 < output.representations[32].std() < 10


def test_heads_of_an_odd_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="width 40 does not divide into 8 heads"):
        write_checkpoint(tmp_path / "odd.h5", layers=1, width=40, heads=8)
