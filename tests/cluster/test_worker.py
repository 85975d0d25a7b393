"""What a worker of a cluster keeps between its tasks."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from protrna_cli.cluster.worker import remembered
from protrna_cli.weights.checkpoint import Checkpoint
from tests.tools.checkpoints import write_checkpoint
from tests.tools.faulty import TOY, FaultyCheckpoint


def test_a_checkpoint_is_hashed_and_loaded_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(TOY, tmp_path))
    calls: list[str] = []
    hashed = Checkpoint.sha256

    def sha256(checkpoint: Checkpoint) -> str | None:
        calls.append("hash")
        return hashed(checkpoint)

    def load(checkpoint: Checkpoint, precision: str, *settings: Any) -> Any:
        calls.append(precision)
        return FaultyCheckpoint(checkpoint.path).load(precision, *settings)

    def task(precision: str = "float32") -> tuple[str | None, Any]:
        checkpoint = remembered(Checkpoint(path))
        return checkpoint.sha256(), checkpoint.load(precision, "cpu", None)

    monkeypatch.setattr(Checkpoint, "sha256", sha256)
    monkeypatch.setattr(Checkpoint, "load", load)
    first, again, other = task(), task(), task("bfloat16")
    assert calls == ["hash", "float32", "bfloat16"]
    assert first[0] == again[0] == other[0] == hashlib.sha256(TOY.read_bytes()).hexdigest()
    assert first[1] is again[1] is not other[1]
    write_checkpoint(tmp_path / "new.h5", layers=2, width=40, heads=5, seed=1)
    (tmp_path / "new.h5").replace(path)
    assert task()[0] == hashlib.sha256(path.read_bytes()).hexdigest() != first[0]
    assert calls == ["hash", "float32", "bfloat16", "hash", "float32"]
