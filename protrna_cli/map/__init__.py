"""Maps: an output as a two-dimensional picture.

This module imports no libraries. The others are `colouring` (what a point's colour means), `projection`
(vectors to points, which a file can keep), `page` (HTML, Bokeh), `figure` (PNG, SVG and PDF, matplotlib), and
`drawing`, which combines them.
"""

from __future__ import annotations

from pathlib import Path

from protrna_cli.errors import UsageError

METHODS = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}
"""Methods of projection, and their names in messages and pictures."""
SUFFIXES = (".html", ".png", ".svg", ".pdf")


def require_suffix(target: Path) -> None:
    """Refuse a picture in another format; raises UsageError."""
    if target.suffix.lower() not in SUFFIXES:
        *others, last = SUFFIXES
        raise UsageError(f"{target}: a map must be {', '.join(others)} or {last}; choose another -o")
