"""The commands on outputs that exist: merge, verify, convert, info and map."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.messages import is_verbose, note_unproven, say, show, tell, verbosity
from protrna_cli.cli.options import ANY_PATH, OneOf, WholeNumber, as_json, options_of, several_paths
from protrna_cli.errors import InputError
from protrna_cli.libraries import quiet_libraries, writable_home
from protrna_cli.machine import check_threads
from protrna_cli.map import METHODS, require_suffix
from protrna_cli.output.files import ALL_FORMATS, H5_SUFFIXES, choose_format, partial_path, refuse_layout
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.report import SignalStop
from protrna_cli.text import aligned, counted, printable, size_text
from protrna_cli.weights.checkpoint import checked_sha256, weights_in

_F = TypeVar("_F", bound=Callable[..., Any])


def _target(name: str, what: str) -> Callable[[_F], _F]:
    """Add `-o`."""
    text = f"Output {what}. A symbolic link is refused: name the file that it points to."
    return click.option("-o", "--output", required=True, metavar=name, type=ANY_PATH, help=text)


def _overwrite(name: str) -> Callable[[_F], _F]:
    """Add `--overwrite`."""
    return click.option("--overwrite", is_flag=True, help=f"Replace {name} if it exists.")


@click.command(
    cls=Command, epilog=epilog("protrna merge out.*-of-7.parquet -o out.parquet", topics="shards, slurm")
)
@several_paths("parts", "PART...")
@_target("OUT", "file: .parquet, .h5 or .npy")
@options_of(EmbedOptions, "format", "h5_layout")
@_overwrite("OUT")
@verbosity
def merge(parts: tuple[str, ...], output: str, format: str | None, h5_layout: str, overwrite: bool) -> None:
    """Join the parts of a sharded run.

    First checks that no part is missing. PART is an output of protrna embed --shard, in any order and
    format, or a folder made by --dask. OUT has the rows of one run without --shard. Its values are equal bit
    for bit if the shards were cut between chunks, which needs 16 chunks (of up to 4,096 records) per shard;
    if batches were cut elsewhere, they are equal up to rounding: within 1e-5 in float32.
    """
    chosen = choose_format(Path(output), format, h5_layout)
    refuse_layout(h5_layout, [chosen])
    from protrna_cli.output.make import merge as merge_parts

    header = merge_parts([Path(part) for part in parts], Path(output), chosen, overwrite)
    tell(f"{counted(header.n_rows, 'row')}: {output}")


@click.command(cls=Command, epilog=epilog("protrna verify out.parquet input.fa", topics="outputs, shards"))
@click.argument("output", metavar="OUT", type=ANY_PATH)
@several_paths("inputs", "INPUT...")
@click.option("--regions", metavar="BED", type=ANY_PATH, help="BED file that OUT was made with.")
@verbosity
def verify(output: str, inputs: tuple[str, ...], regions: str | None) -> None:
    """Check that an output is complete and undamaged.

    OUT is compared with the INPUT it was made from: every record must have its row, in order, with its id,
    its counts and finite numbers of the right shape, or be listed as skipped.
    """
    with SignalStop() as stop, stop.abandoning():
        from protrna_cli.output.stored import make_again
        from protrna_cli.run.verify import OTHER_INPUT, find_flaws

        flaws = find_flaws(Path(output), inputs, regions)
    for flaw in flaws:
        say(flaw)
    if flaws:
        remedy = make_again(Path(output))
        if OTHER_INPUT in flaws:
            remedy += ", or give the INPUT it was made from"
        raise InputError(f"{output}: incomplete or damaged; {remedy}")
    tell(f"{output}: complete")
    if (partial := partial_path(Path(output))).exists():
        tell(f"note: {partial}: an unfinished run of its next version; --resume continues it")


@click.command(
    cls=Command,
    epilog=epilog(
        "protrna convert out.parquet -o out.npy",
        "protrna convert out.parquet -o out.h5ad",
        "protrna convert out.h5 -o out.tsv --layer 33",
        topics="outputs, reading",
    ),
)
@click.argument("source", metavar="IN", type=ANY_PATH)
@_target(
    "OUT",
    "file: .parquet, .h5, .npy, .h5ad (AnnData, for scanpy), .npz (NumPy, all in one file) or .tsv (vectors "
    "for the TensorBoard Embedding Projector, plus OUT.metadata.tsv)",
)
@click.option("--format", type=OneOf(ALL_FORMATS), help="Format of OUT.  [default: by its suffix]")
@options_of(EmbedOptions, "h5_layout")
@click.option(
    "--layer",
    "layers",
    type=WholeNumber(),
    multiple=True,
    metavar="N",
    help="Layer of IN to keep; may be given several times.  [default: all]",
)
@_overwrite("OUT")
@verbosity
def convert(
    source: str, output: str, format: str | None, h5_layout: str, layers: tuple[int, ...], overwrite: bool
) -> None:
    """Convert an output to another format.

    IN is a protrna output in any format, which is detected from its content. It is read in blocks. Rows,
    numbers and provenance do not change.
    """
    chosen = choose_format(Path(output), format, h5_layout, exports=True)
    refuse_layout(h5_layout, [chosen])
    from protrna_cli.output.make import convert as convert_output

    header = convert_output(Path(source), Path(output), chosen, layers, overwrite)
    note_unproven(Path(source))
    tell(f"{counted(header.n_rows, 'row')}: {output}")


@click.command(
    cls=Command,
    epilog=epilog(
        "protrna info out.parquet",
        "protrna info out.h5 --json",
        "protrna info ProtRNA_pretrained.h5",
        "protrna info protrna-pytorch",
        topics="outputs",
    ),
)
@click.argument("file", metavar="FILE", type=ANY_PATH)
@click.option(
    "--all", "whole", is_flag=True, help="Read every row of an output.  [default: those read in about 5 s]"
)
@as_json
@verbosity
def info(file: str, whole: bool, as_json: bool) -> None:
    """Describe an output, a checkpoint or an export.

    For an output (a file, or a folder made by --dask): how it was made, its columns, first rows, vector
    norms, and repeated ids and embeddings. A large output is not read to its end; the text shows how many
    rows it covers.
    """
    from protrna_cli.model.checkpoint import explain_damage, is_checkpoint
    from protrna_cli.output.stored import refuse_changed_bytes

    path = weights_in(Path(file))
    refuse_changed_bytes(path)  # before libhdf5, which can crash on them, opens it
    if is_checkpoint(path):
        described = _checkpoint(path)
        show(json.dumps(described) if as_json else _checkpoint_text(described))
        return
    if path.suffix.lower() in H5_SUFFIXES and (damage := explain_damage(path)):
        raise InputError(f"{path}: {damage}; if it is an output, make it again")
    from protrna_cli.output.describe import describe

    description = describe(path, whole)
    note_unproven(path)
    show(description.json() if as_json else description.text())


def _checkpoint(path: Path) -> dict[str, Any]:
    from protrna_cli.model.checkpoint import read_size

    size, dtype = read_size(path)
    return {
        "file": printable(str(path)),
        "bytes": path.stat().st_size,
        "parameters": size.parameters,
        "layers": size.layers,
        "width": size.width,
        "heads": size.heads,
        "dtype": dtype,
        "sha256": checked_sha256(path),
    }


def _checkpoint_text(described: dict[str, Any]) -> str:
    told = {
        "layers": f"{described['layers']}, width {described['width']}, {described['heads']} heads",
        "parameters": f"{described['parameters']:,}, {described['dtype']}",
        "size": size_text(described["bytes"]),
        "SHA-256": described["sha256"],
    }
    return f"{described['file']}: checkpoint\n\n{aligned(told)}"


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
@_target("MAP", "picture: .html, .png, .svg or .pdf")
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
@_overwrite("MAP")
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
