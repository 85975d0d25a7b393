"""Records under the rules: every record is read or skipped, and none is lost."""

import bz2
import gzip
import hashlib
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli.errors import InputError, InputUnreadable, UsageError
from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.records import Record, Skipped, rows_of
from protrna_cli.fasta.sources import Source, open_sources
from protrna_cli.plan import pieces
from protrna_cli.plan.pieces import cost
from protrna_cli.plan.rules import DEFAULT_RULES, GAPS, LONG, ON_INVALID, Region, Regions, Rules
from protrna_cli.plan.shard import WHOLE, Shard
from tests.conftest import ROOT, SAMPLE

Fasta = Callable[[str], Path]


def read(*paths: Path, rules: Rules = DEFAULT_RULES) -> list[Record | Skipped]:
    sources = [Source(str(path), path) for path in paths]
    return list(take_census(sources, rules).records(WHOLE, 1))


def test_header_and_letters_are_taken_apart(fasta: Fasta) -> None:
    assert read(
        fasta(">one  first of two\nacgu\nTTNN\n\n>two\nRYSWKMBDHVNXI\n> three\nA\n>\tfour x\nA\n>\nA\n")
    ) == [
        Record(1, "one", "first of two", "acguuuxx", 2),
        Record(2, "two", "", "x" * 13, 13),
        Record(3, "three", "", "a", 0),
        Record(4, "four", "x", "a", 0),
        Record(5, "", "", "a", 0),
    ]


def test_several_files_follow_one_another(tmp_path: Path, fasta: Fasta) -> None:
    (tmp_path / "b.fa").write_text(">b\nC\n")
    records = read(fasta(">a\nA\n"), tmp_path / "b.fa")
    assert [(r.number, r.id) for r in records if isinstance(r, Record)] == [(1, "a"), (1, "b")]


def test_the_census_counts(fasta: Fasta) -> None:
    path = fasta(f">a\nACGN\n>b\n{'A' * 511}\n>c\nacgn\n>d\n*\n>e\n{'C' * 510}\n")
    census = take_census([Source("in", path)], Rules(on_invalid="skip")).census
    assert (census.n_records, census.n_skipped, census.n_residues, census.n_unknown) == (4, 1, 1029, 2)
    assert (census.n_long, census.n_distinct, census.longest, census.longest_id) == (1, 3, 511, "b")


@pytest.mark.parametrize(
    ("on_invalid", "gaps", "letters", "expected"),
    [
        ("unknown", "error", "AC*GUE", "acxgux"),
        ("error", "remove", "A-C.G~U", "acgu"),
        ("error", "unknown", "A-C.G~U", "axcxgxu"),
        ("unknown", "remove", "-A*-", "ax"),
    ],
)
def test_rules_allow_what_would_be_an_error(
    fasta: Fasta, on_invalid: str, gaps: str, letters: str, expected: str
) -> None:
    [record] = read(fasta(f">a\n{letters}\n"), rules=Rules(on_invalid, gaps))
    assert record == Record(1, "a", "", expected, expected.count("x"))


@pytest.mark.parametrize(
    ("rules", "letters", "dna"),
    [
        (Rules(), "acgu\nTTNN ry\n", "ACGTTTNNRY"),  # RNA or DNA, in any case; IUPAC codes stay
        (Rules(), "XI", "XI"),
        (Rules(gaps="remove"), "A-C.G~UN", "ACGTN"),
        (Rules(gaps="unknown"), "A-C.G~U", "ANCNGNT"),
        (Rules(on_invalid="unknown"), "AC*GUE", "ACNGTN"),
        (Rules(long="truncate", max_length=4), "ACGUACGU", "ACGTACGT"),  # of the record, not of the piece
        (Rules(skip_unknown=True), "ACGUN", "ACGTN"),
    ],
)
def test_a_row_has_the_md5_of_its_dna(fasta: Fasta, rules: Rules, letters: str, dna: str) -> None:
    [record] = read(fasta(f">a\n{letters}\n"), rules=rules)
    assert isinstance(record, Record)
    assert [row.md5 for row in rows_of(record, rules, False)] == [hashlib.md5(dna.encode()).hexdigest()]


