"""Draw an output as a map: read, project, colour, render and write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from protrna_cli.disk import lock_path, locked, write_whole, writing
from protrna_cli.errors import InputError, MissingExtra, NotFinite, OutputUnwritable
from protrna_cli.map import METHODS, require_suffix
from protrna_cli.map.colouring import Picture, colour_by, find_table, subtitle
from protrna_cli.map.projection import MIN_RECORDS, Origin, Points, Projection, project
from protrna_cli.output.protect import files_read, refuse_to_replace, refuse_unless_file, refuse_unless_output
from protrna_cli.output.provenance import run_key
from protrna_cli.output.rows import Block, Header
from protrna_cli.output.stored import open_output
from protrna_cli.plan.pieces import Row
from protrna_cli.plan.rules import AnyPath, instance, one_of, path_text, switch, whole_number
from protrna_cli.text import counted, printable, shortened

LIBRARIES = {
    **{"umap": "umap", "tsne": "sklearn", "pca": "sklearn", ".html": "bokeh"},
    **dict.fromkeys((".png", ".svg", ".pdf"), "matplotlib"),
}
"""Library of the extra `plot` that each method and each suffix needs."""


def draw_map(
    source: AnyPath,
    target: AnyPath,
    color_by: str = "length",
    method: str = "umap",
    layer: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    title: str | None = None,
    coordinates: AnyPath | None = None,
    tell: Callable[[str], None] | None = None,
) -> Picture:
    """Draw a pooled output as a map, where records with similar embeddings are close together.

    The arguments are the options of `protrna map`. `tell` is called with a line about what is done, before
    the projection. The notes of the picture describe what it does not distinguish.
    """
    source, target = Path(path_text("OUT", source)), Path(path_text("-o", target))
    _check_arguments(target, color_by, method, layer, seed, overwrite, title)
    points = None if coordinates is None else Path(path_text("--coordinates", coordinates))
    suffix = target.suffix.lower()
    _require_libraries(method, suffix)
    _protect(source, target, points, color_by)
    with ExitStack() as locks:
        locks.enter_context(locked(target))
        if points and not points.exists():
            locks.enter_context(locked(points, remedy="choose another --coordinates"))
        if target.exists() and not overwrite:
            raise OutputUnwritable(f"{target}: exists; use --overwrite to replace it, or choose another -o")
        stored = open_output(source)
        header = stored.header
        column = _column_index(source, header, layer)
        origin = Origin.of(header, header.layers[column], method, seed)
        projection = origin.read(points) if points and points.exists() else None
        rows, vectors = _read_vectors(source, stored.blocks([column]))
        colouring = colour_by(rows, color_by)
        if projection is None:
            projection = _project(source, vectors, method, seed, tell)
            if points:
                origin.write(points, rows, projection)
        picture = Picture(
            title=printable(source.name if title is None else title),
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
    target: Path, color_by: str, method: str, layer: int | None, seed: int, overwrite: bool, title: str | None
) -> None:
    """Refuse values that the command line would not take."""
    require_suffix(target)
    one_of("--method", method, METHODS)
    instance("--color-by", color_by, str, "a column, a file or a regular expression")
    if layer is not None:
        whole_number("--layer", layer)
    whole_number("--seed", seed, 0)
    switch("--overwrite", overwrite)
    if title is not None:
        instance("--title", title, str, "a text")


def _protect(source: Path, target: Path, points: Path | None, color_by: str) -> None:
    """Refuse to replace what is read, or anything but a file."""
    table = find_table(color_by)
    read = [*files_read(source), *([table[0]] if table else [])]
    refuse_to_replace([target, lock_path(target)], [*read, *([points] if points else [])])
    refuse_unless_output(target)
    if points:
        refuse_to_replace([points, lock_path(points)], read, "choose another --coordinates")
        refuse_unless_file(points, "choose another --coordinates")


def _project(
    source: Path, vectors: Points, method: str, seed: int, tell: Callable[[str], None] | None
) -> Projection:
    """Project the vectors of an output, whose name an error tells."""
    if tell:
        wait = "" if method == "pca" else "; this may take a minute"
        tell(f"projecting {counted(len(vectors), 'record')} with {METHODS[method]}{wait}")
    try:
        return project(vectors, method, seed)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


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


def _read_vectors(source: Path, blocks: Iterable[Block]) -> tuple[list[Row], Points]:
    """Read the rows, and the vectors of one layer, float32 (N, D)."""
    rows: list[Row] = []
    vectors: list[Points] = []
    for block in blocks:
        [values] = block.values
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise NotFinite(
                f"{source}, row {len(rows) + bad + 1} (id {shortened(block.rows[bad].id)}): its embedding is "
                "not finite; make the output again"
            )
        rows += block.rows
        vectors.append(values.astype(np.float32, copy=False))
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
    from protrna_cli.map.figure import print_of

    return print_of(picture, suffix)
