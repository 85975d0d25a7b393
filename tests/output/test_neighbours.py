"""The page `neighbours` of the manual: each cell of its table, and its examples with other people's programs.

pip install -e ".[test,consumers,neighbours]" && python -m pytest -m consumers
"""

import csv
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from Bio import SeqIO
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from protrna_cli import manual
from protrna_cli.cli import main as cli
from protrna_cli.output.rows import Block, Header
from protrna_cli.plan.pieces import Row
from tests.conftest import ROOT, SAMPLE, Run
from tests.test_manual import block, blocks
from tests.tools.formats import named

# Warnings of these libraries are ignored.
pytestmark = [pytest.mark.consumers, pytest.mark.filterwarnings("ignore")]

PAGE = manual.page("neighbours")
LAYOUTS = {
    "Parquet": ("out.parquet", "parquet", ""),
    "HDF5 flat": ("flat.h5", "h5", "flat"),
    "HDF5 packed": ("packed.h5", "h5", "packed"),
    "AnnData": ("out.h5ad", "h5ad", ""),
    "NumPy": ("out.npy", "npy", ""),
    "TSV": ("out.tsv", "tsv", ""),
}
KINDS = {"P": "one vector per record", "T": "one per residue", "L": "several layers"}
LACKS = {("AnnData", "T"), ("TSV", "T"), ("TSV", "L")}
"""Layouts that have no file of a kind."""

