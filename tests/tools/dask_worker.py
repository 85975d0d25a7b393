"""Preloaded by the workers of the cluster tests: many small chunks, a commit per batch, a slow model."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

from protrna_cli.cluster import worker
from protrna_cli.plan import pieces
from protrna_cli.run import loop

BATCH_SECONDS = 0.12
"""A part must last long enough to be killed in the middle."""

FREE_BATCHES = 2

_holding = False
_parts, _batches = count(), count()


def hold(holding: bool = True) -> None:
    """Have each worker wait in its next part but one, after two batches, until that part is cancelled."""
    global _holding, _parts
    _holding, _parts = holding, count()


def dask_setup(running: Any) -> None:
    """Change the settings for the tests."""
    pieces.CHUNK_RECORDS, pieces.CHUNK_RESIDUES = 7, 300
    pieces.CHUNKS_A_SHARD = 2
    loop.COMMIT_SECONDS = 0.0
    worker.BUSY_SECONDS = 0.05

    from protrna_cli.model.transformer import ProtRNA

    embed, embed_shard = ProtRNA._embed_batch, worker.embed_shard
    number = 0

    def counting(*arguments: Any) -> Any:
        global _batches
        nonlocal number
        number, _batches = next(_parts), count()
        return embed_shard(*arguments)

    def slow(self: ProtRNA, *arguments: Any, **how: Any) -> Any:
        time.sleep(BATCH_SECONDS)
        if _holding and number > 0 and next(_batches) >= FREE_BATCHES:
            while any(task.state == "executing" for task in list(running.state.tasks.values())):
                time.sleep(0.01)
        return embed(self, *arguments, **how)

    worker.embed_shard = counting
    ProtRNA._embed_batch = slow  # type: ignore[method-assign]
