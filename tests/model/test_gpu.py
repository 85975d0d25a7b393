"""A GPU gives the same numbers as the CPU. Each run is a new process: TensorFlow fixes its devices once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import SAMPLE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="TensorFlow sees no GPU here"),
]


def embedded(folder: Path, device: str, *words: str) -> np.ndarray:
    """Embed the sample with the demo model on a device; returns rows (N, D)."""
    out = folder / f"{device}.npy"
    command = ["embed", str(SAMPLE), "-o", str(out), "--model", "demo", "--device", device, *words]
    subprocess.run([sys.executable, "-m", "protrna_cli", *command], check=True, timeout=600)
    return np.load(out)


def test_float32_rows_equal_those_of_the_cpu(tmp_path: Path) -> None:
    np.testing.assert_allclose(embedded(tmp_path, "gpu"), embedded(tmp_path, "cpu"), rtol=0, atol=2e-5)


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    found, expected = embedded(tmp_path, "gpu", "--precision", "bfloat16"), embedded(tmp_path, "cpu")
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999


def test_the_command_does_not_take_all_memory_of_a_gpu() -> None:
    """Memory is allocated as needed, so that other processes can use the device too."""
    script = """
import tensorflow as tf
from protrna_cli import load_model
from protrna_cli.libraries import own_process

own_process()
load_model("demo", device="gpu")([[0, 33, 2]])
print(tf.config.experimental.get_memory_growth(tf.config.list_physical_devices("GPU")[0]))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"
