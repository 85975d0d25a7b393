"""Project vectors to two dimensions with principal components, t-SNE or UMAP."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import InputError
from protrna_cli.machine import available_cpus

MIN_RECORDS = 3
"""Fewest records of a map: fewer have no distances to compare."""
COMPONENTS = 50
"""Principal components given to t-SNE and UMAP, as is usual: the rest is mostly noise and takes time."""
NEIGHBOURS = 15
PERPLEXITY = 30.0
MIN_POINTS_FOR_THREADS = 2000
"""Fewer points run on one thread: a step is so short that threads would wait for one another."""

Points = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """Points in two dimensions.

    Attributes
    ----------
    points
        float32 (N, 2).
    axes
        Names of the two axes.
    metric
        Whether the numbers on the axes have a meaning; those of t-SNE and UMAP have none.
    """

    points: Points
    axes: tuple[str, str]
    metric: bool = False


def project(vectors: Points, method: str, seed: int) -> Projection:
    """Project three or more vectors (N, D), finite float32, with a method of `METHODS`.

    Principal components are exact and ignore the seed. t-SNE and UMAP run on the first 50 components, start
    from the first two, and are reproducible on one machine with the same libraries.

    Raises
    ------
    InputError
        All vectors are equal.
    """
    components, shares = _principal_components(vectors)
    if not components[:, 0].any():
        raise InputError(f"all {len(vectors):,} embeddings are equal; a map needs records that differ")
    if method == "pca":
        names = [f"PC {i} ({share:.1%} of the variance)" for i, share in enumerate(shares[:2], start=1)]
        return Projection(components[:, :2], (names[0], names[1]), metric=True)
    if method == "tsne":
        return Projection(_tsne(components, seed), ("t-SNE 1", "t-SNE 2"))
    return Projection(_umap(components, seed), ("UMAP 1", "UMAP 2"))


def _principal_components(vectors: Points) -> tuple[Points, list[float]]:
    """Compute up to 50 components, float32 (N, ≤ 50), and the share of each in the variance."""
    from sklearn.decomposition import PCA

    count, width = vectors.shape
    # Both solvers are exact; the covariance (D, D) is faster with many rows.
    solver = "covariance_eigh" if count > width else "full"
    pca = PCA(min(COMPONENTS, count, width), svd_solver=solver)
    with np.errstate(invalid="ignore"):  # shares are 0/0 if there is no variance
        components: Points = pca.fit_transform(vectors)
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
    # The package imports TensorFlow, which takes some 20 s, for a class not used here; it works without.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("umap.parametric_umap", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about its threads and about that class
        import umap

        reducer = umap.UMAP(
            n_neighbors=min(NEIGHBOURS, len(components) - 1), init="pca", random_state=seed, n_jobs=1
        )
        points: Points = reducer.fit_transform(components)
    return points
