"""`protrna info`: its numbers are equal to those of NumPy."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import __version__
from protrna_cli.output import describe as describing
from protrna_cli.output import rows
from protrna_cli.output.provenance import account
from protrna_cli.output.rows import COLUMNS_BEFORE_MD5, Block, Header
from protrna_cli.plan.pieces import Row
from tests.conftest import GOLDEN, SAMPLE, TOY, Run
from tests.tools.formats import named
from tests.tools.special import SPECIAL_FILES, special_file

NAMES = ["a", "b", "a", "c", "a", "d"]
KINDS = [("parquet", "flat"), ("npy", "flat"), ("h5", "packed")]


def make(path: Path, format: str, h5_layout: str, per_token: bool, layers: tuple[int, ...]) -> list[Any]:
    """Write six rows; the fourth has the embedding of the second. Returns one matrix per layer."""
    found = [Row(name, f"about {name}", 2, 2, 0, 1) for name in NAMES]
    per_row = 2 if per_token else 1
    header = Header(
        per_token, layers, 8, "float16", 6, 12, {"version": "1", "layers": list(layers)}, COLUMNS_BEFORE_MD5
    )
    matrices = [np.random.default_rng(i).standard_normal((6, per_row, 8)).astype("f2") for i in layers]
    for matrix in matrices:
        matrix[3] = matrix[1]
    matrices = [matrix.reshape(-1, 8) for matrix in matrices]
    named(format, h5_layout).write(path, header, [Block(found, matrices)])
    return matrices


@pytest.mark.parametrize(("format", "h5_layout"), KINDS)
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("layers", [(6,), (2, 6)])
def test_the_numbers_are_those_of_numpy(
    run: Run, tmp_path: Path, format: str, h5_layout: str, per_token: bool, layers: tuple[int, ...]
) -> None:
    path = tmp_path / "out"
    matrices = make(path, format, h5_layout, per_token, layers)
    done = run("info", path, "--json")
    shown = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    columns = ["embedding"] if len(layers) == 1 else ["layer_2", "layer_6"]
    for column, matrix in zip(columns, matrices, strict=True):
        norms = np.sqrt((matrix.astype("f8") ** 2).sum(1))
        wanted = {"min": norms.min(), "median": np.median(norms), "max": norms.max()}
        assert shown["norms"][column] == pytest.approx(wanted, rel=1e-12)
        assert shown["first"][0][column] == matrix[0, :3].tolist()
    assert [row["id"] for row in shown["first"]] == NAMES[:5]
    assert shown["repeated_ids"] == {"count": 2, "first": "a"}
    assert shown["equal_embeddings"] == {"count": 1, "first": "c"}
    assert (shown["rows_read"], shown["is_sample"]) == (6, False)
    assert shown["bytes"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert shown["provenance"] == {"version": "1", "layers": list(layers)}


def test_the_text_output(run: Run, tmp_path: Path) -> None:
    [matrix] = make(tmp_path / "out.npy", "npy", "flat", False, (6,))
    lines = run("info", tmp_path / "out.npy").out.splitlines()
    assert lines[:2] == [
        f"{tmp_path / 'out.npy'}: 6 rows, 12 residues, 811 bytes",
        "pooled, layer 6, width 8, float16",
    ]
    assert "out.npy            float16 (6, 8)" in lines
    table = lines.index("id   length  n_embedded  n_unknown  n_windows  embedding")
    assert lines[table + 1].split() == ["'a'", "2", "2", "0", "1", *(f"{x:.4g}" for x in matrix[0, :3]), "…"]
    norms = np.linalg.norm(matrix.astype("f8"), axis=1)
    numbers = [float(word.rstrip(",")) for word in lines[lines.index("of all 6 rows:") + 1].split()[4::2]]
    assert numbers == pytest.approx([norms.min(), np.median(norms), norms.max()], rel=1e-3)
    assert "ids that repeat: 2 rows, first 'a'" in lines
    assert "embeddings that repeat: 1 row, first 'c'" in lines
    assert lines[-3:] == ["how it was made:", "version  1", "layers   [6]"]


def test_the_provenance_is_told_in_words(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    options = ["--shard", "1/2", "--max-length", "60", "--skip-unknown", "--on-invalid", "unknown"]
    made = run("embed", SAMPLE, "-o", out, "--model", TOY, *options)
    assert made.code == 0, made.err
    lines = run("info", tmp_path / "out.1-of-2.parquet").out.splitlines()
    told = dict(re.split("  +", line, maxsplit=1) for line in lines[lines.index("how it was made:") + 1 :])
    assert told == {
        "made by": f"protrna {__version__} on CPU",
        "model": f"{TOY}: 3 layers, width 40, 5 heads",
        "weights": f"SHA-256 {hashlib.sha256(TOY.read_bytes()).hexdigest()}",
        "layers": "3",
        "vectors": "one per record, the mean of its residues",
        "numbers": "float32, computed in float32, up to 2,048 tokens a batch",
        "long records": "in windows of 60 residues that share at least 15",
        "invalid letters": "read as unknown residues",
        "gaps": "an error",
        "unknown residues": "left out of means",
        "input": f"{SAMPLE.name}, SHA-256 {hashlib.sha256(SAMPLE.read_bytes()).hexdigest()}",
        "records": told["records"],
        "shard": "1/2",
    }
    assert re.fullmatch(r"46 in the input, \d+ embedded, 0 skipped", told["records"])


@pytest.mark.parametrize(
    "damage", [{"model": None}, {"rules": []}, {"inputs": "x"}, {"layers": 7}, {"skipped": "x"}]
)
def test_odd_provenance_is_told_as_it_is(damage: dict[str, Any]) -> None:
    provenance = {"version": "1", "model": {"name": "m\x1b"}, "note": "n", **damage}
    told = account(provenance)
    assert list(told) == list(provenance)
    assert told["note"] == "n"
    assert "\x1b" not in "".join(told.values())


def test_a_sample_is_marked_as_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.npy"
    make(path, "npy", "flat", False, (6,))
    monkeypatch.setattr(describing, "SECONDS", -1.0)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 16 * 2)
    assert "of the first 2 rows of 6 (--all reads all):" in run("info", path).out
    assert json.loads(run("info", path, "--json").out)["is_sample"]
    assert "of all 6 rows:" in run("info", path, "--all").out


def test_an_output_without_rows(run: Run, tmp_path: Path) -> None:
    named("h5", "packed").write(
        tmp_path / "out.h5", Header(True, (1,), 8, "float32", 0, 0, {}, COLUMNS_BEFORE_MD5), []
    )
    shown = json.loads(run("info", tmp_path / "out.h5", "--json").out)
    assert (shown["rows_read"], shown["norms"], shown["first"]) == (0, {}, [])
    assert "of all 0 rows:" in run("info", tmp_path / "out.h5").out


@pytest.mark.parametrize("name", SPECIAL_FILES)
def test_what_is_not_a_file_is_refused_at_once(run: Run, tmp_path: Path, name: str) -> None:
    path = special_file(tmp_path, name)
    outcome = run("info", path)
    [line] = outcome.err.splitlines()
    assert outcome.code == 66
    assert line.startswith(f"protrna: error: {path}: ")


@pytest.mark.parametrize("name", ["n" * 300, "gone", "loop", "loop/out.npy"])
def test_what_cannot_be_read(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    outcome = run("info", tmp_path / name)
    assert outcome.code == 66
    assert f"{tmp_path / name}: cannot be read (" in outcome.err


def test_a_checkpoint_as_json(run: Run) -> None:
    shown = json.loads(run("info", GOLDEN / "toy.h5", "--json").out)
    sizes = {name: shown[name] for name in ("parameters", "layers", "width", "heads", "dtype")}
    assert sizes == {"parameters": 62_518, "layers": 3, "width": 40, "heads": 5, "dtype": "float32"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cut", "truncated or damaged HDF5 ("),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "a Git LFS pointer, not the weights",
        ),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page, such as a server's"),
        (b"", "an empty file"),
        (b"PK\x03\x04", "not an HDF5 file"),
    ],
)
def test_a_damaged_checkpoint_is_described_as_embed_does(
    run: Run, tmp_path: Path, content: bytes | str, words: str
) -> None:
    path = tmp_path / "ProtRNA_pretrained.h5"
    path.write_bytes(TOY.read_bytes()[:200_000] if content == "cut" else content)  # type: ignore[arg-type]
    embedded = run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", path)
    described = run("info", path)
    assert (embedded.code, described.code) == (69, 65)
    for outcome in (embedded, described):
        assert f"protrna: error: {path}: {words}" in outcome.err
        assert "protrna weights fetch" in outcome.err
    assert "if it is an output, make it again" in described.err


def test_a_missing_file_and_one_of_another_kind(run: Run, tmp_path: Path) -> None:
    assert run("info", tmp_path / "none.h5").code == 66
    outcome = run("info", SAMPLE)
    assert (outcome.code, "neither Parquet, HDF5 nor NumPy" in outcome.err) == (65, True)
