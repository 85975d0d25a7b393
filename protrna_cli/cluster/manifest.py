"""A folder of parts that pandas, polars, DuckDB and Spark read as one table, and the manifest of its run.

    out/part-01-of-16.parquet …    the parts, one a shard, and nothing else
    out.skipped.tsv                the skipped records of all of them
    out.partial/manifest.json      until all parts are there: the census, and the number of parts
    out.partial/parts/             the finished parts, and the unfinished ones with their journals

Like any output, `out` appears by one rename when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protrna_cli.disk import sync, write_whole
from protrna_cli.errors import OutputUnwritable, RunMismatch
from protrna_cli.fasta.census import Census, CountedInput, Mark
from protrna_cli.fasta.records import Start
from protrna_cli.fasta.sources import Source
from protrna_cli.output.files import Format, is_part, manifest_path, part_name, partial_path, skipped_path
from protrna_cli.output.make import join_skipped
from protrna_cli.output.protect import (
    refuse_foreign_companions,
    refuse_to_replace,
    refuse_unless_file,
    remove_partial,
    written_files,
)
from protrna_cli.output.provenance import RunKey
from protrna_cli.plan.rules import Regions, Rules
from protrna_cli.plan.shard import Shard


@dataclass(frozen=True)
class Manifest:
    """Everything that a worker needs to make a part.

    Attributes
    ----------
    key
        The run key of all parts together.
    inputs
        Absolute paths.
    rules
        The rules under which the census was taken.
    n_parts
        Number of parts of the run.
    census
        The census of the whole input.
    """

    key: RunKey
    inputs: list[str]
    rules: Rules
    n_parts: int
    census: Census

    def counted(self, sources: Sequence[Source]) -> CountedInput:
        """Return the counted input, to be read from these sources."""
        return CountedInput(sources, self.rules, self.census)

    def write(self, folder: Path) -> None:
        """Write the manifest to the unfinished folder of parts, whole or not at all."""
        write_whole(manifest_path(folder), json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read what `write` wrote."""
        text = manifest_path(folder).read_bytes()
        try:
            return cls._of(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RunMismatch(
                f"{manifest_path(folder)}: a damaged manifest; use --overwrite to start again"
            ) from None

    @classmethod
    def _of(cls, fields: dict[str, Any]) -> Manifest:
        census = Census(**fields["census"])
        census.stamps = [(size, changed) for size, changed in census.stamps]
        census.marks = [Mark(Start(*start), *counts) for start, *counts in census.marks]
        regions = fields["rules"]["regions"] and Regions.from_json(fields["rules"]["regions"])
        rules = Rules(**{**fields["rules"], "regions": regions})
        return cls(**{**fields, "rules": rules, "census": census})


def part_path(folder: Path, shard: Shard) -> Path:
    """Path of a shard's part until the run is finished."""
    return partial_path(folder) / "parts" / part_name(shard)


def protect_folder(folder: Path, format: Format, read: Iterable[str], overwrite: bool) -> None:
    """Refuse a folder of parts as `protect` does a file: only another folder of parts may be replaced."""
    refuse_to_replace(written_files(folder, format), read)
    refuse_foreign_companions(folder, format, overwrite)
    if folder.is_symlink():
        refuse_unless_file(folder, "name that folder with -o")
    if folder.exists() and not (folder.is_dir() and all(map(is_part, folder.iterdir()))):
        raise OutputUnwritable(f"{folder}: not a folder that protrna embed --dask made; choose another -o")


def put_in_place(folder: Path, parts: Sequence[Path]) -> None:
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
