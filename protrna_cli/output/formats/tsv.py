"""TSV for the TensorBoard Embedding Projector: `OUT`, with `OUT.metadata.tsv` and `OUT.meta.json` beside it.

`OUT` has one line per record and no header: D numbers, each the shortest text that reads back to the same
float32. The metadata has a header, then one line per record with the row's columns. The projector does not
support quotes, so a tab or a line end in a description becomes a space. `OUT.meta.json` is the provenance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import final

import numpy as np
import pyarrow as pa
from pyarrow import csv

from protrna_cli.output.formats import npy
from protrna_cli.output.paths import metadata_path
from protrna_cli.output.rows import Block, Header, OutputFile

_SPACES = str.maketrans("\t\r\n", "   ")


@final
class Tsv(OutputFile):
    """A table of vectors, with metadata and provenance."""

    def write(self, blocks: Iterable[Block], seal: Callable[[], Header]) -> None:
        header = self.header
        schema = pa.schema([(str(i), pa.float32()) for i in range(header.width)])
        options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
        with (
            pa.OSFile(os.fsencode(self.path), "wb") as file,  # bytes: it need not be UTF-8
            csv.CSVWriter(file, schema, write_options=options) as vectors,
            metadata_path(self.path).open("w", encoding="utf-8", newline="") as metadata,
        ):
            metadata.write("\t".join(header.row_columns) + "\n")
            for block in blocks:
                columns = [pa.array(column) for column in np.ascontiguousarray(block.values[0].T, np.float32)]
                vectors.write_table(pa.Table.from_arrays(columns, schema=schema))
                for row in block.rows:
                    texts = [str(getattr(row, name)).translate(_SPACES) for name in header.row_columns]
                    metadata.write("\t".join(texts) + "\n")
        npy.write_meta(self.path, seal())
