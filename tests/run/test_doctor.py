"""`protrna doctor`: its reference numbers, its output, and what it reports when numbers are wrong."""

import json
import re
from typing import Any

import numpy as np
import pytest

from protrna_cli.model import checkpoint, trial
from protrna_cli.run import doctor
from tests.conftest import GOLDEN, Run
from tests.tools import reference

LETTERS = {letter: i for i, letter in enumerate("AUGCN", start=33)}


def test_the_reference_row_is_the_float64_models() -> None:
    _, weights = checkpoint.demo_weights(lambda name, values: values)
    layers = [
        reference.LayerWeights(
            layer.inv_freq,
            (layer.query_kernel, layer.query_bias),
            (layer.key_kernel, layer.key_bias),
            (layer.value_kernel, layer.value_bias),
            (layer.out_kernel, layer.out_bias),
            (layer.norm1_gamma, layer.norm1_beta),
            (layer.fc1_kernel, layer.fc1_bias),
            (layer.fc2_kernel, layer.fc2_bias),
            (layer.norm2_gamma, layer.norm2_beta),
        )
        for layer in weights.layers
    ]
    head = weights.lm_head
    model = reference.ReferenceWeights(
        weights.embedding,
        layers,
        (weights.final_norm.gamma, weights.final_norm.beta),
        head.bias,
        (head.dense_kernel, head.dense_bias),
        (head.norm_gamma, head.norm_beta),
    )
    tokens = np.array([[0, *(LETTERS[letter] for letter in trial.REFERENCE_SEQUENCE), 2]])
    row = reference.forward(model, tokens).representations[-1][0, 1:-1].mean(0)
    np.testing.assert_allclose(trial.REFERENCE_ROW, row[: len(trial.REFERENCE_ROW)], rtol=0, atol=5e-8)


@pytest.mark.usefixtures("small_trials")
def test_the_doctor_reports_what_the_machine_can_do(run: Run) -> None:
    outcome = run("doctor", "--model", GOLDEN / "toy.h5", "--device", "cpu", "--json")
    found: dict[str, Any] = json.loads(outcome.out)
    assert outcome.code == 0
    assert found["is_sound"]
    assert 0 < found["reference_error"] < 2e-5
    assert found["device"] == "cpu"
    assert not found["weights_there"]
    for precision in ("float32", "bfloat16"):
        # 24 D² operations per layer and token; the model has 3 layers and width 40.
        flops = found["tokens_per_second"][precision] * 24 * 40**2 * 3
        assert found["share_of_matmul"][precision] == pytest.approx(flops / found["matmul_flops"][precision])


@pytest.mark.usefixtures("small_trials")
def test_the_demo_model_replaces_missing_weights_and_wrong_numbers_are_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "REFERENCE_ROW", tuple(value + 0.01 for value in trial.REFERENCE_ROW))
    monkeypatch.setattr(doctor, "available_cpus", lambda: 2)
    monkeypatch.setattr(doctor, "physical_cores", lambda: 1)
    outcome = run("doctor")
    assert outcome.code == 70
    assert "tokens/s of demo" in outcome.out
    assert "missing; run protrna weights fetch" in outcome.out
    assert "within 1e-02 of float64" in outcome.out
    assert "WRONG" in outcome.out
    assert re.search(r"^system .*, 2 CPUs on 1 core$", outcome.out, re.MULTILINE)
    assert re.search(r"^device .*, 2 CPU threads$", outcome.out, re.MULTILINE)  # the default counts CPUs


def test_a_checkpoint_that_is_not_there_is_an_error(run: Run) -> None:
    outcome = run("doctor", "--model", "missing.h5")
    assert outcome.code == 69
    assert "missing.h5: no such checkpoint" in outcome.err
