"""What `protrna verify` finds."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from protrna_cli import embed_fasta
from protrna_cli.output.files import skipped_path
from protrna_cli.output.rows import Block, Header, Values
from protrna_cli.output.stored import open_output
from protrna_cli.plan.pieces import Row
from protrna_cli.run.verify import find_flaws
from tests.conftest import GOLDEN, SAMPLE, Run
from tests.tools.formats import named
from tests.tools.runs import OPTIONS, RUN_KINDS


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


LETTERS = ["ACGUACGUACGUACGU", "GGCCUUAAGGCCUUAA", "UUGACAGCUAUGACCA", "CCCCGGGGAAAAUUUU"]
"""Records of one length, so that only their MD5 tells them apart."""


def write_records(path: Path, letters: list[str]) -> Path:
    path.write_text("".join(f">r{i}\n{each}\n" for i, each in enumerate(letters)))
    return path


def rows_of_output(path: Path) -> tuple[Header, list[Row], Values]:
    stored = open_output(path)
    [block] = stored.blocks()
    return stored.header, block.rows, np.array(block.values[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An output and another run's, with their inputs: same ids and lengths, other letters in record 1."""
    folder = tmp_path_factory.mktemp("made")
    changed = [LETTERS[0], "GGCCUUAAGGCCUUAG", *LETTERS[2:]]
    for name, letters in (("one", LETTERS), ("other", changed)):
        embed_fasta(write_records(folder / f"{name}.fa", letters), folder / f"{name}.npy", OPTIONS)
    return {each.name: each for each in folder.iterdir()}


Tamper = Callable[[list[Row], Values, list[Row], Values], None]


def exchange_rows(rows: list[Row], values: Values, other_rows: list[Row], other_values: Values) -> None:
    rows[1], rows[2] = rows[2], rows[1]
    values[[1, 2]] = values[[2, 1]]


def exchange_records(rows: list[Row], values: Values, other_rows: list[Row], other_values: Values) -> None:
    rows[1], rows[2] = replace(rows[2], id=rows[1].id), replace(rows[1], id=rows[2].id)
    values[[1, 2]] = values[[2, 1]]


def rename(rows: list[Row], values: Values, other_rows: list[Row], other_values: Values) -> None:
    rows[1] = replace(rows[1], id="renamed")


def take_row_of_other_run(
    rows: list[Row], values: Values, other_rows: list[Row], other_values: Values
) -> None:
    rows[1], values[1] = other_rows[1], other_values[1]


def md5(letters: str) -> str:
    return hashlib.md5(letters.replace("U", "T").encode()).hexdigest()


def other_sequence(row: int, found: str, correct: str) -> str:
    return (
        f"row {row + 1} (id 'r{row}'): its md5 is '{md5(found)}', but should be '{md5(correct)}'; "
        "it is the row of another sequence"
    )


@pytest.mark.parametrize(("format", "layout"), [*RUN_KINDS, ("h5ad", "flat")])
@pytest.mark.parametrize(
    ("tamper", "flaws"),
    [
        (exchange_rows, ["row 2 (id 'r2'): its id is 'r2', but should be 'r1'"]),
        (
            exchange_records,
            [other_sequence(1, LETTERS[2], LETTERS[1]), other_sequence(2, LETTERS[1], LETTERS[2])],
        ),
        (rename, ["row 2 (id 'renamed'): its id is 'renamed', but should be 'r1'"]),
        (take_row_of_other_run, [other_sequence(1, "GGCCUUAAGGCCUUAG", LETTERS[1])]),
    ],
)
def test_a_row_of_another_record_is_named_in_every_format(
    tmp_path: Path, made: dict[str, Path], format: str, layout: str, tamper: Tamper, flaws: list[str]
) -> None:
    """Checksums are computed anew, as if the rows had always been so; all lengths agree."""
    header, rows, values = rows_of_output(made["one.npy"])
    tamper(rows, values, *rows_of_output(made["other.npy"])[1:])
    named(format, layout).write(tmp_path / "out", header, [Block(rows, [values])])
    found = find_flaws(tmp_path / "out", [made["one.fa"]])
    assert set(flaws) <= set(found), found
    assert not any("checksum" in flaw for flaw in found)


@pytest.mark.parametrize(("format", "layout"), RUN_KINDS)
def test_a_letter_changed_in_the_input_is_named(
    tmp_path: Path, made: dict[str, Path], run: Run, format: str, layout: str
) -> None:
    header, rows, values = rows_of_output(made["one.npy"])
    named(format, layout).write(tmp_path / "out", header, [Block(rows, [values])])
    assert run("verify", tmp_path / "out", made["one.fa"]).code == 0
    done = run("verify", tmp_path / "out", made["other.fa"])
    assert done.code == 65
    assert done.err.splitlines()[:2] == [
        "protrna: the input is not the one that the output was made from: its SHA-256 differs",
        f"protrna: {other_sequence(1, LETTERS[1], 'GGCCUUAAGGCCUUAG')}",
    ]


@pytest.mark.parametrize("ending", ["parquet", "h5", "npy"])
def test_outputs_of_version_0_1_are_verified_without_md5(tmp_path: Path, run: Run, ending: str) -> None:
    """They are read and converted as well, and do not get a column that they never had."""
    old, fasta = GOLDEN / f"outputs-0.1.{ending}", GOLDEN / "outputs-0.1.fa"
    assert run("verify", old, fasta).code == 0
    for target in ("out.parquet", "out.npy", "out.h5", "out.h5ad"):
        assert run("convert", old, "-o", tmp_path / target).code == 0
        stored = open_output(tmp_path / target)
        assert [(row.id, row.n_unknown, row.md5) for block in stored.blocks() for row in block.rows] == [
            ("r1", 0, ""),
            ("r2", 1, ""),
            ("r3", 0, ""),
        ]
        assert "md5" not in stored.header.row_columns
        assert run("verify", tmp_path / target, fasta).code == 0
    with h5py.File(tmp_path / "out.h5") as flat:
        assert flat.attrs["model_name"] == "toy.h5 layer 3 mean"
