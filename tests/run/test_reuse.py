"""Vectors of sequences that an earlier output holds are taken from there, bit for bit."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.errors import InputError, RunMismatch, Stopped
from protrna_cli.output.files import partial_path, shard_path
from protrna_cli.output.make import merge
from protrna_cli.output.stored import Stored, open_output
from protrna_cli.plan.rules import Rules
from protrna_cli.plan.shard import Shard
from protrna_cli.run.outputs import PartialOutput, Position, check_space
from protrna_cli.run.report import Amount, Summary
from protrna_cli.run.verify import find_flaws
from protrna_cli.weights.checkpoint import Checkpoint
from tests.conftest import GOLDEN, TOY, Run
from tests.run.test_copies import residues_of, values_of
from tests.run.test_embed import random_sequence, write_fasta
from tests.tools.formats import named
from tests.tools.runs import RUN_KINDS, Notes, StopAfter

OPTIONS = EmbedOptions(model=str(TOY), layers=(1, 3), format="npy", rules=Rules(max_length=60))
KNOWN = [random_sequence(5 + i % 40, i) for i in range(40)]
NEW = [random_sequence(10 + i, 100 + i) for i in range(5)]

pytestmark = pytest.mark.usefixtures("small_chunks")


def next_release() -> list[str]:
    """The known sequences but two, in another order, some of them twice, and five new ones, one twice."""
    sequences = [*KNOWN[2:], *KNOWN[5:12], *NEW, NEW[0]]
    random.Random(0).shuffle(sequences)
    return sequences


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "new.fa", next_release())


def make_old(tmp_path: Path, options: EmbedOptions, name: str = "old") -> Path:
    embed_fasta(write_fasta(tmp_path / "old.fa", KNOWN), tmp_path / name, options)
    return tmp_path / name


def assert_reused(out: Path, old: Path) -> None:
    """Known rows are those of the earlier output, bit for bit; the others are the reference model's."""
    per_token = open_output(out).header.per_token
    for layer, found, earlier in zip((1, 3), values_of(out)[1], values_of(old)[1], strict=True):
        for sequence, vectors in zip(next_release(), found, strict=True):
            if sequence in KNOWN:
                assert vectors.tobytes() == earlier[KNOWN.index(sequence)].tobytes()
            residues = residues_of(sequence, layer)
            expected = residues if per_token else residues.mean(0, keepdims=True)
            np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-4)


def assert_counts(summary: Summary) -> None:
    assert (summary.n_records, summary.n_reused, summary.n_copied) == (51, 45, 1)
    assert summary.computed == Amount(5, sum(map(len, NEW)))
    assert "45 reused, 6 new, 5 computed, 1 copied" in summary.text()


@pytest.mark.parametrize(("format", "h5_layout"), RUN_KINDS)
@pytest.mark.parametrize("per_token", [False, True])
def test_known_sequences_are_copied_from_any_format(
    tmp_path: Path, release: Path, format: str, h5_layout: str, per_token: bool
) -> None:
    options = replace(OPTIONS, per_token=per_token)
    old = make_old(tmp_path, replace(options, format=format, h5_layout=h5_layout))
    assert_counts(embed_fasta(release, tmp_path / "new.npy", replace(options, reuse=(str(old),))))
    assert_reused(tmp_path / "new.npy", old)
    assert find_flaws(tmp_path / "new.npy", [release]) == []
    [origin] = open_output(tmp_path / "new.npy").header.provenance["reuse"]
    assert (origin["name"], origin["sequences"]) == ("old", 38)


