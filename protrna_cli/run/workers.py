"""Where batches run: in this process, or in several, each with the model and its share of cores, or a GPU.

The run itself stays in one process, which cuts the batches, fills the rows and writes them. So the batches,
their order and what `--resume` finds are the same with any number of workers. A worker holds nothing that
could be lost: if it dies, another one runs its batch again.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from protrna_cli.errors import ProtrnaError, WorkersLost
from protrna_cli.libraries import own_process, without_keras
from protrna_cli.model.alphabet import Floats, Tokens
from protrna_cli.plan.rules import TRAINED_LENGTH
from protrna_cli.run.auto import Seat
from protrna_cli.run.report import SIGNALS
from protrna_cli.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA


Pending = Callable[[], list[Floats]]
"""Waits for a batch, and returns or raises what `ProtRNA._embed_batch` does for it."""


WIDEST = 2 * TRAINED_LENGTH
"""Tokens of the longest sequence of a batch that runs beside another: the attention of longer ones needs so
much memory that they run one by one."""


class Embedder(Protocol):
    """The part of a model that a run uses."""

    ahead: int  # how many batches to submit before the first of them is waited for

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Take a batch to embed; parameters as in `ProtRNA._embed_batch`."""


class InProcess:
    """A model in this process, to be used as a context manager.

    As many batches run at once as the model's `at_once` says. A batch that runs alone, because it is wide or
    `at_once` is 1, runs when it is waited for.
    """

    def __init__(self, model: ProtRNA) -> None:
        self._model = model
        self.ahead = model.at_once if model.at_once > 1 else 0  # one of them waits to be taken next
        self._threads = ThreadPoolExecutor(model.at_once, "protrna")
        self._ended = False

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        run = partial(self._model._embed_batch, tokens, weights, repr_layers, *poolings, check=self._check)
        if not self.ahead or tokens.shape[1] > WIDEST:
            return run
        return self._threads.submit(run).result

    def _check(self) -> None:
        """End a batch that nobody waits for any more."""
        if self._ended:
            raise CancelledError

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        self._threads.shutdown(cancel_futures=True)


class Absent:
    """Stands for the model of a run that computes nothing, as all its sequences are reused."""

    ahead = 0

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Refuse: there is no model."""
        raise NotImplementedError


MAX_DEATHS = 3
"""How often workers may die before one of several is given up; and on one batch, if only one is left."""

_LOG_LINE = re.compile(r"(WARNING: All log|[IWE]\d{4} |\d{4}-\d\d-\d\d |To enable the following)")
"""Beginnings of TensorFlow's log lines."""


