"""The published weights: which checkpoint a name means, where it is kept, and how it comes there.

This face is light; the modules below it read files and the network, and are imported where they are needed:
`mirrors` (addresses, what Zenodo says of a file), `transport` (one request), `download` (many, resumed),
`trust` (hashes and records), `fetching` (all of it, one process at a time).
"""

from __future__ import annotations

import os
from pathlib import Path

from protrna_cli.errors import WeightsError

PUBLISHED = "protrna"
PUBLISHED_FILE = "ProtRNA_pretrained.h5"
DEMO = "demo"
DEMO_NOTICE = "model demo has synthetic weights: its embeddings carry no biology"
WAYS_OUT = (
    "run protrna weights fetch --to DIR where there is a network and name DIR with --weights-dir or "
    "PROTRNA_HOME, or name a copy with --model PATH, or try the tool with --model demo (synthetic weights)"
)


def folder(weights_dir: str | None = None) -> Path:
    """Where published checkpoints are kept: what is asked for, `PROTRNA_HOME`, or the user's cache folder."""
    if home := weights_dir or os.environ.get("PROTRNA_HOME"):
        return Path(home)
    import pooch  # takes as long as the rest of this module's work; asked for only here

    return Path(pooch.os_cache("protrna"))


def is_there(path: Path) -> bool:
    """Whether a file is there for us; in a folder that we may not enter none is."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def is_offline(asked: bool = False) -> bool:
    """Whether nothing may be fetched: because it is asked for, or `PROTRNA_OFFLINE` is set (and not to 0)."""
    return asked or os.environ.get("PROTRNA_OFFLINE", "") not in ("", "0")


def locate(name_or_path: str, weights_dir: str | None = None, *, offline: bool = False) -> Path | None:
    """Find a checkpoint by name or path; None means the built-in demo model, which has no file.

    Parameters
    ----------
    weights_dir
        As `folder` takes it.
    offline
        Nothing may be fetched.

    Returns
    -------
    Path or None
        Where the checkpoint is. Unless `offline`, the published one may have to be fetched to there first
        (`fetching.obtain`).

    Raises
    ------
    WeightsError
        There is no such file, or the published checkpoint is not at hand and must not be fetched.
    """
    if name_or_path == DEMO:
        return None
    if name_or_path != PUBLISHED:
        path = Path(name_or_path)
        if not is_there(path):
            raise WeightsError(f"{path}: no such checkpoint; --model takes protrna, demo or the path of one")
        return path
    path = folder(weights_dir) / PUBLISHED_FILE
    if is_offline(offline) and not is_there(path):
        raise WeightsError(
            f"the published weights are not at {path}, and --offline or PROTRNA_OFFLINE forbids to fetch "
            f"them; {WAYS_OUT}"
        )
    return path