@pytest.mark.parametrize(("letters", "dna"), [("ACGUACGU", "GTA"), ("ACGRACGN", "GRA")])
def test_a_region_has_the_md5_of_its_own_residues(fasta: Fasta, letters: str, dna: str) -> None:
    rules = Rules(regions=Regions("in.bed", "", {"a": [Region("middle", 2, 5, 1)]}))
    [record] = read(fasta(f">a\n{letters}\n"), rules=rules)
    assert isinstance(record, Record)
    of_region, of_record = rows_of(record, rules, False), rows_of(record, rules, True)
    assert [row.md5 for row in of_region] == [hashlib.md5(dna.encode()).hexdigest()]
    assert [row.md5 for row in of_record] == [hashlib.md5(letters.replace("U", "T").encode()).hexdigest()]


def test_skipped_records_say_where_and_why(fasta: Fasta) -> None:
    path = fasta(f">good\nACGU\n>empty\n>bad x\nAC\nG*\n>long\n{'A' * 511}\n>p\nMEEPQSDPSVEPPLSQE\n")
    items = read(path, rules=Rules(on_invalid="skip", long="skip"))
    assert items == [
        Record(1, "good", "", "acgu", 0),
        Skipped(str(path), 2, "empty", 3, 0, "no residues"),
        Skipped(str(path), 3, "bad", 6, 4, "'*' is not an RNA or DNA letter"),
        Skipped(str(path), 4, "long", 7, 0, "511 residues, longer than 510"),
        Skipped(str(path), 5, "p", 10, 2, "'E' is not an RNA or DNA letter; the record looks like protein"),
    ]


LETTERS = st.text("ACGUTNacgutnRY-~*E", max_size=40)


@given(
    records=st.lists(LETTERS, min_size=1, max_size=8),
    width=st.integers(1, 50),
    on_invalid=st.sampled_from(ON_INVALID),
    gaps=st.sampled_from(GAPS),
    long=st.sampled_from(LONG),
    max_length=st.integers(2, 30),
)
def test_written_and_skipped_are_all_that_was_read(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[str],
    width: int,
    on_invalid: str,
    gaps: str,
    long: str,
    max_length: int,
) -> None:
    """Every record comes out once and in order, as residues or skipped, or the first error is raised."""
    path = tmp_path_factory.mktemp("any") / "in.fa"
    with path.open("w") as file:
        for i, letters in enumerate(records):
            print(
                f">{i}",
                *(letters[at : at + width] for at in range(0, len(letters), width)),
                sep="\n",
                file=file,
            )
    rules = Rules(on_invalid, gaps, long, max_length)
    expected = [expected_residues(letters, rules) for letters in records]
    if "error" in expected or all(each == "skip" for each in expected):
        with pytest.raises(InputError):
            read(path, rules=rules)
        return
    items = read(path, rules=rules)
    assert [item.id for item in items] == [str(i) for i in range(len(records))]
    assert ["skip" if isinstance(item, Skipped) else item.sequence for item in items] == expected


def expected_residues(letters: str, rules: Rules) -> str:
    """Apply the rules to a record letter by letter. Returns its residues, `skip` or `error`."""
    out = ""
    bad = False
    for letter in letters.upper():
        if letter in "-.~":
            if rules.gaps == "error":
                return "error"
            out += {"remove": "", "unknown": "x"}[rules.gaps]
        elif letter in "*E":
            bad |= rules.on_invalid != "unknown"
            out += "x"
        else:
            out += {"T": "u", "N": "x", "R": "x", "Y": "x"}.get(letter, letter.lower())
    if bad or not out:
        return "skip" if rules.on_invalid == "skip" else "error"
    if len(out) > rules.max_length and rules.long in ("error", "skip"):
        return rules.long
    return out


def test_a_file_that_changed_since_the_census_is_an_error(fasta: Fasta) -> None:
    path = fasta(">a\nACGU\n")
    sources = [Source("in.fa", path)]
    counted = take_census(sources, DEFAULT_RULES)
    path.write_text(">a\nACGG\n")
    with pytest.raises(InputError, match="changed while it was being read"):
        list(counted.records(WHOLE, 1))


STORED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd, byte-order mark": lambda data: bytes(
        pa.compress(b"\xef\xbb\xbf" + data, codec="zstd", asbytes=True)
    ),
}


