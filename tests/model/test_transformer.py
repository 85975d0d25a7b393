"""The forward pass against the published implementation's outputs and the float64 reference.

Shapes: B batch, T tokens, H heads, D width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from protrna_cli import load_model, load_pretrained_model
from protrna_cli.errors import UsageError
from protrna_cli.model import transformer
from tests.conftest import GOLDEN
from tests.tools import reference

# Absolute tolerances against the published implementation in float32. Its logits reach 51 and differ from
# float64 by up to 7.2e-5, ours by 6.3e-5: the LM head multiplies every earlier rounding error by ten.
PUBLISHED = {"rtol": 0, "atol": 2e-5}
PUBLISHED_LOGITS = {"rtol": 0, "atol": 7.2e-5}
REFERENCE = {"rtol": 0, "atol": 1e-4}


def mean_weights(lengths: Any, width: int) -> Any:
    """Make weights (B, T) for the mean over all residues of sequences of these lengths."""
    weights = np.zeros((len(lengths), width), np.float32)
    for row, length in zip(weights, lengths, strict=True):
        row[1 : length + 1] = 1 / length
    return weights


@pytest.fixture(scope="module", params=["toy", "head64"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def golden(name: str) -> Any:
    return np.load(GOLDEN / f"{name}.npz")


@pytest.fixture(scope="module")
def exact(name: str, golden: Any) -> reference.ReferenceOutput:
    """The float64 reference for the golden tokens."""
    return reference.forward(reference.read_weights(GOLDEN / f"{name}.h5"), golden["tokens"])


@pytest.fixture(scope="module", params=["as on a CPU", "as on a GPU"])
def model(name: str, request: pytest.FixtureRequest) -> Any:
    """A golden checkpoint, with batches laid out and layers compiled as on either device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "pads_batches", lambda device: request.param == "as on a GPU")
        return load_model(GOLDEN / f"{name}.h5")


def test_every_layer_and_the_logits_equal_the_published(model: Any, golden: Any) -> None:
    results = model(golden["tokens"], repr_layers=range(model.size.layers + 1))
    for layer, hidden in results["representations"].items():
        np.testing.assert_allclose(hidden, golden[f"layer_{layer}"], **PUBLISHED)
    np.testing.assert_allclose(results["logits"], golden["logits"], **PUBLISHED_LOGITS)


def test_attentions_equal_the_published(
    model: Any, golden: Any, golden_records: list[tuple[str, str]]
) -> None:
    tokens = model.alphabet.get_batch_converter()([letters for _, letters in golden_records[3:]])
    attentions = model(tokens, need_head_weights=True)["attentions"]
    assert attentions.shape == (3, model.size.layers, model.size.heads, *tokens.shape[1:] * 2)
    np.testing.assert_allclose(attentions, golden["attentions_seq3to5"], **PUBLISHED)


def test_a_record_alone_equals_the_published(
    model: Any, golden: Any, golden_records: list[tuple[str, str]]
) -> None:
    converter = model.alphabet.get_batch_converter()
    for i, (_, letters) in enumerate(golden_records):
        alone = model(converter([letters]), repr_layers=[-1])["representations"][-1][0]
        np.testing.assert_allclose(alone, golden[f"alone_{i}"], **PUBLISHED)


@pytest.mark.parametrize("kind", ["long", "protein"])
def test_cut_and_protein_mode_equal_the_published(model: Any, golden: Any, kind: str) -> None:
    if kind == "long":
        records = (GOLDEN / "long.fa").read_text().split(">")[1:]
        sequences = [record.split("\n", 1)[1].replace("\n", "") for record in records]
    else:
        sequences = ["MKTAYIAKQR", "ACDEFGHIKLMNPQRSTVWY"]
    tokens = model.alphabet.get_batch_converter(is_rna=kind == "long")(sequences)
    assert np.array_equal(tokens, golden[f"{kind}_tokens"])
    last = model(tokens, repr_layers=[-1])["representations"][-1]
    np.testing.assert_allclose(last, golden[f"{kind}_layer_last"], **PUBLISHED)


def test_everything_equals_the_float64_reference(
    model: Any, golden: Any, exact: reference.ReferenceOutput
) -> None:
    results = model(golden["tokens"], range(model.size.layers + 1), need_head_weights=True)
    for layer, hidden in results["representations"].items():
        np.testing.assert_allclose(hidden, exact.representations[layer], **REFERENCE)
    np.testing.assert_allclose(results["logits"], exact.logits, **REFERENCE)
    np.testing.assert_allclose(results["attentions"], exact.attentions, **REFERENCE)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls", "residues"])
