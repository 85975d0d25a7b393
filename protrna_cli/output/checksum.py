"""Checksums of an output's content, the same in every format and however its rows are cut into blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from protrna_cli.output.rows import HEADER, Block, Header
from protrna_cli.plan.rows import Row

ROWS = "rows"


class Checksum:
    """SHA-256 of the rows, and of the vectors of each layer, computed as the blocks pass.

    A row enters as the JSON list of its columns, with a line feed; vectors enter as little-endian numbers of
    the header's dtype, in row order. SHA-256 costs about 1 ms per MiB, a thousandth of embedding it.

    Parameters
    ----------
    header
        Header of the output.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._dtype = np.dtype(header.dtype).newbyteorder("<")
        self._hashes = {name: hashlib.sha256() for name in (ROWS, *header.columns)}

    def add(self, block: Block) -> None:
        """Add the next rows."""
        self._add_rows(block.rows)
        for name, values in zip(self._header.columns, block.values, strict=True):
            self._hashes[name].update(np.ascontiguousarray(values, self._dtype).data)

    def _add_rows(self, rows: Iterable[Row]) -> None:
        for row in rows:
            line = json.dumps([getattr(row, name) for name in self._header.row_columns]) + "\n"
            self._hashes[ROWS].update(line.encode())

    def rows_changed(self, rows: Iterable[Row]) -> bool:
        """Whether rows, all of an output, differ from its checksum; vectors are not looked at."""
        self._add_rows(rows)
        stored = self._header.checksums
        return stored is not None and stored.get(ROWS) != self._hashes[ROWS].hexdigest()

    def watch(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Add blocks as they pass."""
        for block in blocks:
            self.add(block)
            yield block

    def seal(self) -> Header:
        """Return the header with the checksums of itself and of all blocks that were added."""
        sums = {name: each.hexdigest() for name, each in self._hashes.items()}
        return replace(self._header, checksums={HEADER: self._header.sha256, **sums})

    def flaws(self) -> list[str]:
        """List what differs from the checksums in the header; empty if all agree or the header has none."""
        stored, found = self._header.checksums, self.seal().checksums or {}
        return [
            f"{'ids or counts' if name == ROWS else f'vectors of column {name}'} changed since it was written"
            for name in found
            if stored is not None and stored.get(name) != found[name]
        ]
