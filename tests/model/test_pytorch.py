"""The page `pytorch` of the manual: exports in Hugging Face transformers, and what its table says of them.

pip install -e ".[test,pytorch]" && python -m pytest tests/model/test_pytorch.py -m "slow or not slow"
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from protrna_cli import manual
from protrna_cli.model.alphabet import Alphabet
from protrna_cli.weights.checkpoint import locate
from protrna_cli.weights.export import export
from tests.conftest import GOLDEN, TOY
from tests.test_manual import blocks
from tests.tools.checkpoints import write_checkpoint

WHY = 'it is not installed: pip install -e ".[pytorch]"'
torch = pytest.importorskip("torch", reason=WHY)
transformers = pytest.importorskip("transformers", reason=WHY)

# Warnings of these libraries are ignored.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = manual.page("pytorch")
PAD = 1
CONTACT_HEAD = {"esm.contact_head.regression.weight", "esm.contact_head.regression.bias"}
HEAD64 = GOLDEN / "head64.h5"
MODELS = {
    "3 layers × 40": TOY,
    "2 layers × 128": HEAD64,
    "demo, 6 layers × 320": "demo",
    "random, 33 layers × 1280": None,
}


QUICK = [["3 layers × 40", "float32"], ["demo, 6 layers × 320", "float32"]]


class Outputs(NamedTuple):
    """What a model computes for the golden records, without padding."""

    layers: list[NDArray[np.float32]]  # of (N, D)
    logits: NDArray[np.float32]  # (N, 38)
    means: NDArray[np.float32]  # (B, D)

    def differences(self, other: Outputs) -> tuple[float, float, float]:
        """Largest differences of the layers, the logits and the mean vectors."""
        layers = zip(self.layers, other.layers, strict=True)
        return (
            max(float(np.abs(one - two).max()) for one, two in layers),
            float(np.abs(self.logits - other.logits).max()),
            float(np.abs(self.means - other.means).max()),
        )


def collected(tokens: NDArray[np.int32], layers: Any, logits: Any) -> Outputs:
    """Leave out padding, and pool the last layer over the residues."""
    there = tokens != PAD
    residues = (tokens > 32)[..., None]
    means = (layers[-1] * residues).sum(1) / residues.sum(1)
    return Outputs([layer[there] for layer in layers], logits[there], means)


def golden_tokens() -> NDArray[np.int32]:
    with np.load(GOLDEN / "toy.npz") as arrays:
        return arrays["tokens"]


def published(model: Path) -> Outputs:
    """Outputs of the published implementation."""
    with np.load(model.with_suffix(".npz")) as arrays:
        count = sum(key.startswith("layer_") for key in arrays)
        return collected(arrays["tokens"], [arrays[f"layer_{i}"] for i in range(count)], arrays["logits"])


def by_transformers(folder: Path, precision: str) -> Outputs:
    """Load an export with transformers, and check that every weight is there."""
    model, found = transformers.AutoModelForMaskedLM.from_pretrained(
        folder, dtype=getattr(torch, precision), output_loading_info=True
    )
    assert set(found["missing_keys"]) <= CONTACT_HEAD
    assert not any(found[key] for key in found if key != "missing_keys")
    tokens = golden_tokens()
    ids = torch.tensor(tokens, dtype=torch.int64)
    with torch.no_grad():
        out = model.eval()(input_ids=ids, attention_mask=(ids != PAD).long(), output_hidden_states=True)
    return collected(tokens, [each.float().numpy() for each in out.hidden_states], out.logits.float().numpy())


def by_protrna(model: str | Path, precision: str) -> Outputs:
    tokens = golden_tokens()
    checkpoint = locate(str(model))
    loaded = checkpoint.load(precision, "cpu", None)
    wanted = range(loaded.size.layers + 1)
    found = loaded(tokens, repr_layers=wanted)
    return collected(tokens, [found["representations"][i].numpy() for i in wanted], found["logits"].numpy())


def rows() -> list[list[str]]:
    """Read the table of the page: model, export, precision of the run, and the largest differences."""
    lines = PAGE.split("| mean vectors |\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A full-size checkpoint with random weights, which is removed afterwards."""
    path = tmp_path_factory.mktemp("full") / "full.h5"
    write_checkpoint(path, layers=33, width=1280, heads=20)
    yield path
    path.unlink()


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=", ".join(row[:3]), marks=[] if row[:2] in QUICK else [pytest.mark.slow])
        for row in rows()
    ],
)
def test_the_table_says_how_far_transformers_is_from_us(
    tmp_path: Path, row: list[str], request: pytest.FixtureRequest
) -> None:
    name, exported, computed, *stated = row
    model = MODELS[name] or request.getfixturevalue("full")
    folder = tmp_path / "exported"
    export(locate(str(model)), folder, exported)
    theirs = by_transformers(folder, computed)
    if model in (TOY, HEAD64) and exported == "float32":
        ours = published(model)
    else:
        ours = by_protrna(folder, computed)
    shutil.rmtree(folder)
    measured = theirs.differences(ours)
    print(*row[:3], *(f"{each:.1e}" for each in measured))
    for most, found in zip(map(float, stated), measured, strict=True):
        assert most / 20 < found <= most


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the export of the page; the working directory."""
    monkeypatch.chdir(tmp_path)
    export(locate("demo"), Path("protrna-pytorch"), "float32")
    return tmp_path / "protrna-pytorch"


def test_the_lines_of_the_page_give_our_vectors(demo: Path) -> None:
    names: dict[str, Any] = {}
    first, second = blocks("python pytorch", PAGE)
    exec(first, names)
    exec(second, names)  # asserts
    assert names["vectors"].shape == (2, 320)
    assert names["written"] == ["ggggcccc", "acgux"]
    bare = transformers.AutoModel.from_pretrained(demo).eval()  # what most programs load
    with torch.no_grad():
        assert torch.equal(bare(**names["tokens"]).last_hidden_state, names["last"])
    card = (demo / "README.md").read_text()
    assert blocks("python", card) == [first.replace('"protrna-pytorch"', '"."  # that of this file')]


def test_the_tokenizer_is_our_alphabet(demo: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo)
    alphabet = Alphabet()
    assert tokenizer.get_vocab() == alphabet.to_dict()
    for token, number in alphabet.to_dict().items():
        assert tokenizer(token)["input_ids"] == [alphabet.cls_idx, number, alphabet.eos_idx], token
        assert tokenizer.decode([number]).strip() == token
    for name in ("cls", "eos", "pad", "unk", "mask"):
        assert getattr(tokenizer, f"{name}_token") == f"<{name}>"
    sequences = ["AUGC", "GGUN", "A"]
    theirs = tokenizer([each.lower().replace("n", "x") for each in sequences], padding=True)
    np.testing.assert_array_equal(theirs["input_ids"], alphabet.get_batch_converter()(sequences))
    np.testing.assert_array_equal(theirs["attention_mask"], np.array(theirs["input_ids"]) != PAD)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("origin", ["from_pretrained", "from_config"])
def test_a_model_that_was_trained_further_comes_back(
    demo: Path, tmp_path: Path, precision: str, origin: str
) -> None:
    """It is saved under other names if transformers did not load it."""
    model = transformers.EsmForMaskedLM.from_pretrained(demo)
    if origin == "from_config":
        made = transformers.EsmForMaskedLM(model.config)
        made.load_state_dict(model.state_dict())
        model = made
    ids = torch.tensor(golden_tokens(), dtype=torch.int64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(input_ids=ids, attention_mask=(ids != PAD).long(), labels=ids).loss.backward()
    optimizer.step()
    saved = tmp_path / "saved"
    model.to(getattr(torch, precision)).save_pretrained(saved)
    transformers.AutoTokenizer.from_pretrained(demo).save_pretrained(saved)
    theirs, ours = by_transformers(saved, "float32"), by_protrna(saved, "float32")
    layers, logits, means = theirs.differences(ours)
    assert layers < 2e-5
    assert logits < 2e-4
    assert means < 2e-5
    assert theirs.differences(by_protrna(demo, "float32"))[2] > 1e-3  # it was trained
