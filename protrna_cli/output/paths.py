"""Names of the files beside an output, and of the parts of a run."""

from __future__ import annotations

import re
from pathlib import Path

from protrna_cli.plan.shard import WHOLE, Shard


def skipped_path(output: Path) -> Path:
    """List of the skipped records of an output."""
    return output.with_name(f"{output.name}.skipped.tsv")


def partial_path(output: Path) -> Path:
    """Folder of an unfinished output."""
    return output.with_name(f"{output.name}.partial")


def journal_path(output: Path) -> Path:
    """Journal of an unfinished output, from which `--resume` continues."""
    return partial_path(output) / "journal"


def complete_path(output: Path) -> Path:
    """Mark of an unfinished output that is complete, and only has to be put in place."""
    return partial_path(output) / "complete"


def reused_path(output: Path) -> Path:
    """Record of the rows of an unfinished output that were filled from earlier outputs."""
    return partial_path(output) / "reused.json"


def manifest_path(folder: Path) -> Path:
    """Manifest of an unfinished folder of parts, from which `--dask --resume` continues."""
    return partial_path(folder) / "manifest.json"


def index_path(output: Path) -> Path:
    """Index of a NumPy array: the columns of its rows."""
    return output.with_name(f"{output.name}.index.tsv")


def meta_path(output: Path) -> Path:
    """Provenance of a NumPy array or of a TSV file."""
    return output.with_name(f"{output.name}.meta.json")


def metadata_path(output: Path) -> Path:
    """Columns of the rows of a TSV file."""
    return output.with_name(f"{output.name}.metadata.tsv")


def shard_path(output: Path, shard: Shard) -> Path:
    """Path of a shard's part of an output; without sharding, the path of the output itself."""
    if shard == WHOLE:
        return output
    return output.with_name(f"{output.stem}.{shard.index}-of-{shard.count}{output.suffix}")


def part_name(shard: Shard) -> str:
    """File name of a shard's part in a folder of parts; these names sort in input order.

    >>> part_name(Shard(7, 42))
    'part-07-of-42.parquet'
    """
    return f"part-{shard.index:0{len(str(shard.count))}}-of-{shard.count}.parquet"


def is_part(path: Path) -> bool:
    """Whether a path has a name made by `part_name`."""
    return re.fullmatch(r"part-\d+-of-\d+\.parquet", path.name) is not None
