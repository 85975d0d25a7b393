"""Convert an output to another format, keeping rows, numbers (bit for bit) and provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from protrna_cli.errors import OutputUnwritable, UsageError
from protrna_cli.output.formats import flat
from protrna_cli.output.formats.table import RUN_FORMATS, Format
from protrna_cli.output.parts import parts_of, read_joined, unproven_part
from protrna_cli.output.protect import files_read, protect
from protrna_cli.output.read import read_rows
from protrna_cli.output.rewrite import make_output
from protrna_cli.output.rows import REWRITTEN, Block, Header
from protrna_cli.plan.values import AnyPath, instance, path_text, switch, whole_numbers


def convert(
    source: AnyPath,
    target: AnyPath,
    format: Format,
    layers: Sequence[int] = (),
    overwrite: bool = False,
) -> Header:
    """Convert an output to any format of the table, one block at a time.

    Parameters
    ----------
    layers
        Layers to keep, out of those in the source; all by default.

    Returns
    -------
    Header
        Header of the new output: the source's, with the layers kept.

    Raises
    ------
    InputUnreadable, InputError
        The source cannot be read, is not an output of protrna, or is damaged.
    UsageError
        An argument is not one that its option takes, the format cannot store the source, the source lacks a
        layer, or the target is a file of the source.
    RunMismatch
        The source is a folder of parts that is incomplete, or whose parts belong to different runs.
    OutputUnwritable
        The output exists or cannot be created, or an id cannot be the name of a flat HDF5 dataset.
    WriteFailed
        Writing failed; the source is unchanged.
    """
    source, target = Path(path_text("IN", source)), Path(path_text("-o", target))
    instance("--format", format, Format, "a Format, as choose_format returns")
    if not isinstance(layers, Sequence) or layers:
        whole_numbers("--layer", layers)
    switch("--overwrite", overwrite)
    protect(target, format, files_read(source), overwrite)
    header, blocks = read_joined(source)
    if unproven_part(source):
        header = replace(header, provenance={**header.provenance, REWRITTEN: True})
    if layers:
        header, blocks = _select_layers(source, header, blocks, layers)
    _refuse_unsupported(source, header, format)
    if format.unique_ids:
        _check_ids(source)
    make_output(target, format, overwrite, header, blocks, parts_of(source))
    return header


def _select_layers(
    source: Path, header: Header, blocks: Iterator[Block], layers: Sequence[int]
) -> tuple[Header, Iterator[Block]]:
    """Select layers, in the order given; each layer once."""
    indices = tuple(dict.fromkeys(header.column_index(layer, source) for layer in layers))
    kept = tuple(header.layers[i] for i in indices)
    provenance = {**header.provenance, "layers": list(kept)}
    return (
        replace(header, layers=kept, provenance=provenance, checksums=None),
        (Block(block.rows, [block.values[i] for i in indices]) for block in blocks),
    )


def _refuse_unsupported(source: Path, header: Header, format: Format) -> None:
    """Refuse an output that the format cannot store."""
    if format.is_export and header.per_token:
        raise UsageError(
            f"{source}: has one vector per residue, but {format.name} stores one per record; "
            f"embed without --per-token, or convert to {', '.join(RUN_FORMATS)}"
        )
    if format.one_layer and len(header.layers) > 1:
        raise UsageError(
            f"{source}: has layers {_layers_text(header)}, but {format.name} stores one; "
            "choose it with --layer"
        )


def _check_ids(source: Path) -> None:
    try:
        flat.require_unique_ids(row for part in parts_of(source) for row in read_rows(part))
    except OutputUnwritable as error:
        raise OutputUnwritable(f"{source}: {error}") from None


def _layers_text(header: Header) -> str:
    return ", ".join(map(str, header.layers))
