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
    "Alphabet": "protrna_cli.model.alphabet",
    "BatchConverter": "protrna_cli.model.alphabet",
    "EmbedOptions": "protrna_cli.run.options",
    "Embedder": "protrna_cli.api.estimator",
    "Embedding": "protrna_cli.output.embeddings",
    "Embeddings": "protrna_cli.output.embeddings",
    "LoadedModel": "protrna_cli.api.loaded",
    "Rules": "protrna_cli.plan.rules",
    "Shard": "protrna_cli.plan.shard",
    "embed": "protrna_cli.api.memory",
    "embed_fasta": "protrna_cli.api.files",
    "embed_iter": "protrna_cli.api.memory",
    "load_model": "protrna_cli.api.models",
    "load_pretrained_model": "protrna_cli.api.models",
    "read_embeddings": "protrna_cli.api.files",
}
"""Where public names are; the others of them are errors."""

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

    return getattr(import_module(_HOMES.get(name, "protrna_cli.errors")), name)


def __dir__() -> list[str]:
    """List the public names, which `__getattr__` imports; nothing is imported here."""
    return sorted([*__all__, *_ON_REQUEST])
