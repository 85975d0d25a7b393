"""The manual: one Markdown page a topic, which `protrna help` shows without a network.

A page begins with its title, and its first paragraph is its summary.
"""

from __future__ import annotations

from importlib.resources import files

TOPICS = (
    *("start", "install", "inputs", "long-records", "regions", "outputs", "reading", "neighbours"),
    *("python", "pytorch", "options", "precision", "speed", "benchmarks", "resume", "reuse", "shards"),
    *("slurm", "workflows", "dask", "containers", "weights", "pictures", "exit-codes", "citing"),
)
"""Every topic, in reading order."""


def page(topic: str) -> str:
    """Return the Markdown of a topic."""
    return (files(__name__) / f"{topic}.md").read_text(encoding="utf-8")


def summary(topic: str) -> str:
    """Return the line that says what a topic is about."""
    return page(topic).split("\n\n")[1]
