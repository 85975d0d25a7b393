"""Batches that do not fit, and embeddings that are not finite."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import embed_fasta
from protrna_cli.errors import NotFinite, OutOfMemory
from protrna_cli.model.transformer import ProtRNA
from tests.conftest import TOY
from tests.tools.runs import OPTIONS


def run_with(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any], Any]) -> None:
    """Call `change` for every batch, with its tokens and a function that runs the model on them."""
    embed = ProtRNA._embed_batch

    def changed(self: ProtRNA, tokens: Any, *rest: Any, **how: Any) -> Any:
        return change(tokens, lambda: embed(self, tokens, *rest, **how))

    monkeypatch.setattr(ProtRNA, "_embed_batch", changed)


@pytest.mark.parametrize("per_token", [False, True])
def test_a_batch_that_does_not_fit_runs_in_halves(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, per_token: bool
) -> None:
    options = replace(OPTIONS, per_token=per_token, batch_tokens=100_000)
    embed_fasta(source, tmp_path / "alone", options)
    sizes: list[int] = []

    def small_device(tokens: Any, run: Any) -> Any:
        if tokens.size > 200:
            raise MemoryError
        sizes.append(tokens.size)
        return run()

    run_with(monkeypatch, small_device)
    embed_fasta(source, tmp_path / "halved", options)
    assert max(sizes) <= 200
    np.testing.assert_allclose(np.load(tmp_path / "halved"), np.load(tmp_path / "alone"), rtol=0, atol=1e-5)


def test_tensorflows_out_of_memory_error_becomes_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that TensorFlow's allocators raise on a CPU and on a GPU."""
    import tensorflow as tf

    from protrna_cli import load_model

    model = load_model(TOY)

    def exhausted(*_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setitem(model.__dict__, "_layer", exhausted)
    with pytest.raises(MemoryError, match="OOM when allocating"):
        model._embed_batch(np.array([[0, 33, 2]], np.int32), np.ones((1, 3), np.float32), [3], "mean")


@pytest.mark.usefixtures("small_chunks")
def test_a_single_record_that_does_not_fit_is_named(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(tokens: Any, run: Any) -> Any:
        if (tokens != 1).sum(1).max() == 62:
            raise MemoryError
        return run()

    run_with(monkeypatch, no_memory)
    with pytest.raises(OutOfMemory, match=r"record \d+ \(id 'r\d+'\): 60 residues at once do not fit"):
        embed_fasta(source, tmp_path / "out", OPTIONS)


@pytest.mark.usefixtures("small_chunks")
def test_an_embedding_that_is_not_finite_is_an_error_that_names_the_record(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def spoil(tokens: Any, run: Any) -> Any:
        values = run()
        calls.append(1)
        if len(calls) == 5:
            values[0][0] = np.nan
        return values

    with monkeypatch.context() as patch:
        run_with(patch, spoil)
        with pytest.raises(NotFinite, match=r"record \d+ \(id 'r\d+'\): its embedding is not finite"):
            embed_fasta(source, tmp_path / "out", OPTIONS)
    assert embed_fasta(source, tmp_path / "out", replace(OPTIONS, resume=True)).n_resumed > 0


def test_numbers_beyond_float16_are_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(monkeypatch, lambda tokens, run: [values * 1e6 for values in run()])
    with pytest.raises(NotFinite, match=r"not finite in float16; try dtype=.float32."):
        embed_fasta(source, tmp_path / "out", replace(OPTIONS, dtype="float16"))
