"""Draw a picture as an interactive, self-contained HTML page with Bokeh.

Of more than `MANY_POINTS`, those in view are drawn one by one if they are few; otherwise as an image of their
density, which the browser paints whenever the view changes: each pixel has the mean colour, or the colour of
the mean value, of its records, and is the more opaque the more they are, as in datashader. A record is a
square of four pixels.

WebGL is not used: without a graphics card, as on many a server or remote desktop, it takes ten times as long
for a few points, and seconds for many.

Ids, descriptions and families come from untrusted files: they are put into the page either as data, which
Bokeh shows as text, or escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh import models
from bokeh.embed import file_html
from bokeh.events import ValueSubmit
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, GlyphRenderer
from bokeh.palettes import Viridis256
from bokeh.plotting import figure
from bokeh.resources import INLINE

from protrna_cli.map.colouring import (
    MAX_LABEL_LENGTH,
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

MANY_POINTS = 20_000
"""Most points that are drawn one by one: more could not be moved without a wait."""
MAX_DESCRIPTION_LENGTH = 300
SIZES = {"triangle": 1.1, "diamond": 1.5, "star": 1.6}
"""Sizes for Bokeh of markers that look as large as a circle of size 1."""
LONG_LEGEND = 21
"""Entries of a legend with more than this are smaller, and in two columns."""

TOOLTIP = """
<div style="max-width: 420px; overflow-wrap: anywhere; font-size: 13px">
<b>@id</b> &ensp;@length{0,0} residues<br>%s@description
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
const found = source.selected.indices;
for (const renderer of new Set(found.map((i) => families[source.data.shade[i]]))) renderer.visible = true;
const bounds = (values) => {
    let [low, high] = [Infinity, -Infinity];
    for (const i of found) [low, high] = [Math.min(low, values[i]), Math.max(high, values[i])];
    return [(low + high) / 2, high - low];
};
const [[x, width], [y, height]] = [bounds(source.data.x), bounds(source.data.y)];
const unit = Math.max(1.2 * width / plot.inner_width, 1.2 * height / plot.inner_height, nearest);
for (const range of [plot.x_range, plot.y_range]) range.have_updated_interactively = true;
plot.x_range.setv({start: x - unit * plot.inner_width / 2, end: x + unit * plot.inner_width / 2});
plot.y_range.setv({start: y - unit * plot.inner_height / 2, end: y + unit * plot.inner_height / 2});
"""
"""Zooms to the records found, with the same scale on both axes; shows all records if none is found."""

MOST_SYMBOLS = 3000
"""Most records in view that are drawn one by one."""
SYMBOL_SIZE = 6.0
"""Diameter of their symbols in pixels."""

PAINT = """
const draw = () => {
    near.waits = false;
    const [w, h] = [plot.inner_width, plot.inner_height];
    if (!(w > 0 && h > 0)) return;
    const [x0, x1, y0, y1] = [plot.x_range.start, plot.x_range.end, plot.y_range.start, plot.y_range.end];
    const {x, y, shade} = source.data;
    const sums = new Float32Array(4 * w * h);
    const hidden = swatches.map((swatch) => !swatch.visible);
    const rgb = [16, 8, 0].map((shift) => palette.map((text) => parseInt(text.slice(1), 16) >> shift & 255));
    const last = palette.length - 1;
    const isScale = swatches.length === 0;
    const known = palette.map((_, s) => +(s < last));
    const parts = isScale ? [palette.map((_, s) => s % last), known, known] : rgb;
    const inside = [];
    const [perX, perY] = [w / (x1 - x0), h / (y1 - y0)];
    for (let i = 0; i < x.length; i++) {
        const [c, l, s] = [Math.floor((x[i] - x0) * perX), Math.floor((y[i] - y0) * perY), shade[i]];
        if (hidden[s] || c < 0 || l < 0 || c > w - 2 || l > h - 2) continue;
        inside.push(i);
        for (let k = 4 * (l * w + c), corner = 0; corner < 4; corner++, k += corner === 2 ? 4 * w - 4 : 4) {
            sums[k] += parts[0][s];
            sums[k + 1] += parts[1][s];
            sums[k + 2] += parts[2][s];
            sums[k + 3]++;
        }
    }
    const wanted = new Set(source.selected.indices);
    const few = inside.length <= most;
    const shown = wanted.size ? inside.filter((i) => wanted.has(i)).slice(0, most) : few ? inside : [];
    const pixels = new Uint8ClampedArray(4 * w * h);
    if (wanted.size || !few) {
        let top = 1;
        for (let k = 3; k < sums.length; k += 4) top = Math.max(top, sums[k]);
        for (let k = 0; k < sums.length; k += 4) {
            const count = sums[k + 3];
            if (!count) continue;
            const mean = sums[k + 1] ? Math.round(sums[k] / sums[k + 1]) : last;
            for (let c = 0; c < 3; c++) pixels[k + c] = isScale ? rgb[c][mean] : sums[k + c] / count;
            const least = isScale ? 0.8 : 0.5;
            const opacity = least + (1 - least) * Math.log1p(count) / Math.log1p(top);
            pixels[k + 3] = 255 * opacity * (wanted.size ? 0.25 : 1);
        }
    }
    const ndarray = image.data.image[0].constructor;
    const words = new Uint32Array(pixels.buffer);
    image.data = {image: [new ndarray(words, [h, w])], x: [x0], y: [y0], dw: [x1 - x0], dh: [y1 - y0]};
    const data = {};
    for (const name of Object.keys(near.data)) {
        const values = {fill: (i) => palette[shade[i]], marker: (i) => markers[shade[i]]}[name];
        data[name] = shown.map(values ?? ((i) => source.data[name][i]));
    }
    near.data = data;
};
if (!near.waits) {
    near.waits = true;
    requestAnimationFrame(draw);
}
"""
"""Draws what is in view at the next frame. `shade` is the place of a record's colour in the palette, and of
its family among the swatches of the legend; if there are no families it is a place on a scale, whose mean
over the records of a pixel is drawn, and the last colour is that of records without a value."""


def html(picture: Picture) -> str:
    """Draw a picture as an HTML page."""
    source = _data_source(picture)
    plot = _plot(picture)
    if isinstance(picture.colouring, Scale):
        families = _draw_scale(plot, source, picture.colouring)
    else:
        families = _draw_families(plot, source, picture.colouring)
    heading = models.Div(
        text=_heading(picture),
        disable_math=True,
        margin=(5, 5, 5, 5),
        styles={"overflow-wrap": "anywhere"},
        sizing_mode="stretch_width",
    )
    top = row(heading, _search_box(plot, source, families), sizing_mode="stretch_width")
    page = column(top, plot, sizing_mode="stretch_both")
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
            "colour": picture.colouring.labels(),
        }
    )


def _heading(picture: Picture) -> str:
    lines = [
        f'<b style="font-size: 17px">{escape(picture.title)}</b>',
        f'<span style="font-size: 14px">{escape(picture.subtitle)}</span>',
    ]
    if len(picture.rows) > MANY_POINTS:
        lines.append("Darker where there are more records; zoom in, or search, to see each of them")
    if picture.notice:
        lines.append(f'<span style="color: #A23B00">{escape(picture.notice)}</span>')
    return "<br>".join(lines)


def _plot(picture: Picture) -> Any:
    plot = figure(
        sizing_mode="stretch_both",
        min_height=420,
        match_aspect=True,
        toolbar_location="above",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        x_axis_label=picture.projection.axes[0],
        y_axis_label=picture.projection.axes[1],
    )
    plot.add_tools(models.HoverTool(tooltips=_tooltip(picture), point_policy="snap_to_data"))
    plot.toolbar.logo = None
    plot.grid.visible = False
    if not picture.projection.metric:
        plot.axis.ticker = []
    return plot


def _tooltip(picture: Picture) -> str:
    """Make the template of a record's tooltip; the title is text there, never a place to be filled."""
    title = escape(clipped(picture.colouring.title))
    for sign in "@$%{}":
        title = title.replace(sign, f"&#{ord(sign)};")
    is_shown = picture.colouring.title in ("id", "description", "length")
    return TOOLTIP % ("" if is_shown else f"{title}: <b>@colour</b><br>")


