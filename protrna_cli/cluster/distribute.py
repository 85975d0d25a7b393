"""One run on many machines: a Dask cluster whose workers each make parts of it.

A task embeds one shard with the same function as any other run, with --resume: if a worker dies, another one
continues its task where it stopped. A task contains only names and options. The census is in the manifest
beside the parts; sequences and embeddings are in files that all machines share. The scheduler sees none of
them. The cluster is made of processes on this machine, or exists already.

The result is a folder of parts that pandas, polars, DuckDB and Spark read as one table:

    out/part-01-of-16.parquet …    the parts, one a shard, and nothing else
    out.skipped.tsv                the skipped records of all of them
    out.partial/manifest.json      until all parts are there: the census, and the number of parts
    out.partial/parts/             the finished parts, and the unfinished ones with their journals

Like any output, `out` appears by one rename when it is complete.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli.cluster.worker import Manifest, embed_part, part_path, until_idle
from protrna_cli.disk import creating, locked, writing
from protrna_cli.errors import ClusterError, MissingExtra, RunMismatch, Stopped, UsageError
from protrna_cli.fasta.census import Census, take_census
from protrna_cli.fasta.sources import Source, open_sources
from protrna_cli.machine import available_cpus
from protrna_cli.output.files import choose_format, journal_path, manifest_path, partial_path
from protrna_cli.output.make import publish_parts
from protrna_cli.output.protect import make_partial, protect_folder, remove_partial
from protrna_cli.output.provenance import compare_keys, run_key
from protrna_cli.output.rows import Header
from protrna_cli.output.stored import open_parts
from protrna_cli.plan import pieces
from protrna_cli.plan.shard import Shard
from protrna_cli.run.auto import settle
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.outputs import Target, inputs_of_run, is_whole, read_position, refuse_existing
from protrna_cli.run.report import NOTHING, Amount, Progress, Stop, Summary
from protrna_cli.run.run import Run
from protrna_cli.text import counted, version
from protrna_cli.weights.checkpoint import Checkpoint, Watcher, locate

if TYPE_CHECKING:
    from distributed import Client, Future, as_completed


def local_processes(address: str) -> int | None:
    """Read N from `local:N`; None for the address of a scheduler."""
    kind, _, count = address.partition(":")
    if kind != "local":
        return None
    if not count.isdecimal() or not int(count):
        raise UsageError(
            f"{address!r} is not a cluster; --dask takes local:N, or a scheduler's address or file"
        )
    return int(count)


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Connect to a cluster; a `local:N` cluster lasts as long as the context."""
    _import_distributed()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Dask's warnings for developers, such as about a slow disk
        try:
            try:
                client = _client(address, stack)
            except AssertionError:
                # Dask gives its event loop 10 seconds to start, which is too short on a busy machine.
                client = _client(address, stack)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"--dask {address}: no Dask scheduler there ({error}); name its address or scheduler file"
            ) from None
        yield stack.enter_context(client)


PATIENCE = {"distributed.deploy.lost-worker-timeout": "1 day"}
"""How long a process of `local:N` that died may take to be back. By default, Dask gives it up after 15 s."""


def _client(address: str, stack: ExitStack) -> Client:
    """Start a client, and for `local:N` also its cluster, which ends with the stack."""
    import dask
    from distributed import Client, LocalCluster

    processes = local_processes(address)
    if not processes:
        location = {"scheduler_file" if Path(address).is_file() else "address": address}
        return Client(**location, set_as_default=False)
    stack.enter_context(dask.config.set(PATIENCE))
    cluster = LocalCluster(
        n_workers=processes,
        threads_per_worker=1,
        memory_limit=None,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": ":0"},  # any free port: another cluster may run here
        silence_logs=logging.CRITICAL,
    )
    client = Client(stack.enter_context(cluster), set_as_default=False)
    client.run(ignore_interrupts)
    return client


def _import_distributed() -> None:
    """Import distributed with its log messages off: the user gets our errors instead.

    The settings have no effect if it was imported before.
    """
    try:
        import dask

        with dask.config.set(logging={"distributed": "critical", "distributed.client": "critical"}):
            import distributed  # noqa: F401
    except ImportError:
        raise MissingExtra(
            '--dask needs Dask; run: pip install "protrna-cli[dask]" (from a clone pip install ".[dask]")'
        ) from None


def worker_processes(client: Client, progress: Progress) -> int:
    """Count the worker processes, and report problems with them."""
    threads = client.nthreads().values()
    if not threads:
        progress.note("the Dask cluster has no workers yet; waiting for them")
    elif max(threads) > 1:
        progress.note("a worker runs one task at a time: start workers with --nthreads 1")
    return len(threads)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in a `local:N` worker; the client handles it, in the same terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


