"""Download progress callbacks."""

from __future__ import annotations

import logging
from pathlib import Path

from protrna_cli.text import size_text


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
