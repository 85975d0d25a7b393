"""Outputs used with other libraries: joins, searches, streams. `test_neighbours` reads every layout.

pip install -e ".[test,consumers]" && python -m pytest -m consumers
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from protrna_cli.output.make import convert
from protrna_cli.output.rows import COLUMNS_BEFORE_MD5, Block, Header
from protrna_cli.plan.pieces import Row
from tests.conftest import SAMPLE, Run
from tests.test_manual import blocks
from tests.tools.formats import named

# Warnings of these libraries are ignored.
pytestmark = [pytest.mark.consumers, pytest.mark.filterwarnings("ignore")]

N, D, LAYERS = 40, 16, (20, 33)
MD5S = [hashlib.md5(f"sequence {i}".encode()).hexdigest() for i in range(N)]


def library(name: str) -> Any:
    """Import a library, or skip the test that needs it."""
    return pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[consumers]"')


class Known(NamedTuple):
    """An output with known numbers.

    Attributes
    ----------
    folder
        Folder with `out.parquet`, `out.npy`, `out.h5`, `packed.h5`; if pooled, also `out.h5ad` and `out.tsv`.
    ids, values
        Ids of the rows, and their embeddings, (D,) or (L, D).
    """

    folder: Path
    ids: list[str]
    values: list[Any]

    @property
    def parquet(self) -> str:
        return str(self.folder / "out.parquet")


def make(folder: Path, per_token: bool, dtype: str) -> Known:
    """Write known numbers and convert them into every format."""
    rng = np.random.default_rng(7)
    found = [Row(f"URS{i:03}/9606", f"record {i}", i + 1, i + 1, 0, 1, MD5S[i]) for i in range(N)]
    values = [rng.standard_normal((i + 1, D) if per_token else D).astype(dtype) for i in range(N)]
    matrix = np.concatenate([value.reshape(-1, D) for value in values])
    residues = sum(row.length for row in found)
    header = Header(per_token, (33,), D, dtype, N, residues, {"version": "1", "layers": [33]})
    source = folder / "out.parquet"
    named("parquet", "flat").write(source, header, [Block(found, [matrix])])
    for name, format, layout in [
        ("out.npy", "npy", ""),
        ("out.h5", "h5", "flat"),
        ("packed.h5", "h5", "packed"),
    ]:
        convert(source, folder / name, named(format, layout))
    if not per_token:
        convert(source, folder / "out.h5ad", named("h5ad"))
        convert(source, folder / "out.tsv", named("tsv"))
    return Known(folder, [row.id for row in found], values)


@pytest.fixture(scope="module", params=["float32", "float16"])
def pooled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Known:
    return make(tmp_path_factory.mktemp("pooled"), False, request.param)


@pytest.fixture(scope="module", params=["float32", "float16"])
def residues(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Known:
    return make(tmp_path_factory.mktemp("residues"), True, request.param)


def test_polars_lazily(pooled: Known, residues: Known) -> None:
    def third(known: Known) -> Any:
        return pl.scan_parquet(known.parquet).filter(pl.col("id") == known.ids[3]).collect()["embedding"]

    assert np.array_equal(third(pooled).to_numpy()[0], pooled.values[3])
    assert np.array_equal(third(residues).to_numpy()[0], residues.values[3])


def test_duckdb(pooled: Known, residues: Known) -> None:
    duckdb = library("duckdb")
    columns = duckdb.sql(f"SELECT id, embedding FROM '{pooled.parquet}'").fetchnumpy()
    assert columns["id"].tolist() == pooled.ids
    assert np.array_equal(np.stack(columns["embedding"]), pooled.values)
    nearest = duckdb.sql(
        f"""SELECT a.id, array_cosine_similarity(a.embedding::FLOAT[{D}], b.embedding::FLOAT[{D}]) AS cosine
            FROM '{pooled.parquet}' a, '{pooled.parquet}' b WHERE b.id = '{pooled.ids[3]}'
            ORDER BY cosine DESC"""
    ).fetchall()
    matrix = np.stack(pooled.values).astype("f8")
    cosines = matrix @ matrix[3] / np.linalg.norm(matrix, axis=1) / np.linalg.norm(matrix[3])
    order = np.argsort(-cosines)
    assert [name for name, _ in nearest] == [pooled.ids[i] for i in order]
    assert [value for _, value in nearest] == pytest.approx(cosines[order].tolist(), abs=1e-6)
    cells = duckdb.sql(
        f"SELECT embedding FROM '{residues.parquet}' WHERE length <= 3 ORDER BY length"
    ).fetchall()
    assert [np.array(cell).tolist() for (cell,) in cells] == [value.tolist() for value in residues.values[:3]]


def test_rows_join_to_a_table_of_rnacentral_by_md5(pooled: Known, residues: Known) -> None:
    rnacentral = pd.DataFrame({"md5": MD5S[::-2], "urs": [f"URS{i}" for i in range(N)][::-2]})
    for known in (pooled, residues):
        table = pq.read_table(known.parquet, columns=["id", "md5"]).to_pandas()
        joined = table.merge(rnacentral, on="md5")
        assert [int(urs[3:]) for urs in joined["urs"]] == [known.ids.index(each) for each in joined["id"]]
        assert len(joined) == N // 2
        scanned = pl.scan_parquet(known.parquet).filter(pl.col("md5") == MD5S[7]).collect()
        assert scanned["id"].to_list() == [known.ids[7]]
        index = pd.read_csv(f"{known.folder / 'out.npy'}.index.tsv", sep="\t")
        assert index["md5"].tolist() == MD5S
        with h5py.File(known.folder / "out.h5") as flat, h5py.File(known.folder / "packed.h5") as packed:
            assert [each.attrs["md5"] for each in flat.values()] == MD5S
            assert packed["md5"].asstr()[:].tolist() == MD5S


def test_hugging_face_datasets(
    pooled: Known, residues: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = library("datasets")
    for known in (pooled, residues):
        dataset = datasets.Dataset.from_parquet(known.parquet, cache_dir=str(tmp_path)).with_format("numpy")
        assert list(dataset["id"]) == known.ids
        for row, value in zip(dataset, known.values, strict=True):
            assert np.array_equal(row["embedding"], value)
        stream = datasets.load_dataset("parquet", data_files=known.parquet, split="train", streaming=True)
        assert next(iter(stream))["embedding"] == known.values[0].tolist()
    matrix = datasets.Dataset.from_parquet(pooled.parquet, cache_dir=str(tmp_path)).with_format("numpy")[:]
    assert matrix["embedding"].shape == (N, D)


def test_h5py_reads_flat_as_the_files_of_uniprot(pooled: Known, residues: Known) -> None:
    """Read as in https://www.uniprot.org/help/embeddings; only `/` in ids is percent-encoded."""
    for known in (pooled, residues):
        with h5py.File(known.folder / "out.h5") as file:
            found = {name: np.array(embedding) for name, embedding in file.items()}
        assert list(found) == [name.replace("/", "%2F") for name in known.ids]
        for value, expected in zip(found.values(), known.values, strict=True):
            assert value.dtype == expected.dtype
            assert np.array_equal(value, expected)


