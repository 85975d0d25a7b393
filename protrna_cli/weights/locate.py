"""Find a checkpoint by name or path."""

from __future__ import annotations

import os
from pathlib import Path

from protrna_cli.errors import WeightsError
from protrna_cli.weights.checkpoint import Checkpoint, CheckpointFile, DemoCheckpoint
from protrna_cli.weights.names import DEMO, PUBLISHED, PUBLISHED_FILE


def weights_folder_if_any(weights_dir: str | None = None) -> Path | None:
    """Folder of the published checkpoint: `weights_dir`, `PROTRNA_HOME`, or the user's cache folder.

    None for a user without a home folder, such as one whom only a container's `--user` names.
    """
    if home := weights_dir or os.environ.get("PROTRNA_HOME"):
        return Path(home)
    import platformdirs  # imported here because it is slow to import

    try:
        folder = Path(platformdirs.user_cache_dir("protrna"))
    except RuntimeError:  # no home folder
        return None
    return folder if folder.is_absolute() else None  # `~/.cache` of earlier versions, without a home folder


def weights_folder(weights_dir: str | None = None) -> Path:
    """Folder of the published checkpoint, where there must be one."""
    folder = weights_folder_if_any(weights_dir)
    if folder is None:
        raise WeightsError(
            "this user has no home folder, so there is no folder for the weights; set PROTRNA_HOME or "
            "--weights-dir to one"
        )
    return folder


def locate(name_or_path: str, weights_dir: str | None = None, check: bool = False) -> Checkpoint:
    """Find a checkpoint by name or path.

    Parameters
    ----------
    name_or_path
        `protrna` (the published checkpoint, which need not be downloaded yet), `demo`, or the path of a
        checkpoint or of the folder of an export.
    weights_dir
        The argument of `weights_folder`.
    check
        Hash the file again, even if it has not changed since the last time.
    """
    if name_or_path == DEMO:
        return DemoCheckpoint()
    if name_or_path == PUBLISHED:
        home = weights_folder(weights_dir)
        return CheckpointFile(home / PUBLISHED_FILE, is_published=True, home=home, check=check)
    path = weights_in(Path(name_or_path))
    checkpoint = CheckpointFile(path, home=weights_folder_if_any(weights_dir), check=check)
    if not checkpoint.is_there:
        raise WeightsError(
            f"{name_or_path}: no such checkpoint; --model takes protrna, demo or the path of a checkpoint"
        )
    return checkpoint


def weights_in(path: Path) -> Path:
    """Find the weights in the folder of an export; any other path stays."""
    weights = path / "model.safetensors"
    return weights if os.path.isfile(weights) else path  # noqa: PTH113 (False in a closed folder, too)
