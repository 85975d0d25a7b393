"""Files that were hashed before are not hashed again, as long as size, times of change and inode stay.

They are remembered in `trusted.json` in the folder of weights.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from protrna_cli.disk import write_whole

SETTLED_NS = 2_000_000_000
"""A file that changed less than 2 s ago is not trusted: it could change again without a new time."""


def stamp(path: Path) -> list[int]:
    """Size, times of change of content and of status in nanoseconds, and inode of a file.

    A program can set the first time back, as `cp --preserve` does, but not the second.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def trusted_sha256(path: Path, home: Path) -> str | None:
    """SHA-256 that a file had when it was hashed; None if it may have changed since.

    Parameters
    ----------
    home
        The folder of weights.
    """
    try:
        known = _read(home)[str(path.resolve())]
        return str(known["sha256"]) if known["stamp"] == stamp(path) else None
    except (OSError, KeyError, TypeError):
        return None


def trust(path: Path, sha256: str, home: Path, before: list[int]) -> None:
    """Remember the SHA-256 of a file, if the folder of weights can be written.

    Parameters
    ----------
    before
        Its stamp before it was hashed: one that changed meanwhile is not trusted.
    """
    with suppress(OSError):
        now = stamp(path)
        if now != before or time.time_ns() - max(now[1:3]) < SETTLED_NS:
            return
        home.mkdir(parents=True, exist_ok=True)
        entry = {"stamp": now, "sha256": sha256}
        content = json.dumps({**_read(home), str(path.resolve()): entry})
        write_whole(home / "trusted.json", content, shared=True)


def _read(home: Path) -> dict[str, Any]:
    try:
        found = json.loads((home / "trusted.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
