"""A dataset: a folder of parts that pandas, polars, DuckDB and Spark read as one table.

    out/part-01-of-16.parquet …    the parts, one a shard; the folder holds nothing else
    out.skipped.tsv                the skipped records of all of them
    out.partial/manifest.json      until all parts are there: what the run counted, and how it is cut
    out.partial/parts/             and the parts that are made, with their journals

As any output, `out` appears by one rename when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from protrna_cli.census import Census, Mark
from protrna_cli.errors import OutputUnwritable
from protrna_cli.journal import RunKey
from protrna_cli.making import join_skipped
from protrna_cli.records import Place
from protrna_cli.regions import Regions
from protrna_cli.rules import Rules
from protrna_cli.shard import Shard
from protrna_cli.spool import is_part, part_name, partial_path, skipped_path, sync


@dataclass(frozen=True)
class Manifest:
    """What is known of a dataset before its first part: all that a worker needs to make one.

    Attributes
    ----------
    key
        Of the run that all parts together are.
    inputs
        Absolute paths.
    rules
        Under which the census was taken.
    n_parts
        Into how many parts the run is cut.
    census
        Of all the input.
    """

    key: RunKey
    inputs: list[str]
    rules: Rules
    n_parts: int
    census: Census

    def write(self, folder: Path) -> None:
        """Write it to the unfinished dataset, whole or not at all."""
        path = manifest_path(folder)
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.write_text(json.dumps(asdict(self)), encoding="utf-8")
        sync(unfinished)
        unfinished.replace(path)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read what `write` wrote.

        Raises
        ------
        OSError
            It cannot be read.
        """
        fields: dict[str, Any] = json.loads(manifest_path(folder).read_text(encoding="utf-8"))
        census = Census(**fields["census"])
        census.stamps = [(size, changed) for size, changed in census.stamps]
        census.marks = [Mark(Place(*place), *counts) for place, *counts in census.marks]
        rules = Rules(**fields["rules"])
        if rules.regions:
            rules = replace(rules, regions=Regions.from_json(fields["rules"]["regions"]))
        return cls(**{**fields, "rules": rules, "census": census})


def manifest_path(folder: Path) -> Path:
    """Where the manifest of an unfinished dataset is."""
    return partial_path(folder) / "manifest.json"


def part_path(folder: Path, shard: Shard) -> Path:
    """Where a shard's part is made."""
    return partial_path(folder) / "parts" / part_name(shard)


def refuse_foreign(folder: Path) -> None:
    """Make sure that a folder to be replaced is a dataset.

    Raises
    ------
    OutputUnwritable
        It holds something else, or is none.
    """
    if folder.exists() and not (folder.is_dir() and all(map(is_part, folder.iterdir()))):
        raise OutputUnwritable(f"{folder}: no dataset of protrna embed --dask; choose another -o")


def publish(folder: Path, parts: Sequence[Path]) -> None:
    """Rename a dataset whose parts are all there into place; an end between two steps loses nothing."""
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
    shutil.rmtree(partial, ignore_errors=True)
