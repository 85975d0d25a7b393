"""The image, built and run as the manual says, but on a base that stands in for the public one.

No registry of images is asked: the base is made from Debian's packages by debootstrap.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta, read_embeddings
from protrna_cli.text import version
from tests.conftest import ROOT, SAMPLE, TOY, Outcome
from tests.test_manual import block

TOOLS = ("podman", "runc", "debootstrap")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.containers,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: Debian's packages of these names"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may run debootstrap"),
]

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Of this machine, for one that reaches Debian and PyPI through a proxy of its own."""

RUN_WITH = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
"""For a root who may not raise these limits."""


class Podman:
    """Podman with images of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        store = ["--root", str(folder / "images"), "--runroot", str(folder / "run")]
        machine = ["--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
        self._command = ["podman", *store, *machine]

    def __call__(self, *words: str) -> Outcome:
        done = subprocess.run([*self._command, *words], capture_output=True, text=True, timeout=3000)
        return Outcome(done.returncode, done.stdout, done.stderr)

    def checked(self, *words: str) -> str:
        outcome = self(*words)
        assert outcome.code == 0, outcome.err
        return outcome.out

    def of_the_manual(self, words: str, **replaced: str) -> list[str]:
        """Words of a command of the manual, with these words replaced."""
        script = block("bash", words).replace("\\\n", " ")
        for old, new in {"$(id -u):$(id -g)": "12345:12345", **replaced}.items():
            script = script.replace(old, new)
        command, *found = shlex.split(script)
        assert command == "podman"
        return found


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """A Podman that has the image, built by the command of the manual on the base that stands in."""
    folder = tmp_path_factory.mktemp("podman")
    podman = Podman(folder)
    try:
        make_base(folder / "base", podman)
        build, *rest = podman.of_the_manual("podman build")
        arguments = {"BASE": "localhost/base", "VERSION": version()}
        given = [word for name, text in arguments.items() for word in ("--build-arg", f"{name}={text}")]
        podman.checked(build, "--isolation", "chroot", *given, *rest[:-1], str(ROOT))
        yield podman
    finally:
        shutil.rmtree(folder)  # several GB, which pytest would keep


def make_base(folder: Path, podman: Podman) -> None:
    """Make an image of Debian with Python."""
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", packages, "bookworm", folder],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=1800,
    )
    shutil.copy(CERTIFICATES, folder / CERTIFICATES.relative_to("/"))
    (folder / "etc" / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
    subprocess.run(["tar", "-C", folder, "-cf", f"{folder}.tar", "."], check=True)
    podman.checked("import", f"{folder}.tar", "localhost/base")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder for any user, with an input."""
    folder = tmp_path / "work"
    folder.mkdir()
    folder.chmod(0o777)
    shutil.copy(SAMPLE, folder / "input.fa")
    return folder


def run_words(podman: Podman, work: Path, *added: str) -> list[str]:
    """The manual's command that runs the image, with the golden checkpoints as the folder of weights."""
    run, *rest = podman.of_the_manual("podman run", **{"$PWD": str(work), "/shared/protrna": str(TOY.parent)})
    return [run, *RUN_WITH, *rest, *added]


def test_what_is_in_the_image(podman: Podman, record_property: Any) -> None:
    [image] = json.loads(podman.checked("image", "inspect", "protrna"))
    config = image["Config"]
    assert config["User"] == "1000:1000"
    assert list(config["Volumes"]) == ["/weights"]
    assert "PROTRNA_HOME=/weights" in config["Env"]
    assert config["WorkingDir"] == "/data"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == version()
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    record_property("bytes", image["Size"])
    assert image["Size"] < 2.5e9
    script = "for each in gcc cc g++ make; do ! command -v $each; done; ls /weights /src"
    outcome = podman("run", "--rm", "--network", "none", *RUN_WITH, "protrna", "sh", "-c", script)
    assert (outcome.out, outcome.err) == (
        "/weights:\n",
        "ls: cannot access '/src': No such file or directory\n",
    )


def test_the_run_of_the_manual_gives_the_numbers_of_a_run_outside(podman: Podman, work: Path) -> None:
    words = run_words(podman, work, "--model", "demo")
    assert {"--read-only", "none", "12345:12345"} <= set(words)
    outcome = podman(*words)
    assert outcome.code == 0, outcome.err
    assert "46 records" in outcome.err.splitlines()[-1]
    assert sorted(path.name for path in work.iterdir()) == ["input.fa", "out.parquet"]
    assert (work / "out.parquet").stat().st_uid == 12345

    first = words.index("embed")
    verified = podman(*words[:first], "verify", "out.parquet", "input.fa")
    assert (verified.code, verified.err) == (0, "protrna: out.parquet: complete\n")
    embed_fasta(work / "input.fa", work / "outside.parquet", EmbedOptions(model="demo"))
    inside, outside = (read_embeddings(work / name) for name in ("out.parquet", "outside.parquet"))
    assert inside.ids == outside.ids
    np.testing.assert_allclose(inside.vectors, outside.vectors, rtol=0, atol=1e-4)


def test_a_checkpoint_in_the_read_only_folder_of_weights(podman: Podman, work: Path) -> None:
    outcome = podman(*run_words(podman, work, "--model", "/weights/toy.h5"))
    assert outcome.code == 0, outcome.err
    assert len(outcome.err.splitlines()) == 1
    outcome = podman(*run_words(podman, work, "--overwrite", "--offline"))
    assert outcome.code == 69
    assert "the published weights are not at /weights/ProtRNA_pretrained.h5" in outcome.err


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ([], "Usage: protrna"),
        (["--version"], f"protrna, version {version()}\n"),
        (["protrna", "--version"], f"protrna, version {version()}\n"),
        (["/bin/bash", "-uec", "protrna --version"], f"protrna, version {version()}\n"),
        (["bash", "-c", "ps --version"], "ps from procps"),
    ],
)
def test_words_of_protrna_and_programs(podman: Podman, words: list[str], printed: str) -> None:
    """Nextflow and Galaxy run a shell, and Nextflow needs ps."""
    outcome = podman("run", "--rm", "--network", "none", *RUN_WITH, "protrna", *words)
    assert (outcome.code, outcome.out[: len(printed)]) == (0, printed)
