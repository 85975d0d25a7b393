"""A GPU that is there and that TensorFlow does not use is never passed over without a word."""

import json
import os
from pathlib import Path

import pytest
import tensorflow as tf

from tests.conftest import SAMPLE, TOY, Run

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="TensorFlow sees a GPU here"
)

WHY = "does not find its CUDA libraries" if tf.test.is_built_with_cuda() else "was built without CUDA"
TOLD = (
    f"this machine has NVIDIA H100 80GB HBM3, but TensorFlow {tf.__version__} {WHY}; run "
    'pip install "protrna-cli[gpu]" (from a clone pip install ".[gpu]"), then protrna doctor'
)


@pytest.fixture
def card(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `nvidia-smi` that lists two cards of a kind."""
    smi = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\ncase "$1" in *=name) a="NVIDIA H100 80GB HBM3"; echo "$a"; echo "$a";; '
        "*) echo GPU-a, 80000; echo GPU-b, 80000;; esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("card")
def test_a_run_on_the_cpu_says_so_once(run: Run, tmp_path: Path) -> None:
    words = ["embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY, "--overwrite"]
    done = run(*words)
    assert done.code == 0
    assert done.err.count(f"note: computing on the CPU: {TOLD}") == 1
    assert "computing on the CPU" not in run(*words, "--device", "cpu").err


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_the_error_of_a_gpu_says_the_same(run: Run, tmp_path: Path, more: list[str]) -> None:
    done = run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY, "--device", "gpu", *more)
    assert done.code == 2
    assert f"there is no gpu: TensorFlow sees 0 GPUs; {TOLD}" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("card", "small_trials")
def test_the_doctor_says_the_same(run: Run) -> None:
    assert json.loads(run("doctor", "--model", "demo", "--json").out)["unused_gpus"] == TOLD


@pytest.mark.usefixtures("card")
def test_a_card_that_is_hidden_is_not_spoken_of(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY)
    assert (done.code, "computing on the CPU" in done.err) == (0, False)
