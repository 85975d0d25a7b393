"""Write an output in another format: the same rows, numbers (bit for bit) and provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from protrna_cli.errors import OutputUnwritable, UsageError
from protrna_cli.output.formats import flat
from protrna_cli.output.formats.table import RUN_FORMATS, Format, possible_files
from protrna_cli.output.parts import parts_of, read_joined
from protrna_cli.output.read import read_rows
from protrna_cli.output.rewrite import make_output
from protrna_cli.output.rows import Block, Header


def convert(
    source: Path,
    target: Path,
    format: Format,
    layers: Sequence[int] = (),
    overwrite: bool = False,
) -> Header:
    """Write an output once more, in any format of the table, a block at a time.

    Parameters
    ----------
    layers
        Layers to keep, of those that the source holds; by default all.

    Returns
    -------
    Header
        The header of the new output: the source's, but for the layers.

    Raises
    ------
    InputUnreadable, InputError
        The source cannot be read, is not an output of protrna, or is damaged.
    UsageError
        The format cannot hold the source, or the target is the source.
    OutputUnwritable
        The output exists or cannot be created, or an id cannot name a dataset of flat HDF5.
    WriteFailed
        Writing failed; the source is unchanged.
    """
    header, blocks = read_joined(source)
    _refuse_itself(source, target, format)
    if layers:
        header, blocks = _with_layers(source, header, blocks, layers)
    _refuse_unfit(source, header, format)
    if format.unique_ids:
        _refuse_ids(source)
    make_output(target, format, overwrite, header, blocks, parts_of(source))
    return header


def _refuse_itself(source: Path, target: Path, format: Format) -> None:
    own = {file.resolve() for file in possible_files(source)}
    if own.intersection(file.resolve() for file in format.files(target)):
        raise UsageError(f"{target}: is the output to convert, or a file of it; choose another -o")


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


def _refuse_unfit(source: Path, header: Header, format: Format) -> None:
    """Refuse an output that the format has no place for."""
    if format.is_export and header.per_token:
        raise UsageError(
            f"{source}: holds one vector a residue, and {format.name} holds one a record; "
            f"embed without --per-token, or convert to {', '.join(RUN_FORMATS)}"
        )
    if format.one_layer and len(header.layers) > 1:
        raise UsageError(
            f"{source}: holds layers {_listed(header)}, and {format.name} holds one; choose it with --layer"
        )


def _refuse_ids(source: Path) -> None:
    try:
        flat.require_own_ids(row for part in parts_of(source) for row in read_rows(part))
    except OutputUnwritable as error:
        raise OutputUnwritable(f"{source}: {error}") from None


def _listed(header: Header) -> str:
    return ", ".join(map(str, header.layers))
