"""The output files of a run: their headers, and the checks before it starts.

The checks: may the output be written, is it complete already, and does it fit on its disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from protrna_cli._version import version
from protrna_cli.errors import InputError, InputUnreadable, OutputUnwritable, RunMismatch, UsageError
from protrna_cli.fasta.census import Census
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.formats.table import Format, choose_format, refuse_layout
from protrna_cli.output.parts import parts_of, read_joined, unproven_part
from protrna_cli.output.paths import complete_path, journal_path, partial_path, shard_path, skipped_path
from protrna_cli.output.protect import files_read, protect, real_path, written_files
from protrna_cli.output.provenance import RunKey, compare_keys, run_key
from protrna_cli.output.read import check_quickly, make_again
from protrna_cli.output.rows import UNPROVEN, Header
from protrna_cli.run.options import DTYPE_BYTES, EmbedOptions
from protrna_cli.run.report import Progress
from protrna_cli.text import printable, size_text
from protrna_cli.weights.checkpoint import Checkpoint, CheckpointFile
from protrna_cli.weights.names import DEMO_NOTICE


@dataclass(frozen=True)
class Target:
    """One output file of a run.

    Attributes
    ----------
    path, format
        Where it is written, and in which format.
    per_token
        Whether it has one vector per residue instead of pooled rows.
    """

    path: Path
    format: Format
    per_token: bool


def targets_of(path: Path, options: EmbedOptions) -> list[Target]:
    """List all output files of a run."""
    format = choose_format(path, options.format, options.h5_layout)
    targets = [Target(shard_path(path, options.shard), format, options.per_token)]
    if options.per_token_output:
        second = Path(options.per_token_output)
        if real_path(second) == real_path(path):
            name = "" if second == path else f" as {second}"
            raise UsageError(f"{path}: given to both -o and --per-token-output{name}; give each its own file")
        format = choose_format(second, h5_layout=options.h5_layout)
        targets.append(Target(shard_path(second, options.shard), format, per_token=True))
    refuse_layout(options.h5_layout, [target.format for target in targets])
    return targets


def need_unique_ids(targets: Sequence[Target], options: EmbedOptions) -> bool:
    """Whether a target needs a unique id per row; the ids of records with regions are unique anyway."""
    return any(
        target.format.unique_ids and not (target.per_token and options.rules.regions) for target in targets
    )


def run_settings(options: EmbedOptions, size: ModelSize, per_token: bool) -> dict[str, Any]:
    """Give the fields of the provenance that are known before weights and input are read."""
    return {
        "model": {"name": printable(options.model), **asdict(size)},
        "layers": list(size.layer_indices(options.layers)),
        "pooling": None if per_token else options.pool,
        "precision": options.precision,
        "dtype": options.dtype,
        "batch_tokens": options.budget,
        "rules": {
            **asdict(replace(options.rules, regions=None)),
            "overlap": options.rules.shared,
            "regions": options.rules.regions and options.rules.regions.origin,
        },
    }


def make_header(
    target: Target,
    options: EmbedOptions,
    size: ModelSize,
    weights_sha256: str | None,
    input_census: Census,
    shard_census: Census,
    count_distinct: bool = True,
) -> Header:
    """Make the header of an output before the run.

    Parameters
    ----------
    weights_sha256
        None for the demo model, which has no file.
    input_census, shard_census
        Census of the whole input, and of the shard.
    count_distinct
        Whether the census of the shard counts its distinct sequences.
    """
    layers = size.layer_indices(options.layers)
    settings = run_settings(options, size, target.per_token)
    provenance: dict[str, Any] = {
        "version": version(),
        **settings,
        "model": {**settings["model"], "weights_sha256": weights_sha256},
        "shard": str(options.shard),
        "inputs": input_census.recorded_inputs,
        "records": input_census.n_records + input_census.n_skipped,
        "embedded": shard_census.n_records,
        "skipped": shard_census.n_skipped,
    }
    if count_distinct:
        provenance["distinct"] = shard_census.n_distinct
    if weights_sha256 is None:
        provenance["notice"] = DEMO_NOTICE
    if target.per_token:
        counts = (shard_census.n_records, shard_census.n_embedded)
    else:
        counts = (shard_census.n_rows, shard_census.n_pooled)
    return Header(target.per_token, layers, size.width, options.dtype, *counts, provenance)


def protect_targets(
    targets: Sequence[Target],
    inputs: Sequence[str | os.PathLike[str]],
    checkpoint: Checkpoint,
    options: EmbedOptions,
) -> None:
    """Refuse outputs that would replace what the run reads, one another, or what protrna did not make."""
    read: list[str | Path] = [*inputs_of_run(inputs, checkpoint, options), *_files_reused(targets, options)]
    for target in targets:
        others = [
            file for other in targets if other != target for file in written_files(other.path, other.format)
        ]
        protect(target.path, target.format, [*read, *others], options.overwrite)


def _files_reused(targets: Sequence[Target], options: EmbedOptions) -> list[Path]:
    """List the files of earlier outputs, without those that the run itself replaces as a whole."""
    replaced = [real_path(target.path) for target in targets]
    earlier = [path for path in map(Path, options.reuse) if real_path(path) not in replaced]
    found: list[Path] = []
    for path in earlier:
        with suppress(InputUnreadable):  # reading it says why
            found += files_read(path)
    return found


def inputs_of_run(
    inputs: Sequence[str | os.PathLike[str]], checkpoint: Checkpoint, options: EmbedOptions
) -> list[str]:
    """List every path that a run reads."""
    read = [os.fspath(each) for each in inputs]
    if options.rules.regions:
        read.append(options.rules.regions.file)
    if isinstance(checkpoint, CheckpointFile):
        read.append(str(checkpoint.path))
    return read


def refuse_existing(target: Target, options: EmbedOptions) -> None:
    """Refuse an existing output, unless the options ask to resume or replace it."""
    partial = partial_path(target.path)
    if complete_path(target.path).exists() and not options.resume:
        raise OutputUnwritable(
            f"{partial}: a complete output that is not in its place yet; use --resume to put it there, or "
            "remove that folder to give it up"
        )
    if options.overwrite:
        return
    if options.resume:
        _refuse_companions_alone(target)
        return
    for file in [*target.format.files(target.path), skipped_path(target.path)]:
        if file.exists():
            raise OutputUnwritable(f"{file}: exists; use --overwrite to replace it, or choose another -o")
    if partial.exists():
        raise OutputUnwritable(
            f"{partial}: an unfinished run; use --resume to continue it, or --overwrite to start again"
        )


def _refuse_companions_alone(target: Target) -> None:
    """Refuse companions without their output, where there is nothing to resume: they belong to others."""
    if target.path.exists() or journal_path(target.path).exists():
        return
    for file in target.format.files(target.path):
        if file.exists():
            raise OutputUnwritable(
                f"{file}: exists, but there is nothing to resume; "
                "use --overwrite to replace it, or choose another -o"
            )


def is_whole(path: Path, header: Header) -> bool:
    """Whether the output exists already and was made by the same run."""
    if not path.exists():
        return False
    try:
        found = _key_of(path)
        compare_keys(found, run_key(header), str(path))
        _check_undamaged(path, header)
    except (RunMismatch, InputError):
        if partial_path(path).exists():
            return False
        raise
    return True


def _key_of(path: Path) -> RunKey:
    try:
        return run_key(read_joined(path)[0], str(path))
    except InputError as error:
        found = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise RunMismatch(
            f"{path}: exists, but was not made by protrna embed, or is damaged ({found}); use --overwrite to "
            "replace it, or choose another -o"
        ) from None


def _check_undamaged(path: Path, header: Header) -> None:
    if part := unproven_part(path):
        raise InputError(f"{part}: {UNPROVEN}; {make_again(path)}")
    for part in parts_of(path):
        check_quickly(part)
    if header.provenance["skipped"] and not skipped_path(path).exists():
        raise InputError(f"{path}: damaged ({skipped_path(path).name} is missing); {make_again(path)}")


def check_space(headers: Mapping[Target, Header], progress: Progress) -> None:
    """Refuse outputs that together do not fit on their disks, before anything runs."""
    claimed: dict[int, int] = {}  # bytes that the earlier outputs need on each disk
    for target, header in headers.items():
        path, partial = target.path, partial_path(target.path)
        if partial.exists():  # it uses its space already
            continue
        vectors = header.n_vectors * header.width * len(header.layers) * DTYPE_BYTES[header.dtype]
        disk = path.parent.stat().st_dev
        free = max(0, shutil.disk_usage(path.parent).free - claimed.get(disk, 0))
        claimed[disk] = claimed.get(disk, 0) + vectors
        if vectors > free:
            raise OutputUnwritable(
                f"{path}: needs {size_text(vectors)}, but only {size_text(free)} are free; "
                "choose another -o, or --dtype float16"
            )
        if target.format.name != "npy" and 2 * vectors > free:
            progress.note(
                f"{path} is made from {partial.name} at the end; together they need up to "
                f"{size_text(2 * vectors)}, but only {size_text(free)} are free"
            )
