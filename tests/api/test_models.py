"""The published names: its quick starts run as printed, with another import line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from protrna_cli import load_model, load_pretrained_model
from protrna_cli.errors import WeightsError
from protrna_cli.model import structure
from protrna_cli.model.structure import ModelSize
from protrna_cli.weights import fetch as fetching
from tests.conftest import GOLDEN, SAMPLE, TOY
from tests.tools.checkpoints import write_checkpoint
from tests.tools.zenodo import Zenodo

SMALL = ModelSize(layers=33, width=40, heads=5)
"""As deep as the published model, because its quick starts ask for layer 33, and narrow."""

SEQUENCES = (Path(SAMPLE).parent / "readme.fa").read_text().split(">")[1:]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint of 33 layers."""
    path = tmp_path_factory.mktemp("small") / "small.h5"
    write_checkpoint(path, layers=SMALL.layers, width=SMALL.width, heads=SMALL.heads, seed=3)
    return path.read_bytes()


@pytest.fixture
def server(small: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    """A local server instead of the published addresses; its checkpoint has the published size."""
    monkeypatch.setattr(structure, "PUBLISHED_SIZE", SMALL)
    monkeypatch.delenv("PROTRNA_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Zenodo(small) as zenodo:
        monkeypatch.setattr(fetching, "MIRRORS", (zenodo.record(),))
        yield zenodo


FIRST_README = """
from protrna_cli import load_model

model = load_model()
batch_converter = model.alphabet.get_batch_converter()

seqs = [
        "CAUAUCGUGAGAUGUGGGCGAGAAGAAGGGAUAGCGAAAUCGUAGCCCUACGGACAGAAACCUGAUAAUAAGGCGUGCAUGGCGGGUAAGUUGGCUUAAAGCAACGAAGCCCUAAAGGUAGCCGUAACCUAUGUGCGUAAAUUAGGAGGGUAGACGAGGAAAGAACACG",
        "AAAAGUUAAAAAUGAUAUUCCCGAAAGGAUGCACCAUGUGUAGAUGCCUUGUAACCGGAAUUGAAUGGGGGAAAAAGAAAUG",
        "AAGGUCGAGUGAUGAGCAAAAAUGCAUAGUUCAGAUGAUCAAACCCUAGUGGUUAUGAUUACUUUGAAUAAAUAGUCUUUCGCUCCUAACUGACGGCCUU",
]

seq_tokens = batch_converter(seqs)
results = model(seq_tokens, repr_layers=[33])

print("ProtRNA embeddings:", results["representations"][33])
"""

LATEST_README = FIRST_README.replace("import load_model", "import load_pretrained_model").replace(
    "load_model()", "load_pretrained_model(name='ProtRNA_pretrained')"
)


@pytest.mark.parametrize("script", [FIRST_README, LATEST_README])
def test_a_published_quick_start_runs_as_printed(
    server: Zenodo,
    script: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(script, names)
    results = names["results"]
    assert isinstance(results, dict)
    assert results["representations"][33].shape == (3, 171, 40)
    assert capsys.readouterr().out.startswith("ProtRNA embeddings: tf.Tensor(")
    assert len(server.log) == 1
    exec(script, names)
    assert len(server.log) == 1  # the second time it is there


def test_weights_are_fetched_into_a_folder_once_and_verified(
    server: Zenodo, tmp_path: Path, home: Path
) -> None:
    folder = tmp_path / "weights"
    model = load_pretrained_model(name="ProtRNA_pretrained", path=folder)
    assert (model.size.layers, model.size.width) == (33, 40)
    assert sorted(path.name for path in folder.iterdir()) == [
        "ProtRNA_pretrained.h5",
        "ProtRNA_pretrained.h5.json",
    ]
    assert not list(home.iterdir())
    assert load_model("ProtRNA_pretrained.h5", folder).size == model.size
    assert load_model(name="ProtRNA_pretrained.h5", path=str(folder)).size == model.size
    assert len(server.log) == 1
    damaged = folder / "ProtRNA_pretrained.h5"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_pretrained_model(path=folder)


def test_a_damaged_download_is_refused(server: Zenodo, tmp_path: Path) -> None:
    server.checksum = "md5:" + "0" * 32
    with pytest.raises(WeightsError, match="its MD5 is"):
        load_pretrained_model(path=tmp_path / "weights")
    assert not (tmp_path / "weights" / "ProtRNA_pretrained.h5").exists()


@pytest.mark.parametrize("name", ["ssHead_RF_bprna", "ssHead_RF_rnabench_inter"])
def test_a_downstream_head_is_named_as_such(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_pretrained_model(name=name, path=tmp_path)
    assert f"{name}.h5: a downstream head; protrna runs the model only" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_names_are_files(tmp_path: Path) -> None:
    assert load_pretrained_model(name="toy", path=GOLDEN).size.layers == 3
    assert load_model("toy.h5", GOLDEN).size.layers == 3
    with pytest.raises(WeightsError, match=r"no such checkpoint; ProtRNA_pretrained\.h5 is the only"):
        load_pretrained_model(name="other", path=tmp_path)


def test_the_signatures_are_the_published_ones() -> None:
    parameters = inspect.signature(load_pretrained_model).parameters
    assert list(parameters) == ["name", "path"]
    assert parameters["name"].default == "ProtRNA_pretrained"
    assert parameters["path"].default == "./weights"
    assert list(inspect.signature(load_model).parameters)[:2] == ["name", "path"]


def test_a_model_says_how_it_was_loaded() -> None:
    assert load_model(TOY).precision == "float32"
    assert load_model(TOY, precision="bfloat16").precision == "bfloat16"
    found = load_model(TOY)([[0, 33, 2]], repr_layers=[3])["representations"][3]
    assert np.asarray(found).dtype == np.float32
