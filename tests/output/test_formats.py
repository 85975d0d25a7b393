"""The three formats of runs: written, then read by protrna and by common libraries."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from protrna_cli.errors import InputError, InputUnreadable, OutputUnwritable, UsageError
from protrna_cli.output.files import choose_format
from protrna_cli.output.formats.hdf5 import dataset_name
from protrna_cli.output.rows import COLUMNS_BEFORE_MD5, Block, Header
from protrna_cli.output.stored import open_output
from protrna_cli.plan.pieces import Row
from tests.tools.formats import named

KINDS = [("parquet", "flat"), ("npy", "flat"), ("h5", "flat"), ("h5", "packed")]
IDS = ["plain", "with/slash", "100%", 'tab\tand "quote"', "ümläut", "x" * 5000]
WIDTH = 5


def make(per_token: bool, layers: tuple[int, ...], dtype: str) -> tuple[Header, list[Block]]:
    """Six rows in two blocks, with random numbers."""
    rng = np.random.default_rng(3)
    rows = [Row(name, f"about {name}", i + 1, i + 1, i % 2, 1, f"{i:032x}") for i, name in enumerate(IDS)]
    counts = len(rows), sum(row.length for row in rows)
    header = Header(per_token, layers, WIDTH, dtype, *counts, {"version": "ü"})

    def block(part: list[Row]) -> Block:
        n = sum(row.length for row in part) if per_token else len(part)
        return Block(part, [rng.standard_normal((n, WIDTH)).astype(dtype) for _ in layers])

    return header, [block(rows[:4]), block(rows[4:])]


def joined(blocks: Iterator[Block] | list[Block]) -> tuple[list[Row], list[Any]]:
    """All rows, and one array per layer."""
    blocks = list(blocks)
    return [row for b in blocks for row in b.rows], [
        np.concatenate(v) for v in zip(*(b.values for b in blocks), strict=True)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layers", [(6,), (0, 6)])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(("format", "h5_layout"), KINDS)
def test_what_is_written_is_read_back(
    tmp_path: Path, format: str, h5_layout: str, per_token: bool, layers: tuple[int, ...], dtype: str
) -> None:
    header, blocks = make(per_token, layers, dtype)
    path = tmp_path / "out"
    named(format, h5_layout).write(path, header, blocks)
    assert all(file.exists() for file in named(format).files(path))
    stored = open_output(path)
    assert stored.header == header
    rows, values = joined(stored.blocks())
    expected_rows, expected = joined(blocks)
    assert rows == expected_rows
    for got, wanted in zip(values, expected, strict=True):
        assert got.dtype == dtype
        assert np.array_equal(got, wanted)


@pytest.fixture(params=[False, True], ids=["pooled", "per_token"])
def output(request: pytest.FixtureRequest) -> tuple[Header, list[Block], list[Any]]:
    """A header, its blocks, and the value of each row: (D,) or (L, D)."""
    header, blocks = make(request.param, (6,), "float32")
    [(rows, [values])] = [joined(blocks)]
    ends = np.cumsum([row.length for row in rows])
    return header, blocks, np.split(values, ends[:-1]) if request.param else list(values)


def test_parquet_for_pandas_and_polars(tmp_path: Path, output: tuple[Header, list[Block], list[Any]]) -> None:
    header, blocks, expected = output
    path = tmp_path / "out.parquet"
    named("parquet", "flat").write(path, header, blocks)
    frame = pd.read_parquet(path)
    assert frame["id"].tolist() == IDS
    for cell, value in zip(frame["embedding"], expected, strict=True):
        assert np.array_equal(np.stack(cell) if header.per_token else cell, value)
    polars = pl.read_parquet(path)
    if header.per_token:
        assert polars["embedding"].to_list()[3] == expected[3].tolist()
    else:
        assert polars.schema["embedding"] == pl.Array(pl.Float32, WIDTH)
        assert np.array_equal(polars["embedding"].to_numpy(), expected)


def test_parquet_is_compressed_as_promised(tmp_path: Path) -> None:
    header, blocks = make(True, (6,), "float32")
    named("parquet", "flat").write(tmp_path / "out.parquet", header, blocks)
    column = pq.read_metadata(tmp_path / "out.parquet").row_group(1).column(7)
    assert column.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"protrna"])["version"] == "ü"
    named("parquet", "flat").write(tmp_path / "half.parquet", *make(True, (6,), "float16"))
    half = pq.read_metadata(tmp_path / "half.parquet").row_group(1).column(7)
    assert "BYTE_STREAM_SPLIT" not in half.encodings  # DuckDB 2.0 cannot read float16 in that encoding


def test_npy_for_numpy_and_pandas(tmp_path: Path, output: tuple[Header, list[Block], list[Any]]) -> None:
    header, blocks, expected = output
    path = tmp_path / "out.npy"
    named("npy", "flat").write(path, header, blocks)
    array = np.load(path, mmap_mode="r")
    index = pd.read_csv(f"{path}.index.tsv", sep="\t")
    assert index["id"].tolist() == IDS
    for start, end, value in zip(index["start"], index["end"], expected, strict=True):
        assert np.array_equal(array[start:end] if header.per_token else array[start], value)
    assert json.loads(Path(f"{path}.meta.json").read_text())["version"] == "ü"


def test_h5_flat_has_one_dataset_per_id(
    tmp_path: Path, output: tuple[Header, list[Block], list[Any]]
) -> None:
    header, blocks, expected = output
    named("h5", "flat").write(tmp_path / "out.h5", header, blocks)
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == [dataset_name(name) for name in IDS]
        for dataset, name, value in zip(file.values(), IDS, expected, strict=True):
            assert np.array_equal(dataset[:], value)
            assert dataset.attrs["original_id"] == name
            assert dataset.attrs["length"] == IDS.index(name) + 1


@pytest.mark.parametrize(
    ("per_token", "layers", "pooling", "name"),
    [
        (False, (6,), "mean", "own.h5 layer 6 mean"),
        (False, (3,), "max", "own.h5 layer 3 max"),
        (False, (3, 6), "mean", None),
        (True, (6,), None, None),
    ],
)
def test_h5_flat_names_what_protspace_can_read(
    tmp_path: Path, per_token: bool, layers: tuple[int, ...], pooling: str | None, name: str | None
) -> None:
    """Model, layer and pooling: files with equal names are merged there."""
    header, blocks = make(per_token, layers, "float32")
    provenance = {"model": {"name": "weights/own.h5", "layers": 6}, "pooling": pooling}
    named("h5", "flat").write(tmp_path / "out.h5", replace(header, provenance=provenance), blocks)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs.get("model_name") == name


def test_h5_packed_is_one_matrix(tmp_path: Path, output: tuple[Header, list[Block], list[Any]]) -> None:
    header, blocks, expected = output
    named("h5", "packed").write(tmp_path / "out.h5", header, blocks)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["id"].asstr()[:].tolist() == IDS
        matrix = file["embeddings"][:]
        offsets = file["offsets"][:] if header.per_token else None
    for i, value in enumerate(expected):
        assert np.array_equal(matrix[i] if offsets is None else matrix[offsets[i] : offsets[i + 1]], value)


@pytest.mark.parametrize(("ids", "word"), [(["a", "a"], "repeats"), ([""], "no id")])
def test_h5_flat_refuses_ids_that_cannot_name_a_dataset(tmp_path: Path, ids: list[str], word: str) -> None:
    rows = [Row(name, "", 1, 1, 0, 1) for name in ids]
    header = Header(False, (6,), 2, "float32", len(rows), len(rows), {}, COLUMNS_BEFORE_MD5)
    block = Block(rows, [np.zeros((len(rows), 2), np.float32)])
    with pytest.raises(OutputUnwritable, match=f"{word}.*--h5-layout packed"):
        named("h5", "flat").write(tmp_path / "out.h5", header, [block])
    named("h5", "packed").write(tmp_path / "packed.h5", header, [block])
    assert joined(open_output(tmp_path / "packed.h5").blocks())[0] == rows


def test_dataset_names_can_be_decoded() -> None:
    from urllib.parse import unquote

    names = ["a/b", "a%2Fb", ".", "..", "%", "a.b"]
    assert [unquote(dataset_name(name)) for name in names] == names
    assert len({dataset_name(name) for name in names}) == len(names)
    assert not any("/" in dataset_name(name) or dataset_name(name) == "." for name in names)


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.parquet", "parquet"), ("a.pq", "parquet"), ("A.H5", "h5"), ("a.hdf5", "h5"), ("a.npy", "npy")],
)
def test_the_suffix_determines_the_format(name: str, format: str) -> None:
    assert choose_format(Path(name)).name == format


def test_an_unknown_suffix_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"no format has the suffix '\.csv'; use \.parquet, .*--format"):
        choose_format(Path("out.csv"))


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, InputUnreadable, "cannot be read"),
        (b"", InputError, "neither Parquet, HDF5 nor NumPy"),
        (b">seq\nACGU\n", InputError, "neither Parquet, HDF5 nor NumPy"),
        (b"PAR1 and nothing more", InputError, "name an output of protrna embed"),
        (b"\x89HDF\r\n\x1a\n cut", InputError, "name an output of protrna embed"),
        (b"\x93NUMPY alone", InputError, r"without out\.meta\.json"),
    ],
)
def test_files_that_are_not_outputs_are_refused(
    tmp_path: Path, content: bytes | None, error: type, words: str
) -> None:
    path = tmp_path / "out"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=words):
        open_output(path)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    pd.DataFrame({"id": [1]}).to_parquet(tmp_path / "their.parquet")
    with h5py.File(tmp_path / "their.h5", "w") as file:
        file["id"] = 1
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match="without protrna provenance"):
            open_output(path)


@pytest.mark.parametrize(("format", "h5_layout"), KINDS)
def test_an_output_without_rows_is_read(tmp_path: Path, format: str, h5_layout: str) -> None:
    """A shard whose records are all skipped has one."""
    header = Header(False, (6,), WIDTH, "float16", 0, 0, {"version": "1"})
    named(format, h5_layout).write(tmp_path / "out", header, [])
    rows, vectors = open_output(tmp_path / "out").layer(0)
    assert (rows, vectors.shape, vectors.dtype) == ([], (0, WIDTH), "float16")
