"""The public names of the package."""

import subprocess
import sys

import protrna_cli
from tests.cli.test_main import HEAVY

PUBLIC = [
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
"""Whoever takes one away breaks a program."""


def test_the_public_names_are_listed_and_there() -> None:
    """`import *` leaves out those for which scikit-learn or TensorFlow is imported."""
    assert set(dir(protrna_cli)) - set(protrna_cli.__all__) == {"Embedder", "LoadedModel"}
    assert sorted(protrna_cli.__all__) == PUBLIC
    for name in dir(protrna_cli):
        assert getattr(protrna_cli, name) is not None


def test_star_needs_neither_scikit_learn_nor_tensorflow() -> None:
    script = """
import sys
sys.modules["sklearn"] = sys.modules["tensorflow"] = None
from protrna_cli import *
print(embed_fasta.__name__, issubclass(RunMismatch, ProtrnaError))
import protrna_cli
try:
    protrna_cli.Embedder
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "embed_fasta True",
        "Embedder needs scikit-learn; run pip install scikit-learn",
    ]


def test_listing_the_names_imports_nothing_heavy() -> None:
    script = (
        f"import sys, protrna_cli; names = dir(protrna_cli); print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
