"""What `protrna verify` finds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protrna_cli import embed_fasta
from protrna_cli.output.paths import skipped_path
from tests.conftest import SAMPLE, Run
from tests.tools.runs import OPTIONS


def damage_row(index: Path, out: Path) -> None:
    index.write_text(index.read_text().replace("r5\t", "r6\t"))


def lose_row(index: Path, out: Path) -> None:
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:-1]))


def spoil_value(index: Path, out: Path) -> None:
    array = np.load(out, mmap_mode="r+")
    array[3, 3] = np.inf
    array.flush()


def forget_skipped(index: Path, out: Path) -> None:
    skipped_path(out).unlink()


def list_too_many(index: Path, out: Path) -> None:
    with skipped_path(out).open("a") as file:
        file.write("in.fa\t2\tr1\t3\t0\tno reason\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_row, "row 5 (id 'r6'): its id is 'r6', but should be 'r5'"),
        (lose_row, "have no row"),
        (spoil_value, "row 4 (id 'r4'): its embedding is not finite"),
        (forget_skipped, "record 1 (id 'r0'): has no row, but is not listed"),
        (list_too_many, "lists record 2 (id 'r1'), which has a row"),
    ],
)
def test_verify_finds_what_is_wrong(
    tmp_path: Path, source: Path, run: Run, damage: Callable[[Path, Path], None], words: str
) -> None:
    out = tmp_path / "out.npy"
    embed_fasta(source, out, OPTIONS)
    assert run("verify", out, source).code == 0
    damage(out.with_name("out.npy.index.tsv"), out)
    outcome = run("verify", out, source)
    assert outcome.code == 65
    assert words in outcome.err


def test_verify_wants_the_same_input(tmp_path: Path, source: Path, run: Run) -> None:
    out = tmp_path / "out.npy"
    embed_fasta(source, out, OPTIONS)
    outcome = run("verify", out, SAMPLE)
    assert outcome.code == 65
    assert "its SHA-256 differs" in outcome.err
    assert len(outcome.err.splitlines()) <= 21