class Workers:
    """Runs batches in worker processes: an `Embedder`, to be used as a context manager.

    checkpoint, precision: what each worker loads. The checkpoint must be there.
    seats: one for each worker.
    note: called in the thread of the run, with what its user should know.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: str,
        seats: Sequence[Seat],
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.ahead = 2 * len(seats) - 1  # each worker has a batch to run, and one to take next
        self._workers = [_Worker(checkpoint, precision, seat) for seat in seats]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(len(seats))
        self._closing = False
        self._note = note
        self._deaths = 0  # since the last time that one worker was given up
        self._given_up = 0
        self._told = False
        self._lock = threading.Lock()  # held while workers start or end

    def __enter__(self) -> Workers:
        for worker in self._workers:
            worker.start()
            self._free.put(worker)
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closing = True
            for worker in self._workers:
                worker.end()
        self._threads.shutdown(cancel_futures=True)  # each thread sees that its worker has ended

    def wait(self) -> None:
        """Wait until all of them have loaded the model."""
        for worker in self._workers:
            try:
                worker.receive()
            except (EOFError, OSError):
                raise WorkersLost(
                    f"a worker died as it loaded the model, {worker.end()}; use fewer --workers"
                ) from None

    def submit(self, tokens: Tokens, weights: Floats, repr_layers: Sequence[int], *poolings: str) -> Pending:
        """Take a batch to embed; it runs as soon as a worker is free."""
        if self._given_up and not self._told:
            self._told = True
            self._note(
                "workers died again and again (out of memory?); going on with fewer, which is slower; next "
                "time use fewer --workers"
            )
        return self._threads.submit(self._run, (tokens, weights, repr_layers, *poolings)).result

    def _run(self, batch: tuple[Any, ...]) -> list[Floats]:
        """Run a batch on a free worker, and again on a new one or another one if that dies."""
        worker, deaths = self._free.get(), 0
        try:
            while True:
                try:
                    return worker.run(batch)
                except (EOFError, OSError):
                    deaths += 1
                    death = worker.end()
                if self._give_up():
                    worker = self._free.get()  # this one is not put back
                    continue
                self._restart(worker)
                with suppress(EOFError, OSError):  # if it dies of that, the next `run` finds out
                    worker.receive()
                if deaths >= MAX_DEATHS:
                    raise WorkersLost(
                        f"{deaths} workers died on the same batch, the last one {death}; run it again with "
                        "--resume and fewer --workers"
                    )
        finally:
            self._free.put(worker)

    def _give_up(self) -> bool:
        """Count a death; whether to go on without that worker, as too many died and others are left."""
        with self._lock:
            self._deaths += 1
            if self._deaths < MAX_DEATHS or self._given_up == len(self._workers) - 1 or self._closing:
                return False
            self._deaths, self._given_up = 0, self._given_up + 1
            return True

    def _restart(self, worker: _Worker) -> None:
        """Start a worker again that died; raises EOFError if the run has ended."""
        with self._lock:
            if self._closing:
                raise EOFError
            worker.start()


class _Worker:
    """One worker process, and the connection to it."""

    def __init__(self, checkpoint: Checkpoint, precision: str, seat: Seat) -> None:
        self._seat = seat
        self._model = checkpoint, precision, seat.device, seat.threads

    def start(self) -> None:
        """Start the process and have it load the model, whose outcome is None."""
        self._connection, other = Pipe()
        with other:
            # In a session of its own Ctrl-C does not reach it. The modules are those of this process, and not
            # any that have the same name in the current folder.
            code = (
                f"import sys; sys.path[:] = {sys.path!r}; from protrna_cli.machine import end_with; "
                f"end_with({os.getpid()}); import {__name__} as w; w.work({other.fileno()})"
            )
            # What libraries say is thrown away, but if the user wants it; its last line tells of a death.
            self._said = tempfile.TemporaryFile() if _is_null(2) else None  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=[other.fileno()],
                start_new_session=True,
                env=self._seat.environment,
            )
        with suppress(OSError):  # if it died already, `receive` finds out
            self._connection.send(self._model)

    def run(self, batch: tuple[Any, ...]) -> list[Floats]:
        """Run a batch, as `ProtRNA._embed_batch` does."""
        self._connection.send(batch)
        vectors: list[Floats] = self.receive()
        return vectors

    def receive(self) -> Any:
        """Wait for the outcome of what was sent; raises what was raised there, and as `run`."""
        outcome = self._connection.recv()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def end(self) -> str:
        """End the process, which has nothing to save; tells how it ended."""
        self._process.kill()
        code = self._process.wait()
        return f"with exit code {code} ({self._last_words() or 'out of memory?'})"

    def _last_words(self) -> str:
        """The last line that the process wrote on stderr, without the log lines of libraries."""
        said, self._said = self._said, None
        if said is None:
            return ""
        with said:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
        own = [line for line in lines if line.strip() and not _LOG_LINE.match(line)]
        return own[-1].strip() if own else ""


def work(descriptor: int) -> None:
    """Run batches until the connection ends: what a worker process does."""
    for number in SIGNALS:  # batch systems send them to every process of a job; the run decides when to stop
        signal.signal(number, signal.SIG_IGN)
    own_process()
    without_keras()
    with Connection(descriptor) as connection, suppress(EOFError, BrokenPipeError):
        checkpoint, *settings = connection.recv()
        try:
            model = checkpoint.load(*settings)
        except Exception as error:
            connection.send(_portable(error))
            return
        connection.send(None)
        while True:
            try:
                outcome: Any = model._embed_batch(*connection.recv())
            except (EOFError, BrokenPipeError):
                return
            except Exception as error:
                outcome = _portable(error)
            connection.send(outcome)


def _is_null(descriptor: int) -> bool:
    """Whether a descriptor is the null device."""
    try:
        return os.path.samestat(os.fstat(descriptor), Path(os.devnull).stat())
    except OSError:
        return True


def _portable(error: Exception) -> Exception:
    """Make of an error one that another process can read."""
    if isinstance(error, (ProtrnaError, MemoryError)):
        return type(error)(str(error))
    return RuntimeError(f"a worker failed:\n{''.join(traceback.format_exception(error))}")
