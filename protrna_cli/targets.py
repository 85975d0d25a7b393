"""The files that a run makes: what must not be replaced, what is whole already, and what fits on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protrna_cli import output
from protrna_cli.errors import InputError, OutputUnwritable, RunMismatch, UsageError
from protrna_cli.journal import compare_keys
from protrna_cli.merging import read_dataset
from protrna_cli.output.rows import Header
from protrna_cli.provenance import run_key
from protrna_cli.report import Progress, amount
from protrna_cli.spool import partial_path, skipped_path

DTYPE_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class Target:
    """A file that a run makes.

    Attributes
    ----------
    path, format
        Where it is to be, and in which format of `output.FORMATS`.
    per_token
        One vector a residue, not pooled rows.
    """

    path: Path
    format: str
    per_token: bool


def refuse_existing(target: Target, resume: bool, overwrite: bool) -> None:
    """Leave what exists alone unless the options speak of it.

    Raises
    ------
    OutputUnwritable
        The output, or an unfinished run of it, exists.
    UsageError
        Both options are given.
    """
    if resume and overwrite:
        raise UsageError("--resume goes on and --overwrite starts again; use one of them")
    if resume or overwrite:
        return
    for file in [*output.files_of(target.path, target.format), skipped_path(target.path)]:
        if file.exists():
            raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")
    if partial_path(target.path).exists():
        raise OutputUnwritable(
            f"{partial_path(target.path)}: a run that did not finish; use --resume to go on with it, "
            "or --overwrite to start again"
        )


def is_whole(path: Path, header: Header) -> bool:
    """Whether the output is there already, made by the same run.

    Raises
    ------
    RunMismatch
        It was made by another run, and no unfinished one stands beside it.
    """
    if not path.exists():
        return False
    try:
        found = run_key(read_dataset(path)[0])
        compare_keys(found, run_key(header), str(path))
    except (RunMismatch, InputError, KeyError) as error:
        if partial_path(path).exists():
            return False
        if isinstance(error, RunMismatch):
            raise
        raise RunMismatch(f"{path}: exists and is no output of protrna embed; choose another -o") from None
    shutil.rmtree(partial_path(path), ignore_errors=True)
    return True


def check_space(headers: Mapping[Target, Header], progress: Progress) -> None:
    """Refuse outputs that cannot fit on their disks together, before anything is computed.

    Raises
    ------
    OutputUnwritable
        One does not fit.
    """
    claimed: dict[int, int] = {}  # of each disk, by the outputs before
    for target, header in headers.items():
        path, partial = target.path, partial_path(target.path)
        if partial.exists():  # what is there already has its space
            continue
        vectors = header.n_vectors * header.width * len(header.layers) * DTYPE_BYTES[header.dtype]
        disk = path.parent.stat().st_dev
        free = max(0, shutil.disk_usage(path.parent).free - claimed.get(disk, 0))
        claimed[disk] = claimed.get(disk, 0) + vectors
        if vectors > free:
            raise OutputUnwritable(
                f"{path}: needs {amount(vectors)}, and {amount(free)} are free; "
                "choose another -o, or --dtype float16"
            )
        if target.format != "npy" and 2 * vectors > free:
            progress.note(
                f"{path} and {partial.name}, from which it is made at the end, need up to "
                f"{amount(2 * vectors)}, and {amount(free)} are free"
            )
