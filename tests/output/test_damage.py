"""Damaged outputs are found by `verify` and by every command that reads them, never taken for complete."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from protrna_cli import embed_fasta
from protrna_cli.output.checksum import Checksum
from protrna_cli.output.formats.table import choose_format
from protrna_cli.output.read import read_output
from protrna_cli.run.verify import find_flaws
from tests.conftest import TOY, Run
from tests.tools import corrupt
from tests.tools.runs import OPTIONS, RUN_KINDS


def test_random_damage_is_found_in_every_format() -> None:
    """The long campaign is `python -m tests.tools.corrupt --trials 1000`."""
    trials = 2 * len(corrupt.KINDS)
    assert corrupt.campaign(trials, random.randrange(1 << 30)).total() == trials


@pytest.fixture
def npy(tmp_path: Path, source: Path) -> Path:
    """A pooled NumPy output."""
    embed_fasta(source, tmp_path / "out.npy", OPTIONS)
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


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES], ids=lambda damage: damage.__name__)
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
    header, blocks = read_output(out)
    assert header.checksums == read_output(npy)[0].checksums
    checksum = Checksum(header)
    for block in blocks:
        for i, row in enumerate(block.rows):
            checksum.add(replace(block, rows=[row], values=[values[i : i + 1] for values in block.values]))
    assert checksum.seal().checksums == header.checksums


def test_an_output_without_checksums_is_still_read(npy: Path, source: Path) -> None:
    meta = Path(f"{npy}.meta.json")
    provenance = json.loads(meta.read_text())
    del provenance["output"]["checksums"]
    meta.write_text(json.dumps(provenance))
    assert find_flaws(npy, [source]) == []


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
    assert stored == read_output(out)[0].checksums
    assert choose_format(out).name == "parquet"
