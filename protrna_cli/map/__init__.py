"""Maps: an output as a two-dimensional picture.

This module imports no libraries. The others are `colouring` (what a point's colour means), `projection`
(vectors to points), `page` (HTML, Bokeh), `figure` (PNG, matplotlib), and `drawing`, which combines them.
"""

METHODS = ("umap", "tsne", "pca")
SUFFIXES = (".html", ".png")
