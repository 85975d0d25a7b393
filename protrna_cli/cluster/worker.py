"""What a Dask worker does: make one part, as `--shard` would, and stop when its result is no longer needed.

The manifest of the run, beside the parts, tells it everything but the shard. A worker process loads the model
once, and runs one task at a time.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protrna_cli.disk import Stamp, locked, stamp, write_whole
from protrna_cli.errors import (
    ClusterError,
    InputUnreadable,
    OutputBusy,
    OutputUnwritable,
    ProtrnaError,
    RunMismatch,
    Stopped,
)
from protrna_cli.fasta.census import Census, CountedInput, Mark
from protrna_cli.fasta.records import Start
from protrna_cli.fasta.sources import Source, open_sources
from protrna_cli.libraries import own_process
from protrna_cli.output.files import choose_format, manifest_path, part_name, partial_path
from protrna_cli.output.provenance import RunKey
from protrna_cli.plan.rules import Regions, Rules
from protrna_cli.plan.shard import Shard
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.outputs import Target
from protrna_cli.run.report import Progress, Stop, Summary
from protrna_cli.run.run import Run, embed_shard
from protrna_cli.text import unreadable, version
from protrna_cli.weights.checkpoint import Checkpoint, silent

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

BUSY_SECONDS = 1.0
"""Seconds between two attempts to lock a part."""

_TASK_LOCK = threading.Lock()
"""Held by the running task of this worker: one task uses all of TensorFlow's threads."""


@dataclass(frozen=True)
class Manifest:
    """Everything that a worker needs to make a part."""

    key: RunKey  # of all parts together
    inputs: list[str]  # absolute paths
    rules: Rules  # those of the census
    n_parts: int
    census: Census  # of the whole input

    def counted(self, sources: Sequence[Source]) -> CountedInput:
        """Return the counted input, to be read from these sources."""
        return CountedInput(sources, self.rules, self.census)

    def write(self, folder: Path) -> None:
        """Write the manifest to the unfinished folder of parts, whole or not at all."""
        write_whole(manifest_path(folder), json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read what `write` wrote."""
        text = manifest_path(folder).read_bytes()
        try:
            return cls._of(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RunMismatch(
                f"{manifest_path(folder)}: a damaged manifest; use --overwrite to start again"
            ) from None

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Manifest:
        census = Census(**fields["census"])
        census.stamps = [(size, changed) for size, changed in census.stamps]
        census.marks = [Mark(Start(*start), *counts) for start, *counts in census.marks]
        regions = fields["rules"]["regions"] and Regions.from_json(fields["rules"]["regions"])
        rules = Rules(**{**fields["rules"], "regions": regions})
        return cls(**{**fields, "rules": rules, "census": census})


def part_path(folder: Path, shard: Shard) -> Path:
    """Path of a shard's part until the run is finished."""
    return partial_path(folder) / "parts" / part_name(shard)


def embed_part(folder: str, shard: Shard, checkpoint: Checkpoint, options: EmbedOptions) -> Summary:
    """Make one part; the function that runs as a task of the cluster."""
    own_process()  # a worker is given the machine's cores by whoever starts it
    stop = _TaskStop()
    try:
        with _TASK_LOCK:
            stop.check()
            manifest = _manifest(folder)
            path = part_path(Path(folder), shard)
            target = Target(path, choose_format(path), options.per_token)
            with _opened(manifest.inputs) as sources, _locked_in_turn(path, stop):
                counted, options = manifest.counted(sources), replace(options, shard=shard)
                run = Run(counted, [target], remembered(checkpoint), options)
                return embed_shard(run, Progress(), stop)
    except ProtrnaError as error:
        raise type(error)(f"worker on {socket.gethostname()}: {error}") from None


class _TaskStop(Stop):
    """Stops a task when its result is no longer needed: it was cancelled, or its client is gone."""

    def __init__(self) -> None:
        from distributed import get_worker

        worker = get_worker()
        self._key = worker.get_current_task()
        self._tasks = worker.state.tasks

    def check(self) -> None:
        task = self._tasks.get(self._key)
        if task is None or task.state != "executing":
            raise Stopped("no longer needed")

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        self.check()  # between two batches: a running batch cannot be interrupted from here
        yield


class _Remembered(Checkpoint):
    """A checkpoint that is hashed and loaded once."""

    _sha256: str | None = None
    _loaded: tuple[tuple[str, str, int | None], ProtRNA] | None = None

    def sha256(self) -> str | None:
        self._sha256 = self._sha256 or super().sha256()
        return self._sha256

    def load(
        self, precision: str, device: str, threads: int | None, note: Callable[[str], None] = silent
    ) -> ProtRNA:
        settings = precision, device, threads
        if self._loaded is None or self._loaded[0] != settings:
            self._loaded = None  # first, because two models at once need the memory of both
            self._loaded = settings, super().load(*settings, note)
        return self._loaded[1]


def remembered(checkpoint: Checkpoint) -> Checkpoint:
    """Keep the hash and the model of a checkpoint for all tasks of this process, until its file changes."""
    return _unchanged(checkpoint, checkpoint.path and stamp(checkpoint.path))


@lru_cache(maxsize=1)
def _unchanged(checkpoint: Checkpoint, stood: Stamp | None) -> _Remembered:
    return _Remembered(**vars(checkpoint))


def _manifest(folder: str) -> Manifest:
    """Read the manifest; it is read again only if it changed."""
    path = manifest_path(Path(folder))
    try:
        manifest = _read_manifest(folder, path.stat().st_mtime_ns)
    except OSError as error:
        raise OutputUnwritable(
            f"{path}: {unreadable(error)}; -o must be in a folder that all workers share"
        ) from None
    if manifest.key["version"] != version():
        raise ClusterError(
            f"protrna {version()} is installed here, not {manifest.key['version']}; "
            "install the same version everywhere"
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
            raise InputUnreadable(f"{error}; every worker must be able to read the input") from None
        yield sources


@contextmanager
def _locked_in_turn(path: Path, stop: Stop) -> Iterator[None]:
    """Lock a part, after waiting for a lost worker that may still be writing it."""
    while True:
        stop.check()
        try:
            with locked(path):
                yield
                return
        except OutputBusy:
            time.sleep(BUSY_SECONDS)


async def until_idle() -> None:
    """Wait until the running task has ended; run on every worker by `Client.run`."""
    while _TASK_LOCK.locked():
        await asyncio.sleep(0.05)
