"""ProtRNA embeddings of RNA sequences, from the command line and from Python.

>>> from protrna_cli import embed, load_model
>>> model = load_model("demo")
>>> embed(["GGGGCCCC", "ACGU"], model).shape
(2, 320)

The published interface:

>>> batch_converter = model.alphabet.get_batch_converter()
>>> results = model(batch_converter(["GGGGCCCC"]), repr_layers=[6])
>>> results["representations"][6].shape
TensorShape([1, 10, 320])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protrna_cli.api.estimator import Embedder as Embedder
    from protrna_cli.api.files import embed_fasta, read_embeddings
    from protrna_cli.api.loaded import LoadedModel as LoadedModel
    from protrna_cli.api.memory import embed, embed_iter
    from protrna_cli.api.models import load_model, load_pretrained_model
    from protrna_cli.errors import (
        InputError,
        InputUnreadable,
        Interrupted,
        MissingExtra,
        NotFinite,
        OutOfMemory,
        OutputBusy,
        OutputUnwritable,
        ProtrnaError,
        RunMismatch,
        Stopped,
        SystemLimit,
        TensorFlowUnusable,
        UsageError,
        WeightsError,
        WorkersLost,
        WriteFailed,
    )
    from protrna_cli.model.alphabet import Alphabet, BatchConverter
    from protrna_cli.output.embeddings import Embedding, Embeddings
    from protrna_cli.plan.rules import Rules
    from protrna_cli.plan.shard import Shard
    from protrna_cli.run.options import EmbedOptions

_HOMES = {
    "api.estimator": ["Embedder"],
    "api.files": ["embed_fasta", "read_embeddings"],
    "api.loaded": ["LoadedModel"],
    "api.memory": ["embed", "embed_iter"],
    "api.models": ["load_model", "load_pretrained_model"],
    "model.alphabet": ["Alphabet", "BatchConverter"],
    "output.embeddings": ["Embedding", "Embeddings"],
    "plan.rules": ["Rules"],
    "plan.shard": ["Shard"],
    "run.options": ["EmbedOptions"],
}
"""Modules and their public names; the others of these are errors."""

__all__ = [
    "Alphabet",
    "BatchConverter",
    "EmbedOptions",
    "Embedding",
    "Embeddings",
    "InputError",
    "InputUnreadable",
    "Interrupted",
    "MissingExtra",
    "NotFinite",
    "OutOfMemory",
    "OutputBusy",
    "OutputUnwritable",
    "ProtrnaError",
    "Rules",
    "RunMismatch",
    "Shard",
    "Stopped",
    "SystemLimit",
    "TensorFlowUnusable",
    "UsageError",
    "WeightsError",
    "WorkersLost",
    "WriteFailed",
    "__version__",
    "embed",
    "embed_fasta",
    "embed_iter",
    "load_model",
    "load_pretrained_model",
    "read_embeddings",
]

_ON_REQUEST = ["Embedder", "LoadedModel"]
"""Names that `import *` leaves out: scikit-learn and TensorFlow are imported for them."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `protrna --help` must not wait for NumPy or TensorFlow."""
    if name == "__version__":
        from protrna_cli.text import version

        return version()
    if name not in __all__ and name not in _ON_REQUEST:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = next((home for home, names in _HOMES.items() if name in names), "errors")
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    """List the public names, which `__getattr__` imports; nothing is imported here."""
    return sorted([*__all__, *_ON_REQUEST])
