"""Paths that are not files: to read them could wait for ever, or never end."""

import os
import socket
from pathlib import Path

SPECIAL_FILES = ("pipe", "socket", "folder", "/dev/zero", "/dev/null")


def special_file(folder: Path, name: str) -> Path:
    """Make one of `SPECIAL_FILES` in a folder; returns its path."""
    path = folder / name  # of a device, its own path
    if name == "pipe":
        os.mkfifo(path)
    elif name == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif name == "folder":
        path.mkdir()
    return path
