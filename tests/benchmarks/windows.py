"""Measure how far the vectors of residues near a window's edge are from those of the record in one piece.

    python -m tests.benchmarks.windows CHECKPOINT.h5 [--length 3000] [--overlap 128 400] [--seed 0]

Prints a table in Markdown: the cosine of each residue's vector (last layer) in a window with its vector in
the random record in one piece, by the distance from the nearest edge of the window that is not an end of the
record. `alone` is the vector of a window, `joined` the one that an output has. Each cell has the mean, and in
brackets the value below which a twentieth lies. The last line tells what a cosine is worth: that of a residue
with the next one of the same letter, both in one piece.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from protrna_cli import embed, load_model
from protrna_cli.plan.pieces import Piece, blend, cut
from protrna_cli.plan.rules import Rules

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

BOUNDS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Least distance of each line of the table."""

NO_EDGE = 1 << 40
"""Distance from the edge in a window that is the whole record."""


def random_rna(length: int, seed: int) -> str:
    """Make a random sequence."""
    return "".join(np.random.default_rng(seed).choice(list("ACGU"), length))


def cosines(left: Floats, right: Floats) -> Floats:
    """Compute the cosine (L,) of each pair of rows of two arrays (L, D)."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.einsum("ld,ld->l", left, right) / lengths)


def distances(piece: Piece, length: int) -> Ints:
    """Count the residues between each residue of a window and its nearest edge inside the record."""
    nearest = np.full(piece.length, NO_EDGE)
    if piece.start > 0:
        nearest = np.arange(piece.length)
    if piece.stop < length:
        nearest = np.minimum(nearest, np.arange(piece.length)[::-1])
    return nearest


def compare(
    model: ProtRNA, sequence: str, whole: Floats, rules: Rules
) -> tuple[tuple[Ints, Floats], tuple[Ints, Floats]]:
    """Find distances and cosines of the windows' own vectors, and those of the joined record."""
    pieces = cut(0, len(sequence), rules)
    windows = [sequence[piece.start : piece.stop] for piece in pieces]
    vectors = embed(windows, model, per_token=True, max_length=rules.max_length)
    joined = np.zeros_like(whole)
    nearest = np.full(len(sequence), NO_EDGE)
    for piece, rows, weight in zip(pieces, vectors, blend(pieces), strict=True):
        covered = slice(piece.start, piece.stop)
        joined[covered] += weight[:, None] * rows
        nearest[covered] = np.minimum(nearest[covered], distances(piece, len(sequence)))
    places = np.concatenate([distances(piece, len(sequence)) for piece in pieces])
    originals = np.concatenate([whole[piece.start : piece.stop] for piece in pieces])
    alone = cosines(np.concatenate(vectors), originals)
    return (places, alone), (nearest, cosines(joined, whole))


def same_letter(sequence: str, whole: Floats) -> Floats:
    """Compute the cosine of each residue's vector with that of the next residue of its letter."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, letter in enumerate(sequence):
        places[letter].append(place)
    first = [place for found in places.values() for place in found[:-1]]
    second = [place for found in places.values() for place in found[1:]]
    return cosines(whole[first], whole[second])


def cell(values: Floats) -> str:
    """Tell the mean, and the value below which a twentieth lies."""
    return f"{values.mean():.4f} ({np.quantile(values, 0.05):.4f})" if len(values) else ""


def table(columns: dict[str, tuple[Ints, Floats]], other: Floats) -> Iterator[str]:
    """Yield the lines of the table; distances that no column has are left out."""
    yield f"| residues to the edge | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for least, end in pairwise((*BOUNDS, NO_EDGE + 1)):
        cells = [cell(found[(least <= places) & (places < end)]) for places, found in columns.values()]
        if any(cells):
            several = "" if end == least + 1 else " and more" if end > NO_EDGE else f" to {end - 1}"
            yield f"| {least}{several} | {' | '.join(cells)} |"
    yield f"| another residue, same letter | {' | '.join([cell(other)] * len(columns))} |"


def measure(model: ProtRNA, sequence: str, max_length: int, overlaps: Iterable[int]) -> Iterator[str]:
    """Yield the lines of the table of a sequence."""
    [whole] = embed([sequence], model, per_token=True, long="whole")
    columns: dict[str, tuple[Ints, Floats]] = {}
    for overlap in overlaps:
        rules = Rules(max_length=max_length, overlap=overlap)
        alone, joined = compare(model, sequence, whole, rules)
        columns |= {f"{overlap} shared, alone": alone, f"{overlap} shared, joined": joined}
    yield from table(columns, same_letter(sequence, whole))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.windows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--length", type=int, default=3000, help="residues of the record")
    parser.add_argument("--max-length", type=int, default=510, help="residues of a window")
    parser.add_argument(
        "--overlap", type=int, nargs="+", default=[128, 400], help="residues that windows share"
    )
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    model = load_model(given.checkpoint, precision=given.precision)
    sequence = random_rna(given.length, given.seed)
    for line in measure(model, sequence, given.max_length, given.overlap):
        print(line, flush=True)


if __name__ == "__main__":
    main()
