"""The benchmarks of the page `neighbours`: programs that take vectors, the model, or an export.

pip install -e ".[test,neighbours]" && python -m pytest -m consumers tests/api/test_benchmarks.py
In another environment: pip install -e ".[test,mrnabench]", and the same.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from protrna_cli import embed, load_model, manual
from protrna_cli.cli import main as cli
from tests.conftest import SAMPLE, Run
from tests.test_manual import block

# Warnings of these libraries are ignored.
pytestmark = [pytest.mark.consumers, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LAYERS, WIDTH = 6, 320
"""Of the demo model."""


def library(name: str, extra: str = "neighbours") -> Any:
    """Import a library, or skip the test that needs it."""
    return pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[{extra}]"')


def example(words: str) -> dict[str, Any]:
    """Run the example of the page that has these words, and return its names."""
    names: dict[str, Any] = {}
    exec(block("python neighbours", words), names)
    return names


def random_table(seed: int) -> pd.DataFrame:
    """Random sequences in the letters of DNA, some of them twice, and their share of G and C."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.1, 0.9, 60)
    drawn = [rng.choice(list("GCAT"), 80, p=[share / 2] * 2 + [0.5 - share / 2] * 2) for share in shares]
    sequences = ["".join(letters) for letters in [*drawn, *drawn[:3]]]
    share = [(sequence.count("G") + sequence.count("C")) / len(sequence) for sequence in sequences]
    index = [*range(60), 7, 7, 9]  # ids that repeat, in another order
    return pd.DataFrame({"sequence": sequences, "target_ribosome_load": share}, index)


def test_mrnabench_takes_a_vector_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table of our own, where mRNABench keeps the one that it downloaded."""
    library("mrna_bench", "mrnabench")
    monkeypatch.setattr("mrna_bench.datasets.benchmark_dataset.get_data_path", lambda: str(tmp_path))
    table = random_table(3)
    (tmp_path / "mrl-hl-lbkwk").mkdir()
    table.to_parquet(tmp_path / "mrl-hl-lbkwk" / "data_df.parquet")
    names = example("mrna_bench")
    probed, model = names["probe"].data_df, load_model("demo")
    assert probed["sequence"].tolist() == table["sequence"].tolist()
    for sequence, vector in zip(probed["sequence"], probed["embeddings"], strict=True):
        np.testing.assert_allclose(vector, embed([sequence], model)[0], atol=1e-5)
    assert names["metrics"]["val_r"] > 0.9  # a mean vector knows the share of its letters; others do not


def test_rna_structure_audit_gets_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its four shortest RNAs and all their mutants."""
    audit = library("rna_structure_audit.evaluate")
    every = sorted(audit.load_families(), key=lambda family: len(family["sequence"]))
    assert (len(every), sum(1 + len(family["sequence"]) for family in every)) == (47, 6411)
    families = every[:4]
    monkeypatch.setattr(audit, "load_families", lambda: families)
    monkeypatch.chdir(tmp_path)
    names = example("rna_structure_audit")
    report = names["audit"]["report"]
    assert report == json.loads(Path("audit.json").read_text())["report"]
    assert (report["n_families"], report["rung1"]["families_scored"]) == (4, 4)
    assert report["rung1"]["mean_ratio"] > 0
    assert report["grade"] in "ABCD"
    adapter, model, sequence = names["ProtRNA"](), load_model("demo"), families[0]["sequence"]
    adapter.load()
    found = adapter.get_all_layer_embeddings(adapter.tokenize(sequence))
    tokens = model.alphabet.get_batch_converter()([sequence])
    published = model(tokens, repr_layers=range(LAYERS + 1))["representations"]
    assert len(found) == len(published)
    for layer, expected in enumerate(published.values()):
        np.testing.assert_allclose(found[layer], expected[0, 1:-1], atol=1e-5)


def after_the_last_norm(folder: Path, residues: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply the layer norm with which the model of an export ends."""
    weights = load_file(folder / "model.safetensors")
    scale, shift = (weights[f"esm.encoder.emb_layer_norm_after.{name}"] for name in ("weight", "bias"))
    centred = residues - residues.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The export of the page, in the working directory, beside its table."""
    library("plmsommelier")
    (tmp_path / "sample_data").symlink_to(SAMPLE.parent)
    monkeypatch.chdir(tmp_path)
    [command] = re.findall("^protrna (weights export .+)$", manual.page("neighbours"), re.MULTILINE)
    assert cli.run(command.split()) == 0
    example("labelled.csv")
    return tmp_path / command.split()[2]


def test_plmsommelier_gets_our_layers_behind_the_last_norm(exported: Path) -> None:
    plmsommelier = library("plmsommelier")
    sequences = plmsommelier.load_dataset("labelled.csv").train_seqs
    loaded = plmsommelier.load_model(str(exported), device="cpu")
    theirs = plmsommelier.embed_layers(loaded, sequences)  # float16
    ours = embed(sequences, load_model("demo"), layers="all", per_token=True, long="whole")
    assert theirs.shape == (LAYERS + 1, len(sequences), WIDTH)
    for layer, found in enumerate(theirs):
        for vector, residues in zip(found, ours[layer], strict=True):
            normed = residues if layer == LAYERS else after_the_last_norm(exported, residues)
            np.testing.assert_allclose(vector, normed.mean(0), atol=5e-3)


def test_plmsommelier_writes_a_model_that_ends_at_a_layer(exported: Path, run: Run) -> None:
    transformers = library("transformers")
    program, *words = block("bash", "plmsommelier").split()
    subprocess.run([Path(sys.executable).with_name(program), *words], check=True, capture_output=True)
    folder = exported.with_name(words[-1])
    chosen = json.loads((folder / "plmsommelier.json").read_text())
    assert chosen["layers_total"] == LAYERS
    assert transformers.AutoModel.from_pretrained(folder).config.num_hidden_layers == chosen["best_layer"]
    refused = run("embed", SAMPLE, "-o", "out.h5", "--model", folder)
    assert refused.code == 69
    assert "neighbours-truncated" in refused.err


def test_a_table_in_capital_letters_is_one_of_proteins(exported: Path) -> None:
    """Nothing says so, which is why the page does."""
    tokenizer = library("transformers").AutoTokenizer.from_pretrained(exported)
    with Path("labelled.csv").open(newline="") as file:
        [written, *_] = [row["sequence"] for row in csv.DictReader(file)]
    assert min(tokenizer(written)["input_ids"][1:-1]) > 32
    assert max(tokenizer(written.upper())["input_ids"][1:-1]) <= 32
