"""Take vectors from earlier outputs, for the sequences that they hold, instead of computing them.

An earlier output is read in order, once for its rows and once for its vectors, and is never loaded whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import InputError, InputUnreadable, RunMismatch, UsageError
from protrna_cli.fasta.census import CountedInput
from protrna_cli.fasta.copies import DistinctSequences, Ints
from protrna_cli.output.files import complete_path, journal_path, reused_path
from protrna_cli.output.protect import real_path
from protrna_cli.output.provenance import RunKey, first_difference, run_key
from protrna_cli.output.rows import UNPROVEN, Header, Values
from protrna_cli.output.stored import Stored, open_output
from protrna_cli.plan.pieces import Row
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.outputs import Target, read_position
from protrna_cli.run.report import NOTHING, Amount

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


class _Earlier(NamedTuple):
    """An earlier output, what provenance says of it, and the output of the run into which its vectors fit."""

    stored: Stored
    origin: dict[str, Any]
    target: Target


class _Held(NamedTuple):
    """What one file of an earlier output holds of a run."""

    number: int  # the number of that output in `--reuse`
    target: Target  # the output of the run into which its vectors fit
    # The file, and the SHA-256 of its header.
    file: Path
    sha256: str
    # Rows of the run, and the residues that each covers.
    rows: Ints
    residues: Ints


@dataclass(frozen=True)
class Reuse:
    """What earlier outputs hold of a run."""

    # For each earlier output its name, its SHA-256, and how many distinct sequences are taken from it.
    origins: list[dict[str, Any]]
    held: Bools  # for each row of the run, whether they hold the sequence that is there first
    amount: Amount  # the records that need not run because of that, without copies, and their residues
    _files: list[_Held] = field(repr=False, default_factory=list)
    _distinct: DistinctSequences | None = field(repr=False, default=None)

    def fill(
        self, target: Target, fill: Callable[[int, int, Values], None], check: Callable[[], None]
    ) -> Bools:
        """Fill the rows of an output with the vectors of earlier ones.

        An earlier output may have been replaced or removed since it was looked at. What it held then and
        holds no longer is not filled.

        fill: as `Sink.fill`.
        check: called between blocks; may raise.

        Returns for each row of the run whether it was filled.
        """
        filled = np.zeros(len(self.held), bool)
        for file in self._files:
            if file.target == target and self.held[file.rows].any():
                try:
                    now = self._fill_from(file, fill, check, filled)
                except (InputError, InputUnreadable):
                    if _is_unchanged(file):
                        raise
                    continue
                if _is_unchanged(file):  # while it was read, too
                    filled |= now
        return filled

    def _fill_from(
        self,
        file: _Held,
        fill: Callable[[int, int, Values], None],
        check: Callable[[], None],
        already: Bools,
    ) -> Bools:
        """Fill rows with the vectors of one file; returns which."""
        assert self._distinct is not None
        filled = np.zeros(len(self.held), bool)
        stored = open_output(file.file)
        if _header_sha256(stored) != file.sha256:  # replaced since, perhaps by an output of another kind
            return filled
        for block in stored.blocks():
            check()
            found = self._distinct.find(_digests(block.rows)).tolist()
            for (row, residue), (_, vectors) in zip(found, block.by_row(stored.header), strict=True):
                if row >= 0 and self.held[row] and not (filled[row] or already[row]):
                    filled[row] = True
                    for layer, values in enumerate(vectors):
                        fill(layer, residue if stored.header.per_token else row, values)
        return filled

    def only(self, filled: Bools) -> Reuse:
        """What is left of it when only these rows are filled: the others are computed."""
        if filled[self.held].all():
            return self
        return _reuse_of(self.origins, self.held & filled, self._files, self._distinct)

    @property
    def json(self) -> str:
        """What a later process must know of it, once its rows are filled."""
        packed = base64.b64encode(np.packbits(self.held).tobytes()).decode()
        return json.dumps({"origins": self.origins, "held": packed, "amount": asdict(self.amount)})

    @classmethod
    def from_json(cls, text: str, n_records: int) -> Reuse | None:
        """Restore it; None if it is of a run of another number of records.

        Raises ValueError, TypeError, KeyError: the text is damaged.
        """
        fields = json.loads(text)
        bits = np.frombuffer(base64.b64decode(fields["held"]), np.uint8)
        if len(bits) != -(-n_records // 8):
            return None
        held = np.unpackbits(bits, count=n_records).astype(bool)
        return cls(list(fields["origins"]), held, Amount(**fields["amount"]))


def _is_unchanged(file: _Held) -> bool:
    """Whether a file is still the one that was looked at, by the checksums in its header."""
    try:
        return _header_sha256(open_output(file.file)) == file.sha256
    except (InputError, InputUnreadable):
        return False


def find_reusable(shard: CountedInput, headers: Mapping[Target, Header], options: EmbedOptions) -> Reuse:
    """Find what earlier outputs hold of a shard; that is nothing if its distinct sequences are not known."""
    n_records = shard.census.n_records
    earlier = _filled_earlier(headers, n_records) if options.resume else {}
    for target, reuse in earlier.items():
        # An earlier output may be replaced by one of this run already.
        if complete_path(target.path).exists():
            return reuse
    outputs = _open_earlier(options.reuse, headers)
    if shard.distinct is None:
        return Reuse([output.origin for output in outputs], np.zeros(n_records, bool), NOTHING)
    reuse = _find(outputs, headers, shard.distinct, n_records)
    for filled in earlier.values():
        reuse = reuse.only(filled.held)
    return reuse


def _filled_earlier(headers: Mapping[Target, Header], n_records: int) -> dict[Target, Reuse]:
    """Read, for each output that an earlier process has begun, what it filled from earlier outputs."""
    found = {}
    for target in headers:
        record, journal = reused_path(target.path), journal_path(target.path)
        try:
            if record.exists() and read_position(journal).reused:
                reuse = Reuse.from_json(record.read_text(), n_records)
                if reuse:  # otherwise the key in the journal tells what differs
                    found[target] = reuse
        except (OSError, ValueError, TypeError, KeyError):
            raise RunMismatch(f"{record}: damaged; use --overwrite to start again") from None
    return found


def _open_earlier(paths: Sequence[str], headers: Mapping[Target, Header]) -> list[_Earlier]:
    """Open the earlier outputs, and check that their vectors fit into a run."""
    outputs = []
    for path in paths:
        stored = open_output(Path(path))
        if part := stored.unproven:
            raise RunMismatch(f"{part}: {UNPROVEN}; make it again to use it with --reuse")
        target = _target_of(path, stored.header, headers)
        outputs.append(_Earlier(stored, _origin(Path(path), stored, headers), target))
    kinds = {output.target.per_token for output in outputs}
    for target in headers:
        if target.per_token not in kinds:
            kind = "rows per residue" if target.per_token else "pooled rows"
            raise UsageError(
                f"{target.path}: has {kind}, but no output of --reuse does; add one, or leave --reuse out"
            )
    return outputs


def _find(
    outputs: Sequence[_Earlier],
    headers: Mapping[Target, Header],
    distinct: DistinctSequences,
    n_records: int,
) -> Reuse:
    """Find what earlier outputs hold of a run."""
    held_by_target = {target: np.zeros(n_records, bool) for target in headers}
    files = []
    for number, (stored, _, target) in enumerate(outputs):
        for part in stored.parts:
            rows, residues = _held_of(part, distinct, held_by_target[target])
            files.append(_Held(number, target, part.paths[0], _header_sha256(part), rows, residues))
    held_by_all = np.logical_and.reduce(list(held_by_target.values()))
    return _reuse_of([output.origin for output in outputs], held_by_all, files, distinct)


def _reuse_of(
    origins: list[dict[str, Any]], held: Bools, files: list[_Held], distinct: DistinctSequences | None
) -> Reuse:
    """Count what files hold of the rows that are taken from them."""
    counts, amount = [0] * len(origins), NOTHING
    for file in files:
        taken = held[file.rows]
        counts[file.number] += int(taken.sum())
        if file.target == files[0].target:
            amount += Amount(int(taken.sum()), int(file.residues[taken].sum()))
    counted = [{**source, "sequences": count} for source, count in zip(origins, counts, strict=True)]
    return Reuse(counted, held, amount, files, distinct)


def _held_of(part: Stored, distinct: DistinctSequences, already: Bools) -> tuple[Ints, Ints]:
    """Find the rows of a run that a part holds and that are not in `already`; adds them to it."""
    rows, residues = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for group in _in_tuples(part.rows()):
        places, of_row = np.unique(distinct.find(_digests(group))[:, 0], return_index=True)
        new = (places >= 0) & ~already[places]
        already[places[new]] = True
        rows.append(places[new])
        residues.append(np.array([group[i].n_embedded for i in of_row[new]], np.int64))
    return np.concatenate(rows), np.concatenate(residues)


def _in_tuples(rows: Iterator[Row]) -> Iterator[tuple[Row, ...]]:
    while group := tuple(islice(rows, ROWS_AT_ONCE)):
        yield group


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
    name, before, now = max(differences, key=lambda difference: difference[0] != "per_token")
    raise RunMismatch(
        f"{path}: cannot be reused: its {name} was {before}, not {now}; use the options that protrna info "
        f"{path} shows, or leave --reuse out"
    )


def _compared(key: RunKey) -> RunKey:
    return {name: key[name] for name in SAME}


def _origin(path: Path, stored: Stored, headers: Mapping[Target, Header]) -> dict[str, Any]:
    """Name an earlier output, with the SHA-256 of its headers; these have the checksums of its content."""
    origin = {"name": path.name, "sha256": _header_sha256(stored)}
    # An output that is replaced by its next version stays as it is until then, and is gone afterwards.
    replaced = stored.paths == [path] and any(real_path(path) == real_path(header.path) for header in headers)
    return {**origin, "replaced": True} if replaced else origin


def _header_sha256(stored: Stored) -> str:
    return hashlib.sha256("".join(file.header.json for file in stored.files).encode()).hexdigest()
