"""Check what would be published: build it, look into it, install it elsewhere, run it. Nothing is published.

The site is built as well, in which a broken link is an error.

    python -m tests.tools.release
    python -m tests.tools.release newest lowest tensorflow-cpu

The wheel is installed in an environment of its own, outside of the repository, and every command is run
there: with the newest versions of what it needs, with the lowest that `pyproject.toml` allows, or with
`tensorflow-cpu` as the manual says. The programs that this calls come with the extra `release`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from protrna_cli.cli.main import protrna
from tests.conftest import ROOT, SAMPLE
from tests.test_manual import block
from tests.tools import site

ENVIRONMENTS = {
    "newest": "uv pip install -q .",
    "lowest": "uv pip install -q . --resolution lowest-direct",
    "tensorflow-cpu": block("bash", "--override"),
}
"""How the wheel, here `.`, is installed."""

COMMANDS = """\
protrna --version
protrna embed rna_families.fa -o families.parquet --model demo
protrna info families.parquet
protrna verify families.parquet rna_families.fa
protrna convert families.parquet -o families.h5
protrna verify families.h5 rna_families.fa
protrna embed rna_families.fa -o all.parquet --model demo --shard 1/2
protrna embed rna_families.fa -o all.parquet --model demo --shard 2/2
protrna merge all.1-of-2.parquet all.2-of-2.parquet -o all.parquet
protrna verify all.parquet rna_families.fa
protrna weights list
protrna doctor
protrna help install
protrna cite
"""

REFUSED = {
    "protrna map families.parquet -o map.html": 'pip install "protrna-cli[plot]"',
    "protrna weights path": "run protrna weights fetch",
}
"""Commands that need more than such an environment has, and what they say to do."""


def call(*words: object, folder: Path = ROOT) -> None:
    """Run one of the tools; it has to succeed. uv installs into `folder/venv`."""
    print("+", shlex.join(map(str, words)), flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "VIRTUAL_ENV": str(folder / "venv")}
    subprocess.run([str(word) for word in words], cwd=folder, env=env, check=True)


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source distribution, and the wheel from it; returns both."""
    call(sys.executable, "-m", "build", "-q", "--installer=uv", "--outdir", folder)
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def compare(sdist: Path, wheel: Path) -> None:
    """Check that both hold all their files, and that the repository gives the same wheel, byte for byte."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {name for name in listed.splitlines() if not name.startswith(".")}
    pages = {name for name in listed.splitlines() if name.startswith(".github/man/")}
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert packed - {"PKG-INFO"} == files | pages, packed ^ (files | pages)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {name for name in files if name.startswith("protrna_cli/")}
    package |= {name.replace(".github/man", f"{wheel.stem.rsplit('-', 3)[0]}.data/data") for name in pages}
    assert packed == package, packed ^ package
    again = wheel.parent / "again"
    call(sys.executable, "-m", "build", "-q", "--installer=uv", "--wheel", "--outdir", again)
    assert (again / wheel.name).read_bytes() == wheel.read_bytes()


def examine(sdist: Path, wheel: Path) -> None:
    """Have other people's programs look at the metadata and the files."""
    call("validate-pyproject", "pyproject.toml")
    call("twine", "check", "--strict", sdist, wheel)
    call("check-wheel-contents", wheel)
    call("pyroma", "--min", "10", "--skip-tests", "AuthorEmail", sdist)  # the authors share no address


def install(wheel: Path, how: str, folder: Path) -> None:
    """Install the wheel in a new environment in `folder/venv`."""
    call("uv", "venv", "-q", "--python", sys.executable, "venv", folder=folder)
    call("bash", "-euc", re.sub(r"(?<= )\.(?=\s|$)", str(wheel), how), folder=folder)


def try_out(folder: Path) -> None:
    """Run every command of the installed wheel in `folder`, which has nothing else but the sample."""
    tried = {line.split()[1] for line in [*COMMANDS.splitlines(), *REFUSED]}
    assert tried >= set(protrna.commands), set(protrna.commands) - tried
    assert (folder / "venv" / "share" / "man" / "man1" / "protrna-embed.1").exists()
    (folder / SAMPLE.name).write_bytes(SAMPLE.read_bytes())
    for line in COMMANDS.splitlines():
        done = run(line, folder)
        assert done.returncode == 0, done.stderr
    for line, remedy in REFUSED.items():
        done = run(line, folder)
        assert done.returncode == 69, done
        assert remedy in done.stderr, done


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed wheel, which sees nothing of the repository."""
    print("+", line, flush=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PROTRNA_HOME": str(folder / "home"), "PROTRNA_OFFLINE": "1"}
    name, *words = shlex.split(line)
    command = [folder / "venv" / "bin" / name, *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def main() -> None:
    """Build, examine, install and try out."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.release", description=main.__doc__)
    names = ", ".join(ENVIRONMENTS)
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", default=["newest"], help=names)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        site.build(Path(name) / "site")
        sdist, wheel = build(Path(name))
        compare(sdist, wheel)
        examine(sdist, wheel)
        for environment in arguments.environments:
            folder = Path(name) / environment
            folder.mkdir()
            install(wheel, ENVIRONMENTS[environment], folder)
            try_out(folder)


if __name__ == "__main__":
    main()