PARTS_PER_WORKER = 8
"""Fewest parts per worker: with fewer, some workers would be idle while the last parts run."""

MIN_PART_RESIDUES = 1 << 13
"""Residues of the smallest part that is worth a task."""

MAX_PARTS = 10_000
"""Most parts of a run: each is a file that a reader of the folder has to open."""

MAX_PENDING_TASKS = 4096
"""Most tasks in the scheduler at one time; each takes a few KiB of its memory."""


WATCH_SECONDS = 10.0
"""Seconds after which a run that waits for its parts looks whether there are workers."""


@dataclass(frozen=True)
class _SharedArguments:
    """What all tasks of a run share."""

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

    inputs: files that all workers see under the same paths.
    output_path: the folder to write; its parent is a folder that all workers see under the same path.
    address: `local:N` for N processes on this machine, the scheduler's address, or the path of its scheduler
        file.
    progress, stop, watcher: as in `embed_fasta`.
    """
    folder = Path(output_path).absolute()
    options.refuse_for_cluster()
    options = settle(options, [folder])
    target = Target(folder, choose_format(folder, "parquet"), options.per_token)
    if count := local_processes(address):
        options = replace(options, threads=options.threads or max(1, available_cpus() // count))
    checkpoint = locate(options.model, options.weights_dir, options.check_weights)
    checkpoint.check_reachable(options.offline)
    started = time.perf_counter()
    protect_folder(folder, target.format, inputs_of_run(inputs, checkpoint, options), options.overwrite)
    with locked(folder), ExitStack() as stack:
        with stop.abandoning():
            sources = stack.enter_context(open_sources(inputs))
        _refuse_pipes(sources)
        refuse_existing(target, options)
        with stop.abandoning():
            checkpoint.obtain(watcher, options.offline)
            earlier = _unfinished_manifest(folder, sources, options)
            counted_input = earlier.counted(sources) if earlier else take_census(sources, options.rules)
            census = counted_input.census
            reuse = tuple(str(Path(path).absolute()) for path in options.reuse)
            # A task continues the work of an earlier attempt. With `resume`, TensorFlow is not loaded here.
            task_options = replace(options, resume=True, overwrite=False, reuse=reuse)
            run = Run(counted_input, [target], checkpoint, task_options)
            run.plan(across_chunks=False)
            header = run.headers[target]
            if options.resume and is_whole(folder, header):
                remove_partial(folder)
                return run.summary(already_whole=True)
            if earlier:  # before a worker adds parts of another run to those in the folder
                compare_keys(earlier.key, run_key(header), str(partial_path(folder)))
        with connected(address) as client:
            processes = worker_processes(client, progress)
            n_parts = earlier.n_parts if earlier else _part_count(census, processes)
            manifest = Manifest(run_key(header), _paths(sources), options.rules, n_parts, census)
            _prepare(folder, manifest, fresh=earlier is None)
            # Workers may run in other folders.
            absolute = replace(checkpoint, path=checkpoint.path and checkpoint.path.absolute())
            shared = _SharedArguments(folder, absolute, task_options, census, n_parts)
            done = _run(client, shared, progress, stop)
        _finish(folder, n_parts, header)
    return _joined(replace(run.summary(), seconds=time.perf_counter() - started), done)


def _joined(whole: Summary, parts: Sequence[Summary]) -> Summary:
    """Add to the summary of a run what its parts did."""
    return replace(
        whole,
        computed=sum((part.computed for part in parts), NOTHING),
        resumed=sum((part.resumed for part in parts), NOTHING),
        n_reused=sum(part.n_reused for part in parts),
    )


def _refuse_pipes(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.path is None:
            raise UsageError(f"{source.name}: a pipe, which workers cannot read; save it to a file first")


def _unfinished_manifest(folder: Path, sources: Sequence[Source], options: EmbedOptions) -> Manifest | None:
    """Read the manifest of an unfinished run; takes the census again if the input or the rules changed."""
    if options.resume and journal_path(folder).exists():
        raise RunMismatch(
            f"{partial_path(folder)}: an unfinished run without --dask; "
            "leave --dask out to continue it, or use --overwrite to start again"
        )
    if not options.resume or not manifest_path(folder).exists():
        return None
    manifest = Manifest.read(folder)
    stamps = [source.stamp() for source in sources]
    if (manifest.inputs, manifest.census.stamps, manifest.rules) == (_paths(sources), stamps, options.rules):
        return manifest
    return replace(manifest, census=take_census(sources, options.rules).census, rules=options.rules)


def _paths(sources: Sequence[Source]) -> list[str]:
    return [str(source.path.absolute()) for source in sources if source.path]


def _part_count(census: Census, processes: int) -> int:
    """Choose the number of parts; each has whole chunks if there are enough chunks for all workers."""
    count = len(census.marks) // pieces.CHUNKS_A_SHARD
    wanted = PARTS_PER_WORKER * max(1, processes)
    if count < wanted:
        count = min(wanted, census.n_embedded // MIN_PART_RESIDUES)
    return max(1, min(count, MAX_PARTS))


def _prepare(folder: Path, manifest: Manifest, fresh: bool) -> None:
    """Make the folder for the unfinished parts unless the run continues, and write the manifest to it."""
    with creating(folder):
        if fresh:
            make_partial(folder)
        (partial_path(folder) / "parts").mkdir(exist_ok=True)
        manifest.write(folder)


def _run(client: Client, shared: _SharedArguments, progress: Progress, stop: Stop) -> list[Summary]:
    """Have the workers make every part, and return what each did."""
    from distributed import as_completed

    shards = (Shard(i, shared.n_parts) for i in range(1, shared.n_parts + 1))
    pending: set[Future] = set()

    def submit(shard: Shard) -> Future:
        future = client.submit(
            embed_part, str(shared.folder), shard, shared.checkpoint, shared.options, pure=False
        )
        pending.add(future)
        return future

    done: list[Summary] = []
    progress.start(Amount(shared.census.n_records, shared.census.n_embedded))
    try:
        running = as_completed(map(submit, islice(shards, MAX_PENDING_TASKS)), loop=client.loop)
        with stop.abandoning():
            for future in _as_they_end(running, client, progress):
                pending.remove(future)
                summary = _result(future)
                done.append(summary)
                progress.resume(summary.resumed)
                progress.advance(Amount(summary.n_records, summary.n_residues) - summary.resumed)
                running.update(map(submit, islice(shards, 1)))
    except BaseException as error:
        _cancel(client, pending)
        if isinstance(error, Stopped):
            n_saved = sum(summary.n_records for summary in done) + _saved_in_unfinished(shared.folder)
            total = counted(shared.census.n_records, "record")
            raise error.with_saved(f"at least {n_saved:,} of {total} are saved") from None
        raise
    finally:
        progress.close()
    return done


def _as_they_end(running: as_completed, client: Client, progress: Progress) -> Iterator[Future]:
    """Yield each task as it ends, also those that are added meanwhile; says so if no workers are left."""
    looked, has_workers = time.monotonic(), _has_workers(client)
    while running.count():
        while not running.has_ready():
            time.sleep(0.05)
            if time.monotonic() - looked > WATCH_SECONDS:
                had_workers, has_workers = has_workers, _has_workers(client)
                looked = time.monotonic()
                if had_workers and not has_workers:
                    progress.note("the Dask cluster has no workers any more; waiting for them")
        yield next(running)


def _has_workers(client: Client) -> bool:
    """Whether there is a worker; raises ClusterError if those of `local:N` cannot be started again."""
    from distributed import Status

    if client.cluster and all(
        process.status in (Status.closed, Status.failed) for process in client.cluster.workers.values()
    ):
        raise ClusterError(
            "all Dask workers of this machine died and cannot be started again (out of memory?); "
            "run it again with --resume"
        )
    with suppress(OSError):
        return client.status != "running" or bool(client.nthreads())
    return True  # the scheduler is lost, which ends the tasks as well


def _saved_in_unfinished(folder: Path) -> int:
    """Count the records that are saved in parts that are not finished."""
    journals = partial_path(folder).glob("parts/*/journal")
    return sum(read_position(journal).records for journal in journals)


def _result(future: Future) -> Summary:
    """Return the summary of a finished task; turns a failure of the cluster into `ClusterError`."""
    from distributed import CancelledError, KilledWorker

    try:
        summary: Summary = future.result()
    except KilledWorker as error:
        raise ClusterError(
            f"{error.allowed_failures + 1} workers died on the same part, the last one at "
            f"{error.last_worker.address} (out of memory?); run it again with --resume "
            "and more memory per worker"
        ) from None
    except (CancelledError, OSError) as error:
        raise ClusterError(f"the Dask scheduler was lost ({error}); run it again with --resume") from None
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"a worker has no module {error.name}; install protrna-cli {version()} there"
        ) from None
    return summary


def _cancel(client: Client, pending: Collection[Future]) -> None:
    """Cancel the tasks, and wait until the running ones have committed their work."""
    with suppress(OSError):  # the scheduler is lost as well: what ended the run is told, and not this
        if client.status == "running":
            client.cancel(list(pending))
            client.run(until_idle, on_error="ignore")


def _finish(folder: Path, n_parts: int, header: Header) -> None:
    """Check that no part is missing or from another run, and rename the folder into place."""
    parts = [part_path(folder, Shard(i, n_parts)) for i in range(1, n_parts + 1)]
    compare_keys(run_key(open_parts(parts).header), run_key(header), str(folder))
    with writing(folder, "run it again with --resume"):
        publish_parts(folder, parts)
