"""Draw very many points on a page: where there are few, each of them; elsewhere an image of their density.

The browser paints the image of what is in view, whenever that changes: each pixel has the mean colour, or the
colour of the mean value, of its records, and is the more opaque the more they are, as in datashader. A record
is a square of four pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, CustomJS, GlyphRenderer

from protrna_cli.map.colouring import Group

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


def draw_density(
    plot: Any,
    source: ColumnDataSource,
    palette: Sequence[str],
    markers: Sequence[str],
    swatches: Sequence[GlyphRenderer[Any]] = (),
) -> GlyphRenderer[Any]:
    """Draw the records of a source that has a column `shade`.

    Parameters
    ----------
    palette, markers
        Colours and symbols, by shade.
    swatches
        Renderers that stand for families in the legend, by shade; records of those hidden are not drawn.

    Returns
    -------
    GlyphRenderer
        Draws the records that are drawn one by one.
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
    paint = CustomJS(args=given, code=PAINT)
    for axis_range in (plot.x_range, plot.y_range):
        for end in ("start", "end"):
            axis_range.js_on_change(end, paint)
    for name in ("inner_width", "inner_height"):
        plot.js_on_change(name, paint)
    for swatch in swatches:
        swatch.js_on_change("visible", paint)
    source.selected.js_on_change("indices", paint)
    return renderer


def swatches_of(plot: Any, groups: Sequence[Group]) -> list[GlyphRenderer[Any]]:
    """Make a renderer for each family that draws nothing, for the legend to show and to hide."""
    nowhere = ColumnDataSource({"x": [np.nan], "y": [np.nan]})
    return [
        plot.scatter("x", "y", source=nowhere, fill_color=group.colour, marker=group.marker, line_alpha=0.4)
        for group in groups
    ]
