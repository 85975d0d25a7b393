"""End to end, from FASTA to output files, compared with the float64 reference."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.output.rows import Header
from protrna_cli.output.stored import open_output
from protrna_cli.plan import pieces
from protrna_cli.plan.pieces import Row
from protrna_cli.plan.rules import Rules
from protrna_cli.run.report import Amount
from tests.conftest import SAMPLE, TOY, Run
from tests.output.test_formats import KINDS, joined
from tests.tools import reference
from tests.tools.cases import slow_except

LETTERS = {letter: i for i, letter in enumerate("augcx", start=33)}


def read(path: Path) -> tuple[Header, list[Row], Any]:
    stored = open_output(path)
    rows, [values] = joined(stored.blocks())
    return stored.header, rows, values


@cache
def hidden(sequence: str) -> list[Any]:
    """Vectors (T, D) of all tokens of a sequence by layer, from the float64 reference."""
    tokens = np.array([[0, *(LETTERS[c] for c in sequence), 2]])
    return [layer[0] for layer in reference.forward(reference.read_weights(TOY), tokens).representations]


def expected_residues(sequences: list[str], layer: int = -1) -> list[Any]:
    """Residue vectors (L, D) of each sequence, each run on its own in float64."""
    return [hidden(sequence)[layer][1:-1] for sequence in sequences]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """40 records of mixed lengths, two of them equal, and their letters as the model reads them."""
    rng = np.random.default_rng(11)
    sequences = [
        "".join(rng.choice(list("acgux"), size, p=[0.24] * 4 + [0.04])) for size in rng.integers(1, 90, 40)
    ]
    sequences[20] = sequences[3]
    path = tmp_path_factory.mktemp("in") / "in.fa"
    path.write_text(
        "".join(f">r{i} the {i}th\n{s.upper().replace('X', 'N')}\n" for i, s in enumerate(sequences))
    )
    return path, sequences


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(("format", "h5_layout"), KINDS)
def test_every_format_has_the_reference_rows_in_input_order(
    tmp_path: Path, inputs: tuple[Path, list[str]], format: str, h5_layout: str, per_token: bool
) -> None:
    path, sequences = inputs
    out = tmp_path / f"out.{format}"
    options = EmbedOptions(model=str(TOY), h5_layout=h5_layout, per_token=per_token, batch_tokens=300)
    summary = embed_fasta(path, out, options)
    header, rows, values = read(out)
    residues = expected_residues(sequences)
    expected = np.concatenate(residues) if per_token else np.stack([r.mean(0) for r in residues])
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
    assert [(row.id, row.description) for row in rows] == [(f"r{i}", f"the {i}th") for i in range(40)]
    assert [row.length for row in rows] == [row.n_embedded for row in rows] == list(map(len, sequences))
    assert [row.n_unknown for row in rows] == [s.count("x") for s in sequences]
    assert header.n_rows == summary.n_records == 40
    assert header.n_residues == summary.n_residues == sum(map(len, sequences))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(("pool", "layer"), [("max", -1), ("cls", -1), ("mean", 1), ("mean", 0)])
def test_pooling_and_layer_are_those_asked_for(
    tmp_path: Path, inputs: tuple[Path, list[str]], pool: str, layer: int
) -> None:
    path, sequences = inputs
    embed_fasta(path, tmp_path / "out.npy", EmbedOptions(model=str(TOY), pool=pool, layers=(layer,)))
    for row, sequence in zip(np.load(tmp_path / "out.npy"), sequences, strict=True):
        tokens = hidden(sequence)[layer]
        expected = {"max": tokens[1:-1].max(0), "cls": tokens[0], "mean": tokens[1:-1].mean(0)}[pool]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("format", "h5_layout", "per_token"), [(*kind, i % 2 > 0) for i, kind in enumerate(KINDS)]
)
def test_several_layers_come_from_one_run(
    tmp_path: Path, inputs: tuple[Path, list[str]], format: str, h5_layout: str, per_token: bool, run: Run
) -> None:
    path, sequences = inputs
    out = tmp_path / f"out.{format}"
    kind = ["--per-token"] if per_token else []
    words = ["embed", path, "-o", out, "--model", TOY, "--h5-layout", h5_layout, *kind]
    assert run(*words, "--layer", 1, "--layer", -1, "--layer", 3).code == 0
    stored = open_output(out)
    assert stored.header.layers == (1, 3)
    for layer, values in zip(stored.header.layers, joined(stored.blocks())[1], strict=True):
        residues = expected_residues(sequences, layer)
        expected = np.concatenate(residues) if per_token else np.stack([each.mean(0) for each in residues])
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)


def test_the_batch_budget_changes_nothing(tmp_path: Path, inputs: tuple[Path, list[str]]) -> None:
    arrays = []
    for budget in (1, 150, 100_000):
        out = tmp_path / f"{budget}.npy"
        embed_fasta(inputs[0], out, EmbedOptions(model=str(TOY), batch_tokens=budget))
        arrays.append(np.load(out))
    for array in arrays[1:]:
        np.testing.assert_allclose(array, arrays[0], rtol=0, atol=1e-5)


def test_the_mean_of_the_residues_is_the_pooled_row(tmp_path: Path) -> None:
    for kind in (False, True):
        embed_fasta(SAMPLE, tmp_path / f"{kind}.npy", EmbedOptions(model=str(TOY), per_token=kind))
    _, rows, pooled = read(tmp_path / "False.npy")
    _, _, residues = read(tmp_path / "True.npy")
    parts = np.split(residues, np.cumsum([row.length for row in rows])[:-1])
    for part, row, mean in zip(parts, rows, pooled, strict=True):
        assert part.shape == (row.length, 40)
        np.testing.assert_allclose(part.mean(0), mean, rtol=0, atol=1e-5)


def test_float16_is_the_rounded_float32(tmp_path: Path) -> None:
    for dtype in ("float32", "float16"):
        embed_fasta(SAMPLE, tmp_path / f"{dtype}.npy", EmbedOptions(model=str(TOY), dtype=dtype))
    exact, half = np.load(tmp_path / "float32.npy"), np.load(tmp_path / "float16.npy")
    assert half.dtype == np.float16
    assert np.array_equal(half, exact.astype(np.float16))


def test_chunks_keep_input_order(tmp_path: Path, inputs: tuple[Path, list[str]], monkeypatch: Any) -> None:
    whole = tmp_path / "whole.npy"
    embed_fasta(inputs[0], whole, EmbedOptions(model=str(TOY)))
    monkeypatch.setattr(pieces, "CHUNK_RECORDS", 7)
    monkeypatch.setattr(pieces, "CHUNK_RESIDUES", 200)
    embed_fasta(inputs[0], tmp_path / "cut.npy", EmbedOptions(model=str(TOY)))
    np.testing.assert_allclose(np.load(tmp_path / "cut.npy"), np.load(whole), rtol=0, atol=1e-5)


def random_sequence(length: int, seed: int = 5) -> str:
    return "".join(np.random.default_rng(seed).choice(list("acgu"), length))


def write_fasta(path: Path, sequences: list[str]) -> Path:
    path.write_text("".join(f">s{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    return path


def joined_reference(sequence: str, max_length: int, overlap: int) -> Any:
    """Residue vectors (L, D) of a long record: float64 windows, weighted by distance from the edge."""
    beyond = len(sequence) - max_length
    steps = -(-beyond // (max_length - overlap))
    starts = [beyond * step // steps for step in range(steps + 1)]
    total, weight = np.zeros((len(sequence), 40)), np.zeros((len(sequence), 1))
    windows = expected_residues([sequence[start : start + max_length] for start in starts])
    for start, residues in zip(starts, windows, strict=True):
        from_the_edge = np.minimum(np.arange(max_length), np.arange(max_length)[::-1])[:, None] + 1
        total[start : start + max_length] += from_the_edge * residues
        weight[start : start + max_length] += from_the_edge
    return total / weight


@pytest.mark.parametrize(("pool", "per_token"), [("mean", False), ("max", False), ("mean", True)])
def test_long_records_are_joined_from_windows(tmp_path: Path, pool: str, per_token: bool) -> None:
    """Long and short records mixed, with one long sequence twice."""
    sequences = [random_sequence(n, n) for n in (30, 200, 61, 60, 5, 119)]
    sequences.append(sequences[1])
    path = write_fasta(tmp_path / "in.fa", sequences)
    rules = Rules(max_length=60, overlap=20)
    options = EmbedOptions(model=str(TOY), rules=rules, pool=pool, per_token=per_token, batch_tokens=200)
    embed_fasta(path, tmp_path / "out.npy", options)
    _, rows, values = read(tmp_path / "out.npy")
    residues = [joined_reference(s, 60, 20) if len(s) > 60 else expected_residues([s])[0] for s in sequences]
    pooled = [each.mean(0) if pool == "mean" else each.max(0) for each in residues]
    expected = np.concatenate(residues) if per_token else np.stack(pooled)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
    assert [row.n_windows for row in rows] == [1, 5, 2, 1, 1, 3, 5]
    assert [row.n_embedded for row in rows] == [row.length for row in rows] == list(map(len, sequences))


def test_the_cls_vector_of_a_long_record_is_the_mean_of_its_windows(tmp_path: Path) -> None:
    sequence = random_sequence(100)
    path = write_fasta(tmp_path / "in.fa", [sequence])
    options = EmbedOptions(model=str(TOY), rules=Rules(max_length=60, overlap=20), pool="cls")
    embed_fasta(path, tmp_path / "out.npy", options)
    weights = reference.read_weights(TOY)
    windows = [[0, *(LETTERS[c] for c in sequence[start : start + 60]), 2] for start in (0, 40)]
    expected = reference.forward(weights, np.array(windows)).representations[-1][:, 0].mean(0)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy")[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", slow_except([510, 511], [510, 511, 100_000]))
def test_records_around_and_far_beyond_the_limit(tmp_path: Path, length: int, run: Run) -> None:
    path = write_fasta(tmp_path / "in.fa", [random_sequence(length), "acgu"])
    outcome = run("embed", path, "-o", tmp_path / "out.parquet", "--per-token", "--model", TOY)
    assert outcome.code == 0
    assert ("1 record longer than 510 in windows" in outcome.err) == (length > 510)
    _, [row, _], values = read(tmp_path / "out.parquet")
    assert (row.length, row.n_embedded, row.n_windows) == (
        length,
        length,
        {510: 1, 511: 2, 100_000: 261}[length],
    )
    assert values.shape == (length + 4, 40)
    assert np.isfinite(values).all()


def test_truncate_reports_what_it_cut(tmp_path: Path, run: Run) -> None:
    sequence = random_sequence(700)
    path = write_fasta(tmp_path / "in.fa", [sequence])
    outcome = run("embed", path, "-o", tmp_path / "out.npy", "--long", "truncate", "--model", TOY)
    assert "1 record longer than 510 CUT" in outcome.err
    header, [row], values = read(tmp_path / "out.npy")
    assert (row.length, row.n_embedded, row.n_windows, header.n_residues) == (700, 510, 1, 510)
    expected = expected_residues([sequence[:510]])[0].mean(0)
    np.testing.assert_allclose(values[0], expected, rtol=0, atol=1e-4)


def test_whole_runs_one_piece(tmp_path: Path, run: Run) -> None:
    sequence = random_sequence(700)
    path = write_fasta(tmp_path / "in.fa", [sequence])
    outcome = run("embed", path, "-o", tmp_path / "out.npy", "--long", "whole", "--model", TOY)
    assert "1 record longer than 510 in one piece" in outcome.err
    _, [row], values = read(tmp_path / "out.npy")
    assert (row.n_embedded, row.n_windows) == (700, 1)
    np.testing.assert_allclose(values[0], expected_residues([sequence])[0].mean(0), rtol=0, atol=1e-4)


def test_whole_reports_the_memory_of_a_record_that_cannot_fit(tmp_path: Path, run: Run) -> None:
    path = write_fasta(tmp_path / "in.fa", ["a" * 1_000_000])
    outcome = run("embed", path, "-o", tmp_path / "out.npy", "--long", "whole", "--model", TOY)
    assert outcome.code == 2
    assert "record 's0' of 1,000,000 residues needs 37,253.1 GiB of memory in one piece" in outcome.err
    assert "use --long window" in outcome.err
    assert sorted(tmp_path.iterdir()) == [path]


def test_skipped_records_are_only_in_the_list(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "in.fa"
    path.write_text(f">a\nACGU\n>tab\there\nA*\n>c\n>d\nAC\n>e\n{'A' * 600}\n")
    out = tmp_path / "out.parquet"
    words = ["embed", path, "-o", out, "--model", TOY, "--overwrite"]
    outcome = run(*words, "--on-invalid", "skip", "--long", "skip")
    assert outcome.code == 0
    assert f"3 records SKIPPED (see {out}.skipped.tsv)" in outcome.err
    listed = pd.read_csv(f"{out}.skipped.tsv", sep="\t")
    assert listed["id"].tolist() == ["tab", "c", "e"]
    assert listed["record"].tolist() == [2, 3, 5]
    assert listed["line"].tolist() == [4, 5, 8]
    assert listed["position"].tolist() == [2, 0, 0]
    header, rows, _ = read(out)
    assert [row.id for row in rows] == ["a", "d"]
    assert (header.provenance["records"], header.provenance["skipped"]) == (5, 3)
    # A later run that skips nothing removes the list of the earlier run.
    path.write_text(">a\nACGU\n")
    assert run(*words).code == 0
    assert not Path(f"{out}.skipped.tsv").exists()


def test_equal_sequences_run_once_and_are_all_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protrna_cli.model.transformer import ProtRNA

    ran: list[int] = []
    embed = ProtRNA._embed_batch
    monkeypatch.setattr(
        ProtRNA,
        "_embed_batch",
        lambda self, tokens, *rest, **how: ran.extend(tokens) or embed(self, tokens, *rest, **how),
    )
    sequences = ["acgu", "ggcc", "acgu", "acgu", "acgux"]
    path = write_fasta(tmp_path / "in.fa", sequences)
    summary = embed_fasta(path, tmp_path / "out.npy", EmbedOptions(model=str(TOY)))
    assert len(ran) == 3
    assert (summary.computed, summary.n_copied) == (Amount(3, 13), 2)
    expected = [each.mean(0) for each in expected_residues(sequences)]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-4)


ODD_IDS = ["plain", "a/b", "100%", "a%2Fb", ".", "ümläut", "x" * 5000, 'quote"d', "|pipe;semi,comma", "-"]


@pytest.mark.parametrize(("format", "h5_layout"), KINDS)
def test_odd_ids_are_read_back_unchanged(tmp_path: Path, format: str, h5_layout: str) -> None:
    path = tmp_path / "in.fa"
    path.write_text("".join(f">{name} of \t{name}\nACGU\n" for name in ODD_IDS), encoding="utf-8")
    out = tmp_path / "out"
    embed_fasta(path, out, EmbedOptions(model=str(TOY), format=format, h5_layout=h5_layout))
    _, rows, _ = read(out)
    assert [row.id for row in rows] == ODD_IDS
    assert [row.description for row in rows] == [f"of \t{name}" for name in ODD_IDS]


@pytest.mark.parametrize(("format", "h5_layout"), [kind for kind in KINDS if kind != ("h5", "flat")])
def test_ids_may_repeat_or_be_empty_where_rows_have_numbers(
    tmp_path: Path, format: str, h5_layout: str
) -> None:
    path = tmp_path / "in.fa"
    path.write_text(">a\nA\n>a\nC\n>\nG\n")
    embed_fasta(path, tmp_path / "out", EmbedOptions(model=str(TOY), format=format, h5_layout=h5_layout))
    _, rows, values = read(tmp_path / "out")
    assert [row.id for row in rows] == ["a", "a", ""]
    expected = [each.mean(0) for each in expected_residues(["a", "c", "g"])]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)


def test_a_very_long_description_fits_everywhere(tmp_path: Path) -> None:
    text = "d" * 200_000
    path = tmp_path / "in.fa"
    path.write_text(f">a {text}\nACGU\n")
    for format, h5_layout in KINDS:
        out = tmp_path / f"out.{h5_layout}.{format}"
        embed_fasta(path, out, EmbedOptions(model=str(TOY), h5_layout=h5_layout))
        assert read(out)[1][0].description == text


def test_provenance_records_how_the_output_was_made(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out.parquet"
    assert run("embed", SAMPLE, "-o", out, "--model", TOY, "--pool", "max").code == 0
    provenance = open_output(out).header.provenance
    assert provenance["model"]["weights_sha256"] == hashlib.sha256(TOY.read_bytes()).hexdigest()
    assert provenance["inputs"] == [
        {"name": SAMPLE.name, "sha256": hashlib.sha256(SAMPLE.read_bytes()).hexdigest()}
    ]
    assert provenance["rules"]["overlap"] == 127
    assert (provenance["pooling"], provenance["layers"], provenance["precision"]) == ("max", [3], "float32")
    assert "notice" not in provenance
    shown = run("info", out).out
    assert "46 rows" in shown
    assert "vectors          one per record, the maximum of its residues" in shown.splitlines()
