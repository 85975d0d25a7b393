"""Each distinct sequence runs once, wherever its copies stand; values against the float64 reference model."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.fasta import copies
from protrna_cli.fasta.bed import read_bed
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.output.stored import open_output
from protrna_cli.plan.rules import Rules
from protrna_cli.run.report import Amount, Summary
from protrna_cli.run.verify import find_flaws
from tests.conftest import TOY, Run
from tests.run.test_embed import expected_residues, random_sequence, write_fasta
from tests.tools.cases import pairs_of
from tests.tools.runs import RUN_KINDS

N = 60
WINDOWS = Rules(max_length=30)


def with_copies(share: float) -> list[str]:
    """Make 60 sequences of which this share are copies of others, far and near, and some are long."""
    rng = np.random.default_rng(3)
    n_distinct = max(1, round(N * (1 - share)))
    sequences = [random_sequence(int(length), i) for i, length in enumerate(rng.integers(3, 50, n_distinct))]
    return sequences + [sequences[i] for i in rng.integers(0, n_distinct, N - n_distinct)]


def residues_of(sequence: str, layer: int = -1) -> Any:
    """Residue vectors of one record, from the reference model."""
    return expected_residues([sequence], layer)[0]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every batch that runs, without padding."""
    tokens_run: list[int] = []
    embed = ProtRNA._embed_batch

    def counting(self: ProtRNA, tokens: Any, *rest: Any, **how: Any) -> Any:
        tokens_run.append(int((np.asarray(tokens) != self.alphabet.padding_idx).sum()))
        return embed(self, tokens, *rest, **how)

    monkeypatch.setattr(ProtRNA, "_embed_batch", counting)
    return tokens_run


def values_of(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Ids, and for each layer the vectors of each row."""
    stored = open_output(path)
    ids, layers = list[str](), [list[Any]() for _ in stored.header.layers]
    for block in stored.blocks():
        ids += [row.id for row in block.rows]
        bounds = list(block.bounds()) if stored.header.per_token else list(range(len(block.rows) + 1))
        for layer, values in zip(layers, block.values, strict=True):
            layer += [np.array(values[a:b]) for a, b in pairwise(bounds)]
    return ids, layers


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("kind", "share", "per_token"), pairs_of(RUN_KINDS, [0, 0.5, 0.98], [False, True]))
def test_copies_get_the_vectors_of_the_first(
    tmp_path: Path, ran: list[int], kind: tuple[str, str], share: float, per_token: bool
) -> None:
    format, h5_layout = kind
    sequences = with_copies(share)
    options = EmbedOptions(
        model=str(TOY), layers=(1, 3), per_token=per_token, format=format, h5_layout=h5_layout
    )
    path = write_fasta(tmp_path / "in.fa", sequences)
    summary = embed_fasta(path, tmp_path / "out", options)
    lengths = [len(each) for each in set(sequences)]
    assert sum(ran) == sum(lengths) + 2 * len(lengths)
    assert summary.computed == Amount(len(lengths), sum(lengths))
    assert summary.n_copied == N - len(lengths)
    assert open_output(tmp_path / "out").header.provenance["distinct"] == len(lengths)
    ids, layers = values_of(tmp_path / "out")
    assert ids == [f"s{i}" for i in range(N)]
    for layer, found in zip((1, 3), layers, strict=True):
        for sequence, vectors in zip(sequences, found, strict=True):
            residues = residues_of(sequence, layer)
            expected = residues if per_token else residues.mean(0, keepdims=True)
            np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-4)
            assert vectors.tobytes() == found[sequences.index(sequence)].tobytes()
    assert find_flaws(tmp_path / "out", [path]) == []


@pytest.fixture(
    params=[{"pool": "max"}, {"dtype": "float16"}, {"pool": "cls"}, {"per_token_output": "both.npy"}]
)
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    return request.param


@pytest.mark.usefixtures("small_chunks")
def test_other_kinds_of_rows_equal_a_run_in_one_chunk(
    tmp_path: Path, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In windows too; in one chunk nothing is copied between chunks."""
    from protrna_cli.plan import pieces

    options = EmbedOptions(model=str(TOY), format="npy", rules=WINDOWS, **kind)
    path = write_fasta(tmp_path / "in.fa", with_copies(0.5))
    embed_fasta(path, tmp_path / "chunks.npy", options)
    monkeypatch.setattr(pieces, "CHUNK_RECORDS", 4096)
    monkeypatch.setattr(pieces, "CHUNK_RESIDUES", 1 << 20)
    second = options.per_token_output
    one = replace(options, per_token_output=second and "one-both.npy")
    embed_fasta(path, tmp_path / "one.npy", one)
    atol = 2e-3 if options.dtype == "float16" else 1e-5
    for name in ["chunks.npy", *([second] if second else [])]:
        found, expected = np.load(name), np.load(name.replace("chunks", "one").replace("both", "one-both"))
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.usefixtures("small_chunks")
def test_a_copy_with_other_regions_is_not_copied(tmp_path: Path) -> None:
    """Rows are copied between records with equal sequences and equal regions only."""
    sequences = [random_sequence(20, i % 2) for i in range(30)]
    path = write_fasta(tmp_path / "in.fa", sequences)
    spans = {i: [(0, 5), (7, 20)] if i % 3 else [(2, 9)] for i in range(30)}
    bed = tmp_path / "in.bed"
    bed.write_text("".join(f"s{i}\t{a}\t{b}\tx{a}\n" for i, of in spans.items() for a, b in of))
    options = EmbedOptions(model=str(TOY), format="npy", rules=Rules(regions=read_bed(bed)))
    summary = embed_fasta(path, tmp_path / "out.npy", options)
    # In the first chunk of seven, records of one sequence share a run whatever their regions are.
    assert summary.computed.records < 10
    expected = [
        residues_of(sequence)[a:b].mean(0)
        for sequence, of in zip(sequences, spans.values(), strict=True)
        for a, b in of
    ]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-4)


def run_with(path: Path, out: Path, **change: Any) -> Summary:
    return embed_fasta(path, out, EmbedOptions(model=str(TOY), format="npy", **change))


@pytest.mark.usefixtures("small_chunks")
def test_beyond_the_bound_sequences_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[int]
) -> None:
    sequences = with_copies(0.5)
    path = write_fasta(tmp_path / "in.fa", sequences)
    run_with(path, tmp_path / "all.npy")
    all_tokens = sum(ran)
    ran.clear()
    monkeypatch.setattr(copies, "MAX_SEQUENCES", 8)
    summary = run_with(path, tmp_path / "few.npy")
    assert 30 < summary.computed.records < N
    assert sum(ran) > all_tokens
    np.testing.assert_allclose(
        np.load(tmp_path / "few.npy"), np.load(tmp_path / "all.npy"), rtol=0, atol=1e-5
    )


@pytest.mark.usefixtures("small_chunks")
def test_the_summary_and_the_dry_run_count_copies(tmp_path: Path, run: Run) -> None:
    path = write_fasta(tmp_path / "in.fa", with_copies(0.5))
    words = ["embed", path, "-o", tmp_path / "out.npy", "--model", TOY]
    assert "30 computed, 30 copied" in run(*words, "--dry-run").out
    assert "60 records, " in (err := run(*words).err)
    assert "30 computed, 30 copied" in err
    assert "30 sequences\n" in run("info", tmp_path / "out.npy").out
