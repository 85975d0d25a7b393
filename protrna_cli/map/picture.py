"""Content of a picture, independent of the library that draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from protrna_cli.map import METHODS
from protrna_cli.map.colouring import COLOURS, Colouring, Families, clipped
from protrna_cli.map.projection import Projection
from protrna_cli.output.rows import Header
from protrna_cli.plan.rows import Row
from protrna_cli.text import counted

SMALLEST_SYMBOL = 5.0
"""Diameter in pixels of 1/96 inch of the smallest points whose symbols can be told apart, as seen by eye."""
MANY_POINTS = 20_000
"""Most points that a page draws one by one: more could not be moved without a wait."""
POOLING_NAMES = {"mean": "mean of residues", "max": "maximum of residues", "cls": "<cls> token"}


@dataclass(frozen=True)
class Picture:
    """A picture to be drawn.

    Attributes
    ----------
    title, subtitle, notice
        Its name, how the picture was made, and a warning about the data (may be empty).
    rows
        The N records.
    projection, colouring
        Positions and colours of their points.
    """

    title: str
    subtitle: str
    notice: str
    rows: list[Row]
    projection: Projection
    colouring: Colouring

    @property
    def notes(self) -> list[str]:
        """Notes on what the picture does not distinguish."""
        notes = self.colouring.notes()
        if self.uses_symbols and point_size(len(self.rows)) < SMALLEST_SYMBOL:
            notes.append(
                f"{len(COLOURS)} colours, which repeat with another symbol, and points too small to tell "
                "symbols apart; hover over a point of an .html map, or hide families in its legend"
            )
        return notes

    @property
    def uses_symbols(self) -> bool:
        """Whether families have the same colour, and differ by their symbols."""
        return isinstance(self.colouring, Families) and len({*self.colouring.names} - {None}) > len(COLOURS)


def subtitle(header: Header, layer: int, method: str, colouring: Colouring) -> str:
    """Describe how a picture was made."""
    provenance = header.provenance
    return " · ".join(
        [
            counted(header.n_rows, "record"),
            f"layer {layer}",
            POOLING_NAMES[provenance["pooling"]],
            METHODS[method],
            f"model {Path(provenance['model']['name']).name}",
            f"colour: {clipped(colouring.title)}",
        ]
    )


def point_size(count: int) -> float:
    """Diameter of a point in pixels of 1/96 inch, such that `count` points can be distinguished."""
    return min(max(250 / math.sqrt(count), 2.5), 10.0)


def point_opacity(count: int) -> float:
    """Opacity of a point, 0 to 1, such that among `count` points those below others show through."""
    return min(max(math.sqrt(2000 / count), 0.5), 1.0)
