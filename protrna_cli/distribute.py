"""One run on many machines: a Dask cluster whose workers each make parts of a dataset.

A task is a shard: the very function that embeds one, with --resume, so that a task whose worker died goes on
in another where the first one stopped. A task carries names and options; what was counted stands in the
manifest beside the parts, sequences and embeddings in files that all machines share. The scheduler sees
none of them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli import __version__, dataset, plan, slices, weights
from protrna_cli.census import Census, take_census
from protrna_cli.cluster import connected, local_processes, worker_processes
from protrna_cli.dataset import Manifest, part_path
from protrna_cli.errors import (
    ClusterError,
    OutputUnwritable,
    Stopped,
    UsageError,
    WriteFailed,
)
from protrna_cli.inputs import Source, open_sources
from protrna_cli.journal import compare_keys
from protrna_cli.locks import locked
from protrna_cli.machine import available_cpus
from protrna_cli.merging import read_parts
from protrna_cli.options import EmbedOptions
from protrna_cli.output.rows import Header
from protrna_cli.provenance import run_key
from protrna_cli.report import Progress, Summary, counted
from protrna_cli.shard import Shard
from protrna_cli.spool import partial_path
from protrna_cli.stopping import Stop
from protrna_cli.targets import Target, is_whole, refuse_existing
from protrna_cli.weights.fetching import obtain
from protrna_cli.weights.watch import Watcher
from protrna_cli.worker import embed_part, until_idle

if TYPE_CHECKING:
    from distributed import Client, Future


TASKS_A_WORKER = 8
"""Parts that every worker makes, at the least: the last ones run while others have none."""

PART_RESIDUES = 1 << 13
"""Smaller parts are not worth a task."""

MOST_PARTS = 10_000
"""Files that a reader of the folder has to open."""

IN_FLIGHT = 4096
"""Tasks that the scheduler knows at a time, of which each takes it some kilobytes."""


def embed_distributed(
    inputs: Sequence[str | PathLike[str]],
    output_path: str | PathLike[str],
    options: EmbedOptions,
    address: str,
    progress: Progress,
    stop: Stop,
    watcher: Watcher | None = None,
) -> Summary:
    """Embed FASTA files into a dataset on a Dask cluster.

    Parameters
    ----------
    inputs
        Files that all workers see under the same paths.
    output_path
        The folder to make, in one that all workers see under the same path.
    address
        `local:N`, that is N processes here; the scheduler's address; or the path of its scheduler file.

    Raises
    ------
    ClusterError
        The cluster cannot be reached, is not fit, or its workers died again and again.
    ProtrnaError
        As `api.embed_fasta`; what a worker met names its machine.
    """
    folder = Path(output_path).absolute()
    target = Target(folder, "parquet", options.per_token)
    if count := local_processes(address):
        options = replace(options, threads=options.threads or max(1, available_cpus() // count))
    checkpoint = weights.locate(options.model, options.weights_dir, offline=options.offline)
    started = time.perf_counter()
    with locked(folder), open_sources(inputs) as sources:
        _refuse(target, sources, options)
        with stop.abandoning():
            obtain(checkpoint, watcher)
            known = _known(folder, sources, options)
            census = known.census if known else take_census(sources, options.rules)
            whole = replace(options, resume=True)  # so that TensorFlow is not loaded here
            headers, _ = slices.plan_slice(sources, census, [target], checkpoint, whole)
            header = headers[target]
            if options.resume and is_whole(folder, header):
                return slices.summary_of([folder], census, options, 0.0, census.n_records, already_whole=True)
            if known:  # before a worker begins a part of another run among those that are there
                compare_keys(known.key, run_key(header), str(partial_path(folder)))
        with connected(address) as client:
            processes = worker_processes(client, progress)
            n_parts = known.n_parts if known else _part_count(census, processes)
            manifest = Manifest(run_key(header), _paths(sources), options.rules, n_parts, census)
            _prepare(folder, manifest, options.overwrite)
            path = str(checkpoint.absolute()) if checkpoint else None
            resumed = _run(client, folder, path, options, census, n_parts, progress, stop)
        _finish(folder, n_parts, header)
    return slices.summary_of([folder], census, options, time.perf_counter() - started, resumed)


def _refuse(target: Target, sources: Sequence[Source], options: EmbedOptions) -> None:
    """Refuse what cannot be distributed, and what must not be overwritten."""
    if options.format != "parquet":
        raise UsageError("--dask makes a folder of Parquet parts; protrna merge makes any format of it")
    if options.per_token_output:
        raise UsageError("--dask makes one folder; run it once more with --per-token for the residues")
    if options.shard.count > 1:
        raise UsageError("--dask cuts the run into shards by itself; leave --shard out")
    for source in sources:
        if source.path is None:
            raise UsageError(f"{source.name}: a pipe, which no worker can read; save it to a file first")
    refuse_existing(target, options.resume, options.overwrite)
    dataset.refuse_foreign(target.path)


def _known(folder: Path, sources: Sequence[Source], options: EmbedOptions) -> Manifest | None:
    """What an unfinished run had counted; the count of parts stays, and the census if nothing changed."""
    if not options.resume or not dataset.manifest_path(folder).exists():
        return None
    known = Manifest.read(folder)
    stamps = [source.stamp() for source in sources]
    if (known.inputs, known.census.stamps, known.rules) == (_paths(sources), stamps, options.rules):
        return known
    return replace(known, census=take_census(sources, options.rules))


def _paths(sources: Sequence[Source]) -> list[str]:
    return [str(source.path.absolute()) for source in sources if source.path]


def _part_count(census: Census, processes: int) -> int:
    """Into how many parts to cut: whole windows where there are enough of them for all workers."""
    count = len(census.marks) // plan.WINDOWS_A_SHARD
    wanted = TASKS_A_WORKER * max(1, processes)
    if count < wanted:
        count = min(wanted, census.n_embedded // PART_RESIDUES)
    return max(1, min(count, MOST_PARTS))


def _prepare(folder: Path, manifest: Manifest, overwrite: bool) -> None:
    """Make the folder in which the parts wait, with the manifest in it."""
    try:
        if overwrite and partial_path(folder).exists():
            shutil.rmtree(partial_path(folder))
        (partial_path(folder) / "parts").mkdir(parents=True, exist_ok=True)
        manifest.write(folder)
    except OSError as error:
        raise OutputUnwritable(
            f"{folder}: cannot be created ({error.strerror}); choose another -o"
        ) from error


def _run(
    client: Client,
    folder: Path,
    checkpoint: str | None,
    options: EmbedOptions,
    census: Census,
    n_parts: int,
    progress: Progress,
    stop: Stop,
) -> int:
    """Have every part made; returns how many records were embedded before."""
    from distributed import as_completed

    options = replace(options, resume=True)
    shards = (Shard(i, n_parts) for i in range(1, n_parts + 1))
    pending: set[Future] = set()

    def submit(shard: Shard) -> Future:
        future = client.submit(embed_part, str(folder), shard, checkpoint, options, pure=False)
        pending.add(future)
        return future

    done = resumed = 0
    progress.start(census.n_records, census.n_embedded)
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
            safe = f"{done:,} of {counted(census.n_records, 'record')} or more are safe"
            raise type(error)(f"{error}; {safe}") from None
        raise
    finally:
        progress.close()
    return resumed


def _result(future: Future) -> Summary:
    """What a task gave back; what the cluster says of it becomes an error of ours."""
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
        raise ClusterError(f"a worker lacks {error.name}; install protrna-cli {__version__} there") from None
    return summary


def _call_off(client: Client, pending: Collection[Future]) -> None:
    """Cancel the tasks, and wait until those that run have committed what they did."""
    if client.status == "running":
        client.cancel(list(pending))
        client.run(until_idle, on_error="ignore")


def _finish(folder: Path, n_parts: int, header: Header) -> None:
    """Make sure that all parts are there and make up the run, and give the dataset its name."""
    parts = [part_path(folder, Shard(i, n_parts)) for i in range(1, n_parts + 1)]
    compare_keys(run_key(read_parts(parts)[1]), run_key(header), str(folder))
    try:
        dataset.publish(folder, parts)
    except OSError as error:
        raise WriteFailed(
            f"{folder}: writing failed ({error.strerror or error}); run it again with --resume"
        ) from error