def test_both_outputs_of_a_run_are_reused(tmp_path: Path, release: Path, run: Run) -> None:
    both = replace(OPTIONS, per_token_output=str(tmp_path / "old-residues.h5"), h5_layout="packed")
    old = make_old(tmp_path, both)
    options = replace(both, per_token_output=str(tmp_path / "new-residues.h5"))
    reuse = (both.per_token_output or "", str(old))
    assert_counts(embed_fasta(release, tmp_path / "new.npy", replace(options, reuse=reuse)))
    assert_reused(tmp_path / "new.npy", old)
    assert_reused(tmp_path / "new-residues.h5", tmp_path / "old-residues.h5")
    done = run(
        *("embed", release, "-o", tmp_path / "x.npy", "--per-token-output", tmp_path / "y.npy"),
        *("--model", TOY, "--layer", 1, "--layer", 3, "--max-length", 60, "--reuse", old),
    )
    assert done.code == 2
    assert f"{tmp_path / 'y.npy'}: has rows per residue, but no output of --reuse does" in done.err


def test_of_several_outputs_the_first_is_taken(tmp_path: Path, release: Path) -> None:
    first = make_old(tmp_path, replace(OPTIONS, batch_tokens=64), "first")
    second = make_old(tmp_path, OPTIONS, "second")
    embed_fasta(release, tmp_path / "new.npy", replace(OPTIONS, reuse=(str(first), str(second))))
    assert_reused(tmp_path / "new.npy", first)
    counts = [each["sequences"] for each in open_output(tmp_path / "new.npy").header.provenance["reuse"]]
    assert counts == [38, 0]


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_a_run_stopped_anywhere_gives_the_same_bytes(tmp_path: Path, release: Path, format: str) -> None:
    old = make_old(tmp_path, OPTIONS)
    options = replace(OPTIONS, reuse=(str(old),), format=format)
    embed_fasta(release, tmp_path / "alone", options)
    stops, summary = 0, None
    for checks in (1, 2, 4, 3, 7, 5, 10_000):
        try:
            summary = embed_fasta(
                release, tmp_path / "out", replace(options, resume=True), stop=StopAfter(checks)
            )
        except Stopped:
            stops += 1
            assert not (tmp_path / "out").exists()
    assert stops > 3
    assert summary is not None
    assert_counts(replace(summary, resumed=Amount()))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "alone").read_bytes()


def test_the_output_may_be_its_own_next_version(tmp_path: Path, release: Path, run: Run) -> None:
    old = make_old(tmp_path, OPTIONS)
    earlier = tmp_path / "earlier"
    for suffix in ("", ".index.tsv", ".meta.json"):
        Path(f"{earlier}{suffix}").write_bytes(Path(f"{old}{suffix}").read_bytes())
    before = old.read_bytes()
    options = replace(OPTIONS, reuse=(str(old),))
    with pytest.raises(Stopped):
        embed_fasta(release, old, replace(options, overwrite=True), stop=StopAfter(7))
    assert old.read_bytes() == before
    assert partial_path(old).exists()
    summary = embed_fasta(release, old, replace(options, resume=True))
    assert 0 <= summary.resumed.records <= summary.computed.records
    assert sum(each["sequences"] for each in open_output(old).header.provenance["reuse"]) == 38
    assert_counts(replace(summary, resumed=Amount()))
    assert_reused(old, earlier)
    assert embed_fasta(release, old, replace(options, resume=True)).already_whole
    assert "38 sequences of old, which this one replaced" in run("info", old).out


def test_shards_reuse_and_are_merged(tmp_path: Path, release: Path) -> None:
    old = make_old(tmp_path, OPTIONS)
    parts = []
    for i in (1, 2, 3):
        embed_fasta(release, tmp_path / "new.npy", replace(OPTIONS, reuse=(str(old),), shard=Shard(i, 3)))
        parts.append(shard_path(tmp_path / "new.npy", Shard(i, 3)))
    merge(parts, tmp_path / "new.npy", named("npy"), overwrite=False)
    assert_reused(tmp_path / "new.npy", old)
    [origin] = open_output(tmp_path / "new.npy").header.provenance["reuse"]
    assert 38 <= origin["sequences"] <= 45  # a copy in another shard is taken from there too
    assert find_flaws(tmp_path / "new.npy", [release]) == []


