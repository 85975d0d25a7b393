"""Full, limited, read-only and removed folders: an error with its code, and a run that can be resumed."""

import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protrna_cli import embed_fasta
from protrna_cli.errors import OutputUnwritable, WriteFailed
from protrna_cli.output.files import partial_path
from protrna_cli.run.report import Stop
from protrna_cli.run.verify import find_flaws
from tests.conftest import TOY, Run
from tests.tools.kill import content
from tests.tools.runs import OPTIONS, RUN_KINDS, command


def limited(bytes_: int) -> Callable[[], None]:
    """Limit the size of the files that a child process may write."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.npy", "out.parquet", "out.h5"])
def test_a_file_size_limit_ends_with_74_and_is_resumed(tmp_path: Path, run: Run, name: str) -> None:
    """1,600 vectors of 40 float32 are 256,000 bytes, but only 100,000 bytes may be written."""
    rng = np.random.default_rng(2)
    source = tmp_path / "in.fa"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 20))}\n" for i in range(1600)))
    words = ["embed", source, "-o", tmp_path / name, "--model", TOY, "-q"]
    done = subprocess.run(
        command(*words), preexec_fn=limited(100_000), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 74, done.stderr
    [line] = done.stderr.splitlines()
    assert "File too large" in line
    assert "--resume" in line
    assert not (tmp_path / name).exists()
    assert run(*words, "--resume").code == 0
    assert find_flaws(tmp_path / name, [source]) == []


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_is_an_error_and_the_run_is_resumed(
    tmp_path: Path, source: Path, small_disk: Path
) -> None:
    """Another program fills the disk during the run, and then frees it again."""
    embed_fasta(source, tmp_path / "alone", replace(OPTIONS, per_token=True))
    target = small_disk / "out"
    options = replace(OPTIONS, per_token=True, resume=True)
    hog = small_disk / "hog"

    class FillsTheDisk(Stop):
        def check(self) -> None:
            if (partial_path(target) / "journal").exists() and not hog.exists():
                with hog.open("wb", buffering=0) as file:
                    while shutil.disk_usage(small_disk).free > 40_000 and file.write(bytes(4096)):
                        pass

    with pytest.raises(WriteFailed, match="No space left on device"):
        embed_fasta(source, target, options, stop=FillsTheDisk())
    assert not target.exists()
    hog.unlink()
    assert embed_fasta(source, target, options).n_resumed >= 0
    assert content(target) == content(tmp_path / "alone")


def test_an_output_that_cannot_fit_is_refused_at_the_start(
    tmp_path: Path, small_disk: Path, run: Run
) -> None:
    rng = np.random.default_rng(2)
    source = tmp_path / "in.fa"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 200))}\n" for i in range(20)))
    outcome = run("embed", source, "-o", small_disk / "out.npy", "--per-token", "--model", "demo", "-q")
    assert outcome.code == 73
    assert "needs 4.9 MiB, but only 1.0 MiB are free" in outcome.err
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize(("format", "h5_layout"), [kind for kind in RUN_KINDS if kind[0] != "npy"])
def test_a_disk_that_fills_while_the_output_is_made(
    tmp_path: Path, small_disk: Path, run: Run, format: str, h5_layout: str
) -> None:
    """All records are embedded, but there is no space for the final output; with more space it is written."""
    rng = np.random.default_rng(2)
    source, out = tmp_path / "in.fa", small_disk / "out"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 200))}\n" for i in range(20)))
    layout = ["--format", format, "--h5-layout", h5_layout, "--per-token"]
    words = ["embed", source, "-o", out, *layout, "--model", TOY]
    outcome = run(*words)
    assert outcome.code == 74
    note, error = outcome.err.splitlines()
    assert (
        "is made from out.partial at the end; together they need up to 1.2 MiB, but only 1.0 MiB are free"
        in note
    )
    assert "No space left on device" in error
    assert not out.exists()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    outcome = run(*words, "--resume")
    assert outcome.code == 0
    assert "resumed" in outcome.err
    assert find_flaws(out, [source]) == []


def test_a_read_only_folder_is_73(source: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputUnwritable, match="Read-only file system"):
        embed_fasta(source, small_disk / "out", OPTIONS)


def test_a_folder_that_is_removed_is_74(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    class Vanish(Stop):
        def check(self) -> None:
            if partial_path(folder / "out").exists():
                shutil.rmtree(folder)

    with pytest.raises(WriteFailed, match="No such file or directory"):
        embed_fasta(source, folder / "out", OPTIONS, stop=Vanish())