def test_numpy_maps_the_file(pooled: Known, residues: Known) -> None:
    matrix = np.load(pooled.folder / "out.npy", mmap_mode="r")
    assert isinstance(matrix, np.memmap)
    assert np.array_equal(matrix, pooled.values)
    index = pd.read_csv(residues.folder / "out.npy.index.tsv", sep="\t", index_col="id")
    matrix = np.load(residues.folder / "out.npy", mmap_mode="r")
    for name, value in zip(residues.ids, residues.values, strict=True):
        assert np.array_equal(matrix[slice(*index.loc[name, ["start", "end"]])], value)


def test_scikit_learn_on_the_mapped_matrix(pooled: Known) -> None:
    neighbors = library("sklearn.neighbors")
    matrix = np.load(pooled.folder / "out.npy", mmap_mode="r")
    found = neighbors.NearestNeighbors(n_neighbors=3).fit(matrix).kneighbors(matrix, return_distance=False)
    exact = np.stack(pooled.values).astype("f8")
    distances = np.linalg.norm(exact[:, None] - exact[None], axis=2)
    assert np.array_equal(found, np.argsort(distances, axis=1)[:, :3])


@pytest.mark.parametrize("backed", [None, "r"])
def test_anndata(pooled: Known, backed: str | None) -> None:
    data = library("anndata").read_h5ad(pooled.folder / "out.h5ad", backed=backed)
    assert data.obs_names.tolist() == pooled.ids
    assert data.var_names.tolist() == [str(i) for i in range(D)]
    assert data.obs["description"].tolist() == [f"record {i}" for i in range(N)]
    assert data.obs["length"].tolist() == list(range(1, N + 1))
    assert data.obs["md5"].tolist() == MD5S
    assert json.loads(data.uns["protrna"])["version"] == "1"
    assert data.X.dtype == pooled.values[0].dtype
    assert np.array_equal(data.X[:], pooled.values)
    if backed:
        data.file.close()


