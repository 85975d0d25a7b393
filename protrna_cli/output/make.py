"""Make outputs from finished ones, and put them in place.

`merge` joins the parts of a sharded run. `convert` writes another format, keeping rows, numbers (bit for bit)
and provenance. Both write into a folder beside the output first, and rename it into place.

An output of one file (Parquet, HDF5) is the old one or the new one at any moment. One of several files
(NumPy, TSV) is a mixture of both for a moment, and stays so if a crash falls into it: then `OUT.partial`
still has all of the new one, and the same command with `--resume` puts it in place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from protrna_cli.disk import locked, sync, writing
from protrna_cli.errors import InputError, OutputUnwritable, UsageError
from protrna_cli.output.files import (
    RUN_FORMATS,
    Format,
    journal_path,
    manifest_path,
    partial_path,
    skipped_path,
)
from protrna_cli.output.formats import hdf5
from protrna_cli.output.protect import files_read, make_partial, protect, remove_partial, skipped_of
from protrna_cli.output.rows import REWRITTEN, UNPROVEN, Block, Header
from protrna_cli.output.stored import open_output, open_parts, parts_of
from protrna_cli.plan.rules import AnyPath, instance, path_text, switch, whole_numbers


def publish(made: Path, output: Path, format: Format, skipped: Path | None) -> None:
    """Rename a finished output into place, after its companion files; all are synced to disk first.

    made, output: its current path and its final path.
    skipped: list of its skipped records, or None, in which case the list of an earlier run is removed.
    """
    *companions, (last, _) = zip(format.files(made), format.files(output), strict=True)
    if skipped:
        companions.insert(0, (skipped, skipped_path(output)))
    else:
        skipped_path(output).unlink(missing_ok=True)
    for source, target in companions:
        # Copied, so that --resume still finds every file after a crash between two renames.
        staged = source.with_name(f"{source.name}.copy")
        shutil.copyfile(source, staged)
        sync(staged)
        staged.replace(target)
    sync(last)
    last.replace(output)
    sync(output.parent)


def publish_parts(folder: Path, parts: Sequence[Path]) -> None:
    """Rename a complete set of parts into place; a crash between two steps loses nothing."""
    partial = partial_path(folder)
    joined, staged = partial / "skipped.tsv", partial / "skipped.tsv.new"
    if not joined.exists() and join_skipped(map(skipped_path, parts), staged):
        staged.replace(joined)
    for stray in set((partial / "parts").iterdir()) - set(parts):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()
    if joined.exists():
        shutil.copyfile(joined, staged)
        sync(staged)
        staged.replace(skipped_path(folder))
    else:
        skipped_path(folder).unlink(missing_ok=True)
    if folder.exists():
        folder.rename(partial / "replaced")
    (partial / "parts").rename(folder)
    sync(folder.parent)
    remove_partial(folder)


def make_output(
    target: Path,
    format: Format,
    overwrite: bool,
    header: Header,
    blocks: Iterable[Block],
    sources: Sequence[Path],
) -> None:
    """Write an output that `protect` allowed, and move it into place; a failure leaves nothing behind.

    sources: the outputs that it is made from; their lists of skipped records are joined.
    """
    with locked(target):
        for file in format.files(target):
            if file.exists() and not overwrite:
                raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")
        if journal_path(target).exists() or manifest_path(target).exists():
            raise OutputUnwritable(
                f"{partial_path(target)}: an unfinished run; finish it with protrna embed --resume, "
                "or remove it"
            )
        try:
            with writing(target, "free space and run again"):
                folder = make_partial(target)  # in place of one that a killed process left
                made = folder / target.name
                format.write(made, header, blocks)
                skipped = join_skipped(map(skipped_of, sources), folder / "skipped.tsv")
                publish(made, target, format, skipped)
        finally:
            remove_partial(target)


def join_skipped(paths: Iterable[Path], target: Path) -> Path | None:
    """Join lists of skipped records, each list once; returns `target`, or None if there is no list."""
    lists = [path for path in dict.fromkeys(paths) if path.exists()]
    if not lists:
        return None
    with target.open("wb") as joined:
        for i, list_path in enumerate(lists):
            with list_path.open("rb") as file:
                header = file.readline()
                if i == 0:
                    joined.write(header)
                shutil.copyfileobj(file, joined)
    return target


def merge(parts: Sequence[AnyPath], target: AnyPath, format: Format, overwrite: bool) -> Header:
    """Merge the parts of a sharded run into the output that an unsharded run would have made.

    parts: finished outputs of `--shard 1/N` to `N/N`, in any order and of any format, or a folder of parts.

    Returns the header of the merged output.
    """
    instance("--format", format, Format, "a Format, as choose_format returns")
    switch("--overwrite", overwrite)
    paths, output = [Path(path_text("PART", part)) for part in parts], Path(path_text("-o", target))
    protect(output, format, [file for path in paths for file in files_read(path)], overwrite)
    stored = open_parts([part for path in paths for part in parts_of(path)])
    if part := stored.unproven:
        raise InputError(f"{part}: {UNPROVEN}; make it again with --overwrite")
    make_output(output, format, overwrite, stored.header, stored.blocks(), stored.paths)
    return stored.header


def convert(
    source: AnyPath,
    target: AnyPath,
    format: Format,
    layers: Sequence[int] = (),
    overwrite: bool = False,
) -> Header:
    """Convert an output to any format of the table, one block at a time.

    layers: layers to keep, out of those in the source; all by default.

    Returns the header of the new output: the source's, with the layers kept.
    """
    source, target = Path(path_text("IN", source)), Path(path_text("-o", target))
    instance("--format", format, Format, "a Format, as choose_format returns")
    if not isinstance(layers, Sequence) or layers:
        whole_numbers("--layer", layers)
    switch("--overwrite", overwrite)
    protect(target, format, files_read(source), overwrite)
    stored = open_output(source)
    header, blocks = stored.header, stored.blocks()
    if stored.unproven:
        header = header.adding(**{REWRITTEN: True})
    if layers:
        header, blocks = _select_layers(source, header, blocks, layers)
    _refuse_unsupported(source, header, format)
    if format.unique_ids:
        try:
            hdf5.require_unique_ids(stored.rows())
        except OutputUnwritable as error:
            raise OutputUnwritable(f"{source}: {error}") from None
    make_output(target, format, overwrite, header, blocks, stored.paths)
    return header


def _select_layers(
    source: Path, header: Header, blocks: Iterator[Block], layers: Sequence[int]
) -> tuple[Header, Iterator[Block]]:
    """Select layers, in the order given; each layer once."""
    indices = tuple(dict.fromkeys(header.column_index(layer, source) for layer in layers))
    kept = tuple(header.layers[i] for i in indices)
    return (
        replace(header.adding(layers=list(kept)), layers=kept, checksums=None),
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
        layers = ", ".join(map(str, header.layers))
        raise UsageError(
            f"{source}: has layers {layers}, but {format.name} stores one; choose it with --layer"
        )
