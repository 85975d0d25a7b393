"""Take vectors from earlier outputs, for the sequences that they hold, instead of computing them.

An earlier output is read in order, once for its rows and once for its vectors, and is never loaded whole.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import RunMismatch, UsageError
from protrna_cli.fasta.census import CountedInput
from protrna_cli.output.parts import is_folder, parts_of, read_joined
from protrna_cli.output.provenance import RunKey, first_difference, run_key
from protrna_cli.output.read import read_output, read_rows, read_whole
from protrna_cli.output.rows import Header, Values
from protrna_cli.plan.distinct import DistinctSequences, Ints
from protrna_cli.plan.rows import Row
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.report import NOTHING, Amount
from protrna_cli.run.targets import Target

SAME = (
    "weights",
    "layers",
    "per_token",
    "pooling",
    "precision",
    "dtype",
    "long",
    "max_length",
    "overlap",
    "skip_unknown",
)
"""Fields of a run that its vectors depend on, besides the sequence as its MD5 covers it."""

ROWS_AT_ONCE = 4096

Bools = npt.NDArray[np.bool_]


class _Held(NamedTuple):
    """What one file holds of a run: rows of the run, and the residues that each covers."""

    file: Path
    rows: Ints
    residues: Ints


@dataclass(frozen=True)
class Reuse:
    """What earlier outputs hold of a run.

    Attributes
    ----------
    origins
        For each earlier output its name, its SHA-256, and how many distinct sequences are taken from it.
    held
        For each row of the run, whether they hold the sequence that is there first.
    amount
        The records that need not run because of that, without copies, and their residues.
    """

    origins: list[dict[str, Any]]
    held: Bools
    amount: Amount
    _files: Mapping[Target, list[Path]] = field(repr=False)
    _distinct: DistinctSequences = field(repr=False)

    def fill(
        self, target: Target, fill: Callable[[int, int, Values], None], check: Callable[[], None]
    ) -> None:
        """Fill the rows of an output with the vectors of earlier ones.

        Parameters
        ----------
        fill
            As `Sink.fill`.
        check
            Called between blocks; may raise.

        Raises
        ------
        InputUnreadable, InputError
            An earlier output is damaged, or cannot be read.
        """
        filled = np.zeros(len(self.held), bool)
        for file in self._files[target]:
            for block in read_whole(file)[1]:
                check()
                bounds = block.bounds() if target.per_token else range(len(block.rows) + 1)
                places = self._distinct.find(_digests(block.rows)).tolist()
                for i, (row, residue) in enumerate(places):
                    if row >= 0 and self.held[row] and not filled[row]:
                        filled[row] = True
                        for layer, values in enumerate(block.values):
                            start = residue if target.per_token else row
                            fill(layer, start, values[bounds[i] : bounds[i + 1]])


def plan_reuse(
    shard: CountedInput, headers: Mapping[Target, Header], options: EmbedOptions
) -> tuple[Reuse | None, list[dict[str, Any]]]:
    """Find what the earlier outputs of a run hold of a shard, and what its provenance says of them.

    Returns
    -------
    tuple
        The first is None if the shard's distinct sequences are not known.

    Raises
    ------
    InputUnreadable, InputError, RunMismatch, UsageError
        As `_origins`.
    """
    origins = _origins(options.reuse, headers)
    if shard.distinct is None:
        return None, origins
    reuse = _find(options.reuse, headers, origins, shard.distinct, shard.census.n_records)
    return reuse, reuse.origins


def _origins(paths: Sequence[str], headers: Mapping[Target, Header]) -> list[dict[str, Any]]:
    """Check that vectors of earlier outputs fit into a run; returns what its provenance says of them.

    Raises
    ------
    InputUnreadable, InputError
        An earlier output cannot be read, or is not one.
    RunMismatch
        It was made in another way; the message names what differs.
    UsageError
        An output of the run has no earlier one of its kind.
    """
    kinds = []
    for path in paths:
        header = read_joined(Path(path))[0]
        kinds.append(_target_of(path, header, headers).per_token)
    for target in headers:
        if target.per_token not in kinds:
            kind = "rows per residue" if target.per_token else "pooled rows"
            raise UsageError(
                f"{target.path}: has {kind}, but no output of --reuse does; add one, or leave --reuse out"
            )
    return [_origin(Path(path), headers) for path in paths]


def _find(
    paths: Sequence[str],
    headers: Mapping[Target, Header],
    origins: list[dict[str, Any]],
    distinct: DistinctSequences,
    n_records: int,
) -> Reuse:
    """Find what earlier outputs, which `_origins` has checked, hold of a run.

    Parameters
    ----------
    distinct
        The sequences of the run.
    n_records
        Records of the run; each is one row.
    """
    held_by_target = {target: np.zeros(n_records, bool) for target in headers}
    found: list[tuple[Target, int, _Held]] = []
    for number, path in enumerate(paths):
        target = _target_of(path, read_joined(Path(path))[0], headers)
        for file in parts_of(Path(path)):
            held = _held_of(file, distinct, held_by_target[target])
            found.append((target, number, held))
    held_by_all = np.logical_and.reduce(list(held_by_target.values()))
    files: dict[Target, list[Path]] = defaultdict(list)
    counts, amount = [0] * len(paths), NOTHING
    for target, number, held in found:
        taken = held_by_all[held.rows]
        counts[number] += int(taken.sum())
        if taken.any():
            files[target].append(held.file)
        if target == next(iter(headers)):
            amount += Amount(int(taken.sum()), int(held.residues[taken].sum()))
    origins = [{**each, "sequences": count} for each, count in zip(origins, counts, strict=True)]
    return Reuse(origins, held_by_all, amount, files, distinct)


def _held_of(file: Path, distinct: DistinctSequences, already: Bools) -> _Held:
    """Find the rows of a run that a file holds and that are not in `already`; adds them to it."""
    rows, residues = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for some in _in_tuples(read_rows(file)):
        places, of_row = np.unique(distinct.find(_digests(some))[:, 0], return_index=True)
        new = (places >= 0) & ~already[places]
        already[places[new]] = True
        rows.append(places[new])
        residues.append(np.array([some[i].n_embedded for i in of_row[new]], np.int64))
    return _Held(file, np.concatenate(rows), np.concatenate(residues))


def _in_tuples(rows: Iterator[Row]) -> Iterator[tuple[Row, ...]]:
    while some := tuple(islice(rows, ROWS_AT_ONCE)):
        yield some


def _digests(rows: Sequence[Row]) -> list[bytes]:
    return [bytes.fromhex(row.md5) for row in rows]


def _target_of(path: str, header: Header, headers: Mapping[Target, Header]) -> Target:
    """Find the output of a run into which the vectors of an earlier one fit; raises RunMismatch."""
    found = _compared(run_key(header, path))
    if not header.has_md5:
        version = header.provenance["version"]
        raise RunMismatch(
            f"{path}: has no column md5, as protrna {version} made it; make it again to use it with --reuse"
        )
    if header.provenance["rules"]["regions"]:
        raise RunMismatch(
            f"{path}: has rows of regions, which depend on their whole record; leave it out of --reuse"
        )
    differences = []
    for target, wanted in headers.items():
        difference = first_difference(found, _compared(run_key(wanted)))
        if difference is None:
            return target
        differences.append(difference)
    # Of two outputs, the one that differs in something else than its kind is the one that was meant.
    name, before, now = max(differences, key=lambda each: each[0] != "per_token")
    raise RunMismatch(
        f"{path}: cannot be reused: its {name} was {before}, not {now}; use the options that protrna info "
        f"{path} shows, or leave --reuse out"
    )


def _compared(key: RunKey) -> RunKey:
    return {name: key[name] for name in SAME}


def _origin(path: Path, headers: Mapping[Target, Header]) -> dict[str, Any]:
    """Name an earlier output, with the SHA-256 of its headers; these have the checksums of its content."""
    headers_text = "".join(read_output(part)[0].json for part in parts_of(path))
    origin = {"name": path.name, "sha256": hashlib.sha256(headers_text.encode()).hexdigest()}
    # An output that is replaced by its next version stays as it is until then, and is gone afterwards.
    replaced = not is_folder(path) and any(path.resolve() == each.path.resolve() for each in headers)
    return {**origin, "replaced": True} if replaced else origin
