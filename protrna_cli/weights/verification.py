"""Verify checkpoints, and record their SHA-256, time of verification and source.

The record is `NAME.json` beside the checkpoint, written after every weight has been read and found finite.
Downloads are never unpickled or executed: a checkpoint consists of arrays, and all of them are checked.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from protrna_cli.disk import file_hash, write_whole
from protrna_cli.errors import WeightsError
from protrna_cli.model import structure
from protrna_cli.model.checkpoint import check_size, read_checkpoint
from protrna_cli.model.reading import find_foreign
from protrna_cli.text import unreadable


@dataclass(frozen=True)
class Verification:
    """The record of a checkpoint.

    Attributes
    ----------
    size
        Size in bytes.
    sha256
        SHA-256 in hexadecimal.
    verified
        Time of the last verification: UTC, ISO 8601.
    source
        Address or path that it was fetched from; None if it was not fetched.
    md5
        Checksum stated by its Zenodo record, which it matched; None if there was none.
    """

    size: int
    sha256: str
    verified: str
    source: str | None = None
    md5: str | None = None


def now() -> str:
    """Current time in the form used in records: UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_verification(checkpoint: Path) -> Verification | None:
    """Read the record of a checkpoint; None if there is none."""
    try:
        return Verification(**json.loads(record_path(checkpoint).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_verification(checkpoint: Path, record: Verification) -> None:
    """Write the record of a checkpoint completely or not at all."""
    write_whole(record_path(checkpoint), json.dumps(asdict(record), indent=1) + "\n", shared=True)


def checked_sha256(checkpoint: Path) -> str:
    """Hash a checkpoint (SHA-256, in hexadecimal) and compare with its record, if there is one."""
    try:
        found = file_hash(checkpoint, "sha256")
    except OSError as error:
        flaw = find_foreign(checkpoint) or unreadable(error)
        raise WeightsError(f"{checkpoint}: {flaw}; name another with --model") from error
    record = read_verification(checkpoint)
    if record and record.sha256 != found:
        raise WeightsError(
            f"{checkpoint}: damaged or replaced since it was verified on {record.verified} (its SHA-256 is "
            f"{found}, not {record.sha256}); run protrna weights fetch, or name another with --model"
        )
    return found


def verify_checkpoint(checkpoint: Path) -> Verification:
    """Check a whole checkpoint: recorded SHA-256, all groups and shapes, and that every value is finite.

    Returns
    -------
    Verification
        The new record, also written beside the checkpoint if the folder is writable and no other file has the
        record's name.
    """
    found = checked_sha256(checkpoint)
    read_checkpoint(checkpoint, lambda name, values: None)
    known = read_verification(checkpoint)
    record = replace(known or Verification(checkpoint.stat().st_size, found, ""), verified=now())
    if known or not record_path(checkpoint).exists():
        with contextlib.suppress(OSError):  # in a shared read-only folder the existing record stays
            write_verification(checkpoint, record)
    return record


def verify_published(checkpoint: Path) -> Verification:
    """Check the published checkpoint as `verify_checkpoint` does, and that it has the published size."""
    check_size(checkpoint, structure.PUBLISHED_SIZE)
    return verify_checkpoint(checkpoint)


def record_path(checkpoint: Path) -> Path:
    """Path of the record of a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.json")
