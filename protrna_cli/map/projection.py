"""Project vectors to two dimensions with principal components, t-SNE or UMAP, and keep the points in a file.

Another colour then needs no other projection. The file is a tab-separated table with the columns `id`, `x`
and `y`, below a line that says what it was made from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protrna_cli.disk import open_regular, reading, write_whole, writing
from protrna_cli.errors import InputError, RunMismatch
from protrna_cli.libraries import importing_umap
from protrna_cli.machine import available_cpus
from protrna_cli.map import METHODS
from protrna_cli.output.provenance import run_key
from protrna_cli.output.rows import Header
from protrna_cli.plan.pieces import Row
from protrna_cli.text import counted, printable

MIN_RECORDS = 3
"""Fewest records of a map: fewer have no distances to compare."""
ROUNDING = 1e-5
"""Vectors are equal if they differ by at most this part of the largest one's length. In the small models of
the tests, rounding moves a vector by some 1e-7 of its length, and one residue in a thousand by some 1e-3."""
COMPONENTS = 50
"""Principal components given to t-SNE and UMAP, as is usual: the rest is mostly noise and takes time."""
NEIGHBOURS = 15
PERPLEXITY = 30.0
MIN_POINTS_FOR_THREADS = 2000
"""Fewer points run on one thread: a step is so short that threads would wait for one another."""
FIRST = "# protrna map "
"""Start of the first line; the rest of it is JSON."""
COLUMNS = "id\tx\ty"
CHOOSE = "choose another --coordinates"

Points = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """Points in two dimensions."""

    points: Points  # (N, 2)
    axes: tuple[str, str]
    metric: bool = False  # whether the numbers on the axes have a meaning; those of t-SNE and UMAP have none


def project(vectors: Points, method: str, seed: int) -> Projection:
    """Project three or more vectors (N, D), finite float32, with a method of `METHODS`.

    Principal components are exact and ignore the seed. t-SNE and UMAP run on the first 50 components, start
    from the first two, and are reproducible on one machine with the same libraries; equal vectors are one
    point for them.
    """
    exponent = int(np.frexp(np.abs(vectors).max())[1])
    scaled = np.ldexp(vectors, -exponent)  # exact, and squares neither overflow nor vanish
    _require_different(scaled, method)
    if method == "pca":
        components, shares = _principal_components(scaled)
        with np.errstate(over="ignore"):
            points = np.ldexp(components[:, :2], exponent)
        first, second = (
            f"PC {i} ({share:.1%} of the variance)" for i, share in enumerate(shares[:2], start=1)
        )
    else:
        numbers_of, once = _numbered(scaled)
        components, _ = _principal_components(scaled[once])
        points = (_tsne if method == "tsne" else _umap)(components, seed)[numbers_of]
        first, second = (f"{METHODS[method]} {i}" for i in (1, 2))
    if not np.isfinite(points).all():
        raise InputError(f"{METHODS[method]} finds no finite points for its embeddings; use another --method")
    return Projection(points, (first, second), metric=method == "pca")


def _require_different(vectors: Points, method: str) -> None:
    """Refuse vectors that have too few different ones to be drawn."""
    different = _count_different(vectors)
    if different == 1:
        raise InputError(
            f"all {len(vectors):,} embeddings are equal within rounding; draw an output whose records differ"
        )
    if method != "pca" and different < MIN_RECORDS:
        raise InputError(
            f"{len(vectors):,} embeddings, but only {different} different ones within rounding; "
            f"{METHODS[method]} needs {MIN_RECORDS} or more: use --method pca"
        )


def _count_different(vectors: Points) -> int:
    """Count vectors that differ from one another by more than rounding, up to `MIN_RECORDS`."""
    rounding = ROUNDING * float(np.linalg.norm(vectors, axis=1).max())
    nearest = np.full(len(vectors), np.inf)  # distance of each vector to the nearest one counted
    for count in range(MIN_RECORDS):
        farthest = int(nearest.argmax())
        if nearest[farthest] <= rounding:
            return count
        nearest = np.minimum(nearest, np.linalg.norm(vectors - vectors[farthest], axis=1))
    return MIN_RECORDS


def _numbered(vectors: Points) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Number the different vectors: returns the number of each, and where each number appears first."""
    numbers: dict[bytes, int] = {}
    vectors = vectors + np.float32(0)  # -0 becomes 0, so that equal vectors have equal bytes
    numbers_of = [numbers.setdefault(vector.tobytes(), len(numbers)) for vector in vectors]
    return numbers_of, np.unique(numbers_of, return_index=True)[1]