def test_pooling_equals_the_reference(
    model: Any, golden: Any, exact: reference.ReferenceOutput, pooling: str
) -> None:
    """Compare with residues pooled in float64, without special tokens and pads."""
    lengths = (golden["tokens"] != reference.PAD).sum(1) - 2
    pool: dict[str, Callable[[Any], Any]] = {
        "mean": lambda row: row[1:-1].mean(0),
        "max": lambda row: row[1:-1].max(0),
        "cls": lambda row: row[0],
        "residues": lambda row: row[1:-1],
    }
    layers = [model.size.layers, 1]
    embedded = model._embed_batch(
        golden["tokens"], mean_weights(lengths, golden["tokens"].shape[1]), layers, pooling
    )
    for layer, rows in zip(layers, embedded, strict=True):
        for row, length, all_tokens in zip(rows, lengths, exact.representations[layer], strict=True):
            expected = pool[pooling](all_tokens[: length + 2])
            np.testing.assert_allclose(row[:length] if pooling == "residues" else row, expected, **REFERENCE)


def test_a_batch_never_changes_a_row(model: Any) -> None:
    """A record has the same row alone, in a batch, and with extra padding."""
    rng = np.random.default_rng(7)
    sequences = ["".join(rng.choice(list("ACGU"), size)) for size in (1, 2, 37, 90, 91)]
    encoded = [model.alphabet.residue_ids(sequence) for sequence in sequences]
    lengths = [len(ids) for ids in encoded]

    def rows(encoded: list[Any], lengths: list[int], width: int) -> Any:
        tokens = model.alphabet.frame(encoded, width)
        return model._embed_batch(tokens, mean_weights(lengths, width), [model.size.layers], "mean")[0]

    together, padded = rows(encoded, lengths, 93), rows(encoded, lengths, 130)
    for i, ids in enumerate(encoded):
        [alone] = rows([ids], lengths[i : i + 1], lengths[i] + 2)
        np.testing.assert_allclose(together[i], alone, rtol=0, atol=1e-5)
        np.testing.assert_allclose(padded[i], alone, rtol=0, atol=1e-5)


def test_embedding_runs_neither_the_lm_head_nor_later_layers(
    model: Any, golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protrna_cli.model import layers

    def never(*_: object) -> None:
        raise AssertionError("the LM head ran")

    ran: list[int] = []
    run = model._layer
    monkeypatch.setattr(layers, "lm_head", never)
    monkeypatch.setitem(model.__dict__, "_layer", lambda *args: ran.append(1) or run(*args))
    model._embed_batch(golden["tokens"], np.ones(golden["tokens"].shape, np.float32), [1], "mean")
    assert len(ran) == 1


@pytest.mark.parametrize("pooling", ["mean", "residues"])
def test_bfloat16_stays_near_the_reference(
    golden: Any, name: str, exact: reference.ReferenceOutput, pooling: str
) -> None:
    """Kernels have 8 significant bits, so each is off by at most 2 ** -9; this adds up slowly over layers."""
    model = load_model(GOLDEN / f"{name}.h5", precision="bfloat16")
    assert {w.dtype for w in model._weights.layers[0]} == {tf.bfloat16, tf.float32}
    tokens = golden["tokens"]
    lengths = (tokens != reference.PAD).sum(1) - 2
    [rows] = model._embed_batch(tokens, mean_weights(lengths, tokens.shape[1]), [model.size.layers], pooling)
    assert rows.dtype == np.float32
    for row, length, residues in zip(rows, lengths, exact.representations[-1][:, 1:], strict=True):
        residues = residues[:length]
        found, expected = (
            (row[None], residues.mean(0)[None]) if pooling == "mean" else (row[:length], residues)
        )
        apart = np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        assert 1e-4 < apart.max() < 0.05


@pytest.mark.parametrize("layer", [4, -5, 33])
def test_a_missing_layer_is_an_error(layer: int) -> None:
    with pytest.raises(UsageError, match=f"layers 0 to 3, not {layer}"):
        load_model(GOLDEN / "toy.h5")([[0, 33, 2]], repr_layers=[layer])


def test_the_published_example_runs() -> None:
    """The lines of the published README, with the import changed."""
    model = load_model("demo")
    batch_converter = model.alphabet.get_batch_converter()
    model_input = batch_converter(["CAUAUCGUGAGAUGUGG", "AAAAGUUAAAAAUGAUAUUCCCGAAAGG"])
    results = model(model_input, repr_layers=[6])
    assert results["representations"][6].shape == (2, 30, 320)
    assert results["representations"][6].dtype == tf.float32
    assert results["logits"].shape == (2, 30, 38)
    assert "attentions" not in results


def test_load_pretrained_model_takes_name_and_folder() -> None:
    assert load_pretrained_model(name="toy", path=GOLDEN).size.layers == 3


def test_the_demo_model_is_the_same_everywhere() -> None:
    """The numbers are guaranteed not to change; these were recorded when the model was made."""
    model = load_model("demo")
    tokens = model.alphabet.frame([model.alphabet.residue_ids("GGGGCCCC")])
    [[row]] = model._embed_batch(tokens, mean_weights([8], 10), [6], "mean")
    np.testing.assert_allclose(row[:3], DEMO_ROW, rtol=0, atol=1e-5)


DEMO_ROW = [-0.534067, -1.167669, -1.712157]


def test_a_checkpoint_path_may_be_a_string(tmp_path: Path) -> None:
    (tmp_path / "copy.h5").write_bytes((GOLDEN / "toy.h5").read_bytes())
    assert load_model(str(tmp_path / "copy.h5")).size.width == 40