def _draw_records(plot: Any, source: ColumnDataSource, members: Any, **look: Any) -> GlyphRenderer[Any]:
    """Draw some records; those found by the search are opaque and get a dark edge."""
    count = len(source.data["x"])
    opacity = point_opacity(count)
    renderer: GlyphRenderer[Any] = plot.scatter(
        "x",
        "y",
        source=source,
        view=models.CDSView(filter=models.IndexFilter(members.tolist())),
        size=point_size(count) * SIZES.get(look.get("marker", ""), 1),
        fill_alpha="opacity",
        line_color="black",
        line_alpha=(0.4 if count <= 500 else 0.2) * opacity,  # edges of a dense cluster would hide its colour
        line_width=0.5,
        selection_fill_alpha=1.0,
        selection_line_alpha=1.0,
        selection_line_width=1.5,
        nonselection_fill_alpha=0.12 * opacity,
        nonselection_line_alpha=0.0,
        **look,
    )
    return renderer


def _draw_scale(plot: Any, source: ColumnDataSource, scale: Scale) -> list[GlyphRenderer[Any]]:
    """Draw records in the colours of a scale, and the scale; there are no families."""
    kind = models.LogColorMapper if scale.logarithmic else models.LinearColorMapper
    low, high = scale.limits
    mapper = kind(palette="Viridis256", low=low, high=high, nan_color=OTHER_COLOUR)
    if len(scale.values) > MANY_POINTS:
        source.data["shade"] = _shades(scale)
        palette = [*Viridis256, OTHER_COLOUR]
        plot.hover.renderers = [_draw_density(plot, source, palette, ["circle"] * len(palette))]
    else:
        source.data["value"] = scale.values
        known = np.isfinite(scale.values)
        for members in (~known, known):  # grey ones below
            if members.any():
                fill = {"field": "value", "transform": mapper}
                _draw_records(plot, source, np.flatnonzero(members), fill_color=fill)
    if scale.logarithmic:
        ticker = models.FixedTicker(ticks=scale.ticks)
    else:
        ticker = models.BasicTicker(min_interval=1) if scale.whole else models.BasicTicker()
    bar = models.ColorBar(
        title=clipped(scale.title),
        color_mapper=mapper,
        width=14,
        ticker=ticker,
        formatter=models.NumeralTickFormatter(format="0,0") if scale.whole else models.BasicTickFormatter(),
    )
    plot.add_layout(bar, "right")
    return []


