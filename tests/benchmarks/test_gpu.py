"""The benchmark for GPUs runs, on the CPU with a small model, and finds the published numbers."""

import json
import subprocess
import sys

import pytest

from tests.conftest import SAMPLE


@pytest.mark.slow
def test_every_figure_is_a_line_of_json() -> None:
    words = ["--device", "cpu", "--layers", "2", "--width", "64", "--heads", "4", "--batch-tokens", "1024"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu", str(SAMPLE), "--times", "2", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in lines] == ["machine", *["golden"] * 2, *["matmul", "engine"] * 2]
    assert max(line["largest_difference"] for line in lines if line["what"] == "golden") < 2e-5
    letters = sum(len(line) for line in SAMPLE.read_text().splitlines() if not line.startswith(">"))
    records = SAMPLE.read_text().count(">")
    for line in lines:
        if line["what"] == "engine":
            assert line["tokens"] >= 2 * (letters + 2 * records)  # and those that windows share
            assert 0 < line["share"] < 2
