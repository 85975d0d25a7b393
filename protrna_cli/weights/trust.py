"""What is known of a checkpoint: its SHA-256, when it was found whole, where it is from.

It stands in `NAME.json` beside the checkpoint, written once every weight has been read and found finite.
Nothing that is fetched is ever unpickled or run: a checkpoint is arrays, read with suspicion.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import pooch

from protrna_cli.errors import WeightsError
from protrna_cli.model.checkpoint import read_checkpoint


@dataclass(frozen=True)
class Record:
    """What is known of a checkpoint.

    Attributes
    ----------
    size
        In bytes.
    sha256
        In hexadecimal.
    verified
        When it was last found whole: UTC, ISO 8601.
    source
        Address or path that it was fetched from, if it was fetched.
    md5
        Checksum that its record gave and that it met, if one did.
    """

    size: int
    sha256: str
    verified: str
    source: str | None = None
    md5: str | None = None


def now() -> str:
    """Say the time, as a record holds it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_record(checkpoint: Path) -> Record | None:
    """Read what is known of a checkpoint; None if nothing is."""
    try:
        return Record(**json.loads(_record_path(checkpoint).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(checkpoint: Path, record: Record) -> None:
    """Write what is known of a checkpoint, whole or not at all."""
    path = _record_path(checkpoint)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(record), indent=1) + "\n", "utf-8")
    unfinished.replace(path)


def sha256(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint, in hexadecimal; the one that was recorded, if one was.

    Raises
    ------
    WeightsError
        The file cannot be read, or is not the one whose SHA-256 was recorded.
    """
    try:
        found = str(pooch.file_hash(str(checkpoint), "sha256"))
    except OSError as error:
        raise WeightsError(
            f"{checkpoint}: cannot be read ({error.strerror}); name another with --model"
        ) from error
    record = read_record(checkpoint)
    if record and record.sha256 != found:
        raise WeightsError(
            f"{checkpoint}: damaged or replaced since it was verified on {record.verified} (its SHA-256 is "
            f"{found}, not {record.sha256}); run protrna weights fetch, or name another with --model"
        )
    return found


def verify(checkpoint: Path) -> Record:
    """Find a checkpoint whole: the hash that was recorded, every group, every shape, all finite.

    Returns
    -------
    Record
        What is now known of it. It is also written beside it, where the folder can be written.

    Raises
    ------
    WeightsError
        It is not.
    """
    found = sha256(checkpoint)
    read_checkpoint(checkpoint, lambda name, values: None)
    known = read_record(checkpoint) or Record(checkpoint.stat().st_size, found, "")
    record = replace(known, verified=now())
    with contextlib.suppress(OSError):  # in a shared read-only folder what its keeper recorded stays
        write_record(checkpoint, record)
    return record


def _record_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.json")
