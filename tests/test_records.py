"""FASTA to records: what is read, and what is refused with its place."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli.errors import InputError, InputUnreadable
from protrna_cli.records import Record, read_records, take_census
from tests.conftest import ROOT, SAMPLE

Fasta = Callable[[str], Path]


def read(*paths: Path) -> list[Record]:
    return list(read_records(paths, take_census(paths)))


def test_header_and_letters_are_taken_apart(fasta: Fasta) -> None:
    path = fasta(">one  first of two\nacgu\nTTNN\n\n>two\nRYSWKMBDHVNXI\n")
    assert read(path) == [
        Record(0, "one", "first of two", "acguuuxx", 2),
        Record(1, "two", "", "x" * 13, 13),
    ]


def test_several_files_follow_one_another(tmp_path: Path, fasta: Fasta) -> None:
    (tmp_path / "b.fa").write_text(">b\nC\n")
    records = read(fasta(">a\nA\n"), tmp_path / "b.fa")
    assert [(r.index, r.id) for r in records] == [(0, "a"), (1, "b")]


def test_the_census_counts(fasta: Fasta) -> None:
    census = take_census([fasta(f">a\nACGN\n>b\n{'A' * 511}\n")])
    assert (census.n_records, census.n_residues, census.n_unknown) == (2, 515, 1)
    assert (census.longest, census.n_long) == (511, 1)


@given(
    st.lists(st.text("ACGUTNacgutn", min_size=1, max_size=200), min_size=1, max_size=8), st.integers(1, 80)
)
def test_wrapping_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, sequences: list[str], width: int
) -> None:
    path = tmp_path_factory.mktemp("wrapped") / "in.fa"
    with path.open("w") as file:
        for i, sequence in enumerate(sequences):
            lines = [sequence[at : at + width] for at in range(0, len(sequence), width)]
            print(f">{i}", *lines, sep="\n", file=file)
    expected = [s.lower().replace("t", "u").replace("n", "x") for s in sequences]
    assert [record.sequence for record in read(path)] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            ">a\nACGU\n>b x\nAC\nG*U\n",
            r"in\.fa: record 2 \(id 'b'\), line 5, residue 4: '\*' is no letter of RNA or DNA",
        ),
        (">a\nAC-GU\n", r"record 1 \(id 'a'\), line 2, residue 3: '-'"),
        (">a\nAC\n\n>b\nMKTAYIE\n", r"record 2 \(id 'b'\), line 5, residue 7: 'E'"),
        (">a\n>b\nA\n", r"record 1 \(id 'a'\), line 1: no residues"),
        ("", "no FASTA record in it"),
    ],
)
def test_what_is_no_rna_is_refused_with_its_place(fasta: Fasta, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        take_census([fasta(text)])


def test_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.fa", tmp_path):
        with pytest.raises(InputUnreadable, match="cannot be read"):
            take_census([path])


def test_a_file_that_changed_since_the_census_is_an_error(fasta: Fasta) -> None:
    path = fasta(">a\nACGU\n")
    census = take_census([path])
    path.write_text(">a\nACGG\n")
    with pytest.raises(InputError, match="changed while it was being read"):
        list(read_records([path], census))


def test_the_samples_are_clean() -> None:
    records = read(SAMPLE, ROOT / "sample_data" / "readme.fa")
    assert len({record.id for record in records}) == len(records) == 49
    assert all("family=" in record.description for record in records[:46])
    assert not any(record.n_unknown for record in records)
