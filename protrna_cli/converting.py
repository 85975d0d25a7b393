"""An output in another format: the same rows, the same numbers bit for bit, the same provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from protrna_cli import output
from protrna_cli.errors import OutputUnwritable, UsageError
from protrna_cli.making import make_output
from protrna_cli.merging import parts_of, read_dataset
from protrna_cli.output import flat
from protrna_cli.output.rows import Block, Header


def convert(
    source: Path,
    target: Path,
    format: str,
    h5_layout: str = "flat",
    layers: Sequence[int] = (),
    overwrite: bool = False,
) -> Header:
    """Write an output once more, in a format of `FORMATS` or `EXPORTS`, a block at a time.

    Parameters
    ----------
    layers
        Layers to keep, of those that the source holds; by default all.

    Returns
    -------
    Header
        Of the output made: the source's, but for the layers.

    Raises
    ------
    InputUnreadable, InputError
        The source cannot be read, is no output of ours, or is damaged.
    UsageError
        The format cannot hold what the source holds, or the target is the source.
    OutputUnwritable
        The output exists or cannot be created, or an id cannot name a dataset of flat HDF5.
    WriteFailed
        Writing broke off; the source is as it was.
    """
    header, blocks = read_dataset(source)
    _refuse_itself(source, target, format)
    if layers:
        header, blocks = _with_layers(source, header, blocks, layers)
    _refuse_unfit(source, header, format)
    if (format, h5_layout) == ("h5", "flat"):
        _refuse_ids(source)
    make_output(target, format, h5_layout, overwrite, header, blocks, parts_of(source))
    return header


def _refuse_itself(source: Path, target: Path, format: str) -> None:
    own = {file.resolve() for each in output.FORMATS for file in output.files_of(source, each)}
    if own.intersection(file.resolve() for file in output.files_of(target, format)):
        raise UsageError(f"{target}: is the output to convert, or stands beside it; choose another -o")


def _with_layers(
    source: Path, header: Header, blocks: Iterator[Block], layers: Sequence[int]
) -> tuple[Header, Iterator[Block]]:
    """Keep some layers, in the order in which they are named."""
    kept = tuple(dict.fromkeys(layers))
    for layer in kept:
        if layer not in header.layers:
            raise UsageError(f"{source}: holds layer {_listed(header)}, not {layer}")
    places = [header.layers.index(layer) for layer in kept]
    provenance = {**header.provenance, "layers": list(kept)}
    return (
        replace(header, layers=kept, provenance=provenance),
        (Block(block.rows, [block.values[place] for place in places]) for block in blocks),
    )


def _refuse_unfit(source: Path, header: Header, format: str) -> None:
    """Refuse what AnnData or the projector has no place for."""
    if format in output.EXPORTS and header.per_token:
        raise UsageError(
            f"{source}: holds one vector a residue, and {format} holds one a record; "
            f"embed without --per-token, or convert to {', '.join(output.FORMATS)}"
        )
    if format == "tsv" and len(header.layers) > 1:
        raise UsageError(f"{source}: holds layers {_listed(header)}, and tsv one; choose it with --layer")


def _refuse_ids(source: Path) -> None:
    try:
        flat.require_own_ids(row for part in parts_of(source) for row in output.read_rows(part))
    except OutputUnwritable as error:
        raise OutputUnwritable(f"{source}: {error}") from None


def _listed(header: Header) -> str:
    return ", ".join(map(str, header.layers))
