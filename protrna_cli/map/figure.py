"""Draw a picture as a PNG with matplotlib: 300 dots per inch, 180 mm wide (two columns of a journal)."""

from __future__ import annotations

import io
import textwrap
import warnings
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, to_rgba_array
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from protrna_cli.map.colouring import Families, Group, Scale, in_drawing_order
from protrna_cli.map.picture import Picture, point_opacity, point_size

SIZE_INCHES = (180 / 25.4, 125 / 25.4)
DOTS_PER_INCH = 300
MARKERS = {"circle": "o", "triangle": "^", "square": "s"}
SMALL_FONT, LARGE_FONT = 8, 11
"""Font sizes in points."""
MARGIN = 0.01
"""Space around the heading and between its lines, as a part of the figure."""


def png(picture: Picture) -> bytes:
    """Draw a picture as a PNG; the same picture gives the same bytes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box is drawn instead
        figure = draw(picture)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
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
        _draw_families(body, axes, picture, picture.colouring)
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


def _scatter(axes: Axes, picture: Picture, members: Any, colours: Any, marker: str = "o") -> None:
    points = picture.projection.points[members]
    diameter = point_size(len(picture.rows)) / 2  # in points of 1/72 inch: two thirds of the size on the page
    opacity = point_opacity(len(picture.rows))
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=diameter**2,
        c=to_rgba_array(colours, opacity),
        marker=marker,
        linewidths=0.2,
        edgecolors=(0, 0, 0, 0.4 * opacity),
    )


def _draw_scale(figure: SubFigure, axes: Axes, picture: Picture, scale: Scale) -> None:
    norm = (LogNorm if scale.logarithmic else Normalize)(*scale.limits)
    colours = ScalarMappable(norm, "viridis")
    _scatter(axes, picture, slice(None), colours.to_rgba(scale.values))
    bar = figure.colorbar(
        colours,
        ax=axes,
        fraction=0.05,
        ticks=scale.ticks if scale.logarithmic else MaxNLocator(integer=True, min_n_ticks=1),
        format="{x:,.0f}",
    )
    bar.minorticks_off()
    bar.set_label(scale.title, fontsize=SMALL_FONT)
    bar.ax.tick_params(labelsize=SMALL_FONT)


def _draw_families(figure: SubFigure, axes: Axes, picture: Picture, families: Families) -> None:
    groups = families.groups()
    for group in in_drawing_order(groups):
        _scatter(axes, picture, group.members, group.colour, MARKERS[group.marker])
    legend = figure.legend(
        [_handle(group) for group in groups],
        ["family"] * len(groups),
        loc="outside right upper",
        fontsize=SMALL_FONT,
        frameon=False,
        borderpad=0,
        labelspacing=0.3,
        handletextpad=0.2,
    )
    for text, group in zip(legend.get_texts(), groups, strict=True):
        text.set(text=group.label, parse_math=False)  # set now: the legend omits labels that begin with _


def _handle(group: Group) -> Line2D:
    return Line2D([], [], linestyle="", marker=MARKERS[group.marker], color=group.colour, markersize=5)
