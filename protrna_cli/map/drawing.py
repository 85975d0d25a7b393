"""Draw an output as a map: read, project, colour, render and write it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from protrna_cli.disk import lock_path, locked, write_whole, writing
from protrna_cli.errors import InputError, MissingExtra, NotFinite, OutputUnwritable
from protrna_cli.map import METHODS, require_suffix
from protrna_cli.map.colouring import colour_by
from protrna_cli.map.picture import Picture, subtitle
from protrna_cli.map.projection import MIN_RECORDS, Points, project
from protrna_cli.output.parts import read_joined
from protrna_cli.output.protect import files_read, refuse_to_replace, refuse_unless_output
from protrna_cli.output.provenance import run_key
from protrna_cli.output.rows import Block, Header
from protrna_cli.plan.rows import Row
from protrna_cli.plan.values import AnyPath, instance, one_of, path_text, switch, whole_number
from protrna_cli.text import counted, printable, shortened

LIBRARIES = {"umap": "umap", "tsne": "sklearn", "pca": "sklearn", ".html": "bokeh", ".png": "matplotlib"}
"""Library of the extra `plot` that each method and each suffix needs."""


def draw_map(
    source: AnyPath,
    target: AnyPath,
    color_by: str = "length",
    method: str = "umap",
    layer: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Picture:
    """Draw an output of protrna embed as a map, where records with similar embeddings are close together.

    Parameters
    ----------
    source
        A pooled output of any format.
    target
        Path of the picture, `.html` or `.png`.
    color_by
        The argument `wanted` of `colour_by`.
    method, seed
        Arguments of `project`.
    layer
        The layer to draw, needed if the output has several; negatives count from the end of the model.

    Returns
    -------
    Picture
        The picture drawn; its notes describe what it does not distinguish.

    Raises
    ------
    InputUnreadable, InputError
        The output cannot be read, has one vector per residue, or has too few records that differ.
    UsageError
        An argument is not one that its option takes, the output has no such layer, `color_by` does not fit
        its records, or the picture would replace a file that is read.
    MissingExtra
        The extra `plot` is not installed.
    NotFinite
        An embedding is not finite.
    OutputUnwritable, WriteFailed
        The picture exists, or cannot be written.
    """
    source, target = Path(path_text("OUT", source)), Path(path_text("-o", target))
    _check_arguments(target, color_by, method, layer, seed, overwrite)
    suffix = target.suffix.lower()
    _require_libraries(method, suffix)
    refuse_to_replace([target, lock_path(target)], [*files_read(source), color_by])
    refuse_unless_output(target)
    with locked(target):
        if target.exists() and not overwrite:
            raise OutputUnwritable(f"{target}: exists; use --overwrite to replace it, or choose another -o")
        header, blocks = read_joined(source)
        column = _column_index(source, header, layer)
        rows, vectors = _read_vectors(source, blocks, column)
        colouring = colour_by(rows, color_by)
        try:
            projection = project(vectors, method, seed)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        picture = Picture(
            title=printable(source.name),
            subtitle=subtitle(header, header.layers[column], method, colouring),
            notice=header.provenance.get("notice", ""),
            rows=rows,
            projection=projection,
            colouring=colouring,
        )
        content = _render(picture, suffix)
        with writing(target, "free space and run again"):
            write_whole(target, content)
    return picture


def _check_arguments(
    target: Path, color_by: str, method: str, layer: int | None, seed: int, overwrite: bool
) -> None:
    """Refuse values that the command line would not take."""
    require_suffix(target)
    one_of("--method", method, METHODS)
    instance("--color-by", color_by, str, "a column, a file or a regular expression")
    if layer is not None:
        whole_number("--layer", layer)
    whole_number("--seed", seed, 0)
    switch("--overwrite", overwrite)


def _require_libraries(method: str, suffix: str) -> None:
    missing = [name for name in (LIBRARIES[method], LIBRARIES[suffix]) if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"protrna map needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            'installed; run: pip install "protrna-cli[plot]" (from a clone pip install ".[plot]")'
        )


def _column_index(source: Path, header: Header, layer: int | None) -> int:
    """Index of the header's column to draw."""
    run_key(header, str(source))  # refuses an incomplete header
    if header.per_token:
        raise InputError(
            f"{source}: has one vector per residue, but a map needs one per record; "
            "make it without --per-token"
        )
    return header.column_index(layer, source)


def _read_vectors(source: Path, blocks: Iterable[Block], column: int) -> tuple[list[Row], Points]:
    """Read the rows, and the vectors of one layer, float32 (N, D)."""
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
    if len(rows) < MIN_RECORDS:
        raise InputError(
            f"{source}: has {counted(len(rows), 'record')}, but a map needs {MIN_RECORDS} or more; "
            "draw a larger output"
        )
    return rows, np.concatenate(vectors)


def _render(picture: Picture, suffix: str) -> bytes:
    if suffix == ".html":
        from protrna_cli.map.page import html

        return html(picture).encode()
    from protrna_cli.map.figure import png

    return png(picture)