@given(
    files=st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(["", " ü€ x", " plain"]), LETTERS), min_size=1, max_size=20),
            st.sampled_from(list(STORED)),
            st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
            st.integers(1, 50),
        ),
        min_size=1,
        max_size=3,
    ),
    count=st.integers(1, 7),
    chunks_a_shard=st.integers(1, 5),
    most=st.integers(1, 6),
)
def test_a_slice_read_from_its_mark_is_the_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[tuple[str, str]], str, str, int]],
    count: int,
    chunks_a_shard: int,
    most: int,
) -> None:
    """Compare with cutting the whole input, including lines and places of skipped records."""
    folder = tmp_path_factory.mktemp("any")
    for i, (items, stored, newline, width) in enumerate(files):
        text = ""
        for number, (description, letters) in enumerate([*items, ("", "ACGU")]):
            lines = [letters[at : at + width] for at in range(0, len(letters), width)]
            text += newline.join([f">{number}{description}", *lines, ""])
        (folder / f"{i}.fa").write_bytes(STORED[stored](text.encode()))
    rules = Rules(on_invalid="skip", gaps="remove", max_length=9)
    with pytest.MonkeyPatch.context() as patch, open_sources(sorted(folder.iterdir())) as sources:
        patch.setattr(pieces, "CHUNK_RECORDS", most)
        patch.setattr(pieces, "CHUNK_RESIDUES", 60)
        patch.setattr(pieces, "CHUNKS_A_SHARD", chunks_a_shard)
        counted = take_census(sources, rules)
        census, whole = counted.census, list(counted.records(WHOLE, 8))
        cut = list(pieces.into_chunks(whole))
        assert [mark.start for mark in census.marks] == [chunk[0].start for chunk in cut]
        costs = [cost(item.length, rules, 8) for item in whole]
        slices = [list(counted.records(Shard(i, count), 8)) for i in range(1, count + 1)]
    assert [item for each in slices for item in each] == whole
    assert [item.start for each in slices for item in each] == [item.start for item in whole]
    groups = cut if len(cut) >= chunks_a_shard * count else [[item] for item in whole]
    done = 0
    for group in groups:  # a group belongs to the shard that contains its middle
        group_cost = sum(cost(item.length, rules, 8) for item in group)
        middle = 2 * min(done, sum(costs) - 1) + group_cost
        shard = min(count, middle * count // (2 * sum(costs)) + 1)
        assert {item.start for item in group} <= {item.start for item in slices[shard - 1]}
        done += group_cost


def test_a_slice_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of a plain file reads its slice and little more."""
    path = tmp_path / "in.fa"
    path.write_text("".join(f">r{i}\n{'ACGU' * 25}\n" for i in range(40_000)))
    count = 20
    read: list[int] = []

    class Counted(Source):
        def lines(self, digest: Any = None, start: int = 0) -> Iterator[str]:
            for line in super().lines(digest, start):
                read.append(len(line))
                yield line

    sources = [Counted(str(path), path)]
    monkeypatch.setattr(pieces, "CHUNK_RECORDS", 200)
    monkeypatch.setattr(pieces, "CHUNK_RESIDUES", 1 << 20)
    monkeypatch.setattr(pieces, "CHUNKS_A_SHARD", 5)
    counted = take_census(sources, DEFAULT_RULES)
    read.clear()
    slice_ = list(counted.records(Shard(11, count), 320))
    assert [item.id for item in slice_] == [f"r{i}" for i in range(20_000, 22_000)]
    assert sum(read) < 1.3 * path.stat().st_size / count


def test_a_slice_of_a_file_that_changed_since_the_census_is_an_error(fasta: Fasta) -> None:
    path = fasta(">a\nACGU\n>b\nACGU\n")
    sources = [Source("in.fa", path)]
    counted = take_census(sources, DEFAULT_RULES)
    path.write_text(">a\nACGG\n>b\nACGUU\n")
    with pytest.raises(InputError, match="changed while it was being read"):
        list(counted.records(Shard(2, 2), 320))
    path.unlink()
    with pytest.raises(InputUnreadable, match="No such file"):
        list(counted.records(Shard(2, 2), 320))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((1, None), "--max-length 1 is too short"),
        ((10, 0), "--overlap 0 must be at least 1"),
        ((10, 10), "less than"),
    ],
)
def test_bad_window_sizes_are_refused(numbers: tuple[int, int | None], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Rules(max_length=numbers[0], overlap=numbers[1])


def test_the_samples_are_clean() -> None:
    records = [item for item in read(SAMPLE, ROOT / "sample_data" / "readme.fa") if isinstance(item, Record)]
    assert len({record.id for record in records}) == len(records) == 49
    assert all("family=" in record.description for record in records[:46])
    assert not any(record.n_unknown for record in records)
