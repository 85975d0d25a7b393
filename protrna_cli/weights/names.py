"""Names of the checkpoints, and what to do when the published one is missing."""

from __future__ import annotations

import os

PUBLISHED = "protrna"
PUBLISHED_FILE = "ProtRNA_pretrained.h5"
DEMO = "demo"
DEMO_NOTICE = "model demo has synthetic weights: its embeddings have no biological meaning"
MISSING_WEIGHTS_REMEDY = (
    "run protrna weights fetch --to DIR on a machine with a network and pass DIR with --weights-dir or "
    "PROTRNA_HOME, or pass a copy with --model PATH, or try the tool with --model demo (synthetic weights)"
)


def is_offline(asked: bool = False) -> bool:
    """Whether downloads are forbidden: by the caller, or by `PROTRNA_OFFLINE` (set to anything but 0)."""
    return asked or os.environ.get("PROTRNA_OFFLINE", "") not in ("", "0")