IDS = ["URS0000000001/9606", "100%", "NA", "007", "sp|P12345|X", "."]
WIDTH = 5
Read = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""Ids, and the values of each layer: (D,) for each row, or (L, D) per residue."""


def library(name: str) -> Any:
    """Import a library, or skip the test that needs it."""
    return pytest.importorskip(
        name, reason=f'{name} is not installed: pip install -e ".[consumers,neighbours]"'
    )


def biotrainer(name: str, name_in_1: str) -> Any:
    """Import a module of biotrainer, which 2.0 gave another name."""
    library("biotrainer")
    return import_module(name_in_1 if Version(version("biotrainer")).major == 1 else name)


def columns(kind: str) -> list[str]:
    """Names of the columns, groups or matrices of the layers."""
    return ["layer_3", "layer_6"] if kind == "L" else ["embedding"]


def write(folder: Path, layout: str, kind: str, dtype: str) -> tuple[Path, Read]:
    """Write random numbers for ids that are odd, and repeat where the layout takes that."""
    rng = np.random.default_rng(5)
    ids = IDS if layout == "HDF5 flat" else [*IDS, IDS[0]]
    rows = [Row(name, f"record {i}", i + 1, i + 1, 0, 1, f"{i:032x}") for i, name in enumerate(ids)]
    shapes = [(row.length, WIDTH) if kind == "T" else (WIDTH,) for row in rows]
    values = [[rng.standard_normal(shape).astype(dtype) for shape in shapes] for _ in columns(kind)]
    layers, residues = (3, 6)[-len(values) :], sum(row.length for row in rows)
    provenance = {"model": {"name": "demo", "layers": 6}, "pooling": None if kind == "T" else "mean"}
    header = Header(kind == "T", layers, WIDTH, dtype, len(rows), residues, provenance)
    name, format, h5_layout = LAYOUTS[layout]
    matrices = [np.concatenate([value.reshape(-1, WIDTH) for value in layer]) for layer in values]
    named(format, h5_layout).write(folder / name, header, [Block(rows, matrices)])
    return folder / name, (ids, values)


def cells_of(table: Any, kind: str) -> Read:
    """Collect the columns of a table whose cells are arrays or lists."""
    return list(table["id"]), [[np.array(list(cell)) for cell in table[name]] for name in columns(kind)]


def duckdb_parquet(path: Path, kind: str) -> Read:
    names = ["id", *columns(kind)]
    rows = library("duckdb").sql(f"SELECT {', '.join(names)} FROM '{path}'").fetchall()
    return cells_of(dict(zip(names, zip(*rows, strict=True), strict=True)), kind)


def datasets_parquet(path: Path, kind: str) -> Read:
    dataset = library("datasets").Dataset.from_parquet(str(path), cache_dir=str(path.parent))
    return cells_of(dataset.with_format("numpy"), kind)


def h5py_flat(path: Path, kind: str) -> Read:
    with h5py.File(path) as file:
        groups = [file[name] for name in columns(kind)] if kind == "L" else [file]
        ids = [dataset.attrs["original_id"] for dataset in groups[0].values()]
        return ids, [[dataset[()] for dataset in group.values()] for group in groups]


def h5py_packed(path: Path, kind: str) -> Read:
    with h5py.File(path) as file:
        names = columns(kind) if kind == "L" else ["embeddings"]
        matrices = [file[name][()] for name in names]
        if kind == "T":
            matrices = [np.split(matrix, file["offsets"][1:-1]) for matrix in matrices]
        return file["id"].asstr()[()].tolist(), matrices


def numpy_npy(path: Path, kind: str) -> Read:
    with Path(f"{path}.index.tsv").open(newline="") as file:
        index = list(csv.DictReader(file, dialect="excel-tab"))
    array = np.load(path, mmap_mode="r")
    layers = array if kind == "L" else array[None]
    if kind == "T":
        layers = [[layer[int(row["start"]) : int(row["end"])] for row in index] for layer in layers]
    return [row["id"] for row in index], layers


def numpy_tsv(path: Path, kind: str) -> Read:
    lines = Path(f"{path}.metadata.tsv").read_text().splitlines()[1:]
    return [line.split("\t")[0] for line in lines], [np.loadtxt(path, "f4", delimiter="\t")]


def pandas_tsv(path: Path, kind: str) -> Read:
    text: Any = {"sep": "\t", "dtype": {"id": str}, "keep_default_na": False}
    vectors = pd.read_csv(path, sep="\t", header=None, dtype="f4", float_precision="round_trip")
    return pd.read_csv(f"{path}.metadata.tsv", **text)["id"].tolist(), [vectors.to_numpy()]


def polars_tsv(path: Path, kind: str) -> Read:
    options: Any = {"separator": "\t", "quote_char": None}
    ids = pl.read_csv(f"{path}.metadata.tsv", schema_overrides={"id": pl.String}, **options)["id"]
    return ids.to_list(), [pl.read_csv(path, has_header=False, **options).to_numpy().astype("f4")]


def duckdb_tsv(path: Path, kind: str) -> Read:
    read_csv = library("duckdb").read_csv
    metadata = read_csv(f"{path}.metadata.tsv", sep="\t", header=True, all_varchar=True, quotechar="")
    vectors = read_csv(str(path), sep="\t", header=False).fetchall()
    return metadata.fetchnumpy()["id"].tolist(), [np.array(vectors, "f4")]


def annotated(data: Any, kind: str) -> Read:
    """Read an AnnData object."""
    return data.obs_names.tolist(), [data.obsm[name] for name in columns(kind)] if kind == "L" else [data.X]


def protspace_flat(path: Path, kind: str) -> Read:
    found = library("protspace.data.loaders").load_h5([path])
    return [unquote(name) for name in found.headers], [found.data]


def biotrainer_flat(path: Path, kind: str) -> Read:
    service = biotrainer("biotrainer.embedding", "biotrainer.embedders").EmbeddingService
    found = service.load_embeddings(str(path))
    return [unquote(name) for name in found], [[tensor.numpy() for tensor in found.values()]]


READERS: dict[tuple[str, str], Callable[[Path, str], Read]] = {
    ("NumPy", "NumPy"): numpy_npy,
    ("NumPy", "TSV"): numpy_tsv,
    ("pandas", "Parquet"): lambda path, kind: cells_of(pd.read_parquet(path), kind),
    ("pandas", "TSV"): pandas_tsv,
    ("polars", "Parquet"): lambda path, kind: cells_of(pl.read_parquet(path), kind),
    ("polars", "TSV"): polars_tsv,
    ("DuckDB", "Parquet"): duckdb_parquet,
    ("DuckDB", "TSV"): duckdb_tsv,
    ("pyarrow", "Parquet"): lambda path, kind: cells_of(pq.read_table(path).to_pydict(), kind),
    ("datasets", "Parquet"): datasets_parquet,
    ("h5py", "HDF5 flat"): h5py_flat,
    ("h5py", "HDF5 packed"): h5py_packed,
    ("anndata", "AnnData"): lambda path, kind: annotated(library("anndata").read_h5ad(path), kind),
    ("scanpy", "AnnData"): lambda path, kind: annotated(library("scanpy").read_h5ad(path), kind),
    ("ProtSpace", "HDF5 flat"): protspace_flat,
    ("ProtSpace", "HDF5 packed"): protspace_flat,
    ("biotrainer", "HDF5 flat"): biotrainer_flat,
    ("biotrainer", "HDF5 packed"): biotrainer_flat,
}


def rows() -> tuple[list[str], list[list[str]]]:
    """The table of the page: its layouts, and the cells of each line."""
    lines = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    (_, _, *layouts), _, *rows = [[cell.strip() for cell in line] for line in lines]
    return layouts, rows


def table() -> dict[tuple[str, str], set[str]]:
    """The cells that are not blank: for a program and a layout, the letters of what it reads."""
    layouts, found = rows()
    return {
        (program, layout): set(cell.replace("none", "").split())
        for program, _, *cells in found
        for layout, cell in zip(layouts, cells, strict=True)
        if cell
    }


def plain(name: str) -> str:
    """A name for the program and for its package."""
    return name.lower().replace("-", "")


def versions_of_the_page() -> dict[str, list[str]]:
    """The versions, as 2.1, that the table and the sections name."""
    sections = re.findall(r"^\[([\w-]+)\]\(https:\S+\) (\d+\.\d+) ", PAGE, re.MULTILINE)
    tested = [(program, tested) for program, tested, *_ in rows()[1]]
    return {plain(program): versions.split(", ") for program, versions in tested + sections}


def minor(full: str) -> str:
    """A version as the page names it."""
    return "{}.{}".format(*Version(full).release)


def versions_of_the_extras() -> dict[str, list[SpecifierSet]]:
    """What our extras ask for: of each package one version, or one for each Python."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: dict[str, list[SpecifierSet]] = {}
    for line in extras["consumers"] + extras["neighbours"] + extras["mrnabench"]:
        requirement = Requirement(line)
        found.setdefault(plain(requirement.name), []).append(requirement.specifier)
    return found


