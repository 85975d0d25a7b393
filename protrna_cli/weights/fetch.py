"""Fetch the published checkpoint from mirrors in order, in one process at a time, and verify it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protrna_cli.disk import creating, file_hash, lock_path, locked, stamp, sync, writing
from protrna_cli.errors import OutputUnwritable, WeightsError
from protrna_cli.model import structure
from protrna_cli.model.checkpoint import check_size, find_flaw
from protrna_cli.output.files import partial_path
from protrna_cli.output.protect import refuse_to_replace, refuse_unless_file
from protrna_cli.weights.checkpoint import (
    MISSING_WEIGHTS_REMEDY,
    PUBLISHED_FILE,
    Verification,
    Watcher,
    now,
    read_verification,
    record_path,
    verify_checkpoint,
    write_verification,
)
from protrna_cli.weights.download import (
    RemoteFile,
    RetryPolicy,
    Transfer,
    Unavailable,
    discard,
    fetch_small,
    find_foreign,
    origin_path,
    without_query,
)


@dataclass(frozen=True)
class Mirror:
    """A server, or a path, with a checkpoint."""

    address: str  # of the file: `http://`, `https://`, or a path
    record: str | None = None  # address, in Zenodo's REST API, of the record with its size and checksum


def zenodo(record: int, host: str = "https://zenodo.org") -> Mirror:
    """Mirror in a Zenodo record."""
    return Mirror(f"{host}/records/{record}/files/{PUBLISHED_FILE}", f"{host}/api/records/{record}")


MIRRORS = (
    zenodo(14795554),  # the one in the latest published code
    zenodo(13888473),
    Mirror(
        f"https://www.dropbox.com/scl/fi/lttcohy9ix1rbsynci72h/{PUBLISHED_FILE}"
        "?rlkey=6t37r3tbb1p9j75nqejumcqqx&st=74eku09q&dl=1"
    ),
)


def is_remote(address: str) -> bool:
    """Whether an address is a URL, not a path."""
    return address.startswith(("http://", "https://"))


def look_up(mirror: Mirror, retry_policy: RetryPolicy, watcher: Watcher) -> RemoteFile:
    """Read the size and the checksum of the mirror's file from its record."""
    if mirror.record is None:
        return RemoteFile(mirror.address)
    record = fetch_small(mirror.record, retry_policy, watcher)
    try:
        files = json.loads(record)["files"]
        [entry] = [file for file in files if file["key"] == mirror.address.rpartition("/")[2]]
        md5 = re.fullmatch(r"md5:([0-9a-f]{32})", str(entry.get("checksum")))
        return RemoteFile(mirror.address, int(entry["size"]), md5 and md5[1])
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"{mirror.record} does not state the size of {PUBLISHED_FILE}") from None


ANOTHER_FOLDER = "choose another folder with --weights-dir or PROTRNA_HOME"
MOVE_AWAY = f"move it away, or {ANOTHER_FOLDER}"


def fetch(
    target: Path,
    mirrors: Sequence[Mirror] | None = None,
    watcher: Watcher | None = None,
    retry_policy: RetryPolicy | None = None,
) -> None:
    """Make sure that `target` is the published model: verify it, or download it if missing or damaged.

    Beside it are `NAME.json`, its record; `NAME.lock` while it is being fetched; and `NAME.partial` until it
    is complete. Mirrors are tried in order.
    """
    mirrors = MIRRORS if mirrors is None else mirrors
    watcher, retry_policy = watcher or Watcher(), retry_policy or RetryPolicy()
    refuse_unless_file(Path(os.path.realpath(target)), MOVE_AWAY)
    before = stamp(target)  # a problem with the folder is reported when it is written to
    if before:
        try:
            verify_checkpoint(target)
        except WeightsError as damage:
            watcher.note(f"{damage}; fetching it again")
        else:
            check_size(target, structure.PUBLISHED_SIZE)
            return
    _protect(target, mirrors)
    with _fetch_lock(target, watcher) as partial:
        transfer = Transfer(partial, target, watcher, retry_policy)
        if stamp(target) not in (None, before):
            return  # another process has fetched it in the meantime
        _refuse_foreign(target)  # only now, as no other process makes or removes these files meanwhile
        _fetch_from_first(mirrors, transfer)


