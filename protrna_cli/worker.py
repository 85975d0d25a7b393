"""What a Dask worker does: make one part of a dataset, as `--shard` would, and stop when nobody waits for it.

A process loads the model once, and runs one task at a time.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli import __version__, dataset, slices, weights
from protrna_cli.dataset import Manifest, part_path
from protrna_cli.errors import (
    ClusterError,
    InputUnreadable,
    OutputBusy,
    OutputUnwritable,
    ProtrnaError,
    Stopped,
)
from protrna_cli.inputs import Source, open_sources
from protrna_cli.locks import locked
from protrna_cli.options import EmbedOptions
from protrna_cli.report import Progress, Summary
from protrna_cli.shard import Shard
from protrna_cli.stopping import Stop
from protrna_cli.targets import Target
from protrna_cli.weights import trust

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

BUSY_SECONDS = 1.0
"""Between two looks whether a part is still locked."""

_ALONE = threading.Lock()
"""Held by the task that runs in this worker: TensorFlow takes all threads for one."""


def embed_part(folder: str, shard: Shard, checkpoint: str | None, options: EmbedOptions) -> Summary:
    """Make one part of a dataset, as a task of the cluster.

    Parameters
    ----------
    folder
        The dataset that is to be.
    checkpoint
        Path of the checkpoint; None is the demo model.

    Raises
    ------
    ProtrnaError
        As `slices.embed_slice`; the message names this machine.
    """
    stop = _Wanted()
    try:
        with _ALONE:
            stop.check()
            manifest = _manifest(folder)
            target = part_path(Path(folder), shard)
            with _opened(manifest.inputs) as sources, _locked_in_turn(target, stop):
                return slices.embed_slice(
                    sources,
                    manifest.census,
                    [Target(target, "parquet", options.per_token)],
                    Path(checkpoint) if checkpoint else None,
                    replace(options, shard=shard),
                    Progress(),
                    stop,
                    lambda path: _sha256(path, _stamp(path)),
                    lambda path, *settings: _load(path, _stamp(path), *settings),
                )
    except ProtrnaError as error:
        raise type(error)(f"worker on {socket.gethostname()}: {error}") from None


class _Wanted(Stop):
    """Asks a task to stop when nobody waits for it any longer: it was cancelled, or its client is gone."""

    def __init__(self) -> None:
        from distributed import get_worker

        worker = get_worker()
        self._key = worker.get_current_task()
        self._tasks = worker.state.tasks

    def check(self) -> None:
        task = self._tasks.get(self._key)
        if task is None or task.state != "executing":
            raise Stopped("no longer wanted")

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        self.check()  # between two batches: what runs cannot be broken off from here
        yield


def _manifest(folder: str) -> Manifest:
    """Read the manifest, once as long as it does not change."""
    path = dataset.manifest_path(Path(folder))
    try:
        manifest = _read_manifest(folder, path.stat().st_mtime_ns)
    except OSError as error:
        raise OutputUnwritable(
            f"{path}: cannot be read ({error.strerror}); -o must be in a folder that all workers share"
        ) from None
    if manifest.key["version"] != __version__:
        raise ClusterError(
            f"it has protrna {__version__}, not {manifest.key['version']}; install the same everywhere"
        )
    return manifest


@lru_cache(maxsize=1)
def _read_manifest(folder: str, changed: int) -> Manifest:
    return Manifest.read(Path(folder))


@contextmanager
def _opened(paths: list[str]) -> Iterator[list[Source]]:
    with ExitStack() as stack:
        try:
            sources = stack.enter_context(open_sources(paths))
        except InputUnreadable as error:
            raise InputUnreadable(f"{error}: every worker reads the input itself") from None
        yield sources


@contextmanager
def _locked_in_turn(target: Path, stop: Stop) -> Iterator[None]:
    """Lock a part, after a worker that the cluster lost and that is still at it."""
    while True:
        stop.check()
        try:
            with locked(target):
                yield
                return
        except OutputBusy:
            time.sleep(BUSY_SECONDS)


def _stamp(checkpoint: Path | None) -> tuple[int, int] | None:
    """What differs when a checkpoint was replaced."""
    if checkpoint is None or not weights.is_there(checkpoint):
        return None
    return Source(str(checkpoint), checkpoint).stamp()


@lru_cache(maxsize=1)
def _sha256(checkpoint: Path, stamp: tuple[int, int] | None) -> str:
    return trust.sha256(checkpoint)


@lru_cache(maxsize=1)
def _load(
    checkpoint: Path | None,
    stamp: tuple[int, int] | None,
    precision: str,
    device: str,
    threads: int | None,
) -> ProtRNA:
    """Load the model that all tasks of this process run."""
    return slices.load_checkpoint(checkpoint, precision, device, threads)


async def until_idle() -> None:
    """Wait for the end of the task that runs here; a coroutine for `Client.run`."""
    while _ALONE.locked():
        await asyncio.sleep(0.05)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the client, which shares its terminal with the workers of `local:N`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
