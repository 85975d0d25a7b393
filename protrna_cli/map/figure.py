"""Draw a picture for print with matplotlib: 180 mm wide (two columns of a journal), 300 dots per inch.

In SVG and PDF, text stays text, and many points are one embedded image.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_rgba_array
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from protrna_cli.map.colouring import (
    OTHER_COLOUR,
    Families,
    Group,
    Picture,
    Scale,
    clipped,
    in_drawing_order,
    point_opacity,
    point_size,
)

SIZE_INCHES = (180 / 25.4, 125 / 25.4)
DOTS_PER_INCH = 300
MARKERS = {"circle": "o", "triangle": "^", "square": "s", "diamond": "D", "star": "*"}
SIZES = {"triangle": 1.1, "diamond": 0.9, "star": 1.5}
"""Diameters of markers that look as large as a circle of diameter 1."""
SMALL_FONT, LARGE_FONT = 8, 11
"""Font sizes in points."""
MOST_SHAPES = 5000
"""Most points that SVG and PDF draw as shapes; more are an image."""
MARGIN = 0.01
"""Space around the heading and between its lines, as a part of the figure."""


def print_of(picture: Picture, suffix: str) -> bytes:
    """Draw a picture as `.png`, `.svg` or `.pdf`; the same picture gives the same bytes."""
    undated = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[suffix]
    fonts: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "protrna"}
    with warnings.catch_warnings(), rc_context(fonts):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box is drawn instead
        figure = draw(picture)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata=undated)
    return buffer.getvalue()


def draw(picture: Picture) -> Figure:
    """Draw a picture on a figure of matplotlib."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    free = _write_heading(figure, picture)
    body = figure.add_subfigure(figure.add_gridspec(2, 1, height_ratios=(1 - free, free))[1])
    axes = body.add_subplot()
    if isinstance(picture.colouring, Scale):
        _draw_scale(body, axes, picture, picture.colouring)
    else:
        _draw_families(body, axes, picture.colouring, picture, free * 72 * SIZE_INCHES[1])
    _frame(axes, picture)
    return figure


def _write_heading(figure: Figure, picture: Picture) -> float:
    """Write title, subtitle and notice over the whole width; returns the part of the height below them."""
    top = 1 - MARGIN
    large: dict[str, Any] = {"fontsize": LARGE_FONT, "fontweight": "bold"}
    small: dict[str, Any] = {"fontsize": SMALL_FONT, "color": "#444444"}
    for text, look in ((picture.title, large), (picture.subtitle, small), (picture.notice, small)):
        written = figure.text(MARGIN, top, text, va="top", parse_math=False, **look)  # `$` starts no formula
        length = len(text)
        while written.get_window_extent().width > (1 - 2 * MARGIN) * figure.bbox.width:
            length = length * 9 // 10
            written.set_text(textwrap.fill(text, length))
        top -= written.get_window_extent().height / figure.bbox.height + MARGIN
    return top


def _frame(axes: Axes, picture: Picture) -> None:
    for axis, name in zip((axes.xaxis, axes.yaxis), picture.projection.axes, strict=True):
        axis.set_label_text(name, fontsize=SMALL_FONT, parse_math=False)
        axis.get_offset_text().set_fontsize(SMALL_FONT)
    axes.tick_params(labelsize=SMALL_FONT)
    if not picture.projection.metric:
        axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)


def _scatter(axes: Axes, picture: Picture, members: Any, colours: Any, marker: str = "circle") -> None:
    points = picture.projection.points[members]
    count = len(picture.rows)
    diameter = point_size(count) / 2 * SIZES.get(marker, 1)  # in points of 1/72 inch: 2/3 of the page's size
    opacity = point_opacity(count)
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=diameter**2,
        c=to_rgba_array(colours, opacity),
        marker=MARKERS[marker],
        linewidths=0.2 if count <= MOST_SHAPES else 0,  # of many, edges would be all that one sees
        edgecolors=(0, 0, 0, 0.4 * opacity),
        rasterized=count > MOST_SHAPES,
    )


def _draw_scale(figure: SubFigure, axes: Axes, picture: Picture, scale: Scale) -> None:
    norm = (LogNorm if scale.logarithmic else Normalize)(*scale.limits)
    colours = ScalarMappable(norm, "viridis")
    known = np.isfinite(scale.values)
    if not known.all():
        _scatter(axes, picture, ~known, OTHER_COLOUR)
    _scatter(axes, picture, known, colours.to_rgba(scale.known))
    bar = figure.colorbar(
        colours,
        ax=axes,
        fraction=0.05,
        ticks=scale.ticks if scale.logarithmic else MaxNLocator(integer=scale.whole, min_n_ticks=1),
        format="{x:,.0f}" if scale.whole else "{x:,.6g}",
    )
    bar.minorticks_off()
    bar.set_label(clipped(scale.title), fontsize=SMALL_FONT, parse_math=False)
    bar.ax.tick_params(labelsize=SMALL_FONT)


def _draw_families(
    figure: SubFigure, axes: Axes, families: Families, picture: Picture, height: float
) -> None:
    """Draw records by family, and the legend, in a smaller font if it would not fit the height in points."""
    groups = families.groups()
    for group in in_drawing_order(groups):
        _scatter(axes, picture, group.members, group.colour, group.marker)
    font = min(SMALL_FONT, 0.95 * height / (1.35 * len(groups)))
    legend = figure.legend(
        [_handle(group, font) for group in groups],
        ["family"] * len(groups),
        loc="outside right upper",
        fontsize=font,
        frameon=False,
        borderpad=0,
        labelspacing=0.3,
        handletextpad=0.2,
    )
    for text, group in zip(legend.get_texts(), groups, strict=True):
        text.set(text=group.label, parse_math=False)  # set now: the legend omits labels that begin with _


def _handle(group: Group, font: float) -> Line2D:
    size = 0.62 * font * SIZES.get(group.marker, 1)
    return Line2D([], [], linestyle="", marker=MARKERS[group.marker], color=group.colour, markersize=size)
