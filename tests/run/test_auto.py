"""`--batch-tokens auto` by device, what a resumed run keeps of it, and what happens when memory runs out."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed, embed_fasta, load_model
from protrna_cli.errors import Stopped
from protrna_cli.machine import Gpu, visible_gpus
from protrna_cli.model import runtime
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.output.stored import open_output
from protrna_cli.run import auto
from protrna_cli.run.auto import settle
from tests.conftest import SAMPLE, TOY, Run
from tests.tools.runs import OPTIONS, Notes, StopAfter

GIB = 1 << 30


def budget(path: Path) -> int:
    found: int = open_output(path).header.provenance["batch_tokens"]
    return found


@pytest.mark.parametrize(
    ("cores", "changes", "expected"),
    [
        (1, {}, 2048),
        (2, {}, 2048),
        (4, {}, 4096),
        (128, {}, 16_384),
        (128, {"threads": 3}, 3072),
        (128, {"workers": 16}, 8192),
        (128, {"workers": "auto"}, 2048),
        (128, {"batch_tokens": 100}, 100),
    ],
)
def test_the_batch_of_a_cpu_grows_with_its_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, changes: dict[str, Any], expected: int
) -> None:
    monkeypatch.setattr(auto, "available_cpus", lambda: cores)
    assert settle(EmbedOptions(device="cpu", **changes)).batch_tokens == expected


@pytest.mark.parametrize(
    ("free", "expected"),
    [([80 * GIB], 32_768), ([80 * GIB, 8 * GIB], 16_384), ([GIB], 8192), ([None], 8192)],
)
def test_the_batch_of_a_gpu_is_by_its_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: list[int | None], expected: int
) -> None:
    monkeypatch.setattr(auto, "visible_gpus", lambda: [Gpu(str(i), each) for i, each in enumerate(free)])
    monkeypatch.setattr(runtime, "configure", lambda device, threads: "cpu" if device == "cpu" else "gpu:0")
    assert settle(EmbedOptions()).batch_tokens == expected
    assert settle(EmbedOptions(device="cpu", threads=2)).batch_tokens == 2048
    monkeypatch.setattr(runtime, "configure", lambda device, threads: "cpu")  # TensorFlow cannot use it
    assert settle(EmbedOptions(threads=2)).batch_tokens == 2048


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [Gpu("GPU-1a2b", 80_000 << 20), Gpu("GPU-3c4d", None)]),
        ("1,0", [Gpu("1", None), Gpu("0", 80_000 << 20)]),
        ("GPU-1a", [Gpu("GPU-1a", 80_000 << 20)]),
        ("MIG-7f, 9", [Gpu("MIG-7f", None), Gpu("9", None)]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_the_gpus_of_a_process_are_found_without_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[Gpu]
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU-1a2b, 80000'\necho 'GPU-3c4d, [N/A]'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == expected
    smi.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert visible_gpus() == []


@pytest.mark.usefixtures("small_chunks")
def test_a_resumed_run_keeps_its_batches(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that would choose others; also when it is complete."""
    options = replace(OPTIONS, batch_tokens="auto", threads=None, resume=True)
    monkeypatch.setattr(auto, "CPU_TOKENS", 150)
    monkeypatch.setattr(auto, "TOKENS_A_THREAD", 1)
    with pytest.raises(Stopped):
        embed_fasta(source, tmp_path / "out", options, stop=StopAfter(9))
    monkeypatch.setattr(auto, "CPU_TOKENS", 300)
    assert embed_fasta(source, tmp_path / "out", options).n_resumed > 0
    assert budget(tmp_path / "out") == 150
    assert embed_fasta(source, tmp_path / "out", options).already_whole
    embed_fasta(source, tmp_path / "other", options)
    assert budget(tmp_path / "other") == 300


def test_in_memory_the_batches_are_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []
    run = ProtRNA._embed_batch

    def watched(self: ProtRNA, tokens: Any, *rest: Any, **how: Any) -> Any:
        budgets.append(int((tokens != 1).sum()))
        return run(self, tokens, *rest, **how)

    monkeypatch.setattr(ProtRNA, "_embed_batch", watched)
    monkeypatch.setattr(auto, "CPU_TOKENS", 100)
    monkeypatch.setattr(auto, "TOKENS_A_THREAD", 1)
    embed(["ACGU" * 5] * 9 + ["ACGUA" * 4, "GGGG" * 5, "CCCC" * 5, "AAAA" * 5, "UUUU" * 5], load_model(TOY))
    assert sum(budgets) == 6 * 22
    assert max(budgets) == 88
    budgets.clear()
    embed(["ACGU" * 5, "GGGG" * 5], load_model(TOY), batch_tokens=22)
    assert budgets == [22, 22]


@pytest.mark.usefixtures("small_chunks")
def test_a_batch_is_halved_once_and_stays_so(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Also in the process that resumes the run; the user is told, and the provenance has the number."""
    embed_fasta(source, tmp_path / "alone", OPTIONS)
    too_large: list[int] = []
    model = ProtRNA._embed_batch

    def small_device(self: ProtRNA, tokens: Any, *rest: Any, **how: Any) -> Any:
        if (n_tokens := int((tokens != 1).sum())) > 80:
            too_large.append(n_tokens)
            raise MemoryError
        return model(self, tokens, *rest, **how)

    monkeypatch.setattr(ProtRNA, "_embed_batch", small_device)
    notes = Notes()
    with pytest.raises(Stopped):
        embed_fasta(source, tmp_path / "out", OPTIONS, notes, StopAfter(20))
    # Of the batches that were submitted by then, the first that is waited for counts.
    first = next(n for n in too_large if f"with {n} tokens" in notes.notes[0])
    found_too_large = list(too_large)
    assert len(too_large) <= 3
    assert notes.notes == [f"memory ran out with {first} tokens in a batch; going on with {first // 2}"]
    assert embed_fasta(source, tmp_path / "out", replace(OPTIONS, resume=True), notes).n_resumed > 0
    assert too_large == found_too_large
    provenance = open_output(tmp_path / "out").header.provenance
    assert (provenance["batch_tokens"], provenance["halved_to"]) == (150, first // 2)
    np.testing.assert_allclose(np.load(tmp_path / "out"), np.load(tmp_path / "alone"), rtol=0, atol=1e-5)
    assert (
        f"up to 150 tokens a batch, halved to {first // 2} when memory" in run("info", tmp_path / "out").out
    )
    assert embed_fasta(source, tmp_path / "out", replace(OPTIONS, resume=True)).already_whole


def test_shards_with_different_batches_are_merged(tmp_path: Path, run: Run) -> None:
    """As they come from machines that differ; the largest number is recorded."""
    words = ["embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY]
    for shard, tokens in (("1/2", 300), ("2/2", 500)):
        assert run(*words, "--shard", shard, "--batch-tokens", tokens).code == 0
    parts = sorted(tmp_path.glob("out.*-of-2.npy"))
    assert run("merge", *parts, "-o", tmp_path / "all.parquet").code == 0
    assert budget(tmp_path / "all.parquet") == 500
    assert run("verify", tmp_path / "all.parquet", SAMPLE).code == 0
