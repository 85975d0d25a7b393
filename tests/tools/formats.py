"""Output formats, by the names that tests are parametrized with."""

from __future__ import annotations

from pathlib import Path

from protrna_cli.output.files import Format, choose_format


def named(name: str, h5_layout: str = "flat") -> Format:
    """Find a format by its name; the layout is only for HDF5."""
    return choose_format(Path("out"), name, h5_layout, exports=True)
