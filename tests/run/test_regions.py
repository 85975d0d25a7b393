"""Which residues a row covers: regions, means without unknown residues, and two outputs from one run."""

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.errors import OutputUnwritable, ProtrnaError, RunMismatch, Stopped
from protrna_cli.fasta.bed import parse_bed, read_bed
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.output.files import partial_path, shard_path, skipped_path
from protrna_cli.output.make import merge
from protrna_cli.output.stored import open_output
from protrna_cli.plan.rules import Region, Regions, Rules
from protrna_cli.plan.shard import Shard
from protrna_cli.run.verify import find_flaws
from tests.conftest import Run
from tests.output.test_formats import KINDS, joined
from tests.run.test_embed import (
    TOY,
    expected_residues,
    joined_reference,
    random_sequence,
    read,
    write_fasta,
)
from tests.tools.cases import slow_except
from tests.tools.formats import named
from tests.tools.kill import content, write_input
from tests.tools.runs import StopAfter

SEQUENCES = ["acguxxacgu", random_sequence(200), "ggccaaxx", "acguxxacgu"]
BED = """\
browser position chr1:1-100
track name="parts" description="of s0"
# id, start, end, name; further columns are not read
s1\t150\t200\t3'UTR\t0\t+\t0\t0\t0

s0\t0\t5\thead
s1\t0\t90\tCDS
s3\t3\t10\ttail/%
s0\t2\t10\ttail
"""
REGIONS = {
    "s0": [("head", 0, 5), ("tail", 2, 10)],
    "s1": [("3'UTR", 150, 200), ("CDS", 0, 90)],
    "s3": [("tail/%", 3, 10)],
}
LONG = {"max_length": 60, "overlap": 20}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "in.fa", SEQUENCES)


@pytest.fixture
def bed(tmp_path: Path) -> Path:
    path = tmp_path / "parts.bed"
    path.write_text(BED)
    return path


def residues_of(sequence: str) -> Any:
    """Residue vectors (L, D) of a record, in float64; long records in windows of 60."""
    return joined_reference(sequence, 60, 20) if len(sequence) > 60 else expected_residues([sequence])[0]


def known(sequence: str) -> Any:
    return np.array([letter != "x" for letter in sequence])


NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="#"), min_size=1, max_size=9)
LINES = st.tuples(NAMES.filter(lambda name: name not in ("track", "browser")), st.integers(0, 10**9),
                  st.integers(1, 10**9), NAMES.filter(lambda name: name != "."), st.booleans())  # fmt: skip


@given(st.lists(LINES, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_every_line_of_bed_is_a_region_in_order(lines: list[Any], end: str, comments: bool) -> None:
    text = []
    for record, start, length, name, more in lines:
        text += ["# no region" + end, end, "track name=x" + end] if comments else []
        text.append("\t".join([record, str(start), str(start + length), name, *["0", "+"] * more]) + end)
    found = parse_bed(text, "x.bed")
    assert list(found) == list(dict.fromkeys(line[0] for line in lines))
    for record, regions in found.items():
        expected = [(name, start, start + length) for r, start, length, name, _ in lines if r == record]
        assert [(region.name, region.start, region.stop) for region in regions] == expected
        assert all(text[region.line - 1].startswith(f"{record}\t{region.start}\t") for region in regions)


@given(st.text(max_size=60))
def test_any_text_is_a_valid_region_or_an_error(line: str) -> None:
    """Any text gives a region with exactly its fields, or an error that names the file."""
    try:
        found = parse_bed([line], "x.bed")
    except ProtrnaError as error:
        assert str(error).startswith("x.bed: ")
    else:
        [(record, [region])] = found.items()
        assert line.startswith(f"{record}\t") and f"\t{region.name}" in line
        assert 0 <= region.start < region.stop


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s0 0 5 head\n", "line 1: not BED; a line is: id, start, end and name, separated by tabs"),
        ("#\ns0\t0\n", "line 2: not BED"),
        ("s0\t-1\t5\thead\n", "line 1: its start is '-1', not a whole number of 0 or more"),
        ("s0\t0\t5.0\thead\n", "line 1: its end is '5.0', not a whole number"),
        ("s0\t5\t5\thead\n", "line 1: an empty region, 5 to 5; BED counts from 0"),
        ("s0\t6\t5\thead\n", "line 1: an empty region, 6 to 5"),
        ("s0\t0\t5\n", "line 1: a region without a name"),
        ("s0\t0\t5\t.\n", "line 1: a region without a name"),
        ("\t0\t5\thead\n", "line 1: no id in its first column"),
        ("# nothing\n", "contains no regions"),
        ("s0\t0\t10\thead\ns0\t3\t11\tx\n", "line 2: region 'x' ends at 11, and record 's0' ends at 10"),
        ("s9\t0\t5\thead\n", "line 1: no record of the input has the id 's9'"),
    ],
)
def test_an_error_in_a_bed_file_names_file_and_line(
    tmp_path: Path, source: Path, run: Run, text: str, words: str
) -> None:
    bed = tmp_path / "bad.bed"
    bed.write_text(text)
    outcome = run("embed", source, "-o", tmp_path / "out.npy", "--model", TOY, "--regions", bed)
    assert outcome.code == 65
    assert f"{bed}: {words}" in outcome.err
    assert sorted(tmp_path.iterdir()) == [bed, source]


