"""The public names of the package."""

import subprocess
import sys

import protrna_cli
from tests.cli.test_main import HEAVY


def test_the_public_names_are_listed_and_there() -> None:
    assert dir(protrna_cli) == sorted(protrna_cli.__all__)
    assert {"EmbedOptions", "embed_fasta", "load_model", "__version__"} <= set(dir(protrna_cli))
    for name in dir(protrna_cli):
        assert getattr(protrna_cli, name) is not None


def test_listing_the_names_imports_nothing_heavy() -> None:
    script = (
        f"import sys, protrna_cli; names = dir(protrna_cli); print(*sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
