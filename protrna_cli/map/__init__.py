"""Maps: an output as a two-dimensional picture.

This module imports no libraries. The others are `colouring` (what a point's colour means), `projection`
(vectors to points), `page` (HTML, Bokeh), `figure` (PNG, matplotlib), and `drawing`, which combines them.
"""

from __future__ import annotations

from pathlib import Path

from protrna_cli.errors import UsageError

METHODS = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}
"""Methods of projection, and their names in messages and pictures."""
SUFFIXES = (".html", ".png")


def require_suffix(target: Path) -> None:
    """Refuse a picture in another format; raises UsageError."""
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{target}: a map must be {' or '.join(SUFFIXES)}; choose another -o")
