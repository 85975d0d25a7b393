"""`protrna map`."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.options import (
    ANY_PATH,
    OneOf,
    WholeNumber,
    is_verbose,
    note_unproven,
    overwrite,
    tell,
    verbosity,
)
from protrna_cli.libraries import quiet_libraries, writable_home
from protrna_cli.machine import check_threads
from protrna_cli.map import METHODS, require_suffix


@click.command(
    "map",
    cls=Command,
    epilog=epilog(
        "protrna map out.parquet -o map.html --color-by 'family=(\\S+)'",
        "protrna map out.parquet -o map.png --color-by families.tsv --method pca",
        "protrna map out.parquet -o map.svg --color-by scores.csv:score --coordinates points.tsv",
        topics="pictures",
    ),
)
@click.argument("source", metavar="OUT", type=ANY_PATH)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="MAP",
    type=ANY_PATH,
    help="Output picture: .html, .png, .svg or .pdf. A symbolic link is refused: name the file that it "
    "points to.",
)
@click.option(
    "--color-by",
    default="length",
    show_default=True,
    metavar="COLUMN|FILE[:COLUMN]|REGEX",
    type=ANY_PATH,
    help="A column of OUT; else a table (TSV or CSV) with ids in its first column, and its second column or "
    "COLUMN; else a regular expression that is searched in 'id description' and whose first group, or whole "
    "match, is the value. Numbers are a scale, texts families.",
)
@click.option("--method", type=OneOf(list(METHODS)), default="umap", show_default=True, help="Projection.")
@click.option("--layer", type=WholeNumber(), metavar="N", help="Layer to draw, if OUT has several.")
@click.option(
    "--seed",
    type=WholeNumber(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed of umap and tsne.",
)
@click.option("--title", metavar="TEXT", help="Title of the picture.  [default: the name of OUT]")
@click.option(
    "--coordinates",
    metavar="FILE",
    type=ANY_PATH,
    help="Keep the points in this table; if it exists, draw them again, in other colours in a second.",
)
@overwrite("MAP")
@verbosity
def map_(
    source: str,
    output: str,
    color_by: str,
    method: str,
    layer: int | None,
    seed: int,
    title: str | None,
    coordinates: str | None,
    overwrite: bool,
) -> None:
    """Draw a map of embeddings.

    Each record is a point, close to similar records. OUT is a pooled output of protrna embed. MAP is an
    interactive page (.html) that works offline, or a figure for print (.png with 300 dpi, .svg, .pdf). If
    there are many families, the 40 largest are coloured.
    """
    check_threads()
    require_suffix(Path(output))
    with quiet_libraries(is_verbose()), writable_home(), warnings.catch_warnings():
        if not is_verbose():
            warnings.simplefilter("ignore")
        from protrna_cli.map.drawing import draw_map

        how = color_by, method, layer, seed, overwrite, title, coordinates, tell
        picture = draw_map(Path(source), Path(output), *how)
    note_unproven(Path(source))
    for note in picture.notes:
        tell(f"note: {note}")
    tell(f"{picture.subtitle}: {output}")
