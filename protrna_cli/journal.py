"""What of a run is durable, and of which run: the journal of an unfinished output.

The journal is a text file of JSON lines. The first is the run's key; every other is a position, written and
synced after everything that it speaks of was. A line that a crash cut short is no line.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from protrna_cli.errors import RunMismatch

RunKey = dict[str, Any]
"""Everything that decides the values of an output: equal keys, equal outputs."""


@dataclass(frozen=True)
class Position:
    """How far a run is.

    Attributes
    ----------
    windows, batches
        Windows done, and batches done of the one after them.
    rows, vectors
        Rows announced before that window, and the place of its first vector.
    index_bytes, skipped_bytes
        Sizes of the index and of the list of skipped records before that window.
    """

    windows: int = 0
    batches: int = 0
    rows: int = 0
    vectors: int = 0
    index_bytes: int = 0
    skipped_bytes: int = 0


class Journal:
    """The journal of one run, open for more.

    Attributes
    ----------
    position
        The last position committed, by this process or one before.
    """

    def __init__(self, file: IO[bytes], position: Position) -> None:
        self._file = file
        self.position = position

    @classmethod
    def create(cls, path: Path, key: RunKey) -> Journal:
        """Begin a journal."""
        journal = cls(path.open("xb", buffering=0), Position())
        journal._append(key)
        return journal

    @classmethod
    def resume(cls, path: Path, key: RunKey) -> Journal:
        """Go on with a journal.

        Raises
        ------
        RunMismatch
            It is another run's; the message names the field that differs.
        """
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was cut short
        if not lines:
            path.unlink()
            return cls.create(path, key)
        compare_keys(json.loads(lines[0]), key, str(path.parent))
        position = Position(**json.loads(lines[-1])) if len(lines) > 1 else Position()
        os.truncate(path, sum(len(line) + 1 for line in lines))
        return cls(path.open("ab", buffering=0), position)

    def commit(self, position: Position) -> None:
        """Make a position durable; all that it speaks of must be so already."""
        self._append(asdict(position))
        self.position = position

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        start = self._file.tell()
        if self._file.write(line) != len(line):  # the disk is full: leave no half line for the next to follow
            os.truncate(self._file.fileno(), start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())


def compare_keys(found: RunKey, wanted: RunKey, name: str) -> None:
    """Make sure that two runs are the same.

    Raises
    ------
    RunMismatch
        They are not; the message names the first field that differs.
    """
    for field in {**found, **wanted}:
        before, now = found.get(field), wanted.get(field)
        if before != now:
            raise RunMismatch(
                f"{name}: made by another run: its {field} was {json.dumps(before)}, not {json.dumps(now)}; "
                "run it as before, or use --overwrite to start again, or choose another -o"
            )
