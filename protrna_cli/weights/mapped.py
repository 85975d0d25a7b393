"""Copies of checkpoints that can be mapped into memory, in the folder `mapped` of the folder of weights.

A copy is named by the SHA-256 of its checkpoint and by the precision. It is made once, by one process while
others wait, where there is room. `NAME.json` beside it says what is in it.

Files that were hashed before are remembered in `trusted.json` in the folder of weights, and not hashed again
as long as size, times of change and inode stay.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from protrna_cli.disk import Stamp, file_hash, lock_path, locked, replacing, share, stamp, write_whole
from protrna_cli.errors import OutputBusy, OutputUnwritable
from protrna_cli.text import reason

if TYPE_CHECKING:
    from protrna_cli.model.load import Layout


SETTLED_NS = 2_000_000_000
"""A file that changed less than 2 s ago is not trusted: it could change again without a new time."""


def trusted_sha256(path: Path, home: Path) -> str | None:
    """SHA-256 that a file had when it was hashed; None if it may have changed since."""
    try:
        known = _read(home)[str(path.resolve())]
        return str(known["sha256"]) if Stamp(*known["stamp"]) == stamp(path) else None
    except (OSError, KeyError, TypeError):
        return None


def trust(path: Path, sha256: str, home: Path, before: Stamp) -> None:
    """Remember the SHA-256 of a file, if the folder of weights can be written.

    `before` is its stamp before it was hashed: one that changed meanwhile is not trusted.
    """
    if stamp(path) != before or time.time_ns() - max(before.modified, before.changed) < SETTLED_NS:
        return
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        entry = {"stamp": before, "sha256": sha256}
        content = json.dumps({**_read(home), str(path.resolve()): entry})
        write_whole(home / "trusted.json", content, shared=True)


def _read(home: Path) -> dict[str, Any]:
    try:
        found = json.loads((home / "trusted.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


SMALLEST = 64 << 20
"""Bytes of the smallest checkpoint that is worth a copy: others are hashed and read in no time."""

VERSION = 2
"""Of the way in which copies are laid out; those of another are made again."""

ROOM = 2
"""Free space that a copy must find, as a multiple of the size of its checkpoint."""


class Copy(NamedTuple):
    """A file of weights to map, and what is in it."""

    path: Path
    layout: Layout


def copies_in(home: Path) -> list[Path]:
    """List all copies in a folder of weights."""
    return sorted((home / "mapped").glob("*.weights"))


def path_of(sha256: str, precision: str, home: Path) -> Path:
    """Path of the copy of a checkpoint."""
    return home / "mapped" / f"{sha256}-{precision}.weights"


def prune(home: Path) -> int:
    """Remove all copies in a folder of weights; returns how many bytes they had."""
    freed = 0
    # Also records, and what killed processes left, of whatever machine.
    left = (home / "mapped").glob("*.weights*")
    for path in sorted({file.with_name(file.name.partition(".weights")[0] + ".weights") for file in left}):
        try:
            with locked(path, remedy="its folder must be writable"):
                for file in path.parent.glob(f"{path.name}*"):
                    if file != lock_path(path):
                        size = file.stat().st_size
                        file.unlink()
                        freed += size
        except OutputBusy:  # a process is making it now
            continue
        except OSError as error:
            raise OutputUnwritable(
                f"{path}: cannot be removed ({reason(error)}); remove it by hand"
            ) from None
    return freed


def damaged_copies(home: Path, sha256: str) -> list[Path]:
    """Compare the copies of a checkpoint with their SHA-256; removes and returns those that differ."""
    damaged = []
    for path in copies_in(home):
        if path.name.startswith(sha256) and _undamaged(path) is None:
            for file in (path, _record_path(path)):
                file.unlink(missing_ok=True)
            damaged.append(path)
    return damaged


def find_or_make(
    checkpoint: Path, path: Path, precision: str, check: bool, note: Callable[[str], None]
) -> Copy | None:
    """Find the copy of a checkpoint, or make it; None where that cannot be done or is not worth it.

    `check` hashes the copy even if it has not changed. `note` is called before this process waits for another
    one that makes it.
    """
    try:
        if checkpoint.stat().st_size < SMALLEST:
            return None
        if not check and (found := _unchanged(path)):
            return found
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            share(path.parent)
        with locked(path, wait=lambda holder: note(f"{holder} is laying out these weights; waiting for it")):
            return (not check and _unchanged(path)) or _undamaged(path) or _make(checkpoint, precision, path)
    except (OSError, OutputUnwritable):  # a full or read-only folder: the checkpoint is read instead
        return None


def _unchanged(path: Path) -> Copy | None:
    """Return the copy, if its stamp is the recorded one."""
    try:
        layout, stood = _recorded(path)
        return Copy(path, layout) if stood == stamp(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _undamaged(path: Path) -> Copy | None:
    """Return the copy, if its SHA-256 is the recorded one, and record its stamp."""
    try:
        layout, _ = _recorded(path)
        before = stamp(path)
        if file_hash(path, "sha256") != layout["sha256"] or stamp(path) != before:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    _record(path, layout)
    return Copy(path, layout)


def _make(checkpoint: Path, precision: str, path: Path) -> Copy | None:
    from protrna_cli.model.load import lay_out

    for left in path.parent.glob(f"{path.name}.*.new"):  # by a process that was killed: we hold the lock
        left.unlink()
    if shutil.disk_usage(path.parent).free < ROOM * checkpoint.stat().st_size:
        return None
    with replacing(path, shared=True) as file:
        layout = lay_out(checkpoint, precision, file)
    _record(path, layout)
    return Copy(path, layout)


def _recorded(path: Path) -> tuple[Layout, Stamp]:
    """Read the recorded layout and stamp of a copy; ValueError if they are of another version."""
    record = json.loads(_record_path(path).read_text("utf-8"))
    if record["version"] != VERSION:
        raise ValueError(f"laid out in version {record['version']}")
    return record["layout"], Stamp(*record["stamp"])


def _record(path: Path, layout: Layout) -> None:
    record = {"version": VERSION, "stamp": stamp(path), "layout": layout}
    write_whole(_record_path(path), json.dumps(record), shared=True)


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
