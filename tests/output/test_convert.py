"""`protrna convert`: rows, numbers and provenance are kept by any conversion."""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.errors import OutputUnwritable
from protrna_cli.output import rows as output_rows
from protrna_cli.output.files import partial_path, skipped_path
from protrna_cli.output.formats import hdf5
from protrna_cli.output.make import convert
from protrna_cli.output.protect import make_partial
from protrna_cli.output.rows import COLUMNS_BEFORE_MD5, Block, Header
from protrna_cli.output.stored import open_output
from protrna_cli.plan.pieces import ROW_COLUMNS, Row
from protrna_cli.plan.rules import Rules
from tests.conftest import SAMPLE, TOY, Run
from tests.tools.cases import slow_except
from tests.tools.formats import named

KINDS = [("parquet", "flat"), ("npy", "flat"), ("h5", "flat"), ("h5", "packed"), ("h5ad", "flat")]
SUFFIX = {"parquet": "parquet", "npy": "npy", "h5": "h5", "h5ad": "h5ad", "tsv": "tsv"}

# A FASTA header is a line of text, without NUL and line ends.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=12)
ids = words | st.sampled_from(
    ["id", "n_windows", "embeddings", "a/b", "a%2Fb", ".", "..", "x" * 70_000, "\t"]
)


@st.composite
def outputs(draw: st.DrawFn, pooled: bool = False) -> tuple[Header, list[Block]]:
    """A header and its blocks: any finite numbers, any text, rows without residues, or no rows."""
    token, has_md5 = not pooled and draw(st.booleans()), draw(st.booleans())
    layers = tuple(draw(st.lists(st.integers(0, 33), min_size=1, max_size=3, unique=True)))
    width, dtype = draw(st.integers(1, 4)), draw(st.sampled_from(["float32", "float16"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def numbers(n: int) -> Any:
        bits = rng.integers(0, 256, (n, width * np.dtype(dtype).itemsize), np.uint8).view(dtype)
        return np.where(np.isfinite(bits), bits, np.array(-0.0, dtype))

    def block() -> Block:
        part = [
            Row(
                draw(ids),
                draw(words),
                *(draw(st.integers(0, 2**40)) for _ in range(1)),
                draw(st.integers(0, 5)),
                0,
                1,
                f"{draw(st.integers(0, 2**128 - 1)):032x}" if has_md5 else "",
            )
            for _ in range(draw(st.integers(1, 3)))
        ]
        n = sum(row.n_embedded for row in part) if token else len(part)
        return Block(part, [numbers(n) for _ in layers])

    columns = ROW_COLUMNS if has_md5 else ROW_COLUMNS[:-1]
    blocks = [block() for _ in range(draw(st.integers(0, 3)))]
    found = [row for each in blocks for row in each.rows]
    residues = sum(row.n_embedded for row in found)
    provenance = {"version": draw(words), "layers": list(layers)}
    return Header(token, layers, width, dtype, len(found), residues, provenance, columns), blocks


def bits(blocks: list[Block] | Iterator[Block]) -> tuple[list[Row], list[bytes]]:
    """All rows, and the bytes of each layer's numbers."""
    blocks = list(blocks)
    layers = zip(*(block.values for block in blocks), strict=True)
    return [row for block in blocks for row in block.rows], [
        b"".join(values.tobytes() for values in layer) for layer in layers
    ]


def cannot_be_flat(header: Header, blocks: list[Block], kinds: list[tuple[str, str]]) -> bool:
    """Whether flat HDF5 is among `kinds` and cannot name its datasets."""
    names = [row.id for block in blocks for row in block.rows]
    return ("h5", "flat") in kinds and (len(set(names)) < len(names) or "" in names)


@given(
    made=outputs(),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    block_bytes=st.integers(1, 99),
)
@settings(max_examples=60)
def test_any_chain_of_conversions_keeps_the_output(
    made: tuple[Header, list[Block]], kinds: list[tuple[str, str]], block_bytes: int
) -> None:
    header, blocks = made
    if header.per_token:
        kinds = [kind for kind in kinds if kind[0] != "h5ad"]
    with TemporaryDirectory() as name, patch.object(output_rows, "BLOCK_BYTES", block_bytes):
        path = Path(name) / "start"
        named("npy", "flat").write(path, header, blocks)
        if cannot_be_flat(header, blocks, kinds):
            before = kinds[: kinds.index(("h5", "flat"))]
            path = convert_through(path, before)
            with pytest.raises(OutputUnwritable, match="flat HDF5 names a dataset by it"):
                convert(path, Path(name) / "end", named("h5", "flat"))
            assert not list(Path(name).glob("end*"))
            return
        path = convert_through(path, kinds)
        stored = open_output(path)
        assert stored.header == header
        assert bits(stored.blocks()) == bits(blocks)
        assert list(stored.rows()) == bits(blocks)[0]


def convert_through(path: Path, kinds: list[tuple[str, str]]) -> Path:
    """Convert through formats and layouts, one after the other."""
    for i, (format, h5_layout) in enumerate(kinds):
        convert(path, path.with_name(f"step{i}"), named(format, h5_layout))
        path = path.with_name(f"step{i}")
    return path


@given(made=outputs(pooled=True), place=st.integers(0, 2))
@settings(max_examples=40)
def test_tsv_reads_back_to_the_same_numbers(made: tuple[Header, list[Block]], place: int) -> None:
    """Read without a CSV parser: lines, tabs, and no quotes."""
    header, blocks = made
    place %= len(header.layers)
    with TemporaryDirectory() as name:
        source, target = Path(name) / "in.npy", Path(name) / "out.tsv"
        named("npy", "flat").write(source, header, blocks)
        convert(source, target, named("tsv"), layers=[header.layers[place]])
        lines = target.read_bytes().decode().split("\n")[:-1]
        first, *table = Path(f"{target}.metadata.tsv").read_bytes().decode().split("\n")[:-1]
        kept = Header.from_json(Path(f"{target}.meta.json").read_text())
    expected = np.concatenate([block.values[place] for block in blocks] or [np.zeros((0, header.width))])
    found = np.array([[float(text) for text in line.split("\t")] for line in lines], header.dtype)
    assert found.tobytes() == expected.astype(header.dtype).tobytes()
    columns = [name for name in ROW_COLUMNS if name != "md5" or header.has_md5]
    assert first.split("\t") == columns
    cleaned = [
        [str(getattr(row, column)).replace("\t", " ") for column in columns] for row in bits(blocks)[0]
    ]
    assert [line.split("\t") for line in table] == cleaned
    assert kept.provenance == {**header.provenance, "layers": [header.layers[place]]}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with two layers and a skipped record."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "in.fa").write_text(SAMPLE.read_text() + ">bad one\nA*C\n")
    options = EmbedOptions(model=str(TOY), layers=(1, 3), rules=Rules(on_invalid="skip"))
    embed_fasta(folder / "in.fa", folder / "in.parquet", options)
    return folder / "in.parquet"


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "out.h5", "out.h5ad"])
def test_converted_outputs_verify(run: Run, tmp_path: Path, source: Path, name: str) -> None:
    out = tmp_path / name
    done = run("convert", source, "-o", out)
    assert (done.code, done.out, done.err) == (0, "", f"protrna: 46 rows: {out}\n")
    assert skipped_path(out).read_bytes() == skipped_path(source).read_bytes()
    assert run("verify", out, source.with_name("in.fa")).code == 0
    assert run("convert", source, "-o", out).code == 73
    assert run("convert", source, "-o", out, "--overwrite", "-q", "--layer", "3").err == ""
    assert open_output(out).header.layers == (3,)
    assert run("verify", out, source.with_name("in.fa")).code == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["-o", "out.csv"],
            2,
            "no format has the suffix '.csv'; use .parquet, .pq, .h5, .hdf5, .npy, .npz, .h5ad, .tsv",
        ),
        (["-o", "out.tsv"], 2, "has layers 1, 3, but tsv stores one; choose it with --layer"),
        (["-o", "out.npy", "--layer", "2"], 2, "has no layer 2, only 1, 3; choose one of these with --layer"),
        (
            ["-o", "no/folder/out.npy"],
            73,
            "there is no folder no/folder; make it with mkdir -p no/folder, or",
        ),
    ],
)
def test_an_impossible_conversion_is_a_one_line_error(
    run: Run,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("convert", source, *options)
    assert done.code == code
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_archive_of_numpy_has_the_vectors_and_columns(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    assert run("embed", SAMPLE, "-o", source, "--model", TOY, "--layer", 1, "--layer", 3).code == 0
    refused = run("convert", source, "-o", tmp_path / "out.npz")
    assert (refused.code, "choose it with --layer" in refused.err) == (2, True)
    for name in ("out.npz", "again.npz"):
        assert run("convert", source, "-o", tmp_path / name, "--layer", 3).code == 0
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    table = pq.read_table(source)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        assert found.files == ["embedding", *table.column_names[:-2], "protrna"]
        vectors = np.stack(table["layer_3"].to_pylist()).astype("f4")
        assert (found["embedding"].tobytes(), found["embedding"].shape) == (vectors.tobytes(), vectors.shape)
        for name in table.column_names[:-2]:
            assert found[name].tolist() == table[name].to_pylist()
        assert json.loads(str(found["protrna"]))["output"]["layers"] == [3]


def test_a_column_too_large_for_an_archive_of_numpy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protrna_cli.output.formats.exports.LARGEST_COLUMN", 1000)
    found = [Row("a", "x" * 200, 1, 1, 0, 1), Row("b", "", 1, 1, 0, 1)]
    header = Header(False, (3,), 2, "float32", 2, 2, {}, COLUMNS_BEFORE_MD5)
    block = Block(found, [np.zeros((2, 2), np.float32)])
    with pytest.raises(OutputUnwritable, match=r"column description would be an array of .*use \.parquet"):
        named("npz", "").write(tmp_path / "out.npz", header, [block])


def test_per_token_outputs_cannot_be_exported(run: Run, tmp_path: Path) -> None:
    assert run("embed", SAMPLE, "-o", tmp_path / "in.npy", "--model", TOY, "--per-token").code == 0
    before = sorted(tmp_path.iterdir())
    for name in ("out.tsv", "out.h5ad", "out.npz"):
        done = run("convert", tmp_path / "in.npy", "-o", tmp_path / name)
        assert (done.code, "embed without --per-token" in done.err) == (2, True)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["in.npy", "link.npy", "in.npy.index.tsv", "in.npy.meta.json"])
def test_an_output_is_not_converted_into_itself(run: Run, tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.npy"
    assert run("embed", SAMPLE, "-o", source, "--model", TOY).code == 0
    (tmp_path / "link.npy").symlink_to(source)
    before = source.read_bytes()
    done = run("convert", source, "-o", tmp_path / name, "--format", "tsv", "--overwrite")
    assert (done.code, "choose another -o" in done.err) == (2, True)
    assert source.read_bytes() == before


def test_a_repeated_id_is_named_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nACGU\n>twice\nACG\n>twice\nAC\n")
    assert run("embed", tmp_path / "in.fa", "-o", tmp_path / "in.npy", "--model", TOY).code == 0
    done = run("convert", tmp_path / "in.npy", "-o", tmp_path / "out.h5")
    assert done.code == 73
    assert f"{tmp_path / 'in.npy'}: the id 'twice' repeats" in done.err
    assert run("convert", tmp_path / "in.npy", "-o", tmp_path / "out.h5", "--h5-layout", "packed").code == 0


@pytest.mark.parametrize(
    ("name", "content", "code", "message"),
    [
        ("missing.npy", None, 66, "cannot be read (No such file or directory)"),
        ("in.fa", b">a\nACGU\n", 65, "neither Parquet, HDF5 nor NumPy"),
        ("their.npy", b"\x93NUMPY", 65, "without their.npy.meta.json beside it"),
    ],
)
def test_other_files_are_refused(
    run: Run, tmp_path: Path, name: str, content: bytes | None, code: int, message: str
) -> None:
    if content:
        (tmp_path / name).write_bytes(content)
    done = run("convert", tmp_path / name, "-o", tmp_path / "out.parquet")
    assert (done.code, message in done.err) == (code, True)
    assert not (tmp_path / "out.parquet").exists()


def test_a_checkpoint_is_not_an_output(run: Run, tmp_path: Path) -> None:
    done = run("convert", TOY, "-o", tmp_path / "out.parquet")
    assert (done.code, "an HDF5 file without protrna provenance" in done.err) == (65, True)


def lose_a_row(path: Path) -> None:
    index = Path(f"{path}.index.tsv")
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))