def test_anndata_writes_what_it_has_read(pooled: Known, tmp_path: Path) -> None:
    anndata = library("anndata")
    data = anndata.read_h5ad(pooled.folder / "out.h5ad")
    data[3:7].copy().write_h5ad(tmp_path / "again.h5ad")
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert again.obs_names.tolist() == pooled.ids[3:7]
    assert np.array_equal(again.X, pooled.values[3:7])
    assert again.uns["protrna"] == data.uns["protrna"]


def test_scanpy(tmp_path: Path) -> None:
    """One layer in `X` and several in `obsm` give the same neighbours for the same numbers."""
    anndata, scanpy = library("anndata"), library("scanpy")
    known = make(tmp_path, False, "float32")
    data = anndata.read_h5ad(tmp_path / "out.h5ad")
    scanpy.pp.neighbors(data, n_neighbors=5, use_rep="X")
    scanpy.tl.umap(data)
    assert data.obsm["X_umap"].shape == (N, 2)
    found = [Row(name, "", 1, 1, 0, 1) for name in known.ids]
    header = Header(False, LAYERS, D, "float32", N, N, {"layers": list(LAYERS)}, COLUMNS_BEFORE_MD5)
    matrices = [np.zeros((N, D), "f4"), np.stack(known.values)]
    named("h5ad", "").write(tmp_path / "two.h5ad", header, [Block(found, matrices)])
    two = anndata.read_h5ad(tmp_path / "two.h5ad")
    assert two.shape == (N, 0)
    assert np.array_equal(two.obsm["layer_20"], matrices[0])
    scanpy.pp.neighbors(two, n_neighbors=5, use_rep="layer_33")
    assert np.allclose(two.obsp["distances"].toarray(), data.obsp["distances"].toarray())


@pytest.fixture
def families(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the manual's example reads."""
    for name in ("anndata", "datasets", "duckdb", "scanpy"):
        library(name)
    monkeypatch.chdir(tmp_path)
    assert run("embed", SAMPLE, "-o", "reading.parquet", "--model", "demo").code == 0
    assert run("convert", "reading.parquet", "-o", "reading.h5ad").code == 0


@pytest.mark.usefixtures("families")
def test_the_readme() -> None:
    names: dict[str, Any] = {}
    [block] = blocks("python consumers")
    exec(block, names)
    assert len(names["nearest"]) == 5
    assert names["dataset"][0]["embedding"].shape == (320,)
    assert names["data"].obsm["X_umap"].shape == (46, 2)
