"""Maps: an output as a two-dimensional picture.

This face is light. Below it: `colouring` (what a point's colour says), `projection` (vectors to points),
`page` (HTML, Bokeh), `figure` (PNG, matplotlib), and `drawing`, which composes them.
"""

METHODS = ("umap", "tsne", "pca")
SUFFIXES = (".html", ".png")
