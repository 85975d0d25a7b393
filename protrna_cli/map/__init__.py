"""Maps: an output as a two-dimensional picture.

This module imports no libraries. The others are `colouring` (what a point's colour means), `projection`
(vectors to points), `page` (HTML, Bokeh), `figure` (PNG, matplotlib), and `drawing`, which combines them.
"""

METHODS = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}
"""Methods of projection, and their names in messages and pictures."""
SUFFIXES = (".html", ".png")
