"""Mirrors of the published checkpoint, and the size and checksum that each states."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from protrna_cli.weights.download import RemoteFile
from protrna_cli.weights.names import PUBLISHED_FILE
from protrna_cli.weights.transport import RetryPolicy, Unavailable, fetch_small
from protrna_cli.weights.watcher import Watcher


@dataclass(frozen=True)
class Mirror:
    """A server, or a path, with a checkpoint.

    Attributes
    ----------
    address
        Address of the file: `http://`, `https://`, or a path.
    record
        Address, in Zenodo's REST API, of the record with its size and checksum, if there is one.
    """

    address: str
    record: str | None = None


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
        return RemoteFile(mirror.address, int(entry["size"]), _md5(entry.get("checksum")))
    except (ValueError, KeyError, TypeError):
        raise Unavailable(f"{mirror.record} does not state the size of {PUBLISHED_FILE}") from None


def _md5(checksum: Any) -> str | None:
    found = re.fullmatch(r"md5:([0-9a-f]{32})", str(checksum))
    return found[1] if found else None
