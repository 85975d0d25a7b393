"""Damaged outputs are found by `verify` and by every command that reads them, never taken for complete."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from protrna_cli import embed_fasta, read_embeddings
from protrna_cli.errors import InputError
from protrna_cli.output.files import choose_format
from protrna_cli.output.rows import Checksum
from protrna_cli.output.stored import open_output
from protrna_cli.run.verify import find_flaws
from tests.conftest import GOLDEN, TOY, Run
from tests.tools import corrupt
from tests.tools.cases import slow_except
from tests.tools.kill import write_input
from tests.tools.runs import OPTIONS, RUN_KINDS


def test_random_damage_is_found_in_every_format() -> None:
    """The long campaign is `python -m tests.tools.corrupt --trials 1000`."""
    trials = 2 * len(corrupt.KINDS)
    assert corrupt.campaign(trials, random.randrange(1 << 30)).total() == trials


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input and its pooled NumPy output."""
    folder = tmp_path_factory.mktemp("made")
    write_input(folder / "in.fa")
    embed_fasta(folder / "in.fa", folder / "out.npy", OPTIONS)
    return folder


@pytest.fixture
def npy(made: Path, tmp_path: Path) -> Path:
    """A copy of that output, beside its input."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out.npy"


def exchange_vectors(path: Path) -> None:
    array = np.load(path, mmap_mode="r+")
    array[[3, 4]] = array[[4, 3]]
    array.flush()


def change_value(path: Path) -> None:
    array = np.load(path, mmap_mode="r+")
    array[3, 3] += 0.5
    array.flush()


def zero_vector(path: Path) -> None:
    array = np.load(path, mmap_mode="r+")
    array[3] = 0
    array.flush()


def change_dtype(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


def change_width(path: Path) -> None:
    meta = Path(f"{path}.meta.json")
    provenance = json.loads(meta.read_text())
    provenance["output"]["width"] = 39
    meta.write_text(json.dumps(provenance))


def change_start(path: Path) -> None:
    index = Path(f"{path}.index.tsv")
    index.write_text(index.read_text().replace("\t3\t4\n", "\t4\t4\n"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove_index(path: Path) -> None:
    Path(f"{path}.index.tsv").unlink()


def remove_provenance(path: Path) -> None:
    Path(f"{path}.meta.json").unlink()


DAMAGES = [
    (exchange_vectors, "vectors of column embedding changed"),
    (change_value, "vectors of column embedding changed"),
    (zero_vector, "row 4 (id 'r4'): its embedding is zero"),
    (change_dtype, "its array is float64 (84, 40), not float32 (84, 40)"),
    (change_width, "its provenance is damaged"),
    (change_start, "start and end of the id 'r4' are 4 and 4, not 3 and 4"),
    (truncate, "out.npy"),
    (remove_index, "out.npy.index.tsv"),
    (remove_provenance, "without out.npy.meta.json"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_verify_says_what_is_damaged(
    npy: Path, source: Path, run: Run, damage: Callable[[Path], None], words: str
) -> None:
    assert run("verify", npy, source).code == 0
    damage(npy)
    outcome = run("verify", npy, source)
    assert outcome.code == 65
    assert words in outcome.err


@pytest.mark.parametrize(
    "damage",
    slow_except([zero_vector, truncate, remove_index], [damage for damage, _ in DAMAGES]),
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_output_is_not_complete(
    npy: Path, source: Path, run: Run, damage: Callable[[Path], None]
) -> None:
    """Resumed, it is refused with a remedy; converted and merged, it leaves nothing."""
    damage(npy)
    words = ["embed", source, "-o", npy, "--model", TOY, "--on-invalid", "skip", "--max-length", 60]
    words += ["--batch-tokens", 150]
    outcome = run(*words, "--resume")
    assert outcome.code in (65, 78)
    assert "--overwrite" in outcome.err
    for command in ("convert", "merge"):
        out = npy.with_name(f"{command}.h5")
        assert run(command, npy, "-o", out).code == 65
        assert not out.exists()
    assert run(*words, "--overwrite").code == 0
    assert find_flaws(npy, [source]) == []


def test_a_missing_list_of_skipped_records_is_damage(npy: Path, source: Path, run: Run) -> None:
    Path(f"{npy}.skipped.tsv").unlink()
    words = ["embed", source, "-o", npy, "--model", TOY, "--on-invalid", "skip", "--max-length", 60]
    outcome = run(*words, "--batch-tokens", 150, "--resume")
    assert (outcome.code, "out.npy.skipped.tsv is missing" in outcome.err) == (65, True)


def test_a_renamed_dataset_is_damage(tmp_path: Path, source: Path, run: Run) -> None:
    """A file that another program has changed, with the SHA-256 behind it removed as that program would."""
    out = tmp_path / "out.h5"
    embed_fasta(source, out, replace(OPTIONS, format=None))
    with h5py.File(out, "r+") as file:
        file.move("r5", "r6000")
    outcome = run("verify", out, source)
    assert outcome.code == 65
    assert "its bytes changed" in outcome.err or "its SHA-256 is missing" in outcome.err


@pytest.mark.parametrize(("format", "h5_layout"), RUN_KINDS)
def test_checksums_do_not_depend_on_format_or_blocks(
    tmp_path: Path, source: Path, npy: Path, format: str, h5_layout: str
) -> None:
    out = tmp_path / "again"
    embed_fasta(source, out, replace(OPTIONS, format=format, h5_layout=h5_layout))
    stored = open_output(out)
    assert stored.header.checksums == open_output(npy).header.checksums
    checksum = Checksum(stored.header)
    for block in stored.blocks():
        for i, row in enumerate(block.rows):
            checksum.add(replace(block, rows=[row], values=[values[i : i + 1] for values in block.values]))
    assert checksum.seal().checksums == stored.header.checksums


def test_an_output_that_lost_its_checksums_is_read_and_not_proven(npy: Path, source: Path) -> None:
    meta = Path(f"{npy}.meta.json")
    provenance = json.loads(meta.read_text())
    del provenance["output"]["checksums"]
    meta.write_text(json.dumps(provenance))
    [flaw] = find_flaws(npy, [source])
    assert "cannot be proven" in flaw
    with pytest.warns(UserWarning, match="cannot be proven"):
        assert len(read_embeddings(npy)) == 84


def test_hdf5_readers_ignore_the_checksum_behind_the_file(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.h5"
    embed_fasta(source, out, replace(OPTIONS, format=None))
    assert out.read_bytes().endswith(b"\n")
    with h5py.File(out) as file:
        assert file["r1"].shape == (40,)


def test_parquet_keeps_its_checksums_in_the_metadata_of_the_file(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.parquet"
    embed_fasta(source, out, replace(OPTIONS, format=None))
    stored = json.loads(pq.read_metadata(out).metadata[b"protrna_checksums"])
    assert stored == open_output(out).header.checksums
    assert choose_format(out).name == "parquet"


# Outputs that another program wrote anew.


@pytest.fixture
def rewritten(tmp_path: Path, source: Path) -> Path:
    """A Parquet output whose vectors pyarrow has normalised: its provenance stays, its checksums are lost."""
    path = tmp_path / "out.parquet"
    embed_fasta(source, path, replace(OPTIONS, format="parquet"))
    table = pq.read_table(path)
    vectors = np.stack(table["embedding"].to_numpy())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = table.schema.get_field_index("embedding")
    column = pa.array(list(vectors), table.schema.field(index).type)
    pq.write_table(table.set_column(index, table.schema.field(index), column), path)
    return path


def test_what_another_program_wrote_cannot_be_proven(rewritten: Path, source: Path, run: Run) -> None:
    told = "written anew by another program, without its checksums, so that it cannot be proven"
    words = ["embed", source, "--model", TOY, "--on-invalid", "skip", "--max-length", 60]
    other = rewritten.with_name("other.parquet")
    for code, command in (
        (65, ["verify", rewritten, source]),
        (65, [*words, "-o", rewritten, "--batch-tokens", 150, "--resume"]),
        (78, [*words, "-o", other, "--reuse", rewritten]),
        (65, ["merge", rewritten, "-o", other]),
    ):
        done = run(*command)
        assert (done.code, told in done.err) == (code, True), (command, done.err)
        assert not other.exists()
    for command in (["info", rewritten], ["convert", rewritten, "-o", other]):
        done = run(*command)
        assert (done.code, f"note: {rewritten}: {told}" in done.err) == (0, True)
    done = run("verify", other, source)
    assert (done.code, told in done.err) == (65, True)
    with pytest.warns(UserWarning, match="cannot be proven"):
        embeddings = read_embeddings(rewritten)
    with pytest.raises(InputError, match="cannot be proven"):
        embeddings.check()


def test_outputs_of_earlier_versions_stay_as_they_are(run: Run) -> None:
    for name in ("outputs-0.1.parquet", "outputs-0.1.h5", "outputs-0.1.npy"):
        assert run("info", GOLDEN / name).err == ""
        read_embeddings(GOLDEN / name)


@pytest.mark.parametrize(
    "damage", [b"", b"\xff\xfe\n", b"record\tid\n\xc3(\n", b"record\n7\n", b'record\tid\n"1\n']
)
def test_a_damaged_list_of_skipped_records_is_a_flaw(
    npy: Path, source: Path, run: Run, damage: bytes
) -> None:
    Path(f"{npy}.skipped.tsv").write_bytes(damage)
    done = run("verify", npy, source)
    assert done.code == 65
    assert "out.npy.skipped.tsv" in done.err


@pytest.mark.parametrize("how", ["cut", "md5"])
def test_a_damaged_index_is_not_reused(npy: Path, source: Path, run: Run, how: str) -> None:
    index = Path(f"{npy}.index.tsv")
    lines = index.read_text().splitlines(keepends=True)
    if how == "cut":
        index.write_text(lines[0])
    else:
        md5 = lines[3].split("\t")[6]
        index.write_text("".join(lines).replace(md5, "zz" + md5[2:]))
    words = ["embed", source, "-o", npy.with_name("new.npy"), "--model", TOY, "--on-invalid", "skip"]
    done = run(*words, "--max-length", 60, "--reuse", npy)
    assert (done.code, f"{npy}: damaged (" in done.err) == (65, True), done.err


@pytest.mark.parametrize("how", ["exchanged", "changed"])
def test_ids_of_an_index_are_proven_in_python(npy: Path, how: str) -> None:
    index = Path(f"{npy}.index.tsv")
    lines = [line.split("\t") for line in index.read_text().splitlines(keepends=True)]
    lines[3][0], lines[4][0] = (lines[4][0], lines[3][0]) if how == "exchanged" else ("x", lines[4][0])
    index.write_text("".join("\t".join(line) for line in lines))
    with pytest.raises(InputError, match="ids or counts changed"):
        read_embeddings(npy)


def test_changed_vectors_are_found_when_asked(npy: Path) -> None:
    read_embeddings(npy, check=True).check()
    change_value(npy)
    embeddings = read_embeddings(npy)  # mapped, and so not read
    with pytest.raises(InputError, match="vectors of column embedding changed"):
        embeddings.check()
    with pytest.raises(InputError, match="vectors of column embedding changed"):
        read_embeddings(npy, check=True)


def test_info_compares_the_bytes_before_hdf5_reads_them(
    tmp_path: Path, source: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.h5"
    embed_fasta(source, path, replace(OPTIONS, format="h5"))
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(h5py, "File", lambda *words, **more: pytest.fail("libhdf5 opened it"))
    done = run("info", path)
    assert (done.code, "its bytes changed since it was written" in done.err) == (65, True)


def test_another_input_is_told_from_damage(npy: Path, tmp_path: Path, run: Run) -> None:
    other = tmp_path / "other.fa"
    other.write_text(">a\nACGU\n")
    done = run("verify", npy, other)
    assert done.code == 65
    assert "make it again with --overwrite, or give the INPUT it was made from" in done.err
