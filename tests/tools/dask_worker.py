"""Preloaded by the workers of the cluster tests: many small chunks, a commit per batch, a slow model."""

from __future__ import annotations

import time
from typing import Any

from protrna_cli.cluster import worker
from protrna_cli.plan import pieces
from protrna_cli.run import loop

BATCH_SECONDS = 0.12  # a part must not end before a cancellation reaches its worker


def dask_setup(_: Any) -> None:
    """Change the settings for the tests."""
    pieces.CHUNK_RECORDS, pieces.CHUNK_RESIDUES = 7, 300
    pieces.CHUNKS_A_SHARD = 2
    loop.COMMIT_SECONDS = 0.0
    worker.BUSY_SECONDS = 0.05

    from protrna_cli.model.transformer import ProtRNA

    embed = ProtRNA._embed_batch

    def slow(self: ProtRNA, *arguments: Any, **how: Any) -> Any:
        time.sleep(BATCH_SECONDS)
        return embed(self, *arguments, **how)

    ProtRNA._embed_batch = slow  # type: ignore[method-assign]
