"""An output drawn as a picture: read, projected, coloured, and put into place."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from protrna_cli.disk import locked, write_whole, writing
from protrna_cli.errors import InputError, MissingExtra, NotFinite, OutputUnwritable, UsageError
from protrna_cli.map.colouring import colour_by
from protrna_cli.map.picture import Picture, subtitle
from protrna_cli.map.projection import FEWEST, Points, project
from protrna_cli.output.parts import read_joined
from protrna_cli.output.provenance import run_key
from protrna_cli.output.rows import Block, Header
from protrna_cli.plan.rows import Row
from protrna_cli.text import counted, shortened

LIBRARIES = {"umap": "umap", "tsne": "sklearn", "pca": "sklearn", ".html": "bokeh", ".png": "matplotlib"}
"""What each method and each suffix needs of the extra `plot`."""


def draw_map(
    source: Path,
    target: Path,
    color_by: str = "length",
    method: str = "umap",
    layer: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Picture:
    """Draw an output of protrna embed as a picture, in which near points are records of like embeddings.

    Parameters
    ----------
    source
        A pooled output of any format.
    target
        The picture to make, `.html` or `.png`.
    color_by
        As `colour_by` takes it.
    method, seed
        As `project` takes them.
    layer
        The layer to draw, of an output with several; negatives count from the end of the model.

    Returns
    -------
    Picture
        What was drawn; its notes say what the picture does not distinguish.

    Raises
    ------
    InputUnreadable, InputError
        The output cannot be read, has a vector a residue, or has too few records that differ.
    UsageError
        It has no such layer, or nothing can be coloured as asked.
    MissingExtra
        The extra `plot` is not installed.
    NotFinite
        An embedding is not finite.
    OutputUnwritable, WriteFailed
        The picture exists, or cannot be written.
    """
    suffix = target.suffix.lower()
    _require_libraries(method, suffix)
    with locked(target):
        if target.exists() and not overwrite:
            raise OutputUnwritable(f"{target}: exists; use --overwrite to replace it, or choose another -o")
        header, blocks = read_joined(source)
        column = _column(source, header, layer)
        rows, vectors = _read(source, blocks, column)
        colouring = colour_by(rows, color_by)
        picture = Picture(
            title=source.name,
            subtitle=subtitle(header, header.layers[column], method, colouring),
            notice=header.provenance.get("notice", ""),
            rows=rows,
            projection=project(vectors, method, seed),
            colouring=colouring,
        )
        content = _drawn(picture, suffix)
        with writing(target, "make room first"):
            write_whole(target, content)
    return picture


def _require_libraries(method: str, suffix: str) -> None:
    missing = [name for name in (LIBRARIES[method], LIBRARIES[suffix]) if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"protrna map needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            'installed; run: pip install "protrna-cli[plot]"'
        )


def _column(source: Path, header: Header, layer: int | None) -> int:
    """Which of the header's columns to draw."""
    try:
        run_key(header)
    except KeyError as error:
        raise InputError(f"{source}: its provenance lacks {error}; was it made by protrna embed?") from None
    if header.per_token:
        raise InputError(
            f"{source}: has a vector a residue, and a map needs one a record; make it without --per-token"
        )
    held = ", ".join(map(str, header.layers))
    if layer is None:
        if len(header.layers) > 1:
            raise UsageError(f"{source}: holds layers {held}; say which one with --layer")
        return 0
    wanted = layer if layer >= 0 else layer + 1 + header.provenance["model"]["layers"]
    if wanted not in header.layers:
        raise UsageError(f"{source}: holds layer {held}, not {layer} (--layer)")
    return header.layers.index(wanted)


def _read(source: Path, blocks: Iterable[Block], column: int) -> tuple[list[Row], Points]:
    """Read the rows, and one layer's vectors, float32 (N, D)."""
    rows: list[Row] = []
    vectors: list[Points] = []
    for block in blocks:
        finite = np.isfinite(block.values[column]).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise NotFinite(
                f"{source}, row {len(rows) + bad + 1} (id {shortened(block.rows[bad].id)}): its embedding is "
                "not finite; make the output again"
            )
        rows += block.rows
        vectors.append(block.values[column].astype(np.float32, copy=False))
    if len(rows) < FEWEST:
        raise InputError(f"{source}: has {counted(len(rows), 'record')}, and a map needs {FEWEST} or more")
    return rows, np.concatenate(vectors)


def _drawn(picture: Picture, suffix: str) -> bytes:
    if suffix == ".html":
        from protrna_cli.map.page import html

        return html(picture).encode()
    from protrna_cli.map.figure import png

    return png(picture)
