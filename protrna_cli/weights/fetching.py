"""Fetching the checkpoint: mirrors in order, one process at a time, verified, then renamed into place."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pooch

from protrna_cli.errors import OutputUnwritable, WeightsError, WriteFailed
from protrna_cli.locks import NO_LOCKS
from protrna_cli.model.checkpoint import find_flaw
from protrna_cli.weights import WAYS_OUT, is_there, trust
from protrna_cli.weights.download import Source, copy, discard, download
from protrna_cli.weights.mirrors import MIRRORS, Mirror, is_remote, look_up
from protrna_cli.weights.transport import Patience, Unavailable, place
from protrna_cli.weights.watch import Logged, Watcher


def obtain(checkpoint: Path | None, watcher: Watcher | None = None) -> None:
    """Fetch the published checkpoint if it is not there; None, the demo model, needs nothing.

    Raises
    ------
    WeightsError, OutputUnwritable, WriteFailed
        As `fetch`.
    """
    if checkpoint is not None and not is_there(checkpoint):
        fetch(checkpoint, watcher=watcher or Logged())


def fetch(
    target: Path,
    mirrors: Sequence[Mirror] | None = None,
    watcher: Watcher | None = None,
    patience: Patience | None = None,
) -> None:
    """Bring a whole checkpoint to `target`; a damaged one that is there is replaced.

    Parameters
    ----------
    target
        Where it is to be. Beside it stand `NAME.json`, what is known of it; `NAME.lock`; and `NAME.partial`
        until all of it has come.
    mirrors
        Tried in order; by default the published addresses.

    Raises
    ------
    WeightsError
        No mirror gives a whole checkpoint; nothing stands under the final name.
    OutputUnwritable
        The folder cannot be made or written.
    WriteFailed
        The disk is full; the next call goes on from what has come.
    """
    mirrors = MIRRORS if mirrors is None else mirrors
    watcher, patience = watcher or Watcher(), patience or Patience()
    at_hand = _identity(target)
    if at_hand:
        try:
            trust.verify(target)
            return
        except WeightsError as damage:
            watcher.note(f"{damage}; fetching it anew")
    with _alone(target, watcher) as partial:
        if _identity(target) not in (None, at_hand):
            return  # another process brought it meanwhile
        _fetch_from_first(mirrors, partial, target, watcher, patience)


def _fetch_from_first(
    mirrors: Sequence[Mirror], partial: Path, target: Path, watcher: Watcher, patience: Patience
) -> None:
    """Fetch from the first mirror that gives a whole checkpoint."""
    failures = []
    for mirror in mirrors:
        try:
            _fetch_from(mirror, partial, target, watcher, patience)
            return
        except Unavailable as failure:
            failures.append(str(failure))
            if mirror is not mirrors[-1]:
                watcher.note(f"{failure}; trying the next address")
    reasons = "; ".join(dict.fromkeys(failures))
    raise WeightsError(f"{target.name} could not be fetched: {reasons}; {WAYS_OUT}")


def _fetch_from(mirror: Mirror, partial: Path, target: Path, watcher: Watcher, patience: Patience) -> None:
    """Fetch from one mirror, verify, record, rename."""
    if not is_remote(mirror.address):
        source = Source(mirror.address)
        copy(Path(mirror.address), partial, target, watcher)
        flaw = _flaw(partial, source)
    else:
        source = look_up(mirror, patience, watcher)
        resumed = download(source, partial, target, watcher, patience)
        flaw = _flaw(partial, source)
        if flaw and resumed:
            # A machine that went down may have lost bytes of what it had counted as written.
            watcher.note(f"what had come earlier does not fit ({flaw}); starting over")
            discard(partial)
            download(source, partial, target, watcher, patience)
            flaw = _flaw(partial, source)
    if flaw:
        discard(partial)
        raise Unavailable(f"{place(source.address)} gave a file that is refused: {flaw}")
    _install(partial, target, source)


def _flaw(partial: Path, source: Source) -> str | None:
    """Say what is wrong with a file that has come; None if it is whole."""
    if source.md5 and (found := pooch.file_hash(str(partial), "md5")) != source.md5:
        return f"its MD5 is {found}, not {source.md5} as its record says"
    return find_flaw(partial)


def _install(partial: Path, target: Path, source: Source) -> None:
    """Make it durable, record it, and give it its name: the name comes last."""
    digest = str(pooch.file_hash(str(partial), "sha256"))
    record = trust.Record(partial.stat().st_size, digest, trust.now(), place(source.address), source.md5)
    try:
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        trust.write_record(target, record)
        partial.replace(target)
        discard(partial)
    except OSError as error:
        raise WriteFailed(f"{target}: writing failed ({error.strerror}); free space and run again") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from the one that may replace it."""
    try:
        status = path.stat()
    except OSError:  # none, or hidden from us: what is wrong with the folder shows when it is written to
        return None
    return status.st_ino, status.st_mtime_ns


@contextmanager
def _alone(target: Path, watcher: Watcher) -> Iterator[Path]:
    """Wait until no other process fetches `target`; yields the partial file that is now ours.

    The lock belongs to the open file, so that the kernel lifts it when a process dies, however it dies. Where
    a file system knows no locks, each process fetches into a file of its own: wasteful, never wrong.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(target.with_name(f"{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputUnwritable(
            f"{target.parent}: cannot be written ({error.strerror}); choose another folder with "
            "--weights-dir or PROTRNA_HOME"
        ) from error
    try:
        if _locked(lock, target, watcher):
            yield partial
        else:
            own = target.with_name(f"{target.name}.{socket.gethostname()}-{os.getpid()}.partial")
            try:
                yield own
            finally:
                discard(own)
    finally:
        os.close(lock)


def _locked(lock: int, target: Path, watcher: Watcher) -> bool:
    """Lock, after whoever holds it; False where the file system knows no locks."""
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            watcher.note(f"another process is fetching {target}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        watcher.note(f"{target.parent} knows no file locks ({error.strerror}): fetching without one")
        return False
    return True
