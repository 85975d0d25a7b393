"""The picture of speed against error shows what was measured, and so do the texts beside it."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import peers
from tests.conftest import ROOT, SAMPLE, TOY

FIGURES = Path(peers.__file__).with_suffix(".jsonl")
PICTURE = ROOT / "sample_data" / "speed.svg"


def measured() -> dict[tuple[str, str], tuple[float, float]]:
    return peers.summary([json.loads(line) for line in FIGURES.read_text().splitlines()])


def labels(picture: Path) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text [^>]*>([^<]*)</text>", picture.read_text())]


def test_the_picture_has_the_figures_and_the_machine(tmp_path: Path) -> None:
    peers.draw(FIGURES, tmp_path / "again.svg")
    assert labels(tmp_path / "again.svg") == labels(PICTURE)
    told = "\n".join(labels(PICTURE))
    for (engine, precision), (rate, _) in measured().items():
        assert f"{engine} {precision}\n{rate:,.0f} tokens/s" in told
    [about] = [json.loads(line) for line in FIGURES.read_text().splitlines() if "machine" in line]
    assert f"{about['machine']}, {about['date']}" in told


def test_the_page_and_the_readme_tell_the_same_figures() -> None:
    page = (ROOT / "protrna_cli" / "manual" / "benchmarks.md").read_text()
    [speed] = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| **Speed**")
    ]
    for (engine, precision), (rate, error) in measured().items():
        assert f"| {engine} {precision} | {rate:.0f} | {error:.1g} |" in page
        if engine in ("protrna", "Hugging Face, SDPA"):
            assert f"{rate:.0f}" in speed


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["protrna", "Hugging Face, SDPA", "fair-esm", "esm.cpp"])
def test_equal_weights_give_equal_rows(engine: str, tmp_path: Path) -> None:
    for package in {"Hugging Face, SDPA": ["transformers"], "fair-esm": ["esm"], "esm.cpp": ["esm_cpp"]}.get(
        engine, []
    ):
        pytest.importorskip(package, reason=f"needs {package}, which is measured against")
    peers.prepare(SAMPLE, TOY, tmp_path)
    true = np.load(tmp_path / "float64.npy")
    assert len(true) == -(-SAMPLE.read_text().count(">") // peers.EVERY)
    found = peers.measure(engine, "float32", SAMPLE, TOY, tmp_path)
    assert 0 < found["error"] <= found["largest_error"] < 1e-5