def test_a_region_that_truncate_cuts_is_an_error(tmp_path: Path, source: Path, bed: Path, run: Run) -> None:
    words = ["--regions", bed, "--long", "truncate", "--max-length", 60]
    outcome = run("embed", source, "-o", tmp_path / "out.npy", "--model", TOY, *words)
    assert outcome.code == 65
    assert (
        "line 4: region \"3'UTR\" ends at 200, and record 's1' is cut by --long truncate at 60" in outcome.err
    )


def test_ids_that_repeat_have_no_regions(tmp_path: Path, bed: Path, run: Run) -> None:
    source = tmp_path / "in.fa"
    source.write_text(">s0\nACGUACGUAC\n>s0\nACGUACGUAC\n")
    outcome = run("embed", source, "-o", tmp_path / "out.npy", "--model", TOY, "--regions", bed)
    assert (outcome.code, "more than one record of the input has the id 's0'" in outcome.err) == (65, True)


def test_a_missing_bed_is_66(tmp_path: Path, source: Path, run: Run) -> None:
    words = ["embed", source, "-o", tmp_path / "out.npy", "--model", TOY, "--regions", tmp_path / "none.bed"]
    assert run(*words).code == 66


@pytest.mark.parametrize(("pool", "skip_unknown"), [("mean", False), ("max", False), ("mean", True)])
@pytest.mark.parametrize(("format", "h5_layout"), KINDS)
def test_rows_are_the_regions_of_the_reference(
    tmp_path: Path,
    source: Path,
    bed: Path,
    run: Run,
    format: str,
    h5_layout: str,
    pool: str,
    skip_unknown: bool,
) -> None:
    """Regions of a record in windows, and different regions of two equal records; one record has none."""
    out = tmp_path / f"out.{format}"
    rules = Rules(**LONG, skip_unknown=skip_unknown, regions=read_bed(bed))
    summary = embed_fasta(
        source, out, EmbedOptions(model=str(TOY), pool=pool, h5_layout=h5_layout, rules=rules)
    )
    assert "5 regions of 3 records" in summary.text()
    assert f"1 record SKIPPED (see {out}.skipped.tsv)" in summary.text()
    header, rows, values = read(out)
    expected, counts = [], []
    for record, regions in REGIONS.items():
        sequence = SEQUENCES[int(record[1:])]
        for _, start, stop in regions:
            kept = known(sequence)[start:stop] if skip_unknown else np.ones(stop - start, bool)
            part = residues_of(sequence)[start:stop][kept]
            expected.append(part.max(0) if pool == "max" else part.mean(0))
            counts.append(
                (stop - start, len(part), sequence[start:stop].count("x"), 1 if len(sequence) <= 60 else 5)
            )
    np.testing.assert_allclose(values, np.stack(expected), rtol=0, atol=1e-4)
    assert [row.id for row in rows] == ["s0:head", "s0:tail", "s1:3'UTR", "s1:CDS", "s3:tail/%"]
    assert [(row.length, row.n_embedded, row.n_unknown, row.n_windows) for row in rows] == counts
    assert (header.n_rows, header.n_residues) == (5, sum(count[1] for count in counts))
    origin = {"name": "parts.bed", "sha256": hashlib.sha256(BED.encode()).hexdigest()}
    assert header.provenance["rules"]["regions"] == origin
    words = ["verify", out, source]
    assert run(*words, "--regions", bed).code == 0
    outcome = run(*words)
    assert (outcome.code, "made with --regions parts.bed" in outcome.err) == (2, True)