@pytest.mark.slow(seconds=15)
def test_dask_reuses_from_a_folder_of_parts(tmp_path: Path, release: Path, run: Run) -> None:
    old_fasta = write_fasta(tmp_path / "old.fa", KNOWN)
    words = ["--model", TOY, "--layer", 1, "--layer", 3, "--max-length", 60, "--dask", "local:1"]
    assert run("embed", old_fasta, "-o", tmp_path / "old", *words).code == 0
    done = run("embed", release, "-o", tmp_path / "new", *words, "--reuse", tmp_path / "old")
    assert done.code == 0, done.err
    assert "45 reused, 6 new" in done.err
    for each in ("old", "new"):
        assert run("convert", tmp_path / each, "-o", tmp_path / f"{each}.npy").code == 0
    assert_reused(tmp_path / "new.npy", tmp_path / "old.npy")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"pool": "max"}, 'its pooling was "mean", not "max"'),
        ({"layers": (1,)}, "its layers was [1, 3], not [1]"),
        ({"precision": "bfloat16"}, 'its precision was "float32", not "bfloat16"'),
        ({"dtype": "float16"}, 'its dtype was "float32", not "float16"'),
        ({"per_token": True}, "its per_token was false, not true"),
        ({"model": str(GOLDEN / "head64.h5"), "layers": (1, 2)}, 'its weights was "'),
        ({"rules": Rules(max_length=50)}, "its max_length was 60, not 50"),
        ({"rules": Rules(max_length=60, long="truncate")}, 'its long was "window", not "truncate"'),
        ({"rules": Rules(max_length=60, skip_unknown=True)}, "its skip_unknown was false, not true"),
    ],
)
def test_an_output_made_in_another_way_is_refused(
    tmp_path: Path, release: Path, change: dict[str, Any], difference: str
) -> None:
    old = make_old(tmp_path, OPTIONS)
    with pytest.raises(RunMismatch) as refused:
        embed_fasta(release, tmp_path / "new.npy", replace(OPTIONS, reuse=(str(old),), **change))
    assert difference in str(refused.value)
    assert refused.value.exit_code == 78
    assert not list(tmp_path.glob("new.npy*"))


def test_outputs_that_cannot_be_reused_say_why(tmp_path: Path, release: Path, run: Run) -> None:
    words = ["embed", release, "-o", tmp_path / "new.npy", "--model", TOY]
    bed = tmp_path / "x.bed"
    bed.write_text("s0\t0\t2\tx\n")
    assert run(*words, "--regions", bed, "-o", tmp_path / "regions.npy").code == 0
    for old, code, message in [
        (GOLDEN / "outputs-0.1.parquet", 78, "has no column md5, as protrna 0.1.0 made it; make it again"),
        (tmp_path / "regions.npy", 78, "has rows of regions, which depend on their whole record"),
        (tmp_path / "none.npy", 66, "none.npy: cannot be read"),
        (release, 65, "neither Parquet, HDF5 nor NumPy"),
    ]:
        done = run(*words, "--reuse", old)
        assert (done.code, message in done.err) == (code, True), done.err
    done = run(*words, "--reuse", release, "--regions", bed)
    assert (done.code, "--reuse does not go with --regions" in done.err) == (2, True)
    done = run("embed", release, "-o", "-", "--model", TOY, "--reuse", release)
    assert (done.code, "--reuse needs a file as -o" in done.err) == (2, True)
    assert not list(tmp_path.glob("new.npy*"))


def test_a_damaged_output_is_not_copied(tmp_path: Path, release: Path) -> None:
    old = make_old(tmp_path, OPTIONS)
    array = np.load(old, mmap_mode="r+")
    array[0, 3, 3] += 1
    array.flush()
    with pytest.raises(InputError, match="old: "):
        embed_fasta(release, tmp_path / "new.npy", replace(OPTIONS, reuse=(str(old),)))
    assert not list(tmp_path.glob("new.npy*"))


def test_another_output_to_reuse_is_another_run(tmp_path: Path, release: Path) -> None:
    old = make_old(tmp_path, OPTIONS)
    other = make_old(tmp_path, replace(OPTIONS, batch_tokens=64), "other")
    with pytest.raises(Stopped):
        embed_fasta(release, tmp_path / "out", replace(OPTIONS, reuse=(str(old),)), stop=StopAfter(7))
    with pytest.raises(RunMismatch, match="its reuse was"):
        embed_fasta(release, tmp_path / "out", replace(OPTIONS, reuse=(str(other),), resume=True))


