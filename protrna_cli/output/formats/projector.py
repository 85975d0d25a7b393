"""TSV for the TensorBoard Embedding Projector: `OUT`, with `OUT.metadata.tsv` and `OUT.meta.json` beside it.

`OUT` has one line per record and no header: D numbers, each the shortest text that reads back to the same
float32. The metadata has a header, then one line per record with the row's columns. The projector does not
support quotes, so a tab or a line end in a description becomes a space. `OUT.meta.json` is the provenance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from pyarrow import csv

from protrna_cli.output.formats import npy
from protrna_cli.output.paths import metadata_path
from protrna_cli.output.rows import Block, Header
from protrna_cli.plan.rows import Row

_SPACES = str.maketrans("\t\r\n", "   ")


def write(path: Path, header: Header, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
    """Write the vectors of one layer, one per record, with metadata and provenance."""
    schema = pa.schema([(str(i), pa.float32()) for i in range(header.width)])
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with (
        pa.OSFile(os.fsencode(path), "wb") as file,  # as bytes, because Arrow expects UTF-8 otherwise
        csv.CSVWriter(file, schema, write_options=options) as vectors,
        metadata_path(path).open("w", encoding="utf-8", newline="") as metadata,
    ):
        metadata.write("\t".join(header.row_columns) + "\n")
        for block in blocks:
            columns = np.ascontiguousarray(block.values[0].T, np.float32)
            vectors.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema))
            _write_rows(metadata, header, block.rows)
    npy.write_header(path, seal())


def _write_rows(metadata: IO[str], header: Header, rows: list[Row]) -> None:
    for row in rows:
        columns = [str(getattr(row, name)).translate(_SPACES) for name in header.row_columns]
        metadata.write("\t".join(columns) + "\n")
