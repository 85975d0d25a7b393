"""A checkpoint: a file in the published layout, an export, or the built-in demo model.

It is found by its name or path. `NAME.json` beside it, written after every weight has been read and found
finite, records its SHA-256, the time of verification and its source. Downloads are never unpickled or
executed: a checkpoint consists of arrays, and all of them are checked.

TensorFlow, h5py and the network are used only when a function is called, and imported there.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli.disk import file_hash, stamp, write_whole
from protrna_cli.errors import WeightsError
from protrna_cli.text import size_text, unreadable
from protrna_cli.weights import mapped

if TYPE_CHECKING:
    from protrna_cli.model.structure import ModelSize
    from protrna_cli.model.transformer import ProtRNA

PUBLISHED = "protrna"
PUBLISHED_FILE = "ProtRNA_pretrained.h5"
DEMO = "demo"
DEMO_NOTICE = "model demo has synthetic weights: its embeddings have no biological meaning"
MISSING_WEIGHTS_REMEDY = (
    "run protrna weights fetch --to DIR on a machine with a network and pass DIR with --weights-dir or "
    "PROTRNA_HOME, or pass a copy with --model PATH, or try the tool with --model demo (synthetic weights)"
)

_HEADS = ("ssHead_", "rbpHead_", "mrlHead_")
"""How the names of the published downstream heads begin."""


def is_offline(asked: bool = False) -> bool:
    """Whether downloads are forbidden: by the caller, or by `PROTRNA_OFFLINE` (set to anything but 0)."""
    return asked or os.environ.get("PROTRNA_OFFLINE", "") not in ("", "0")


class Watcher:
    """Receives the progress of a download and ignores it; the command line has a subclass that shows it."""

    def start(self, address: str, target: Path, total: int | None, done: int) -> None:
        """Start a transfer to `target`: its size in bytes (None if unknown), and the bytes already there."""

    def advance(self, size: int) -> None:
        """Add bytes received since the last call."""

    def close(self) -> None:
        """End the transfer, whether it succeeded or not."""

    def note(self, text: str) -> None:
        """Receive a message for the user."""


class LoggingWatcher(Watcher):
    """Logs a download as warnings, which Python shows by default, because it takes minutes."""

    def start(self, address: str, target: Path, total: int | None, done: int) -> None:
        logging.getLogger("protrna").warning("%s", announcement(address, target, total, done))

    def note(self, text: str) -> None:
        logging.getLogger("protrna").warning("%s", text)


def announcement(address: str, target: Path, total: int | None, done: int) -> str:
    """Describe a transfer: file, size, source, target folder, and bytes already there."""
    size = size_text(total) if total is not None else "size unknown"
    rest = f", resuming after {size_text(done)}" if done else ""
    return f"fetching {target.name} ({size}) from {address} to {target.parent}{rest}"


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a model, not loaded yet."""

    path: Path | None
    """The file, or where it will be downloaded to; of an export, its `model.safetensors`. None for the demo
    model, whose weights are made when it is loaded."""
    is_published: bool = False  # and can be downloaded
    home: Path | None = None
    """The folder of weights, where it is remembered that the file was hashed, and where a copy is kept that
    can be mapped into memory; None does without."""
    check: bool = False  # hash both again, even if they have not changed

    @property
    def is_there(self) -> bool:
        """Whether it can be loaded without a download; False in a folder that this process may not read."""
        return self.path is None or _exists(self.path)

    def check_reachable(self, offline: bool = False) -> None:
        """Fail early if the checkpoint is missing and downloads are forbidden."""
        if self.is_published and is_offline(offline) and not self.is_there:
            raise WeightsError(
                f"the published weights are not at {self.path}, and --offline or PROTRNA_OFFLINE forbids "
                f"downloads; {MISSING_WEIGHTS_REMEDY}"
            )

    def obtain(self, watcher: Watcher | None = None, offline: bool = False) -> None:
        """Download the published checkpoint if it is missing."""
        if self.path is None or self.is_there:
            return
        self.check_reachable(offline)
        if not self.is_published:
            raise WeightsError(f"{self.path}: no such checkpoint any more; name another with --model")
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
        record = read_verification(self.path)
        known = None if self.check else self._trusted_sha256()
        if known and (record is None or record.sha256 == known):
            return known
        before = stamp(self.path)
        found = checked_sha256(self.path)
        if self.home and before and before.size >= mapped.SMALLEST:
            mapped.trust(self.path, found, self.home, before)
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
        """Load the model; `note` is called before this process waits for another one."""
        from protrna_cli.model.load import load_checkpoint

        return load_checkpoint(self.path, precision, device, threads, lambda: self._mapped(precision, note))

    def mapped_copy(self, precision: str) -> Path | None:
        """Find the copy that can be mapped into memory."""
        path = self._path_of_copy(precision)
        return path if path and _exists(path) else None

    def _path_of_copy(self, precision: str) -> Path | None:
        """Path of the copy, made or not; it is named by the SHA-256, so that there is none without."""
        sha256 = self._trusted_sha256()
        return mapped.path_of(sha256, precision, self.home) if sha256 and self.home else None

    def _trusted_sha256(self) -> str | None:
        return mapped.trusted_sha256(self.path, self.home) if self.path and self.home else None

    def _mapped(self, precision: str, note: Callable[[str], None]) -> mapped.Copy | None:
        """Find or make the copy to map."""
        from protrna_cli.model.exported import is_export

        path = self._path_of_copy(precision)
        if self.path is None or path is None:
            return None
        copy = mapped.find_or_make(self.path, path, precision, self.check, note)
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
    """Find a checkpoint: `protrna` (the published one, which need not be downloaded yet), `demo`, or the path
    of a checkpoint or of the folder of an export.
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


def locate_in(folder: Path, name: str) -> Checkpoint:
    """Find a checkpoint by its folder and the name of its file, as the published code does."""
    checkpoint = Checkpoint(folder / name, name == PUBLISHED_FILE, weights_folder_if_any())
    if checkpoint.is_published:
        return checkpoint
    if name.startswith(_HEADS):
        raise WeightsError(
            f"{name}: a downstream head; protrna runs the model only, which is {PUBLISHED_FILE}, and its "
            "embeddings are the input of such a head"
        )
    if not checkpoint.is_there:
        raise WeightsError(
            f"{checkpoint.path}: no such checkpoint; {PUBLISHED_FILE} is the only one that can be downloaded"
        )
    return checkpoint


def weights_in(path: Path) -> Path:
    """Find the weights in the folder of an export; any other path stays."""
    weights = path / "model.safetensors"
    return weights if os.path.isfile(weights) else path  # noqa: PTH113 (False in a closed folder, too)


@dataclass(frozen=True)
class Verification:
    """The record of a checkpoint."""

    size: int  # in bytes
    sha256: str  # in hexadecimal
    verified: str  # time of the last verification: UTC, ISO 8601
    source: str | None = None  # address or path that it was fetched from
    md5: str | None = None  # stated by its Zenodo record, which it matched


def now() -> str:
    """Current time: UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_verification(checkpoint: Path) -> Verification | None:
    """Read the record of a checkpoint."""
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
        from protrna_cli.model.reading import find_foreign

        flaw = find_foreign(checkpoint) or unreadable(error)
        raise WeightsError(f"{checkpoint}: {flaw}; name another with --model") from error
    record = read_verification(checkpoint)
    if record and record.sha256 != found:
        raise WeightsError(
            f"{checkpoint}: damaged or replaced since it was verified on {record.verified} (its SHA-256 is "
            f"{found}, not {record.sha256}); run protrna weights fetch, or name another with --model"
        )
    return found


def verify_checkpoint(checkpoint: Path, published: bool = False) -> Verification:
    """Check a whole checkpoint: recorded SHA-256, all groups and shapes, and that every value is finite.

    The published one must also have the published size. Returns the new record, which is written if the
    folder is writable and no other file has its name.
    """
    from protrna_cli.model import structure
    from protrna_cli.model.checkpoint import check_size, read_checkpoint

    if published:
        check_size(checkpoint, structure.PUBLISHED_SIZE)
    found = checked_sha256(checkpoint)
    read_checkpoint(checkpoint, lambda name, values: None)
    known = read_verification(checkpoint)
    record = replace(known or Verification(checkpoint.stat().st_size, found, ""), verified=now())
    if known or not record_path(checkpoint).exists():
        with suppress(OSError):  # in a shared read-only folder the existing record stays
            write_verification(checkpoint, record)
    return record


def record_path(checkpoint: Path) -> Path:
    """Path of the record of a checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}.json")