def _shades(scale: Scale) -> npt.NDArray[np.uint16]:
    """Place of each record's colour among the 256 of the scale; the grey of one without a value is next."""
    change = np.log if scale.logarithmic else np.positive
    low, high = change(np.array(scale.limits))
    parts = (change(scale.values) - low) / (high - low)
    return np.where(np.isfinite(parts), np.clip(256 * parts, 0, 255), 256).astype(np.uint16)


def _draw_families(plot: Any, source: ColumnDataSource, families: Families) -> list[GlyphRenderer[Any]]:
    """Draw records by family, and the legend; returns what the legend hides, by the record's `shade`."""
    groups = families.groups()
    source.data["shade"] = np.zeros(len(families.names), np.uint16)
    for i, group in enumerate(groups):
        source.data["shade"][group.members] = i
    if len(families.names) > MANY_POINTS:
        renderers = _swatches_of(plot, groups)
        looks = [group.colour for group in groups], [group.marker for group in groups]
        plot.hover.renderers = [_draw_density(plot, source, *looks, renderers)]
    else:
        # Bokeh's legend shows a family as its first record is drawn: in its full colour.
        source.data["opacity"][[group.members[0] for group in groups]] = 1.0
        drawn = {
            group: _draw_records(plot, source, group.members, fill_color=group.colour, marker=group.marker)
            for group in in_drawing_order(groups)
        }
        renderers = [drawn[group] for group in groups]
    plot.add_layout(_legend(groups, renderers), "right")
    return renderers


