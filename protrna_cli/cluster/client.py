"""Connect to a Dask cluster: processes on this machine, or an existing cluster."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli.errors import ClusterError, MissingExtra, UsageError
from protrna_cli.run.report import Progress

if TYPE_CHECKING:
    from distributed import Client


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


def _client(address: str, stack: ExitStack) -> Client:
    """Start a client, and for `local:N` also its cluster, which ends with the stack."""
    from distributed import Client, LocalCluster

    processes = local_processes(address)
    if not processes:
        location = {"scheduler_file" if Path(address).is_file() else "address": address}
        return Client(**location, set_as_default=False)
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