def test_without_new_sequences_no_model_is_loaded(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_old(tmp_path, OPTIONS)
    monkeypatch.setattr(Checkpoint, "load", None)
    summary = embed_fasta(tmp_path / "old.fa", tmp_path / "new.npy", replace(OPTIONS, reuse=(str(old),)))
    assert (summary.n_reused, summary.computed) == (40, Amount())
    assert "40 reused, 0 new; " in summary.text()
    assert "residues/s" not in summary.text()
    assert np.load(tmp_path / "new.npy").tobytes() == np.load(old).tobytes()
    assert run("verify", tmp_path / "new.npy", tmp_path / "old.fa").code == 0


def test_a_dry_run_counts_what_is_reused(tmp_path: Path, release: Path, run: Run) -> None:
    old = make_old(tmp_path, OPTIONS)
    words = [
        *("embed", release, "-o", tmp_path / "new.npy", "--model", TOY, "--layer", 1, "--layer", 3),
        *("--max-length", 60, "--reuse", old, "--dry-run"),
    ]
    told = run(*words).out
    assert "45 reused, 6 new" in told
    assert "5 computed, 1 copied" in told
    found = json.loads(run(*words, "--json").out)
    assert (found["reused"], found["computed"], found["copied"]) == (45, 5, 1)
    assert found["tokens"] == sum(map(len, NEW)) + 2 * len(NEW)


# Earlier outputs that change under a run.


def put_in_place(old: Path, other: Path) -> None:
    """Replace an output by another one, as a run with --overwrite does."""
    for suffix in ("", ".index.tsv", ".meta.json"):
        if Path(f"{other}{suffix}").exists():
            Path(f"{old}{suffix}").write_bytes(Path(f"{other}{suffix}").read_bytes())


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """An output made as `old`, of only some of its sequences and of others."""
    source = write_fasta(tmp_path / "other.fa", [*NEW, *KNOWN[20:]])
    embed_fasta(source, tmp_path / "other", OPTIONS)
    return tmp_path / "other"


@pytest.mark.parametrize("how", ["replaced", "removed", "cut"])
def test_what_an_earlier_output_holds_no_longer_is_computed(
    tmp_path: Path, release: Path, other: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes between planning and filling, while the model is loaded."""
    old = make_old(tmp_path, OPTIONS)
    embed_fasta(release, tmp_path / "expected.npy", OPTIONS)

    def change(*arguments: Any) -> None:
        check_space(*arguments)
        if how == "replaced":
            put_in_place(old, other)
        else:
            for suffix in ("", ".index.tsv", ".meta.json"):
                Path(f"{old}{suffix}").write_bytes(b"") if how == "cut" else Path(f"{old}{suffix}").unlink()

    monkeypatch.setattr("protrna_cli.run.run.check_space", change)
    notes = Notes()
    summary = embed_fasta(release, tmp_path / "new.npy", replace(OPTIONS, reuse=(str(old),)), notes)
    assert (summary.n_reused, summary.computed.records) == (0, 43)
    assert any("38 sequences that it held will be computed" in note for note in notes.notes)
    assert find_flaws(tmp_path / "new.npy", [release]) == []
    found, expected = np.load(tmp_path / "new.npy"), np.load(tmp_path / "expected.npy")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert open_output(tmp_path / "new.npy").header.provenance["reuse"][0]["sequences"] == 0


def test_an_earlier_output_that_changes_while_it_is_read_is_not_believed(
    tmp_path: Path, release: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_old(tmp_path, OPTIONS)
    read = Stored.blocks

    def read_and_change(stored: Stored) -> Any:
        yield from read(stored)
        put_in_place(old, other)

    monkeypatch.setattr(Stored, "blocks", read_and_change)
    summary = embed_fasta(release, tmp_path / "new.npy", replace(OPTIONS, reuse=(str(old),)))
    assert summary.n_reused == 0
    assert find_flaws(tmp_path / "new.npy", [release]) == []


@pytest.mark.parametrize("itself", [False, True])
def test_a_run_goes_on_only_with_the_output_it_began_with(
    tmp_path: Path, release: Path, other: Path, itself: bool
) -> None:
    old = make_old(tmp_path, OPTIONS)
    out = old if itself else tmp_path / "new.npy"
    options = replace(OPTIONS, reuse=(str(old),))
    with pytest.raises(Stopped):
        embed_fasta(release, out, replace(options, overwrite=True), stop=StopAfter(7))
    put_in_place(old, other)
    with pytest.raises(RunMismatch, match="its reuse was"):
        embed_fasta(release, out, replace(options, resume=True))


class Crash(BaseException):
    """The end of a process at this very place."""


def test_a_crash_between_the_renames_of_an_output_that_replaces_itself(
    tmp_path: Path, release: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_old(tmp_path, OPTIONS)
    expected = tmp_path / "alone.npy"
    embed_fasta(release, expected, replace(OPTIONS, reuse=(str(old),)))
    words = ["embed", release, "-o", old, "--format", "npy", "--model", TOY, "--layer", 1, "--layer", 3]
    words += ["--max-length", 60, "--reuse", old]
    renames = 0
    rename = Path.replace

    def crash(path: Path, target: Path) -> Path:
        nonlocal renames
        renames += target.parent == tmp_path
        if renames == 2:
            raise Crash
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            embed_fasta(release, old, replace(OPTIONS, reuse=(str(old),), overwrite=True))
    partial = partial_path(old)
    for again in (["--overwrite"], []):
        done = run(*words, *again)
        assert (done.code, "a complete output that is not in its place yet; use --resume" in done.err) == (
            73,
            True,
        )
        assert partial.is_dir()
    told = run("verify", old, release)
    assert told.code == 65
    assert "--overwrite" not in told.err + told.out
    assert "--resume" in told.err + told.out
    assert run(*words, "--resume").code == 0
    assert np.load(old).tobytes() == np.load(expected).tobytes()
    assert not partial.exists()
    assert run("verify", old, release).code == 0


def test_a_row_that_nothing_filled_is_never_finished(tmp_path: Path) -> None:
    old = make_old(tmp_path, OPTIONS)
    header = replace(open_output(old).header, checksums=None)
    rows = [row for block in open_output(old).blocks() for row in block.rows]
    with PartialOutput(tmp_path / "out.npy", header) as partial:
        partial.add(rows, [])
        for layer in range(2):
            for start in range(1, len(rows)):
                partial.fill(layer, start, np.ones((1, 40)))
        partial.commit(Position(chunks=1, records=len(rows)))
        with pytest.raises(InputError, match="a row of it was never computed"):
            partial.finish(named("npy"), lambda: None)
    assert not (tmp_path / "out.npy").exists()
    assert partial_path(tmp_path / "out.npy").exists()


def test_no_file_of_an_earlier_output_is_replaced(tmp_path: Path, release: Path, run: Run) -> None:
    old = make_old(tmp_path, OPTIONS, "old.npy")
    words = ["embed", release, "--model", TOY, "--layer", 1, "--layer", 3, "--max-length", 60, "--overwrite"]
    before = {path: path.read_bytes() for path in tmp_path.glob("old.npy*")}
    done = run(*words, "-o", f"{old}.index.tsv", "--format", "parquet", "--reuse", old)
    assert (done.code, "would replace" in done.err) == (2, True)
    folder = tmp_path / "parts"
    folder.mkdir()
    part = folder / "part-1-of-1.parquet"
    embed_fasta(tmp_path / "old.fa", part, replace(OPTIONS, format="parquet"))
    done = run(*words, "-o", part, "--reuse", folder)
    assert (done.code, "would replace" in done.err) == (2, True)
    assert {path: path.read_bytes() for path in tmp_path.glob("old.npy*")} == before