def _draw_density(
    plot: Any,
    source: ColumnDataSource,
    palette: Sequence[str],
    markers: Sequence[str],
    swatches: Sequence[GlyphRenderer[Any]] = (),
) -> GlyphRenderer[Any]:
    """Draw the records of a source that has a column `shade`; returns what draws them one by one.

    Palette, markers and swatches are by shade. Swatches stand for families in the legend: records of those
    hidden are not drawn.
    """
    x, y = source.data["x"], source.data["y"]
    frame = plot.scatter([x.min(), x.max()], [y.min(), y.max()], alpha=0)
    plot.x_range.renderers = plot.y_range.renderers = [frame]  # not the image, which fills what is in view
    empty = np.zeros((1, 1), np.uint32)
    image = ColumnDataSource({"image": [empty], "x": [0.0], "y": [0.0], "dw": [1.0], "dh": [1.0]})
    plot.image_rgba("image", "x", "y", "dw", "dh", source=image)
    near = ColumnDataSource({name: [] for name in [*source.data, "fill", "marker"] if name != "shade"})
    renderer: GlyphRenderer[Any] = plot.scatter(
        "x",
        "y",
        source=near,
        size=SYMBOL_SIZE,
        marker="marker",
        fill_color="fill",
        line_color="black",
        line_alpha=0.4,
        line_width=0.5,
    )
    given = {
        "plot": plot,
        "source": source,
        "image": image,
        "near": near,
        "palette": list(palette),
        "markers": list(markers),
        "swatches": list(swatches),
        "most": MOST_SYMBOLS,
    }
    paint = models.CustomJS(args=given, code=PAINT)
    for axis_range in (plot.x_range, plot.y_range):
        for end in ("start", "end"):
            axis_range.js_on_change(end, paint)
    for name in ("inner_width", "inner_height"):
        plot.js_on_change(name, paint)
    for swatch in swatches:
        swatch.js_on_change("visible", paint)
    source.selected.js_on_change("indices", paint)
    return renderer


def _swatches_of(plot: Any, groups: Sequence[Group]) -> list[GlyphRenderer[Any]]:
    """Make a renderer for each family that draws nothing, for the legend to show and to hide."""
    nowhere = ColumnDataSource({"x": [np.nan], "y": [np.nan]})
    return [
        plot.scatter("x", "y", source=nowhere, fill_color=group.colour, marker=group.marker, line_alpha=0.4)
        for group in groups
    ]


def _legend(groups: list[Group], renderers: list[GlyphRenderer[Any]]) -> models.Legend:
    """Make a legend, in the order of the groups, a click in which hides a family."""
    is_long = len(groups) > LONG_LEGEND
    small: dict[str, Any] = {"label_text_font_size": "11px", "glyph_height": 18, "label_height": 14}
    items = [
        models.LegendItem(
            label={"value": clipped(group.label, MAX_LABEL_LENGTH // 2) if is_long else group.label},
            renderers=[renderer],
        )
        for group, renderer in zip(groups, renderers, strict=True)
    ]
    look = {**small, "ncols": 2, "spacing": 1} if is_long else {}
    return models.Legend(items=items, title="Click to hide or show", click_policy="hide", **look)


def _search_box(plot: Any, source: ColumnDataSource, families: list[GlyphRenderer[Any]]) -> Any:
    box = models.TextInput(placeholder="Search ids; press Enter to zoom to matches", width=300)
    count = models.Div(text="", width=110, margin=(14, 5, 5, 5))
    search = models.CustomJS(args={"input": box, "source": source, "count": count}, code=SEARCH)
    # Smallest axis units per pixel when zooming: a single record is shown in a tenth of the whole map.
    x, y = source.data["x"], source.data["y"]
    nearest = float(max(np.ptp(x), np.ptp(y))) / 10 / 800
    given = {"plot": plot, "source": source, "families": families, "nearest": nearest}
    box.js_on_change("value_input", search)
    box.js_on_event(ValueSubmit, models.CustomJS(args=given, code=JUMP))
    return row(count, box)
