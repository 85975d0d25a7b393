"""Merge the parts of a sharded run into one output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protrna_cli.errors import InputError
from protrna_cli.output.formats.table import Format
from protrna_cli.output.parts import parts_of, read_parts, unproven_part
from protrna_cli.output.protect import files_read, protect
from protrna_cli.output.rewrite import make_output
from protrna_cli.output.rows import UNPROVEN, Header
from protrna_cli.plan.values import AnyPath, instance, path_text, switch


def merge(parts: Sequence[AnyPath], target: AnyPath, format: Format, overwrite: bool) -> Header:
    """Merge the parts of a sharded run into the output that an unsharded run would have made.

    Parameters
    ----------
    parts
        Finished outputs of `--shard 1/N` to `N/N`, in any order and of any format, or a folder of parts.

    Returns
    -------
    Header
        Header of the merged output.

    Raises
    ------
    UsageError
        An argument is not one that its option takes, or the target is a part or one of its files.
    RunMismatch
        A part is missing, is given twice, or belongs to another run.
    InputUnreadable, InputError
        A part cannot be read, is damaged, or lacks rows.
    OutputUnwritable
        The output exists, or cannot be created.
    WriteFailed
        Writing failed; the parts are unchanged.
    """
    instance("--format", format, Format, "a Format, as choose_format returns")
    switch("--overwrite", overwrite)
    paths, output = [Path(path_text("PART", part)) for part in parts], Path(path_text("-o", target))
    protect(output, format, [file for path in paths for file in files_read(path)], overwrite)
    ordered, header, blocks = read_parts([part for path in paths for part in parts_of(path)])
    for part in ordered:
        if unproven_part(part):
            raise InputError(f"{part}: {UNPROVEN}; make it again with --overwrite")
    make_output(output, format, overwrite, header, blocks, ordered)
    return header