def cut_a_line(path: Path) -> None:
    os.truncate(f"{path}.index.tsv", Path(f"{path}.index.tsv").stat().st_size - 20)


def cut_the_array(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lose_a_row, "it has 45 rows, but its header states 46"),
        (cut_a_line, "damaged"),
        (cut_the_array, "damaged"),
    ],
)
def test_a_damaged_source_is_named_and_nothing_is_made(
    run: Run, tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    source = tmp_path / "in.npy"
    assert run("embed", SAMPLE, "-o", source, "--model", TOY).code == 0
    harm(source)
    before = sorted(tmp_path.iterdir())
    for command in ("convert", "merge"):
        done = run(command, source, "-o", tmp_path / "out.parquet")
        assert (done.code, words in done.err) == (65, True), done.err
        assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of 8,000 vectors of 64 numbers, 2.0 MiB."""
    path = tmp_path_factory.mktemp("large") / "in.npy"
    found = [Row(f"r{i}", "", 9, 9, 0, 1) for i in range(8_000)]
    header = Header(
        False, (3,), 64, "float32", len(found), 9 * len(found), {"layers": [3]}, COLUMNS_BEFORE_MD5
    )
    vectors = np.random.default_rng(0).standard_normal((len(found), 64)).astype("f4")
    named("npy", "flat").write(path, header, [Block(found, [vectors])])
    return path


NAMES = ["out.parquet", "out.npy", "out.h5", "out.h5ad", "out.npz", "out.tsv"]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "protrna_cli", *map(str, words)]


@pytest.mark.parametrize("name", slow_except(["out.h5", "out.tsv"], NAMES))
def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, large: Path, name: str) -> None:
    """At most 1 MiB may be written, of 2 MiB or more."""
    done = subprocess.run(
        command("convert", large, "-o", tmp_path / name),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 74, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"protrna: error: {tmp_path / name}: writing failed (")
    assert "File too large" in line
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import os, signal, sys
from protrna_cli.cli.main import main

left = int(sys.argv.pop())

def count(frame, event, _):
    global left
    left -= event == "call"
    if left == 0:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGINT)

def watch(event, words):
    if event == "os.mkdir" and str(words[0]).endswith(".partial"):
        sys.setprofile(count)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(watch)
main()
"""
"""`protrna` with one word more: after how many Python calls from when work begins it is interrupted."""


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("out.h5", 1),
        pytest.param("out.h5", 500_000, marks=pytest.mark.slow),
        ("out.h5ad", 100_000),
        ("out.tsv", 200_000),
    ],
)
def test_an_interrupt_leaves_nothing(tmp_path: Path, large: Path, name: str, calls: int) -> None:
    words = [sys.executable, "-c", INTERRUPTED, "convert", large, "-o", tmp_path / name, calls]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr.strip()) == (130, "protrna: interrupted")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_within_a_write_is_no_write_error_to_hdf5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """HDF5 could not close a file whose write failed; its handles would speak up as Python ends."""
    write = hdf5._DeferredErrorFile.write

    def interrupted(self: Any, data: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        return write(self, data)

    monkeypatch.setattr(hdf5._DeferredErrorFile, "write", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    header = Header(False, (3,), 64, "float32", 2000, 18000, {"layers": [3]}, COLUMNS_BEFORE_MD5)
    rows = [Row(f"r{i}", "", 9, 9, 0, 1) for i in range(2000)]
    try:
        with pytest.raises(KeyboardInterrupt):
            named("h5", "flat").write(tmp_path / "out.h5", header, [Block(rows, [np.ones((2000, 64), "f4")])])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    gc.collect()
    assert capfd.readouterr().err == ""


def test_files_of_a_killed_conversion_are_replaced(run: Run, tmp_path: Path, large: Path) -> None:
    out = tmp_path / "out.npy"
    (make_partial(out) / "out.npy").write_bytes(b"half")
    assert run("convert", large, "-o", out).code == 0
    assert sorted(tmp_path.iterdir()) == sorted(named("npy").files(out))


def test_an_unfinished_run_is_not_removed(run: Run, tmp_path: Path, large: Path) -> None:
    out = tmp_path / "out.npy"
    partial_path(out).mkdir()
    (partial_path(out) / "journal").write_text("{}\n")
    done = run("convert", large, "-o", out, "--overwrite")
    assert (done.code, "an unfinished run" in done.err) == (73, True)
    assert (partial_path(out) / "journal").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("format", "h5_layout", "per_token"),
    [(*kind, False) for kind in KINDS] + [(*kind, True) for kind in KINDS if kind[0] != "h5ad"],
)
def test_reading_needs_the_memory_of_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, h5_layout: str, per_token: bool
) -> None:
    """An output written as one block is read in blocks of the size set, not row by row."""
    found = [Row(f"r{i}", "", 3, 3, 0, 1) for i in range(100)]
    header = Header(per_token, (3,), 4, "float32", 100, 300, {}, COLUMNS_BEFORE_MD5)
    n = header.n_vectors
    parts = [Block(found, [np.arange(n * 4, dtype="f4").reshape(n, 4)])]
    named("npy", "flat").write(tmp_path / "in.npy", header, parts)
    monkeypatch.setattr(output_rows, "BLOCK_BYTES", 480)
    convert(tmp_path / "in.npy", tmp_path / "out", named(format, h5_layout))
    sizes = [block.values[0].nbytes for block in open_output(tmp_path / "out").blocks()]
    assert sum(sizes) == n * 16
    assert max(sizes) <= 480
    assert len(sizes) == n * 16 // 480 + (n * 16 % 480 > 0)


