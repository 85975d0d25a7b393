"""Draw a picture as an interactive, self-contained HTML page with Bokeh on WebGL.

Ids, descriptions and families come from untrusted files: they are put into the page either as data, which
Bokeh shows as text, or escaped.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from bokeh.embed import file_html
from bokeh.events import ValueSubmit
from bokeh.layouts import column, row
from bokeh.models import (
    BasicTicker,
    CDSView,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    Div,
    FixedTicker,
    GlyphRenderer,
    HoverTool,
    IndexFilter,
    Legend,
    LegendItem,
    LinearColorMapper,
    LogColorMapper,
    NumeralTickFormatter,
    TextInput,
)
from bokeh.plotting import figure
from bokeh.resources import INLINE

from protrna_cli.map.colouring import Families, Scale, clipped, in_drawing_order
from protrna_cli.map.picture import Picture, point_opacity, point_size

MAX_DESCRIPTION_LENGTH = 300

TOOLTIP = """
<div style="max-width: 420px; overflow-wrap: anywhere; font-size: 13px">
<b>@id</b> &ensp;@length{0,0} residues<br>@description
</div>
"""

SEARCH = """
const wanted = input.value_input.trim().toLowerCase();
const found = [];
if (wanted) source.data.id.forEach((id, i) => { if (id.toLowerCase().includes(wanted)) found.push(i); });
source.selected.indices = found;
count.text = wanted ? found.length.toLocaleString("en") + (found.length === 1 ? " record" : " records") : "";
"""
"""Selects the records whose id contains the typed text; Bokeh fades the others."""

JUMP = """
if (!source.selected.indices.length) return plot.reset.emit();
const found = new Set(source.selected.indices);
for (const renderer of plot.renderers)
    if (renderer.view.filter.indices.some((i) => found.has(i))) renderer.visible = true;
const bounds = (values) => {
    let [low, high] = [Infinity, -Infinity];
    for (const i of found) [low, high] = [Math.min(low, values[i]), Math.max(high, values[i])];
    return [(low + high) / 2, high - low];
};
const [[x, width], [y, height]] = [bounds(source.data.x), bounds(source.data.y)];
const unit = Math.max(1.2 * width / plot.inner_width, 1.2 * height / plot.inner_height, nearest);
plot.x_range.setv({start: x - unit * plot.inner_width / 2, end: x + unit * plot.inner_width / 2});
plot.y_range.setv({start: y - unit * plot.inner_height / 2, end: y + unit * plot.inner_height / 2});
"""
"""Zooms to the records found, with the same scale on both axes; shows all records if none is found."""


def html(picture: Picture) -> str:
    """Draw a picture as an HTML page."""
    source = _data_source(picture)
    plot = _plot(picture)
    if isinstance(picture.colouring, Scale):
        _draw_scale(plot, source, picture.colouring)
    else:
        _draw_families(plot, source, picture.colouring)
    heading = Div(
        text=_heading(picture),
        disable_math=True,
        margin=(10, 5, 5, 5),
        styles={"overflow-wrap": "anywhere"},
    )
    page = column(heading, _search_box(plot, source, picture), plot, sizing_mode="stretch_both")
    text: str = file_html(page, INLINE, title=picture.title)
    return text


def _data_source(picture: Picture) -> ColumnDataSource:
    points = picture.projection.points
    return ColumnDataSource(
        {
            "x": points[:, 0],
            "y": points[:, 1],
            "id": [row.id for row in picture.rows],
            "description": [clipped(row.description, MAX_DESCRIPTION_LENGTH) for row in picture.rows],
            "opacity": np.full(len(points), point_opacity(len(points)), np.float32),
            "length": np.array([row.length for row in picture.rows], np.int32),
        }
    )


def _heading(picture: Picture) -> str:
    lines = [
        f'<b style="font-size: 17px">{escape(picture.title)}</b>',
        f'<span style="font-size: 14px">{escape(picture.subtitle)}</span>',
    ]
    if picture.notice:
        lines.append(f'<span style="color: #A23B00">{escape(picture.notice)}</span>')
    return "<br>".join(lines)


def _plot(picture: Picture) -> Any:
    plot = figure(
        output_backend="webgl",
        sizing_mode="stretch_both",
        min_height=420,
        match_aspect=True,
        toolbar_location="above",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        x_axis_label=picture.projection.axes[0],
        y_axis_label=picture.projection.axes[1],
    )
    plot.add_tools(HoverTool(tooltips=TOOLTIP, point_policy="snap_to_data"))
    plot.toolbar.logo = None
    plot.grid.visible = False
    if not picture.projection.metric:
        plot.axis.ticker = []
    return plot


def _draw_records(plot: Any, source: ColumnDataSource, members: Any, **look: Any) -> GlyphRenderer[Any]:
    """Draw some records; those found by the search are opaque and get a dark edge."""
    count = len(source.data["x"])
    opacity = point_opacity(count)
    renderer: GlyphRenderer[Any] = plot.scatter(
        "x",
        "y",
        source=source,
        view=CDSView(filter=IndexFilter(members.tolist())),
        size=point_size(count),
        fill_alpha="opacity",
        line_color="black",
        line_alpha=0.4 * opacity,
        line_width=0.5,
        selection_fill_alpha=1.0,
        selection_line_alpha=1.0,
        selection_line_width=1.5,
        nonselection_fill_alpha=0.12 * opacity,
        nonselection_line_alpha=0.0,
        **look,
    )
    return renderer


def _draw_scale(plot: Any, source: ColumnDataSource, scale: Scale) -> None:
    source.data["value"] = scale.values
    kind = LogColorMapper if scale.logarithmic else LinearColorMapper
    low, high = scale.limits
    mapper = kind(palette="Viridis256", low=low, high=high)
    everything = np.arange(len(scale.values))
    _draw_records(plot, source, everything, fill_color={"field": "value", "transform": mapper})
    ticker = FixedTicker(ticks=scale.ticks) if scale.logarithmic else BasicTicker(min_interval=1)
    bar = ColorBar(
        title=scale.title,
        color_mapper=mapper,
        width=14,
        ticker=ticker,
        formatter=NumeralTickFormatter(format="0,0"),
    )
    plot.add_layout(bar, "right")


def _draw_families(plot: Any, source: ColumnDataSource, families: Families) -> None:
    groups = families.groups()
    # Bokeh's legend shows a family as its first record is drawn: in its full colour.
    source.data["opacity"][[group.members[0] for group in groups]] = 1.0
    renderers = {
        group: _draw_records(plot, source, group.members, fill_color=group.colour, marker=group.marker)
        for group in in_drawing_order(groups)
    }
    items = [LegendItem(label={"value": group.label}, renderers=[renderers[group]]) for group in groups]
    legend = Legend(items=items, title="Click to hide or show", click_policy="hide")
    plot.add_layout(legend, "right")


def _search_box(plot: Any, source: ColumnDataSource, picture: Picture) -> Any:
    box = TextInput(placeholder="Search ids; press Enter to zoom to matches", width=300)
    count = Div(text="", width=160, margin=(14, 5, 5, 5))
    search = CustomJS(args={"input": box, "source": source, "count": count}, code=SEARCH)
    # Smallest axis units per pixel when zooming: a single record is shown in a tenth of the whole map.
    nearest = float(np.ptp(picture.projection.points, axis=0).max()) / 10 / 800
    jump = CustomJS(args={"plot": plot, "source": source, "nearest": nearest}, code=JUMP)
    box.js_on_change("value_input", search)
    box.js_on_event(ValueSubmit, jump)
    return row(box, count)
