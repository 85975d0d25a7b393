"""A checkpoint: a file in the published layout, an export, or the built-in demo model.

The methods use TensorFlow, h5py and the network, and import them only when called.

Find a checkpoint by name or path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli.disk import stamp
from protrna_cli.errors import WeightsError
from protrna_cli.weights import mapped
from protrna_cli.weights.mapped import trust, trusted_sha256
from protrna_cli.weights.names import DEMO, MISSING_WEIGHTS_REMEDY, PUBLISHED, PUBLISHED_FILE, is_offline

if TYPE_CHECKING:
    from protrna_cli.model.structure import ModelSize
    from protrna_cli.model.transformer import ProtRNA
    from protrna_cli.weights.download import Watcher


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a model, not loaded yet.

    Attributes
    ----------
    path
        The file, or where it will be downloaded to; of an export, its `model.safetensors`. None for the
        built-in demo model, whose weights are made when it is loaded.
    is_published
        Whether it is the published checkpoint, which can be downloaded.
    home
        The folder of weights, where it is remembered that the file was hashed, and where a copy is kept that
        can be mapped into memory; None does without.
    check
        Hash both again, even if they have not changed.
    """

    path: Path | None
    is_published: bool = False
    home: Path | None = None
    check: bool = False

    @property
    def is_there(self) -> bool:
        """Whether it can be loaded without a download; False in a folder that this process may not read."""
        return self.path is None or _exists(self.path)

    def check_reachable(self, offline: bool = False) -> None:
        """Fail early if the checkpoint is missing and downloads are forbidden.

        Parameters
        ----------
        offline
            Whether downloads are forbidden; `PROTRNA_OFFLINE` forbids them too.
        """
        if self.is_published and is_offline(offline) and not self.is_there:
            raise WeightsError(
                f"the published weights are not at {self.path}, and --offline or PROTRNA_OFFLINE forbids "
                f"downloads; {MISSING_WEIGHTS_REMEDY}"
            )

    def obtain(self, watcher: Watcher | None = None, offline: bool = False) -> None:
        """Download the published checkpoint if it is missing; raises as `check_reachable` and `fetch` do."""
        if self.path is None or self.is_there:
            return
        self.check_reachable(offline)
        if not self.is_published:
            raise WeightsError(f"{self.path}: no such checkpoint any more; name another with --model")
        from protrna_cli.weights.download import LoggingWatcher
        from protrna_cli.weights.fetch import fetch

        fetch(self.path, watcher=watcher or LoggingWatcher())

    def size(self) -> ModelSize:
        """Read the size of the model without loading its weights."""
        from protrna_cli.model.checkpoint import read_size

        return read_size(self.path)[0]

    def sha256(self) -> str | None:
        """SHA-256 of the file in hexadecimal; None without a file."""
        if self.path is None:
            return None
        from protrna_cli.weights.verification import checked_sha256, read_verification

        record = read_verification(self.path)
        known = None if self.check else self._trusted_sha256()
        if known and (record is None or record.sha256 == known):
            return known
        before = stamp(self.path)
        found = checked_sha256(self.path)
        if self.home and before and before.size >= mapped.SMALLEST:
            trust(self.path, found, self.home, before)
        return found

    @contextmanager
    def hashing(self) -> Iterator[Callable[[], str | None]]:
        """Hash the file in the background; yields a function that waits for the result of `sha256`."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as background:
            yield background.submit(self.sha256).result

    def load(
        self, precision: str, device: str, threads: int | None, note: Callable[[str], None] = silent
    ) -> ProtRNA:
        """Load the model; parameters and errors as in `load_checkpoint`.

        `note` is called before this process waits for another one.
        """
        from protrna_cli.model.load import load_checkpoint

        return load_checkpoint(self.path, precision, device, threads, lambda: self._mapped(precision, note))

    def mapped_copy(self, precision: str) -> Path | None:
        """Path of the copy that can be mapped into memory; None if there is none."""
        sha256 = self._trusted_sha256()
        if sha256 is None or self.home is None:
            return None
        path = mapped.path_of(sha256, precision, self.home)
        return path if _exists(path) else None

    def _trusted_sha256(self) -> str | None:
        return trusted_sha256(self.path, self.home) if self.path and self.home else None

    def _mapped(self, precision: str, note: Callable[[str], None]) -> mapped.Copy | None:
        """Find or make the copy to map. Without a known SHA-256 there is none: it is its name."""
        from protrna_cli.model.exported import is_export

        sha256 = self._trusted_sha256()
        if self.path is None or self.home is None or sha256 is None:
            return None
        copy = mapped.find_or_make(self.path, sha256, precision, self.home, self.check, note)
        # Part of the size of an export is in a file that the SHA-256 does not cover: its config.
        if copy and is_export(self.path) and [*vars(self.size()).values()] != copy.layout["size"]:
            return None
        return copy


def _exists(path: Path) -> bool:
    """Whether there is such a file; False in a folder that is closed to this user, too."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises there, before Python 3.14)


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
        return Checkpoint(None)
    if name_or_path == PUBLISHED:
        home = weights_folder(weights_dir)
        return Checkpoint(home / PUBLISHED_FILE, is_published=True, home=home, check=check)
    path = weights_in(Path(name_or_path))
    checkpoint = Checkpoint(path, home=weights_folder_if_any(weights_dir), check=check)
    if not checkpoint.is_there:
        raise WeightsError(
            f"{name_or_path}: no such checkpoint; --model takes protrna, demo or the path of a checkpoint"
        )
    return checkpoint


def weights_in(path: Path) -> Path:
    """Find the weights in the folder of an export; any other path stays."""
    weights = path / "model.safetensors"
    return weights if os.path.isfile(weights) else path  # noqa: PTH113 (False in a closed folder, too)
