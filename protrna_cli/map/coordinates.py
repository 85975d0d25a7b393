"""Keep the points of a map in a file, so that another colour needs no other projection.

A tab-separated table with the columns `id`, `x` and `y`, below a line that says what it was made from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from protrna_cli.disk import open_regular, reading, write_whole, writing
from protrna_cli.errors import InputError, RunMismatch
from protrna_cli.map.projection import Projection
from protrna_cli.output.provenance import run_key
from protrna_cli.output.rows import Header
from protrna_cli.plan.rows import Row
from protrna_cli.text import counted, printable

FIRST = "# protrna map "
"""Start of the first line; the rest of it is JSON."""
COLUMNS = "id\tx\ty"
CHOOSE = "choose another --coordinates"


@dataclass(frozen=True)
class Origin:
    """What determines the points of a map.

    Attributes
    ----------
    records
        Number of records.
    output
        SHA-256 of everything that determines the values of the output; its format and name do not.
    layer
        The layer drawn.
    method, seed
        As given; the seed is None for a method without one.
    """

    records: int
    output: str
    layer: int
    method: str
    seed: int | None


def origin_of(header: Header, layer: int, method: str, seed: int) -> Origin:
    """Tell what the points of a map are made from."""
    key = json.dumps(run_key(header), sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()
    return Origin(header.n_rows, digest, layer, method, None if method == "pca" else seed)


def write_coordinates(path: Path, origin: Origin, rows: list[Row], projection: Projection) -> None:
    """Write points, exactly: each number is the shortest that is read back as the same float32."""
    about = {**asdict(origin), "axes": projection.axes, "metric": projection.metric}
    lines = [FIRST + json.dumps(about), COLUMNS]
    for row, (x, y) in zip(rows, projection.points, strict=True):
        lines.append(f"{printable(row.id)}\t{x!s}\t{y!s}")
    with writing(path, "free space and run again"):
        write_whole(path, "\n".join(lines) + "\n")


def read_coordinates(path: Path, origin: Origin) -> Projection:
    """Read points that were made from the same vectors in the same way.

    Raises
    ------
    InputUnreadable, InputError
        The file cannot be read, or `write_coordinates` did not make it.
    RunMismatch
        It was made from another output, layer or seed, or with another method.
    """
    try:
        with reading(path, CHOOSE), open_regular(path) as file:
            first, _, *lines = file.read().decode().removesuffix("\n").split("\n")
        about = json.loads(first.removeprefix(FIRST))
        found = Origin(**{name: about[name] for name in asdict(origin)})
        axes = str(about["axes"][0]), str(about["axes"][1])
        points = np.array([line.split("\t")[1:] for line in lines], np.float32).reshape(-1, 2)
        if not first.startswith(FIRST) or len(points) != found.records or not np.isfinite(points).all():
            raise ValueError
    except (ValueError, TypeError, KeyError, IndexError):
        raise InputError(
            f"{path}: not made by protrna map --coordinates, or damaged; remove it, or {CHOOSE}"
        ) from None
    for name, wanted in asdict(origin).items():
        if (before := getattr(found, name)) != wanted:
            what = f"another {name}" if name == "output" else f"{name} {before}, not {wanted}"
            if name == "records":
                what = f"{counted(before, 'record')}, not {wanted:,}"
            raise RunMismatch(f"{path}: made from {what}; remove it to make it again, or {CHOOSE}")
    return Projection(points, axes, bool(about["metric"]))