def _principal_components(vectors: Points) -> tuple[Points, list[float]]:
    """Compute up to 50 components, float32 (N, 2 to 50), and the share of each in the variance."""
    from sklearn.decomposition import PCA

    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    if centred.shape[1] == 1:
        centred = np.pad(centred, [(0, 0), (0, 1)])
    count, width = centred.shape
    # Both solvers are exact; the covariance (D, D) is faster with many rows.
    solver = "covariance_eigh" if count > width else "full"
    pca = PCA(min(COMPONENTS, count, width), svd_solver=solver)
    components: Points = pca.fit_transform(centred)
    return components, pca.explained_variance_ratio_.tolist()


def _tsne(components: Points, seed: int) -> Points:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(components) - 1) / 3)
    threads = available_cpus() if len(components) >= MIN_POINTS_FOR_THREADS else 1
    with threadpool_limits(threads, user_api="openmp"):
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=threads)
        points: Points = tsne.fit_transform(components)
    return points


def _umap(components: Points, seed: int) -> Points:
    with importing_umap():
        import umap

        reducer = umap.UMAP(
            n_neighbors=min(NEIGHBOURS, len(components) - 1), init="pca", random_state=seed, n_jobs=1
        )
        points: Points = reducer.fit_transform(components)
    return points


@dataclass(frozen=True)
class Origin:
    """What determines the points of a map."""

    records: int
    output: str  # SHA-256 of everything that determines the values of the output; its format and name do not
    layer: int
    method: str
    seed: int | None  # None for a method without one

    @classmethod
    def of(cls, header: Header, layer: int, method: str, seed: int) -> Origin:
        """Tell what the points of a map are made from."""
        key = json.dumps(run_key(header), sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        return cls(header.n_rows, digest, layer, method, None if method == "pca" else seed)

    def write(self, path: Path, rows: list[Row], projection: Projection) -> None:
        """Write points, exactly: each number is the shortest that is read back as the same float32."""
        about = {**asdict(self), "axes": projection.axes, "metric": projection.metric}
        lines = [FIRST + json.dumps(about), COLUMNS]
        for row, (x, y) in zip(rows, projection.points, strict=True):
            lines.append(f"{printable(row.id)}\t{x!s}\t{y!s}")
        with writing(path, "free space and run again"):
            write_whole(path, "\n".join(lines) + "\n")

    def read(self, path: Path) -> Projection:
        """Read points that were made from the same vectors in the same way; refuses others."""
        try:
            with reading(path, CHOOSE), open_regular(path) as file:
                first, _, *lines = file.read().decode().removesuffix("\n").split("\n")
            about = json.loads(first.removeprefix(FIRST))
            found = Origin(**{name: about[name] for name in asdict(self)})
            axes = str(about["axes"][0]), str(about["axes"][1])
            points = np.array([line.split("\t")[1:] for line in lines], np.float32).reshape(-1, 2)
            if not first.startswith(FIRST) or len(points) != found.records or not np.isfinite(points).all():
                raise ValueError
        except (ValueError, TypeError, KeyError, IndexError):
            raise InputError(
                f"{path}: not made by protrna map --coordinates, or damaged; remove it, or {CHOOSE}"
            ) from None
        for name, wanted in asdict(self).items():
            if (before := getattr(found, name)) != wanted:
                what = f"another {name}" if name == "output" else f"{name} {before}, not {wanted}"
                if name == "records":
                    what = f"{counted(before, 'record')}, not {wanted:,}"
                raise RunMismatch(f"{path}: made from {what}; remove it to make it again, or {CHOOSE}")
        return Projection(points, axes, bool(about["metric"]))