def test_several_layers_of_regions(tmp_path: Path, source: Path, bed: Path) -> None:
    packed = bed.with_name("parts.bed.gz")
    packed.write_bytes(gzip.compress(BED.encode()))
    options = EmbedOptions(model=str(TOY), layers=(1, 3), rules=Rules(regions=read_bed(packed)))
    embed_fasta(source, tmp_path / "out.parquet", options)
    blocks = open_output(tmp_path / "out.parquet").blocks()
    for layer, values in zip((1, 3), joined(blocks)[1], strict=True):
        residues = expected_residues(SEQUENCES, layer)
        expected = [residues[int(r[1:])][a:b].mean(0) for r, of in REGIONS.items() for _, a, b in of]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)


def test_regions_with_equal_names_are_two_rows_but_an_error_in_flat_hdf5(
    tmp_path: Path, source: Path, run: Run
) -> None:
    bed = tmp_path / "exons.bed"
    bed.write_text("s0\t0\t2\texon\ns0\t4\t6\texon\n")
    words = ["--model", TOY, "--regions", bed]
    assert run("embed", source, "-o", tmp_path / "out.npy", *words).code == 0
    assert [row.id for row in read(tmp_path / "out.npy")[1]] == ["s0:exon", "s0:exon"]
    outcome = run("embed", source, "-o", tmp_path / "out.h5", *words)
    assert (outcome.code, "the id 's0:exon' repeats" in outcome.err) == (65, True)


def test_a_dry_run_counts_regions(tmp_path: Path, source: Path, bed: Path, run: Run) -> None:
    words = ["embed", source, "-o", tmp_path / "out.npy", "--model", TOY, "--dry-run", "--json"]
    found = json.loads(run(*words, "--regions", bed).out)
    assert (found["records"], found["rows"], found["skipped"], found["output_bytes"]) == (3, 5, 1, 5 * 40 * 4)
    found = json.loads(run(*words, "--per-token-output", tmp_path / "residues.npy").out)
    assert (found["rows"], found["output_bytes"]) == (4, (4 + 228) * 40 * 4)