def test_flat_datasets_named_like_columns_are_not_read_as_packed(tmp_path: Path) -> None:
    """Ids may be the names of the packed layout's datasets."""
    found = [Row(name, "", 1, 1, 0, 1) for name in ("id", "n_windows", "embeddings")]
    header = Header(False, (3,), 2, "float32", 3, 3, {}, COLUMNS_BEFORE_MD5)
    values = np.arange(6, dtype="f4").reshape(3, 2)
    named("h5", "flat").write(tmp_path / "out.h5", header, [Block(found, [values])])
    assert bits(open_output(tmp_path / "out.h5").blocks()) == (found, [values.tobytes()])


def test_every_format_has_its_provenance(run: Run, tmp_path: Path, source: Path) -> None:
    wanted = json.loads(open_output(source).header.json)
    for name in ("a.npy", "b.h5", "c.h5ad"):
        assert run("convert", source, "-o", tmp_path / name).code == 0
    assert json.loads((tmp_path / "a.npy.meta.json").read_text()) == wanted
    with h5py.File(tmp_path / "b.h5") as file:
        assert json.loads(file.attrs["protrna"]) == wanted
    with h5py.File(tmp_path / "c.h5ad") as file:
        assert json.loads(file["uns/protrna"].asstr()[()]) == wanted
