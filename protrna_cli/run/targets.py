"""The files that a run makes: their headers, and whether they may be written, are whole already, and fit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from protrna_cli._version import version
from protrna_cli.errors import InputError, OutputUnwritable, RunMismatch, UsageError
from protrna_cli.fasta.census import Census
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.formats.table import Format, choose_format
from protrna_cli.output.parts import read_joined
from protrna_cli.output.paths import partial_path, shard_path, skipped_path
from protrna_cli.output.provenance import compare_keys, run_key
from protrna_cli.output.rows import Header
from protrna_cli.run.options import DTYPE_BYTES, EmbedOptions
from protrna_cli.run.report import Progress
from protrna_cli.text import size_text
from protrna_cli.weights.names import DEMO_NOTICE


@dataclass(frozen=True)
class Target:
    """A file that a run makes.

    Attributes
    ----------
    path, format
        Where it is to be, and in which format.
    per_token
        One vector a residue, not pooled rows.
    """

    path: Path
    format: Format
    per_token: bool


def targets_of(path: Path, options: EmbedOptions) -> list[Target]:
    """List every file that a run makes.

    Raises
    ------
    UsageError
        A suffix belongs to no format, or two files have one name.
    """
    format = choose_format(path, options.format, options.h5_layout)
    targets = [Target(shard_path(path, options.shard), format, options.per_token)]
    if options.per_token_output:
        beside = Path(options.per_token_output)
        if beside.absolute() == path.absolute():
            raise UsageError(f"{path}: named by -o and by --per-token-output; give each a file of its own")
        format = choose_format(beside, h5_layout=options.h5_layout)
        targets.append(Target(shard_path(beside, options.shard), format, per_token=True))
    return targets


def need_unique_ids(targets: Sequence[Target], options: EmbedOptions) -> bool:
    """Whether a target needs a unique id for every row; a record with regions has a unique id anyway."""
    return any(
        target.format.unique_ids and not (target.per_token and options.rules.regions) for target in targets
    )


def make_header(
    target: Target,
    options: EmbedOptions,
    size: ModelSize,
    weights_sha256: str | None,
    whole: Census,
    part: Census,
) -> Header:
    """Describe an output before it is made.

    Parameters
    ----------
    weights_sha256
        None for the demo model, which has no file.
    whole, part
        Census of the input, and of the shard's slice of it.
    """
    layers = size.layer_indices(options.layers)
    provenance: dict[str, Any] = {
        "version": version(),
        "model": {"name": options.model, "weights_sha256": weights_sha256, **asdict(size)},
        "layers": list(layers),
        "pooling": None if target.per_token else options.pool,
        "precision": options.precision,
        "dtype": options.dtype,
        "batch_tokens": options.batch_tokens,
        "rules": {
            **asdict(replace(options.rules, regions=None)),
            "overlap": options.rules.shared,
            "regions": options.rules.regions and options.rules.regions.origin,
        },
        "shard": str(options.shard),
        "inputs": whole.inputs,
        "records": whole.n_records + whole.n_skipped,
        "embedded": part.n_records,
        "skipped": part.n_skipped,
    }
    if weights_sha256 is None:
        provenance["notice"] = DEMO_NOTICE
    rows = (part.n_records, part.n_embedded) if target.per_token else (part.n_rows, part.n_pooled)
    return Header(target.per_token, layers, size.width, options.dtype, *rows, provenance)


def refuse_existing(target: Target, options: EmbedOptions) -> None:
    """Leave an existing output alone, unless the options ask to resume or to replace it.

    Raises
    ------
    OutputUnwritable
        The output, or an unfinished run of it, exists.
    """
    if options.resume or options.overwrite:
        return
    for file in [*target.format.files(target.path), skipped_path(target.path)]:
        if file.exists():
            raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")
    partial = partial_path(target.path)
    if partial.exists():
        raise OutputUnwritable(
            f"{partial}: an unfinished run; use --resume to continue it, or --overwrite to start again"
        )


def is_whole(path: Path, header: Header) -> bool:
    """Whether the output is there already, made by the same run.

    Raises
    ------
    RunMismatch
        It was made by another run, and there is no unfinished run beside it.
    """
    if not path.exists():
        return False
    try:
        found = run_key(read_joined(path)[0])
        compare_keys(found, run_key(header), str(path))
    except (RunMismatch, InputError, KeyError) as error:
        if partial_path(path).exists():
            return False
        if isinstance(error, RunMismatch):
            raise
        raise RunMismatch(f"{path}: exists, and protrna embed did not make it; choose another -o") from None
    return True


def remove_partial(path: Path) -> None:
    """Remove what is left of an unfinished run beside an output that is whole."""
    shutil.rmtree(partial_path(path), ignore_errors=True)


def check_space(headers: Mapping[Target, Header], progress: Progress) -> None:
    """Refuse outputs that together do not fit on their disks, before anything is computed.

    Raises
    ------
    OutputUnwritable
        One does not fit.
    """
    claimed: dict[int, int] = {}  # bytes on each disk, by the outputs before
    for target, header in headers.items():
        path, partial = target.path, partial_path(target.path)
        if partial.exists():  # its space is taken already
            continue
        vectors = header.n_vectors * header.width * len(header.layers) * DTYPE_BYTES[header.dtype]
        disk = path.parent.stat().st_dev
        free = max(0, shutil.disk_usage(path.parent).free - claimed.get(disk, 0))
        claimed[disk] = claimed.get(disk, 0) + vectors
        if vectors > free:
            raise OutputUnwritable(
                f"{path}: needs {size_text(vectors)}, and {size_text(free)} are free; "
                "choose another -o, or --dtype float16"
            )
        if target.format.name != "npy" and 2 * vectors > free:
            progress.note(
                f"{path} and {partial.name}, from which it is made at the end, need up to "
                f"{size_text(2 * vectors)}, and {size_text(free)} are free"
            )