@pytest.mark.parametrize("long", ["window", "truncate", "whole"])
def test_unknown_residues_are_left_out_of_the_mean(tmp_path: Path, run: Run, long: str) -> None:
    sequences = ["acxgux", "xxa", random_sequence(100)[:70] + "x" * 60, "acgu"]
    source, out = write_fasta(tmp_path / "in.fa", sequences), tmp_path / "out.npy"
    words = ["--long", long, "--max-length", 60, *(["--overlap", 20] if long == "window" else [])]
    assert run("embed", source, "-o", out, "--model", TOY, "--skip-unknown", *words).code == 0
    header, rows, values = read(out)
    embedded = [each[:60] if long == "truncate" else each for each in sequences]
    residues = [expected_residues([e])[0] if long != "window" else residues_of(e) for e in embedded]
    expected = [part[known(each)].mean(0) for part, each in zip(residues, embedded, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
    assert [row.n_embedded for row in rows] == [known(each).sum() for each in embedded]
    assert [(row.length, row.n_unknown) for row in rows] == [(len(s), s.count("x")) for s in sequences]
    assert header.n_residues == sum(row.n_embedded for row in rows)
    assert run("verify", out, source).code == 0


def test_a_mean_without_residues_is_an_error_before_the_model_is_loaded(tmp_path: Path, run: Run) -> None:
    source = write_fasta(tmp_path / "in.fa", ["acgu", "xxx", "acgunnnn"])
    out = tmp_path / "out.npy"
    words = ["embed", source, "-o", out, "--model", TOY, "--skip-unknown"]
    outcome = run(*words)
    assert outcome.code == 65
    assert f"{source}: record 2 (id 's1'), line 3: 's1' has no known residue; remove it" in outcome.err
    assert run(*words, "--on-invalid", "skip").code == 0
    assert [row.id for row in read(out)[1]] == ["s0", "s2"]
    assert "'s1' has no known residue" in skipped_path(out).read_text()
    assert run("verify", out, source).code == 0
    bed = tmp_path / "x.bed"
    bed.write_text("s0\t0\t2\ta\ns2\t4\t8\tb\n")
    outcome = run(*words, "--overwrite", "--regions", bed)
    assert (outcome.code, "'s2:b' has no known residue" in outcome.err) == (65, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--per-token", "--skip-unknown"], "--skip-unknown is for pooled rows"),
        (["--per-token", "--per-token-output", "b.npy"], "--per-token-output is for pooled rows"),
        (["--per-token", "--regions", "parts.bed"], "--regions is for pooled rows"),
        (["--pool", "max", "--skip-unknown"], "--skip-unknown is for --pool mean, not for --pool max"),
        (["--pool", "cls", "--regions", "parts.bed"], "--regions is for --pool mean and max"),
        (["--per-token-output", "out.npy"], "out.npy: given to both -o and --per-token-output"),
        (["-o", "-", "--regions", "parts.bed"], "records without a region are listed beside OUT"),
        (["-o", "-", "--per-token-output", "b.npy"], "--per-token-output needs a file as -o"),
        (
            ["--dask", "local:1", "--per-token-output", "b.npy", "--format", "parquet"],
            "--dask writes only one output",
        ),
        (["--per-token-output", "out.txt"], "no format has the suffix '.txt'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, source: Path, bed: Path, run: Run, monkeypatch: Any, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("embed", source, "-o", "out.npy", "--model", TOY, *words)
    assert (outcome.code, message in outcome.err) == (2, True)
    assert sorted(tmp_path.iterdir()) == [source, bed]


OPTIONS = EmbedOptions(model=str(TOY), rules=Rules(on_invalid="skip", max_length=60), batch_tokens=150)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """90 records, some in windows, some equal, some skipped."""
    path = tmp_path / "mixed.fa"
    write_input(path)
    return path


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("pool", "layers"),
    slow_except([("mean", (3, 1))], [("mean", (3, 1)), ("max", (3,)), ("cls", (3,))]),
)
def test_the_two_outputs_of_one_run_equal_those_of_two_runs(
    tmp_path: Path, mixed: Path, monkeypatch: Any, run: Run, pool: str, layers: tuple[int, ...]
) -> None:
    options = replace(OPTIONS, pool=pool, layers=layers)
    pooled, residues = tmp_path / "pooled.parquet", tmp_path / "residues.h5"
    embed_fasta(mixed, tmp_path / "alone.parquet", options)
    embed_fasta(mixed, tmp_path / "alone.h5", replace(options, pool="mean", per_token=True))
    ran: list[int] = []
    embed = ProtRNA._embed_batch
    monkeypatch.setattr(
        ProtRNA,
        "_embed_batch",
        lambda self, tokens, *rest, **how: ran.append(1) or embed(self, tokens, *rest, **how),
    )
    summary = embed_fasta(mixed, pooled, replace(options, per_token_output=str(residues)))
    both = len(ran)
    assert f"{pooled} and {residues}" in summary.text()
    assert content(pooled) == content(tmp_path / "alone.parquet")
    assert content(residues) == content(tmp_path / "alone.h5")
    embed_fasta(mixed, tmp_path / "again.parquet", options)
    assert len(ran) == 2 * both
    assert find_flaws(pooled, [mixed]) == find_flaws(residues, [mixed]) == []


@pytest.mark.usefixtures("small_chunks")
def test_a_second_output_beside_regions_has_whole_records(tmp_path: Path, source: Path, bed: Path) -> None:
    rules = Rules(**LONG, skip_unknown=True, regions=read_bed(bed))
    pooled, residues = tmp_path / "pooled.npy", tmp_path / "residues.h5"
    embed_fasta(source, pooled, EmbedOptions(model=str(TOY), rules=rules, per_token_output=str(residues)))
    _, rows, values = read(residues)
    assert [row.id for row in rows] == ["s0", "s1", "s3"]
    expected = [residues_of(SEQUENCES[i]) for i in (0, 1, 3)]
    np.testing.assert_allclose(values, np.concatenate(expected), rtol=0, atol=1e-4)
    assert len(read(pooled)[1]) == 5
    assert find_flaws(pooled, [source], bed) == find_flaws(residues, [source], bed) == []


@pytest.mark.usefixtures("small_chunks")
def test_either_existing_output_is_refused(tmp_path: Path, mixed: Path) -> None:
    pooled, residues = tmp_path / "pooled.npy", tmp_path / "residues.h5"
    options = replace(OPTIONS, per_token_output=str(residues))
    residues.write_text("mine")
    with pytest.raises(OutputUnwritable, match=r"residues.h5: exists; use overwrite=True"):
        embed_fasta(mixed, pooled, options)
    residues.unlink()
    with pytest.raises(Stopped, match=r"stopped by a test; \d+ of 74 records are saved"):
        embed_fasta(mixed, pooled, options, stop=StopAfter(12))
    with pytest.raises(OutputUnwritable, match="use resume=True to continue it"):
        embed_fasta(mixed, pooled, options)
    with pytest.raises(RunMismatch, match='its pooling was "mean", not "max"'):
        embed_fasta(mixed, pooled, replace(options, resume=True, pool="max"))
    assert embed_fasta(mixed, pooled, replace(options, resume=True)).n_resumed > 0
    assert embed_fasta(mixed, pooled, replace(options, resume=True)).already_whole


@pytest.mark.usefixtures("small_chunks")
def test_a_complete_output_is_kept_while_the_other_is_made(tmp_path: Path, mixed: Path) -> None:
    """The first output is complete, the second is not: only the second one is made."""
    pooled, residues = tmp_path / "pooled.npy", tmp_path / "residues.h5"
    embed_fasta(mixed, pooled, OPTIONS)
    before = pooled.stat()
    options = replace(OPTIONS, per_token_output=str(residues), resume=True)
    with pytest.raises(Stopped):
        embed_fasta(mixed, pooled, options, stop=StopAfter(12))
    assert partial_path(residues).exists()
    assert embed_fasta(mixed, pooled, options).n_resumed > 0
    assert (pooled.stat().st_ino, pooled.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    embed_fasta(mixed, tmp_path / "alone.h5", replace(OPTIONS, per_token=True))
    assert content(residues) == content(tmp_path / "alone.h5")


@pytest.mark.usefixtures("small_chunks")
def test_outputs_at_different_batches_continue_together(tmp_path: Path, mixed: Path) -> None:
    """The pooled output is chunks ahead of the residues, as left by earlier runs with the same key."""
    pooled, residues = tmp_path / "pooled.npy", tmp_path / "residues.npy"
    for path, options, checks in (
        (pooled, OPTIONS, 40),
        (residues, replace(OPTIONS, per_token=True), 12),
    ):
        with pytest.raises(Stopped):
            embed_fasta(mixed, path, options, stop=StopAfter(checks))
    embed_fasta(mixed, pooled, replace(OPTIONS, per_token_output=str(residues), resume=True))
    for path, per_token in ((pooled, False), (residues, True)):
        embed_fasta(mixed, tmp_path / "alone.npy", replace(OPTIONS, per_token=per_token, overwrite=True))
        assert content(path) == content(tmp_path / "alone.npy")


def test_shards_of_regions_and_residues_are_merged(tmp_path: Path, mixed: Path) -> None:
    bed = tmp_path / "parts.bed"
    bed.write_text("".join(f"r{i}\t0\t1\tfirst\n" for i in range(90) if i % 17 and i % 5))
    rules = Rules(on_invalid="skip", max_length=60, regions=read_bed(bed))
    pooled, residues = tmp_path / "pooled.npy", tmp_path / "residues.h5"
    options = replace(OPTIONS, rules=rules, per_token_output=str(residues))
    for i in range(1, 4):
        embed_fasta(mixed, pooled, replace(options, shard=Shard(i, 3)))
    for path in (pooled, residues):
        parts = [shard_path(path, Shard(i, 3)) for i in range(1, 4)]
        assert find_flaws(parts[1], [mixed], bed) == []
        merge(parts, path, named(path.suffix[1:], "flat"), overwrite=False)
        assert find_flaws(path, [mixed], bed) == []
    alone = tmp_path / "alone.npy"
    embed_fasta(mixed, alone, replace(options, per_token_output=None))
    one, other = content(alone), content(pooled)
    for each in (one, other):
        del each.header.provenance["distinct"]  # copies are found within a shard
    assert (one.header, one.rows) == (other.header, other.rows)
    np.testing.assert_allclose(np.load(pooled), np.load(alone), rtol=0, atol=1e-5)


def test_other_regions_are_another_run(tmp_path: Path, source: Path, bed: Path) -> None:
    def options(**change: Any) -> EmbedOptions:
        return EmbedOptions(model=str(TOY), rules=Rules(regions=read_bed(bed), **change), resume=True)

    embed_fasta(source, tmp_path / "out.npy", options())
    with pytest.raises(RunMismatch, match="its skip_unknown was false, not true"):
        embed_fasta(source, tmp_path / "out.npy", options(skip_unknown=True))
    bed.write_text(BED.replace("\t5\t", "\t6\t"))
    with pytest.raises(RunMismatch, match="its regions was"):
        embed_fasta(source, tmp_path / "out.npy", options())


def test_regions_survive_json() -> None:
    from dataclasses import asdict

    regions = Regions("x.bed", "0", {"a": [Region("b", 0, 1, 2)]})
    assert Regions.from_json(json.loads(json.dumps(asdict(regions)))) == regions
