"""Preloaded by the workers of the cluster tests: many small chunks, a commit per batch, a slow model."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import Any

from protrna_cli.cluster import worker
from protrna_cli.plan import pieces
from protrna_cli.run import loop

BATCH_SECONDS = 0.12
"""A part must last long enough to be killed in the middle."""

_holding: Path | None = None
_parts = count()


def hold(folder: Path | None) -> None:
    """Have each worker wait in its next part but one, after a commit, until that part is cancelled.

    folder: where a worker that waits makes a file; None to have no worker wait.
    """
    global _holding, _parts
    _holding, _parts = folder, count()


def dask_setup(running: Any) -> None:
    """Change the settings for the tests."""
    pieces.CHUNK_RECORDS, pieces.CHUNK_RESIDUES = 7, 300
    pieces.CHUNKS_A_SHARD = 2
    loop.COMMIT_SECONDS = 0.0
    worker.BUSY_SECONDS = 0.05

    from protrna_cli.model.transformer import ProtRNA

    embed, commit, embed_shard = ProtRNA._embed_batch, loop.Loop._commit, worker.embed_shard
    number = 0

    def counting(*arguments: Any) -> Any:
        nonlocal number
        number = next(_parts)
        return embed_shard(*arguments)

    def slow(*arguments: Any, **how: Any) -> Any:
        time.sleep(BATCH_SECONDS)
        return embed(*arguments, **how)

    def holding(*arguments: Any) -> None:
        commit(*arguments)
        if _holding and number > 0:
            (_holding / str(os.getpid())).touch()
            while any(task.state == "executing" for task in list(running.state.tasks.values())):
                time.sleep(0.01)

    worker.embed_shard = counting
    ProtRNA._embed_batch = slow  # type: ignore[method-assign]
    loop.Loop._commit = holding  # type: ignore[method-assign]
