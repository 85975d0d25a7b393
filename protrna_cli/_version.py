"""The version of this package."""

from __future__ import annotations


def version() -> str:
    """Read the version from the installed package's metadata."""
    from importlib.metadata import version as installed  # slow to import, and rarely needed

    return installed("protrna-cli")
