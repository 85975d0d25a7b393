"""Fetch the published checkpoint: mirrors in order, one process at a time, verified, then put in place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from protrna_cli.disk import creating, locked, sync, writing
from protrna_cli.errors import WeightsError
from protrna_cli.model.checkpoint import find_flaw
from protrna_cli.weights.download import RemoteFile, copy, discard, download
from protrna_cli.weights.mirrors import MIRRORS, Mirror, is_remote, look_up
from protrna_cli.weights.names import WAYS_OUT
from protrna_cli.weights.transport import Patience, Unavailable, without_query
from protrna_cli.weights.verification import (
    Verification,
    file_hash,
    now,
    verify_checkpoint,
    write_verification,
)
from protrna_cli.weights.watcher import Watcher

ANOTHER_FOLDER = "choose another folder with --weights-dir or PROTRNA_HOME"


def fetch(
    target: Path,
    mirrors: Sequence[Mirror] | None = None,
    watcher: Watcher | None = None,
    patience: Patience | None = None,
) -> None:
    """Bring a verified checkpoint to `target`; a damaged one there is replaced.

    Parameters
    ----------
    target
        Where it is to be. Beside it are `NAME.json`, its record; `NAME.lock` while it is being fetched; and
        `NAME.partial` until all of it has come.
    mirrors
        Tried in order; by default the published addresses.

    Raises
    ------
    WeightsError
        No mirror has a whole checkpoint; `target` is not created.
    OutputUnwritable
        The folder cannot be created or written.
    WriteFailed
        The disk is full; the next call resumes the download.
    """
    mirrors = MIRRORS if mirrors is None else mirrors
    watcher, patience = watcher or Watcher(), patience or Patience()
    at_hand = _identity(target)
    if at_hand:
        try:
            verify_checkpoint(target)
            return
        except WeightsError as damage:
            watcher.note(f"{damage}; fetching it anew")
    with _alone(target, watcher) as partial:
        if _identity(target) not in (None, at_hand):
            return  # another process brought it in the meantime
        _fetch_from_first(mirrors, partial, target, watcher, patience)


def _fetch_from_first(
    mirrors: Sequence[Mirror], partial: Path, target: Path, watcher: Watcher, patience: Patience
) -> None:
    """Fetch from the first mirror that has a whole checkpoint."""
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
        remote = RemoteFile(mirror.address)
        copy(Path(mirror.address), partial, target, watcher)
        flaw = _flaw(partial, remote)
    else:
        remote = look_up(mirror, patience, watcher)
        resumed = download(remote, partial, target, watcher, patience)
        flaw = _flaw(partial, remote)
        if flaw and resumed:
            # A machine that went down may have lost bytes that it had counted as written.
            watcher.note(f"the part that came earlier is damaged ({flaw}); starting over")
            discard(partial)
            download(remote, partial, target, watcher, patience)
            flaw = _flaw(partial, remote)
    if flaw:
        discard(partial)
        raise Unavailable(f"{without_query(remote.address)} gave a file that is refused: {flaw}")
    _install(partial, target, remote)


def _flaw(partial: Path, remote: RemoteFile) -> str | None:
    """Find what is wrong with a downloaded file; None if it is whole."""
    if remote.md5 and (found := file_hash(partial, "md5")) != remote.md5:
        return f"its MD5 is {found}, and its record states {remote.md5}"
    return find_flaw(partial)


def _install(partial: Path, target: Path, remote: RemoteFile) -> None:
    """Make the file durable, record it, and give it its name, in this order."""
    address = without_query(remote.address)
    record = Verification(partial.stat().st_size, file_hash(partial, "sha256"), now(), address, remote.md5)
    with writing(target, "free space and run again"):
        sync(partial)
        write_verification(target, record)
        partial.replace(target)
        sync(target.parent)
        discard(partial)


def _identity(path: Path) -> tuple[int, int] | None:
    """Distinguish a file from one that may replace it."""
    try:
        status = path.stat()
    except OSError:  # missing, or hidden from us: a problem with the folder shows when it is written to
        return None
    return status.st_ino, status.st_mtime_ns


@contextmanager
def _alone(target: Path, watcher: Watcher) -> Iterator[Path]:
    """Wait until no other process fetches `target`; gives the partial file that now belongs to this process.

    On a file system without locks each process fetches into a file of its own: wasteful, never wrong.
    """
    with creating(target.parent, ANOTHER_FOLDER):
        target.parent.mkdir(parents=True, exist_ok=True)

    def wait(holder: str) -> None:
        watcher.note(f"{holder} is fetching {target}; waiting for it")

    with locked(target, wait, ANOTHER_FOLDER) as held:
        if held:
            yield target.with_name(f"{target.name}.partial")
            return
        watcher.note(f"{target.parent} is on a file system without locks: fetching without one")
        own = target.with_name(f"{target.name}.{socket.gethostname()}-{os.getpid()}.partial")
        try:
            yield own
        finally:
            discard(own)
