"""`read_embeddings` gives the same values for every layout."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from protrna_cli import EmbedOptions, embed, embed_fasta, read_embeddings
from protrna_cli.errors import InputError, InputUnreadable, RunMismatch, UsageError
from protrna_cli.output.embeddings import Embeddings, Residues
from protrna_cli.output.files import part_name, shard_path
from protrna_cli.plan.rules import Rules
from protrna_cli.plan.shard import Shard
from tests.conftest import SAMPLE, TOY, Run

IDS = [line[1:].split()[0] for line in SAMPLE.read_text().splitlines() if line.startswith(">")]
LETTERS = ["".join(record.split("\n")[1:]) for record in SAMPLE.read_text().split(">")[1:]]

LAYOUTS = {
    "parquet": ("out.parquet", {}),
    "npy": ("out.npy", {}),
    "flat": ("out.h5", {}),
    "packed": ("out.h5", {"h5_layout": "packed"}),
}


@cache
def expected_vectors(layer: int = -1, per_token: bool = False) -> Any:
    """What `embed` returns for the sample."""
    return embed(LETTERS, TOY, layers=layer, per_token=per_token)


@cache
def files_of(layout: str, **options: object) -> dict[str, bytes]:
    """Embed the sample in a layout; returns the content of the files by their names."""
    name, of_layout = LAYOUTS[layout]
    with TemporaryDirectory() as folder:
        target = Path(folder, name)
        embed_fasta(SAMPLE, target, EmbedOptions(model=str(TOY), **of_layout, **options))  # type: ignore[arg-type]
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def made(folder: Path, layout: str, **options: object) -> Path:
    """Write an output of the sample in a layout, in place of another one."""
    for name, content in files_of(layout, **options).items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)
    return folder / LAYOUTS[layout][0]


def h5ad(folder: Path, run: Run, **options: object) -> Path:
    """Embed the sample as AnnData."""
    source = made(folder, "parquet", **options)
    assert run("convert", source, "-o", folder / "out.h5ad").code == 0
    return folder / "out.h5ad"


def parts(folder: Path, **options: object) -> Path:
    """Embed the sample into a folder of three parts, as a Dask cluster does."""
    (folder / "parts").mkdir()
    for shard in (Shard(1, 3), Shard(2, 3), Shard(3, 3)):
        part = made(folder, "parquet", shard=shard, **options)
        shard_path(part, shard).rename(folder / "parts" / part_name(shard))
    return folder / "parts"


@pytest.mark.parametrize("layout", [*LAYOUTS, "h5ad", "parts"])
@pytest.mark.parametrize("layers", [(-1,), (1, 3)])
def test_pooled_values_are_equal_in_every_layout(
    tmp_path: Path, run: Run, layout: str, layers: tuple[int, ...]
) -> None:
    if layout == "h5ad":
        path = h5ad(tmp_path, run, layers=layers)
    else:
        path = parts(tmp_path, layers=layers) if layout == "parts" else made(tmp_path, layout, layers=layers)
    for layer in (None,) if len(layers) == 1 else layers:
        found = read_embeddings(path, layer)
        expected = expected_vectors(3 if layer is None else layer)
        assert (found.layer, found.per_token, len(found)) == (3 if layer is None else layer, False, len(IDS))
        assert isinstance(found.vectors, np.ndarray)
        if layout == "parts":  # cut between records, so that other batches ran
            np.testing.assert_allclose(found.vectors, expected, rtol=0, atol=1e-5)
        else:
            assert found.vectors.tobytes() == expected.tobytes()
        assert found.ids == IDS
        assert found["tRNA_Phe_yeast"].tobytes() == found.vectors[0].tobytes()


@pytest.mark.parametrize("layout", [*LAYOUTS, "parts"])
def test_residues_are_equal_in_every_layout(tmp_path: Path, layout: str) -> None:
    path = parts(tmp_path, per_token=True) if layout == "parts" else made(tmp_path, layout, per_token=True)
    found = read_embeddings(path)
    expected = expected_vectors(per_token=True)
    assert isinstance(found.vectors, Residues)
    assert found.per_token
    assert len(found.vectors) == len(expected) == 46
    for mine, other in zip(found.vectors, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-5 if layout == "parts" else 0)
    assert found.vectors[-1].shape == expected[-1].shape
    assert [each.shape for each in found.vectors[1:4]] == [each.shape for each in expected[1:4]]
    assert found["tRNA_Phe_yeast"].shape == (76, 40)
    with pytest.raises(IndexError):
        found.vectors[46]


@pytest.mark.parametrize("layout", ["npy", "packed", "h5ad"])
def test_a_format_that_allows_it_is_mapped(tmp_path: Path, run: Run, layout: str) -> None:
    path = h5ad(tmp_path, run) if layout == "h5ad" else made(tmp_path, layout)
    vectors = read_embeddings(path).vectors
    assert isinstance(vectors, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        vectors[0] = 0


def test_float16_stays_float16(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        (tmp_path / layout).mkdir()
        vectors = read_embeddings(made(tmp_path / layout, layout, dtype="float16")).vectors
        assert isinstance(vectors, np.ndarray)
        assert vectors.dtype == np.float16


def test_rows_have_their_columns_and_the_provenance(tmp_path: Path) -> None:
    found = read_embeddings(made(tmp_path, "parquet"))
    assert found.columns.column_names == [
        *("id", "description", "length", "n_embedded", "n_unknown", "n_windows", "md5")
    ]
    assert found.columns["length"].to_pylist() == [len(letters) for letters in LETTERS]
    assert found.provenance["layers"] == [3]
    assert found.provenance["inputs"][0]["name"] == SAMPLE.name
    first = next(iter(found))
    assert (first.id, first.length, first.n_windows) == ("tRNA_Phe_yeast", 76, 1)
    assert first.description.startswith("Phenylalanine tRNA ")
    assert [row.id for row in found] == IDS
    assert repr(found) == "<Embeddings: 46 rows of layer 3, pooled>"
    assert "tRNA_Phe_yeast" in found
    assert "no such" not in found
    json.dumps(found.provenance)


def test_an_id_that_is_missing_or_repeats_is_named(tmp_path: Path, fasta: Callable[[str], Path]) -> None:
    source, out = fasta(">a\nACGU\n>b\nGC\n>a\nGGGG\n"), tmp_path / "out.npy"
    embed_fasta(source, out, EmbedOptions(model=str(TOY)))
    found = read_embeddings(out)
    with pytest.raises(KeyError, match="no row has the id 'c'"):
        found["c"]
    with pytest.raises(KeyError, match=r"rows 0, 2 have the id 'a'; use vectors\[row\]"):
        found["a"]
    assert found["b"].shape == (40,)


def test_regions_are_read_by_their_name(tmp_path: Path) -> None:
    from protrna_cli.fasta.bed import read_bed

    rules = Rules(regions=read_bed(str(SAMPLE.parent / "regions.bed")))
    embed_fasta(SAMPLE, tmp_path / "out.npy", EmbedOptions(model=str(TOY), rules=rules))
    found = read_embeddings(tmp_path / "out.npy")
    assert len(found) > 0
    assert all(":" in id for id in found.ids)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (None, "has layers 1, 3; choose one with layer="),
        (2, "has no layer 2, only 1, 3; choose one of these with layer="),
        ("3", "layer= takes a whole number"),
    ],
)
def test_the_layer_is_checked(tmp_path: Path, layer: int | None, message: str) -> None:
    path = made(tmp_path, "npy", layers=(1, 3))
    with pytest.raises(UsageError, match=message):
        read_embeddings(path, layer)
    assert read_embeddings(path, -1).layer == 3


def test_what_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputUnreadable, match="cannot be read"):
        read_embeddings(tmp_path / "missing.npy")
    with pytest.raises(InputUnreadable, match="a folder without parts"):
        read_embeddings(tmp_path)
    np.save(tmp_path / "other.npy", np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"without other.npy.meta.json beside it"):
        read_embeddings(tmp_path / "other.npy")
    with pytest.raises(UsageError, match="path takes a path"):
        read_embeddings(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_is_found(tmp_path: Path, layout: str) -> None:
    path = made(tmp_path, layout)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=path.name):
        read_embeddings(path)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    folder = parts(tmp_path)
    (folder / "part-2-of-3.parquet").unlink()
    with pytest.raises(RunMismatch, match="no part for shard 2/3"):
        read_embeddings(folder)


def test_vectors_outlive_the_object_and_the_file(tmp_path: Path) -> None:
    path = made(tmp_path, "npy")
    vectors = np.asarray(read_embeddings(path).vectors)
    expected = vectors.copy()
    path.unlink()
    assert vectors.tobytes() == expected.tobytes()


def test_only_the_vectors_of_the_layer_are_read_from_parquet(tmp_path: Path) -> None:
    path = made(tmp_path, "parquet", layers=(1, 3))
    group = pq.read_metadata(path).row_group(0)
    [other] = [
        group.column(i)
        for i in range(group.num_columns)
        if group.column(i).path_in_schema.startswith("layer_1.")
    ]
    data = bytearray(path.read_bytes())
    middle = other.data_page_offset + other.total_compressed_size // 2
    data[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(data)
    assert np.array_equal(read_embeddings(path, 3).vectors, expected_vectors(3))
    for read in (lambda: read_embeddings(path, 1), lambda: read_embeddings(path, 3, check=True)):
        with pytest.raises(InputError, match="damaged"):
            read()


@pytest.mark.parametrize("layout", ["parquet", "npy", "parts"])
def test_a_pickle_is_the_path_and_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    path = parts(tmp_path, layers=(1, 3)) if layout == "parts" else made(tmp_path, layout, layers=(1, 3))
    monkeypatch.chdir(tmp_path)
    whole = read_embeddings(path.name, 3)
    for found in (whole, whole[5:9], whole[[IDS[7], IDS[2]]], whole[::-2]):
        pickled = pickle.dumps(found)
        assert len(pickled) < 1000
        with monkeypatch.context() as patch:
            patch.chdir("/")
            again: Embeddings = pickle.loads(pickled)
        assert (again.ids, again.layer) == (found.ids, 3)
        assert np.asarray(again.vectors).tobytes() == np.asarray(found.vectors).tobytes()


def test_a_pickle_of_an_output_that_was_replaced_is_refused(tmp_path: Path) -> None:
    pickled = pickle.dumps(read_embeddings(made(tmp_path, "npy")))
    made(tmp_path, "npy", layers=(1,))
    with pytest.raises(UsageError, match="has no layer 3"):
        pickle.loads(pickled)
    made(tmp_path, "npy", rules=Rules(max_length=60))
    with pytest.raises(RunMismatch, match=r"out\.npy: another output than the pickled one"):
        pickle.loads(pickled)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_rows_are_taken_out_as_of_a_list(tmp_path: Path, layout: str, per_token: bool) -> None:
    """By numbers, slices, ids and masks, one after another: what a list of all rows gives."""
    found = read_embeddings(made(tmp_path, layout, per_token=per_token))
    every = list(found)
    long = np.array([row.length > 100 for row in every])
    for rows, expected in (
        (slice(5), every[:5]),
        (slice(40, None), every[40:]),
        (slice(None, None, -7), every[::-7]),
        (slice(-3, 2), []),
        ([3, 0, -1, 3], [every[3], every[0], every[-1], every[3]]),
        ([IDS[7], IDS[2]], [every[7], every[2]]),
        (np.array([IDS[7], IDS[2]]), [every[7], every[2]]),
        (np.array([1, 2]), every[1:3]),
        (long, [row for row in every if row.length > 100]),
        ([], []),
    ):
        taken = found[rows]  # type: ignore[index]
        assert isinstance(taken, Embeddings)
        assert [row.id for row in taken] == taken.ids == [row.id for row in expected]
        for mine, other in zip(taken, expected, strict=True):
            assert (mine.md5, mine.vectors.tobytes()) == (other.md5, other.vectors.tobytes())
    assert found[10:][5:][0].id == IDS[15]
    assert (found[0].id, found[np.int64(-1)].id) == (IDS[0], IDS[-1])
    assert found[2:4][IDS[3]].tobytes() == every[3].vectors.tobytes()
    assert found[2:4].columns["id"].to_pylist() == IDS[2:4]
    assert np.shares_memory(np.asarray(found[2:4].vectors[0]), np.asarray(found.vectors[2]))
    with pytest.raises(KeyError, match="no row has the id"):
        found[2:4][[IDS[0]]]
    for wrong in (46, [46], -47):
        with pytest.raises(IndexError):
            found[wrong]
    with pytest.raises(IndexError, match="a mask of 46 rows is needed"):
        found[long[:9]]


def test_residues_are_padded_for_torch_and_keras(tmp_path: Path) -> None:
    found = read_embeddings(made(tmp_path, "npy", per_token=True, dtype="float16"))[:7]
    vectors, mask = found.padded(pad=-1)
    longest = max(row.n_embedded for row in found)
    assert (vectors.shape, vectors.dtype, mask.shape) == ((7, longest, 40), np.float16, (7, longest))
    for row, padded, of_row in zip(found, vectors, mask, strict=True):
        assert of_row.sum() == row.n_embedded
        assert np.array_equal(padded[of_row], row.vectors)
        assert (padded[~of_row] == -1).all()
    assert found[:0].padded()[0].shape == (0, 0, 40)
    with pytest.raises(UsageError, match="padded is for outputs with one vector per residue"):
        read_embeddings(made(tmp_path, "parquet")).padded()


@pytest.mark.parametrize("per_token", [False, True])
def test_a_frame_has_all_columns(tmp_path: Path, per_token: bool) -> None:
    found = read_embeddings(made(tmp_path, "parquet", per_token=per_token))
    frame = found.to_pandas()
    assert list(frame.columns) == [*found.columns.column_names[1:], "embedding"]
    assert frame.index.tolist() == IDS
    assert np.array_equal(frame.loc["tRNA_Phe_yeast", "embedding"], found["tRNA_Phe_yeast"])
    assert found[:3].to_pandas().equals(frame.iloc[:3])


def test_anndata_is_that_of_the_file(tmp_path: Path, run: Run) -> None:
    anndata = pytest.importorskip("anndata", reason="needs AnnData")
    expected = anndata.read_h5ad(h5ad(tmp_path, run))
    for path in (tmp_path / "out.parquet", tmp_path / "out.h5ad"):
        found = read_embeddings(path).to_anndata()
        assert np.array_equal(found.X, expected.X)
        assert found.obs.equals(expected.obs)
        assert found.var_names.equals(expected.var_names)
        found.write_h5ad(tmp_path / "again.h5ad")
        assert np.array_equal(anndata.read_h5ad(tmp_path / "again.h5ad").X, expected.X)
    with pytest.raises(UsageError, match="AnnData has one vector per row"):
        read_embeddings(made(tmp_path, "npy", per_token=True)).to_anndata()
