"""Draw a picture as a PNG with matplotlib: 300 dots per inch, 180 mm wide (two columns of a journal)."""

from __future__ import annotations

import io
import warnings
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from protrna_cli.map.colouring import Families, Group, Scale, in_drawing_order
from protrna_cli.map.picture import Picture, point_size

SIZE_INCHES = (180 / 25.4, 125 / 25.4)
DOTS_PER_INCH = 300
MARKERS = {"circle": "o", "triangle": "^", "square": "s"}
SMALL_FONT, LARGE_FONT = 8, 11
"""Font sizes in points."""


def png(picture: Picture) -> bytes:
    """Draw a picture as a PNG; the same picture gives the same bytes."""
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    if isinstance(picture.colouring, Scale):
        _draw_scale(figure, axes, picture, picture.colouring)
    else:
        _draw_families(figure, axes, picture, picture.colouring)
    _frame(axes, picture)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box is drawn instead
        figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _frame(axes: Axes, picture: Picture) -> None:
    """Draw title, subtitle, notice and axis names; `$` does not start a formula."""
    lines = [picture.subtitle, *([picture.notice] if picture.notice else [])]
    height = 8 + 11 * len(lines)  # of the lines below the title, in points of 1/72 inch
    axes.set_title(
        picture.title, loc="left", fontsize=LARGE_FONT, fontweight="bold", pad=height + 3, parse_math=False
    )
    axes.annotate(
        "\n".join(lines),
        (0, 1),
        (0, height),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=SMALL_FONT,
        color="#444444",
        va="top",
        parse_math=False,
    )
    axes.set_xlabel(picture.projection.axes[0], fontsize=SMALL_FONT)
    axes.set_ylabel(picture.projection.axes[1], fontsize=SMALL_FONT)
    axes.tick_params(labelsize=SMALL_FONT)
    if not picture.projection.metric:
        axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)


def _scatter(axes: Axes, picture: Picture, members: Any, **look: Any) -> PathCollection:
    points = picture.projection.points[members]
    diameter = point_size(len(picture.rows)) / 2  # in points of 1/72 inch: two thirds of the size on the page
    return axes.scatter(
        points[:, 0], points[:, 1], s=diameter**2, linewidths=0.2, edgecolors="#00000060", **look
    )


def _draw_scale(figure: Figure, axes: Axes, picture: Picture, scale: Scale) -> None:
    norm = (LogNorm if scale.logarithmic else Normalize)(scale.values.min(), scale.values.max())
    drawn = _scatter(axes, picture, slice(None), c=scale.values, cmap="viridis", norm=norm)
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05)
    if scale.logarithmic:
        bar.set_ticks(scale.ticks, labels=[f"{tick:,}" for tick in scale.ticks])
        bar.minorticks_off()
    bar.set_label(scale.title, fontsize=SMALL_FONT)
    bar.ax.tick_params(labelsize=SMALL_FONT)


def _draw_families(figure: Figure, axes: Axes, picture: Picture, families: Families) -> None:
    groups = families.groups()
    for group in in_drawing_order(groups):
        _scatter(axes, picture, group.members, c=group.colour, marker=MARKERS[group.marker])
    handles = [_handle(group) for group in groups]
    legend = figure.legend(
        handles, ["family"] * len(groups), loc="outside right upper", fontsize=SMALL_FONT, frameon=False
    )
    for text, group in zip(legend.get_texts(), groups, strict=True):
        text.set(text=group.label, parse_math=False)  # set now: the legend omits labels that begin with _


def _handle(group: Group) -> Line2D:
    return Line2D([], [], linestyle="", marker=MARKERS[group.marker], color=group.colour, markersize=5)
