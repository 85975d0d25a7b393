"""Which checkpoint a name means, and where it is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from protrna_cli.errors import WeightsError

PUBLISHED = "protrna"
PUBLISHED_FILE = "ProtRNA_pretrained.h5"
PUBLISHED_ADDRESS = f"https://zenodo.org/records/14795554/files/{PUBLISHED_FILE}"
DEMO = "demo"
DEMO_NOTICE = "model demo has synthetic weights: its embeddings carry no biology"


def folder() -> Path:
    """Where published checkpoints are kept: `PROTRNA_HOME`, or the user's cache folder."""
    if home := os.environ.get("PROTRNA_HOME"):
        return Path(home)
    import pooch  # takes as long as the rest of this module's work; asked for only here

    return Path(pooch.os_cache("protrna"))


def locate(name_or_path: str) -> Path | None:
    """Find a checkpoint by name or path; None means the built-in demo model, which has no file.

    Raises
    ------
    WeightsError
        The published checkpoint is not at hand, or there is no such file.
    """
    if name_or_path == DEMO:
        return None
    if name_or_path != PUBLISHED:
        path = Path(name_or_path)
        if not path.exists():
            raise WeightsError(f"{path}: no such checkpoint; --model takes protrna, demo or the path of one")
        return path
    path = folder() / PUBLISHED_FILE
    if not path.exists():
        raise WeightsError(
            f"the published weights are not at {path}; download {PUBLISHED_ADDRESS} (2.6 GB) to there, "
            "or name a copy with --model PATH, or try the tool with --model demo (synthetic weights)"
        )
    return path


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