def test_every_cell_of_the_table_has_a_reader_and_every_reader_a_cell() -> None:
    assert list(table()) == list(READERS)
    assert set().union(*table().values()) == set(KINDS)


def test_the_page_names_the_versions_that_its_extras_install() -> None:
    """An extra ends before the next minor version: who lets that in tests it, and changes the page."""
    named, asked = versions_of_the_page(), versions_of_the_extras()
    assert named.keys() - asked.keys() == {"numpy", "h5py", "pyarrow"}  # they come with protrna
    assert asked.keys() - named.keys() == {"scikitlearn", "torch"}  # they have no part in the page
    for program in named.keys() & asked.keys():
        for version_named, specifier in zip(named[program], asked[program], strict=True):
            major, number = Version(version_named).release
            assert minor(min((bound.version for bound in specifier), key=Version)) == version_named
            assert f"{major}.{number + 1}" not in specifier


def test_the_table_names_what_is_installed() -> None:
    """Where the extras are: elsewhere the cells are tried with whatever is there."""
    if not (find_spec("protspace") and find_spec("biotrainer")):
        pytest.skip('not the environment of the page: pip install -e ".[consumers,neighbours]"')
    for program, tested, *_ in rows()[1]:
        assert minor(version(program.lower())) in tested.split(", "), program


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("program", "layout"), READERS)
def test_a_program_reads_a_layout_or_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, layout: str, kind: str, dtype: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if (layout, kind) in LACKS:
        assert kind not in table()[program, layout]
        return
    path, (ids, values) = write(tmp_path, layout, kind, dtype)
    if kind not in table()[program, layout]:
        with pytest.raises((ValueError, TypeError)):
            READERS[program, layout](path, kind)
        return
    found_ids, found = READERS[program, layout](path, kind)
    assert list(found_ids) == ids
    for layer, expected in zip(found, values, strict=True):
        for one, other in zip(layer, expected, strict=True):
            assert np.array_equal(one, other)


