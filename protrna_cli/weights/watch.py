"""Whom a fetch tells how it goes. No terminal is known here."""

from __future__ import annotations

import logging
from pathlib import Path


class Watcher:
    """Told how a fetch goes. This one keeps silent; the command line has a louder one."""

    def start(self, address: str, target: Path, total: int | None, done: int) -> None:
        """Take what comes from where, to where, its size if known, and how much of it is there already."""

    def advance(self, size: int) -> None:
        """Add bytes that came since the last call."""

    def close(self) -> None:
        """End the transfer, however it ended."""

    def note(self, text: str) -> None:
        """Take a line that the user should see."""


class Logged(Watcher):
    """For Python programs: what takes minutes is logged, as warnings, which show by default."""

    def start(self, address: str, target: Path, total: int | None, done: int) -> None:
        logging.getLogger("protrna").warning("%s", announcement(address, target, total, done))

    def note(self, text: str) -> None:
        logging.getLogger("protrna").warning("%s", text)


def announcement(address: str, target: Path, total: int | None, done: int) -> str:
    """Say what is fetched, how large it is, from where and to where."""
    size = size_text(total) if total is not None else "size unknown"
    rest = f", going on after {size_text(done)}" if done else ""
    return f"fetching {target.name} ({size}) from {address} to {target.parent}{rest}"


def size_text(size: int) -> str:
    """Say a size as people do.

    >>> size_text(2_604_300_123), size_text(48_200_000), size_text(512)
    ('2.6 GB', '48 MB', '512 bytes')
    """
    if size >= 10**9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10**6 else f"{size:,} bytes"
