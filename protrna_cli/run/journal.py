"""The journal of an unfinished output: which run it belongs to, and how far that run got.

A journal is a text file of JSON lines. The first line is the key of the run; every other line is a position,
written and synced after all the work that it counts. An incomplete last line is ignored.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from protrna_cli.errors import RunMismatch
from protrna_cli.output.provenance import RunKey, compare_keys

UNUSED = ("vectors", "index_bytes", "skipped_bytes")
"""Fields of a position in a journal of version 0.2.0 that are not needed."""


@dataclass(frozen=True)
class Position:
    """How far a run got.

    Attributes
    ----------
    chunks, batches
        Finished chunks, and finished batches of the next chunk.
    records, residues
        Records in all of these, and their embedded residues.
    reused
        1 if the vectors of earlier outputs are filled in.
    fits
        Tokens at once that fit into memory, if it ran out; otherwise 0.
    """

    chunks: int = 0
    batches: int = 0
    records: int = 0
    residues: int = 0
    reused: int = 0
    fits: int = 0

    def batches_of(self, chunk: int) -> int:
        """Count the finished batches of a chunk that is not finished."""
        return self.batches if chunk == self.chunks else 0

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Position:
        """Restore a position from a line of a journal.

        Raises
        ------
        ValueError, TypeError
            The line is not a position.
        """
        position = cls(**{name: value for name, value in {**entry}.items() if name not in UNUSED})
        if not all(type(value) is int and value >= 0 for value in asdict(position).values()):
            raise ValueError("not counts")
        return position


def read_position(path: Path) -> Position:
    """Read the last position in a journal.

    Raises
    ------
    ValueError, TypeError
        The journal is damaged.
    """
    lines = path.read_bytes().split(b"\n")[1:-1]  # without the key and an incomplete last line
    return Position.of(json.loads(lines[-1])) if lines else Position()


def _named(found: RunKey, key: RunKey) -> RunKey:
    """Fill in what version 0.2.0 left out of a key: the earlier output that the run replaces."""
    before, now = found.get("reuse", []), key.get("reuse", [])
    if None not in before or len(before) != len(now):
        return found
    return {**found, "reuse": [new if old is None else old for old, new in zip(before, now, strict=True)]}


class Journal:
    """The journal of one run, open for appending.

    Attributes
    ----------
    position
        The last position committed, by this process or an earlier one.
    """

    def __init__(self, file: IO[bytes], position: Position) -> None:
        self._file = file
        self.position = position

    @classmethod
    def create(cls, path: Path, key: RunKey) -> Journal:
        """Start a journal."""
        journal = cls(path.open("xb", buffering=0), Position())
        journal._append(key)
        return journal

    @classmethod
    def resume(cls, path: Path, key: RunKey) -> Journal:
        """Continue a journal."""
        lines = path.read_bytes().split(b"\n")[:-1]  # an incomplete last line is ignored
        if not lines:
            path.unlink()
            return cls.create(path, key)
        try:
            compare_keys(_named(dict(json.loads(lines[0])), key), key, str(path.parent))
            position = read_position(path)
        except (ValueError, TypeError, KeyError):
            raise RunMismatch(f"{path}: a damaged journal; use --overwrite to start again") from None
        os.truncate(path, sum(len(line) + 1 for line in lines))
        return cls(path.open("ab", buffering=0), position)

    def commit(self, position: Position) -> None:
        """Make a position durable; all the work that it counts must be durable already."""
        self._append(asdict(position))
        self.position = position

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        start = self._file.tell()
        if self._file.write(line) != len(line):  # the disk is full: remove the incomplete line
            os.truncate(self._file.fileno(), start)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())