def _protect(target: Path, mirrors: Sequence[Mirror]) -> None:
    """Refuse to replace the file to copy, and what is not a file."""
    partial, record = partial_path(target), record_path(target)
    written = [target, record, partial, origin_path(partial)]
    copied = [mirror.address for mirror in mirrors if not is_remote(mirror.address)]
    refuse_to_replace([*written, lock_path(target)], copied, ANOTHER_FOLDER)
    for file in written:
        refuse_unless_file(file, MOVE_AWAY)


def _refuse_foreign(target: Path) -> None:
    """Refuse to replace what protrna did not make."""
    foreign, record = find_foreign(partial_path(target)), record_path(target)
    if record.exists() and not read_verification(target):
        foreign = record
    if foreign:
        raise OutputUnwritable(f"{foreign}: protrna did not make it, but needs that name; {MOVE_AWAY}")


def _fetch_from_first(mirrors: Sequence[Mirror], transfer: Transfer) -> None:
    """Fetch from the first mirror that provides a valid checkpoint."""
    failures = []
    for mirror in mirrors:
        try:
            _fetch_from(mirror, transfer)
            return
        except Unavailable as failure:
            failures.append(str(failure))
            if mirror is not mirrors[-1]:
                transfer.watcher.note(f"{failure}; trying the next address")
    reasons = "; ".join(dict.fromkeys(failures))
    raise WeightsError(f"{transfer.target.name} could not be fetched: {reasons}; {MISSING_WEIGHTS_REMEDY}")


def _fetch_from(mirror: Mirror, transfer: Transfer) -> None:
    """Fetch from one mirror, verify, record, rename."""
    partial, watcher = transfer.partial, transfer.watcher
    if not is_remote(mirror.address):
        remote = RemoteFile(mirror.address)
        transfer.copy(Path(mirror.address))
        flaw = _download_flaw(partial, remote)
    else:
        remote = look_up(mirror, transfer.retry_policy, watcher)
        resumed = transfer.download(remote)
        flaw = _download_flaw(partial, remote)
        if flaw and resumed:
            # After a crash of the machine, bytes counted as written may be lost.
            watcher.note(f"the bytes downloaded earlier are damaged ({flaw}); starting over")
            discard(partial)
            transfer.download(remote)
            flaw = _download_flaw(partial, remote)
    if flaw:
        discard(partial)
        raise Unavailable(f"{without_query(remote.address)} provided an invalid file: {flaw}")
    _install(partial, transfer.target, remote)


def _download_flaw(partial: Path, remote: RemoteFile) -> str | None:
    """Describe what is wrong with a downloaded file; None if it is valid."""
    if remote.md5 and (found := file_hash(partial, "md5")) != remote.md5:
        return f"its MD5 is {found}, but its record states {remote.md5}"
    return find_flaw(partial, structure.PUBLISHED_SIZE)


def _install(partial: Path, target: Path, remote: RemoteFile) -> None:
    """Sync the file to disk, write its record, and rename it, in this order."""
    address = without_query(remote.address)
    record = Verification(partial.stat().st_size, file_hash(partial, "sha256"), now(), address, remote.md5)
    with writing(target, "free space and run again"):
        sync(partial)
        write_verification(target, record)
        partial.replace(target)
        sync(target.parent)
        discard(partial)


@contextmanager
def _fetch_lock(target: Path, watcher: Watcher) -> Iterator[Path]:
    """Wait until no other process fetches `target`; yields the partial file for this process to write.

    On a file system without locks, each process fetches into its own file: wasteful but safe.
    """
    with creating(target.parent, ANOTHER_FOLDER):
        target.parent.mkdir(parents=True, exist_ok=True)

    def wait(holder: str) -> None:
        watcher.note(f"{holder} is fetching {target}; waiting for it")

    with locked(target, wait, ANOTHER_FOLDER) as held:
        if held:
            yield partial_path(target)
            return
        watcher.note(f"{target.parent} is on a file system without locks: fetching without a lock")
        own = target.with_name(f"{target.name}.{socket.gethostname()}-{os.getpid()}.partial")
        try:
            yield own
        finally:
            discard(own)
