"""What is refused whatever the rules are, because no rule can make residues of it; and what only looks so."""

import gzip
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from protrna_cli.errors import InputError
from protrna_cli.fasta import census as census_module
from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.records import read_from, read_inputs, read_sequences
from protrna_cli.fasta.sources import open_sources
from protrna_cli.plan.rules import Rules


def read_all(text: str, fasta: Callable[[str], Path], **rules: Any) -> list[Any]:
    """Read a FASTA text under rules."""
    with open_sources([fasta(text)]) as sources:
        return list(read_inputs(sources, Rules(**rules), []))


LENIENT = [{"on_invalid": "unknown", "gaps": "unknown"}, {"on_invalid": "skip", "gaps": "remove"}, {}]


@pytest.mark.parametrize("rules", LENIENT)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">a\nACGU>b\nGGCC\n", "record 1 (id 'a'), line 2: a header inside a line; is a newline missing"),
        (">a\nACGU\nAC>b x\nGG\n", "line 3: a header inside a line"),
        (">a\nACGU>b len<500\nGGCC\n", "line 2: a header inside a line"),
        (">a\nACGU\n;comment\nGG\n>b\nA\n", "line 3: a comment"),
        (">a\n# comment\nGG\n", "line 2: a comment"),
        (">a\n....\n;123\n", "line 3: a comment"),
        (">a\n....\n\0\0\n", "line 3: a NUL byte"),
        (">a\nACGU\n\0>b\nGG\n\0", "line 3: a NUL byte, as between the records of an MMseqs2 database"),
        (">a\nACGUACGU\n........\n", "line 3: looks like dot-bracket structure"),
        (">a\nACGUACGU\n,,,,____\n>b\nA\n", "line 3: looks like dot-bracket structure"),
        (">a\nACGU\r\n....\r\n", "line 3: looks like dot-bracket structure"),
    ],
)
def test_lines_that_are_never_residues(
    fasta: Callable[[str], Path], text: str, message: str, rules: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as refused:
        read_all(text, fasta, **rules)
    assert message in str(refused.value)


def test_lines_of_gaps_only_stay_gaps(fasta: Callable[[str], Path]) -> None:
    text = ">a\n----\nAC-U\n~~~~\n"
    assert [record.sequence for record in read_all(text, fasta, gaps="remove")] == ["acu"]
    assert [record.length for record in read_all(text, fasta, gaps="unknown")] == [12]


def test_a_mark_in_the_middle_of_joined_files_is_left_out(fasta: Callable[[str], Path]) -> None:
    text = "\ufeff>a x\nAC\n\ufeff>b y\nGG\n\ufeff>c\n\ufeffUU\n"
    records = read_all(text, fasta, on_invalid="unknown")
    assert [(r.id, r.description, r.sequence) for r in records] == [
        ("a", "x", "ac"),
        ("b", "y", "gg"),
        ("c", "", "uu"),
    ]
    with open_sources([fasta(text)]) as sources:
        again = list(read_from(sources, Rules(), records[1].start))
    assert [record.id for record in again] == ["b", "c"]


def test_a_program_passes_no_header_inside_a_sequence() -> None:
    with pytest.raises(InputError, match=r"sequences: record 2 \(id '2'\): a header inside a line"):
        list(read_sequences([("1", "", "ACGU"), ("2", "", "AC>x")], Rules(on_invalid="unknown")))


def test_ids_end_at_ascii_white_space_only(fasta: Callable[[str], Path]) -> None:
    records = read_all(">a\u00a0b\u3000c d\u00a0e\nACGU\n> \tx\fy\nAC\n", fasta)
    assert [(r.id, r.description) for r in records] == [("a\u00a0b\u3000c", "d\u00a0e"), ("x", "y")]


def test_mostly_unknown_records_are_noted(fasta: Callable[[str], Path]) -> None:
    text = ">rna\nACGUN\n>peptide\nMKTAGVSDHRCWYNAIBX\n>other\nNNA\n"
    with open_sources([fasta(text)]) as sources:
        census = take_census(sources, Rules(on_invalid="unknown")).census
    assert (
        census.note()
        == "record 'peptide', and 1 more like it: most residues are unknown; is this RNA or DNA?"
    )


def test_equal_hashes_of_ids_do_not_refuse_an_input(
    fasta: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Colliding(str):
        def __hash__(self) -> int:
            return 7

    monkeypatch.setattr(
        census_module, "rows_of", lambda record, *_, **__: [SimpleNamespace(id=Colliding(record.id))]
    )
    with open_sources([fasta(">a\nA\n>b\nC\n")]) as sources:
        items = list(census_module._checking_unique_ids(read_inputs(sources, Rules(), []), sources, Rules()))
    assert len(items) == 2


# Compression.


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def test_what_parallel_zstd_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.fa.zst"
    frame = zstd(b">a\nACGU\n")
    path.write_bytes(b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size" + frame)
    with open_sources([path]) as sources:
        assert [record.sequence for record in read_inputs(sources, Rules(), [])] == ["acgu"]


def test_bytes_behind_gzip_data_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.fa.gz"
    path.write_bytes(gzip.compress(b">a\nACGU\n") + b"rubbish")
    with open_sources([path]) as sources, pytest.raises(InputError) as refused:
        list(read_inputs(sources, Rules(), []))
    assert f"with other bytes behind its end; use: gzip -dc {path} | protrna embed -" in str(refused.value)
    path.write_bytes(gzip.compress(b">a\nACGU\n") + bytes(512))
    with open_sources([path]) as sources:
        assert len(list(read_inputs(sources, Rules(), []))) == 1


def test_a_large_window_of_zstd_is_named(tmp_path: Path) -> None:
    """A frame whose header asks for 2 GiB (RFC 8878, 3.1.1.1.2), as `zstd --long=31` writes."""
    path = tmp_path / "in.fa.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes([0x00, (31 - 10) << 3]) + b"\x01\x00\x00")
    with open_sources([path]) as sources, pytest.raises(InputError) as refused:
        list(read_inputs(sources, Rules(), []))
    assert f"use: zstd -dc --long=31 {path} | protrna embed -" in str(refused.value)


@pytest.mark.parametrize("header", ["@HD\tVN:1.6", "@RG\tID:1", "@PG\tID:bwa", "@CO\tmade by"])
def test_sam_is_not_called_fastq(fasta: Callable[[str], Path], header: str) -> None:
    with pytest.raises(InputError, match=r"it looks like SAM; .*samtools fasta"):
        read_all(f"{header}\nr1\t0\t*\n", fasta)