def test_protspace_must_be_forced_to_drop_a_layer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_h5 = library("protspace.data.loaders").load_h5
    path, (ids, values) = write(tmp_path, "HDF5 flat", "L", "float32")
    with pytest.raises(ValueError, match="no 'model_name' attribute"):
        load_h5([path])
    with caplog.at_level(logging.WARNING):
        found = load_h5([path], name_override="demo")
    assert np.array_equal(found.data, values[0])
    assert f"Found {len(ids)} duplicate" in caplog.text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the files of the page, for those who have the programs."""
    library("protspace")
    library("biotrainer")
    folder = tmp_path_factory.mktemp("neighbours")
    (folder / "sample_data").symlink_to(SAMPLE.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in "".join(blocks("sh", PAGE)).splitlines():
            assert cli.run(line.split()[1:]) == 0
    return folder


@pytest.fixture
def families(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as the working directory."""
    monkeypatch.chdir(made)
    return made


def start(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line that begins with the name of a program of this environment."""
    program, *words = line.split()
    return subprocess.run([Path(sys.executable).with_name(program), *words], capture_output=True, text=True)


def test_protspace_draws_an_output(families: Path) -> None:
    assert start(block("bash", "protspace")).returncode == 0
    points = pd.read_parquet("map/projections_data.parquet")
    [ids] = points.columns.intersection(["protein_id", "identifier"])  # the name of 4.17, and the one before
    assert points[ids].tolist() == [record.id for record in SeqIO.parse(SAMPLE, "fasta")]
    assert set(points["projection_name"]) == {"demo layer 6 mean — PCA 2"}


def test_protspace_4_17_draws_one_layer_of_a_single_file(families: Path) -> None:
    """It named the file itself; 4.8 stops, and both stop at two files."""
    done = start("protspace project -i layers.h5 -m pca2 -o dropped")
    assert start("protspace project -i layers.h5 -i layer_3.h5 -m pca2 -o stopped").returncode > 0
    if Version(version("protspace")) < Version("4.17"):
        assert done.returncode > 0
        return
    assert "46 duplicate" in done.stdout + done.stderr
    points = pd.read_parquet("dropped/projections_data.parquet")
    assert points["projection_name"].tolist() == ["layers — PCA 2"] * 46


def test_protspace_merges_parts_and_keeps_layers_apart(families: Path) -> None:
    loaders = library("protspace.data.loaders")
    found = [loaders.load_h5([families / f"layer_{layer}.h5"]) for layer in (3, 6)]
    assert [each.name for each in found] == ["demo layer 3 mean", "demo layer 6 mean"]
    assert len(loaders.merge_same_name_sets(found)) == 2
    whole = found[0]
    parts = [
        loaders.EmbeddingSet(whole.name, whole.data[rows], whole.headers[rows])
        for rows in (slice(20), slice(20, None))
    ]
    [merged] = loaders.merge_same_name_sets(parts)
    assert merged.headers == whole.headers


def read_biotrainer_fasta(path: Path | str) -> list[Any]:
    """Read FASTA as biotrainer does."""
    module = biotrainer("biotrainer_core.input_files", "biotrainer.input_files")
    records: list[Any] = module.read_FASTA(path)
    return records


def test_biotrainer_trains_on_an_output(families: Path) -> None:
    service = biotrainer("biotrainer.embedding", "biotrainer.embedders").EmbeddingService
    executer = biotrainer("biotrainer.training.utilities.executer", "biotrainer.utilities.executer")
    exec(block("python neighbours", "biotrainer"), {})
    records = list(SeqIO.parse(SAMPLE, "fasta"))
    labelled = "".join(
        f">{record.id} TARGET={'tRNA' in record.id} SET={('train', 'val', 'test')[i % 3]}\n{record.seq}\n"
        for i, record in enumerate(records)
    )
    Path("in.fasta").write_text(labelled)
    hashes = [record.get_hash() for record in read_biotrainer_fasta("in.fasta")]
    with pytest.raises(ValueError, match="not found in embeddings file"):
        service.load_embeddings("neighbours.h5", hashes)
    found = service.load_embeddings("biotrainer.h5", hashes)
    with h5py.File("neighbours.h5") as ours, h5py.File("biotrainer.h5") as theirs:
        for key, record in zip(hashes, records, strict=True):
            assert np.array_equal(found[key], ours[record.id])
            assert theirs[key].attrs["original_id"] == record.id  # as biotrainer writes it
    result = executer.parse_config_file_and_execute_run(
        {
            "protocol": "sequence_to_class",
            "input_file": "in.fasta",
            "embeddings_file": "biotrainer.h5",
            "output_dir": "out",
            "model_choice": "LogReg",
            "num_epochs": 1,
            "device": "cpu",
        }
    )
    if not isinstance(result, dict):  # 2.1
        result = result.model_dump()
    trained, tested = result["training_results"]["hold_out"], result["test_results"]["test"]
    bootstrapped = tested.get("bootstrapping") or tested["bootstrapped_metrics"][0]
    assert (trained["n_training_ids"], trained["n_validation_ids"]) == (16, 15)
    assert bootstrapped["sample_size"] == 15


def test_biotrainer_keeps_the_last_line_of_a_sequence_and_repeats_stop_the_example(families: Path) -> None:
    wrapped = SAMPLE.read_text().split("\n>")[0].splitlines()
    assert read_biotrainer_fasta(SAMPLE)[0].seq == wrapped[-1] != "".join(wrapped[1:])
    example = block("python neighbours", "biotrainer")
    repeated = "".join(f">{name}\nGGGGCCCC\n" for name in ("tRNA_Phe_yeast", "tRNA_Asp_yeast"))
    Path("repeated.fa").write_text(repeated)
    with pytest.raises((OSError, ValueError, RuntimeError), match="already exists"):
        exec(example.replace("sample_data/rna_families.fa", "repeated.fa"), {})


RNACENTRAL = [
    (
        "URS0000000001",
        "06808191a979cc0b933265d9a9c213fd",
        "CUGAAUAAAUAAGGUAUCUUAUAUCUUUUAAUUAACAGUUAAACGCUUCCAUAAAGCUUUUAUCCA",
    ),
    (
        "URS0000677DD8",
        "e25b1f5967d21e39e394edb4d3054d0e",
        "UCAAUAAUGAAAUCUUCUGAUUUGGUGAGAAAUAAUGCCUUAAAAUUACACUCAAUAGGAUUAUGCUGAGG",
    ),
]
"""Id, MD5 and sequence: as in the documentation of RNAcentral's API, and in the tests of Rfam's pipeline."""


def test_rows_find_their_id_in_rnacentral(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In RNA or DNA letters, upper or lower case; `md5.tsv.gz` has lines of id, tab and MD5."""
    library("duckdb")
    monkeypatch.chdir(tmp_path)
    (_, _, rna), (_, _, dna) = RNACENTRAL
    dna = dna.replace("U", "T").lower()
    Path("in.fa").write_text(f">rna\n{rna}\n>unknown\nGGGGCCCC\n>dna\n{dna[:40]}\n{dna[40:]}\n")
    assert run("embed", "in.fa", "-o", "neighbours.parquet", "--model", "demo").code == 0
    pd.DataFrame(RNACENTRAL).iloc[:, :2].to_csv("md5.tsv.gz", sep="\t", header=False, index=False)
    names: dict[str, Any] = {}
    exec(block("python neighbours", "md5.tsv.gz"), names)
    assert sorted(names["known"]) == [("dna", "URS0000677DD8"), ("rna", "URS0000000001")]
    assert re.search(r"\| `md5`|column `md5`", PAGE)
