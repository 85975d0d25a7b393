"""One run on many machines: a Dask cluster whose workers each make parts of it.

A task is a shard, embedded by the same function as any shard, with --resume: when a worker dies, another
continues its task where it stopped. A task carries names and options; the census is in the manifest beside
the parts, sequences and embeddings are in files that all machines share. The scheduler sees none of them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli._version import version
from protrna_cli.cluster.client import connected, local_processes, worker_processes
from protrna_cli.cluster.manifest import Manifest, manifest_path, part_path, put_in_place, refuse_foreign
from protrna_cli.cluster.worker import embed_part, until_idle
from protrna_cli.disk import creating, locked, writing
from protrna_cli.errors import ClusterError, Stopped, UsageError
from protrna_cli.fasta.census import Census, take_census
from protrna_cli.fasta.sources import Source, open_sources
from protrna_cli.machine import available_cpus
from protrna_cli.output.formats.table import choose_format
from protrna_cli.output.parts import read_parts
from protrna_cli.output.paths import partial_path
from protrna_cli.output.provenance import compare_keys, run_key
from protrna_cli.output.rows import Header
from protrna_cli.plan import chunks
from protrna_cli.plan.shard import Shard
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.report import Progress, Summary
from protrna_cli.run.runner import plan_shard, summary_of
from protrna_cli.run.stop import Stop
from protrna_cli.run.targets import Target, is_whole, refuse_existing, remove_partial
from protrna_cli.text import counted
from protrna_cli.weights.checkpoint import Checkpoint, CheckpointFile
from protrna_cli.weights.locate import locate

if TYPE_CHECKING:
    from distributed import Client, Future

    from protrna_cli.weights.watcher import Watcher

TASKS_A_WORKER = 8
"""Parts a worker, at least: with few parts, workers would be idle while the last ones run."""

PART_RESIDUES = 1 << 13
"""Smaller parts are not worth a task."""

MOST_PARTS = 10_000
"""Every part is a file that a reader of the folder has to open."""

IN_FLIGHT = 4096
"""Tasks that the scheduler knows at a time; each takes it some kilobytes."""


@dataclass(frozen=True)
class _Work:
    """What all tasks of a run have in common."""

    folder: Path
    checkpoint: Checkpoint
    options: EmbedOptions
    census: Census
    n_parts: int


def embed_distributed(
    inputs: Sequence[str | PathLike[str]],
    output_path: str | PathLike[str],
    options: EmbedOptions,
    address: str,
    progress: Progress,
    stop: Stop,
    watcher: Watcher | None = None,
) -> Summary:
    """Embed FASTA files into a folder of parts on a Dask cluster.

    Parameters
    ----------
    inputs
        Files that all workers see under the same paths.
    output_path
        The folder to make, in one that all workers see under the same path.
    address
        `local:N` for N processes on this machine, the scheduler's address, or the path of its scheduler file.

    Raises
    ------
    ClusterError
        The cluster cannot be reached, is not suitable, or its workers died again and again.
    ProtrnaError
        As `embed_fasta`; an error of a worker names its machine.
    """
    folder = Path(output_path).absolute()
    options.refuse_for_cluster()
    target = Target(folder, choose_format(folder, "parquet"), options.per_token)
    if count := local_processes(address):
        options = replace(options, threads=options.threads or max(1, available_cpus() // count))
    checkpoint = locate(options.model, options.weights_dir)
    checkpoint.check_reachable(options.offline)
    started = time.perf_counter()
    with locked(folder), open_sources(inputs) as sources:
        _refuse_pipes(sources)
        refuse_existing(target, options)
        refuse_foreign(folder)
        with stop.abandoning():
            checkpoint.obtain(watcher)
            known = _known(folder, sources, options)
            counted_input = known.counted(sources) if known else take_census(sources, options.rules)
            census = counted_input.census
            # With `resume`, so that TensorFlow is not loaded here.
            plan = plan_shard(counted_input, [target], checkpoint, _resuming(options))
            header = plan.headers[target]
            if options.resume and is_whole(folder, header):
                remove_partial(folder)
                return summary_of([folder], census, options, 0.0, census.n_records, already_whole=True)
            if known:  # before a worker begins a part of another run among those that are there
                compare_keys(known.key, run_key(header), str(partial_path(folder)))
        with connected(address) as client:
            processes = worker_processes(client, progress)
            n_parts = known.n_parts if known else _part_count(census, processes)
            manifest = Manifest(run_key(header), _paths(sources), options.rules, n_parts, census)
            _prepare(folder, manifest, options.overwrite)
            work = _Work(folder, _for_workers(checkpoint), _resuming(options), census, n_parts)
            resumed = _run(client, work, progress, stop)
        _finish(folder, n_parts, header)
    return summary_of([folder], census, options, time.perf_counter() - started, resumed)


def _resuming(options: EmbedOptions) -> EmbedOptions:
    """Options of a task, which continues what an earlier attempt at it left."""
    return replace(options, resume=True, overwrite=False)


def _for_workers(checkpoint: Checkpoint) -> Checkpoint:
    """Name a checkpoint by its absolute path, for workers that run in other folders."""
    if isinstance(checkpoint, CheckpointFile):
        return replace(checkpoint, path=checkpoint.path.absolute())
    return checkpoint


def _refuse_pipes(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.path is None:
            raise UsageError(f"{source.name}: a pipe, which no worker can read; save it to a file first")


def _known(folder: Path, sources: Sequence[Source], options: EmbedOptions) -> Manifest | None:
    """Read the manifest of an unfinished run; its census is taken again if the input or the rules changed."""
    if not options.resume or not manifest_path(folder).exists():
        return None
    known = Manifest.read(folder)
    stamps = [source.stamp() for source in sources]
    if (known.inputs, known.census.stamps, known.rules) == (_paths(sources), stamps, options.rules):
        return known
    return replace(known, census=take_census(sources, options.rules).census, rules=options.rules)


def _paths(sources: Sequence[Source]) -> list[str]:
    return [str(source.path.absolute()) for source in sources if source.path]


def _part_count(census: Census, processes: int) -> int:
    """Choose the number of parts: whole chunks each, where there are enough of them for all workers."""
    count = len(census.marks) // chunks.CHUNKS_A_SHARD
    wanted = TASKS_A_WORKER * max(1, processes)
    if count < wanted:
        count = min(wanted, census.n_embedded // PART_RESIDUES)
    return max(1, min(count, MOST_PARTS))


def _prepare(folder: Path, manifest: Manifest, overwrite: bool) -> None:
    """Make the folder in which the parts wait, with the manifest in it."""
    with creating(folder):
        if overwrite and partial_path(folder).exists():
            shutil.rmtree(partial_path(folder))
        (partial_path(folder) / "parts").mkdir(parents=True, exist_ok=True)
        manifest.write(folder)


def _run(client: Client, work: _Work, progress: Progress, stop: Stop) -> int:
    """Have every part made; returns how many records had been embedded before."""
    from distributed import as_completed

    shards = (Shard(i, work.n_parts) for i in range(1, work.n_parts + 1))
    pending: set[Future] = set()

    def submit(shard: Shard) -> Future:
        future = client.submit(embed_part, str(work.folder), shard, work.checkpoint, work.options, pure=False)
        pending.add(future)
        return future

    done = resumed = 0
    progress.start(work.census.n_records, work.census.n_embedded)
    try:
        running = as_completed(map(submit, islice(shards, IN_FLIGHT)), loop=client.loop)
        with stop.abandoning():
            for future in running:
                pending.remove(future)
                summary = _result(future)
                done += summary.n_records
                resumed += summary.n_resumed
                progress.advance(summary.n_records, summary.n_residues)
                running.update(map(submit, islice(shards, 1)))
    except BaseException as error:
        _call_off(client, pending)
        if isinstance(error, Stopped):
            safe = f"{done:,} of {counted(work.census.n_records, 'record')} or more are safe"
            raise type(error)(f"{error}; {safe}") from None
        raise
    finally:
        progress.close()
    return resumed


def _result(future: Future) -> Summary:
    """Give the summary of a finished task; a failure of the cluster becomes an error of ours."""
    from distributed import CancelledError, KilledWorker

    try:
        summary: Summary = future.result()
    except KilledWorker as error:
        raise ClusterError(
            f"{error.allowed_failures + 1} workers died of one part, the last on {error.last_worker.address} "
            "(out of memory?); run it again with --resume, and with more memory a worker"
        ) from None
    except (CancelledError, OSError) as error:
        raise ClusterError(f"the Dask scheduler was lost ({error}); run it again with --resume") from None
    except ModuleNotFoundError as error:
        raise ClusterError(f"a worker lacks {error.name}; install protrna-cli {version()} there") from None
    return summary


def _call_off(client: Client, pending: Collection[Future]) -> None:
    """Cancel the tasks, and wait until the running ones have committed their work."""
    if client.status == "running":
        client.cancel(list(pending))
        client.run(until_idle, on_error="ignore")


def _finish(folder: Path, n_parts: int, header: Header) -> None:
    """Check that all parts are there and belong to the run, and rename the folder into place."""
    parts = [part_path(folder, Shard(i, n_parts)) for i in range(1, n_parts + 1)]
    compare_keys(run_key(read_parts(parts)[1]), run_key(header), str(folder))
    with writing(folder, "run it again with --resume"):
        put_in_place(folder, parts)
