"""`embed` and `embed_iter` give what `protrna embed` writes for the same records."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from Bio import SeqIO
from Bio.Seq import MutableSeq, Seq
from Bio.SeqRecord import SeqRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import normalize

from protrna_cli import EmbedOptions, embed, embed_fasta, embed_iter, load_model
from protrna_cli.errors import InputError, ProtrnaError, UsageError
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.plan.rules import Rules
from tests.conftest import GOLDEN, SAMPLE, TOY

WIDTH = 40


@pytest.fixture(scope="module")
def toy() -> ProtRNA:
    """The toy model: 3 layers of width 40."""
    return load_model(TOY)


def from_file(records: list[tuple[str, str]], options: EmbedOptions) -> tuple[np.ndarray, pd.DataFrame]:
    """What the command writes for records: its array and its index."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in.fa"), Path(folder, "out.npy")
        source.write_text("".join(f">{id}\n{letters}\n" for id, letters in records))
        embed_fasta(source, out, options)
        index = pd.read_csv(f"{out}.index.tsv", sep="\t", dtype={"id": str}, keep_default_na=False)
        return np.load(out), index


SEQUENCES = st.lists(st.text("ACGUTacgNR", min_size=1, max_size=90), min_size=1, max_size=12)
ODD = st.lists(
    st.one_of(st.text("ACGU", min_size=1, max_size=90), st.text("ACG-N!", min_size=1, max_size=9)),
    min_size=1,
    max_size=9,
)
RULES = st.fixed_dictionaries(
    {
        "long": st.sampled_from(["window", "truncate", "whole"]),
        "max_length": st.sampled_from([20, 60, 510]),
        "skip_unknown": st.booleans(),
    }
)


@settings(max_examples=25)
@given(SEQUENCES, RULES, st.sampled_from([2048, 100]), st.sampled_from([(-1,), (1, 3), (0,)]), st.data())
def test_embed_equals_the_file_bit_for_bit(
    toy: ProtRNA,
    sequences: list[str],
    rules: dict[str, Any],
    batch_tokens: int,
    layers: tuple[int, ...],
    data: st.DataObject,
) -> None:
    kind: dict[str, Any] = data.draw(
        st.sampled_from([{"pool": "mean"}, {"pool": "max"}, {"pool": "cls"}, {"per_token": True}])
    )
    if kind != {"pool": "mean"}:
        rules["skip_unknown"] = False
    if rules["skip_unknown"]:
        sequences = [f"A{letters}" for letters in sequences]
    if rules["long"] == "window":
        rules["overlap"] = data.draw(st.sampled_from([None, 5]))
    how = {"batch_tokens": batch_tokens, "layers": layers, **kind}
    array, index = from_file(
        [(str(i), letters) for i, letters in enumerate(sequences)],
        EmbedOptions(model=str(TOY), rules=Rules(**rules), **how),
    )
    found: Any = embed(sequences, toy, **how, **rules)
    rows = list(embed_iter(iter(sequences), toy, chunk=4096, **how, **rules))
    of_file = array[None] if len(layers) == 1 else array
    for layer, expected in zip(layers, of_file, strict=True):
        values = found if len(layers) == 1 else found[layer]
        streamed = [row.vectors if len(layers) == 1 else row.vectors[layer] for row in rows]
        if kind == {"per_token": True}:
            expected = [expected[slice(*bounds)] for bounds in index[["start", "end"]].to_numpy()]
            values = list(values)
        assert len(values) == len(streamed) == len(sequences)
        for mine, other, its in zip(values, streamed, expected, strict=True):
            assert mine.dtype == other.dtype == np.float32
            assert mine.tobytes() == other.tobytes() == its.tobytes()
            assert mine.shape == other.shape == its.shape
    counts = ["length", "n_embedded", "n_unknown", "n_windows"]
    assert [[getattr(row, name) for name in counts] for row in rows] == index[counts].to_numpy().tolist()


@settings(max_examples=15)
@given(ODD, st.sampled_from(["error", "unknown", "skip"]), st.sampled_from(["error", "remove", "unknown"]))
def test_odd_letters_follow_the_rules_of_the_command(
    toy: ProtRNA, sequences: list[str], on_invalid: str, gaps: str
) -> None:
    """The same rows, or the same complaint about the same letter."""
    options = EmbedOptions(model=str(TOY), rules=Rules(on_invalid=on_invalid, gaps=gaps))
    expected: Any
    try:
        expected = from_file([(str(i), letters) for i, letters in enumerate(sequences, 1)], options)[0]
    except InputError as error:
        expected = error
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found: Any = embed(sequences, toy, on_invalid=on_invalid, gaps=gaps)
        except InputError as error:
            found = error
    if isinstance(expected, InputError) and "all records were skipped" in str(expected):
        assert found.shape == (0, WIDTH)
    elif isinstance(expected, InputError):
        place, _, flaw = str(expected).partition(", residue")
        assert str(found).endswith(flaw or place.rpartition(": ")[2])
        assert place.partition(": ")[2].partition(", line")[0] in str(found)
    else:
        assert found.tobytes() == expected.tobytes()
        assert len(warned) == (len(found) < len(sequences))


def test_every_kind_of_input_gives_the_same_vectors(toy: ProtRNA) -> None:
    pairs = [("a", "GGGGCCCC"), ("b", "acgt"), ("c", "AUGC" * 40)]
    expected = embed([letters for _, letters in pairs], toy)
    records = [SeqRecord(Seq(letters), id=id, description=f"{id} of tests") for id, letters in pairs]
    for sequences in (
        [Seq(letters) for _, letters in pairs],
        [MutableSeq(letters) for _, letters in pairs],
        pa.array([letters for _, letters in pairs]),
        records,
        iter(records),
        pairs,
        dict(pairs),
        {record.id: record for record in records},
        pd.Series(dict(pairs)),
        pd.DataFrame(pairs, columns=["id", "letters"])["letters"],
        np.array([letters for _, letters in pairs]),
    ):
        assert embed(sequences, toy).tobytes() == expected.tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sequences", "names"),
    [
        (["ACGU", "GC"], [("1", ""), ("2", "")]),
        ({"x": "ACGU", 7: Seq("GC")}, [("x", ""), ("7", "")]),
        (
            [SeqRecord(Seq("A")), SeqRecord(Seq("C"), "y", description="y is")],
            [("1", ""), ("y", "is")],
        ),
        (pd.Series(["AC", "GU"], index=["u", "v"]), [("u", ""), ("v", "")]),
        ([("p", "ACGU"), ("q", Seq("A"))], [("p", ""), ("q", "")]),
    ],
)
def test_rows_have_ids_and_descriptions(toy: ProtRNA, sequences: Any, names: list[tuple[str, str]]) -> None:
    assert [(row.id, row.description) for row in embed_iter(sequences, toy)] == names


def test_records_of_a_file_have_the_names_that_the_command_gives_them(toy: ProtRNA) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.npy")
        embed_fasta(SAMPLE, out, EmbedOptions(model=str(TOY)))
        index = pd.read_csv(f"{out}.index.tsv", sep="\t", keep_default_na=False)
    with SAMPLE.open() as file:
        rows = list(embed_iter(SeqIO.parse(file, "fasta"), toy))
    assert [row.id for row in rows] == list(index["id"])
    assert [row.description for row in rows] == list(index["description"])


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (["ACGU", "AC*U"], "sequences: record 2 (id '2'), residue 3: '*' is not an RNA or DNA letter"),
        ({"x": "ACGU", "y": "AC-U"}, "record 2 (id 'y'), residue 3: '-' is not an RNA or DNA letter but a"),
        (["ACGU", ""], "sequences: record 2 (id '2'): no residues"),
        (["ACGU((((....))))"], "sequences: record 1 (id '1'): looks like dot-bracket structure"),
        (["ACGU", float("nan")], "sequences: record 2 (id '2') is nan (float), not a sequence"),
        (["ACGU", None], "sequences: record 2 (id '2') is None (NoneType), not a sequence"),
        (["ACGU", Seq(None, 5)], "sequences: record 2 (id '2') has no letters"),
        ([b"ACGU"], "sequences: record 1 (id '1') is b'ACGU' (bytes), not a sequence"),
        ("ACGU", "embed takes many sequences, not one"),
        (Seq("ACGU"), "embed takes many sequences, not one"),
        (SeqRecord(Seq("ACGU")), "embed takes many sequences, not one"),
        (7, "embed takes an iterable of sequences, not int"),
    ],
)  # fmt: skip
def test_an_error_names_the_sequence_and_the_letter(toy: ProtRNA, sequences: Any, message: str) -> None:
    for function in (embed, embed_iter):
        with pytest.raises(ProtrnaError) as error:
            list(function(sequences, toy))
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"pool": "avg"}, "pool= takes mean, max or cls"),
        ({"pool": "max", "per_token": True}, "pool= is for pooled rows, but per_token=True writes none"),
        ({"layers": (1, 9)}, "this model has layers 0 to 3, not 9"),
        ({"layers": ()}, "layers= takes one or more whole numbers"),
        ({"layers": "3"}, "layers= takes one or more whole numbers"),
        ({"layers": None}, "layers= takes one or more whole numbers"),
        ({"long": "cut"}, "long= takes window, truncate, error, skip or whole"),
        ({"batch_tokens": 0}, "batch_tokens= takes auto or a whole number from 1 up"),
        ({"per_token": "yes"}, "per_token= takes True or False"),
        ({"progress": "bar"}, "progress takes True or False"),
        ({"normalize": 1}, "normalize takes True or False"),
        ({"dtype": "float64"}, "dtype= takes float32 or float16"),
        ({"device": "cpu"}, "device= and threads= are for a model that is loaded by its name"),
        ({"threads": 2}, "device= and threads= are for a model that is loaded by its name"),
        ({"precision": "bfloat16"}, "precision='bfloat16', but the model was loaded in float32"),
    ],
)
def test_every_keyword_is_checked_at_the_call(toy: ProtRNA, how: dict[str, Any], message: str) -> None:
    for function in (embed, embed_iter):
        with pytest.raises(UsageError) as error:
            function(["ACGU"], toy, **how)
        assert message in str(error.value)


def test_the_model_is_checked() -> None:
    with pytest.raises(UsageError, match="model takes protrna, demo, the path of a checkpoint or a loaded"):
        embed(["ACGU"], 7)  # type: ignore[call-overload]
    with pytest.raises(ProtrnaError, match="no such checkpoint"):
        embed(["ACGU"], "missing.h5")


def test_an_error_comes_before_anything_is_computed(toy: ProtRNA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "_embed_batch", None)
    with pytest.raises(InputError):
        embed(["ACGU", "!"], toy)


def test_no_sequence_gives_no_vector(toy: ProtRNA) -> None:
    assert embed([], toy).shape == (0, WIDTH)
    assert embed({}, toy, per_token=True) == []
    assert embed([], toy, layers=(1, 2))[2].shape == (0, WIDTH)
    assert list(embed_iter(iter([]), toy)) == []


def test_skipped_sequences_are_told(toy: ProtRNA) -> None:
    flaw = r"1 sequence of 3 skipped, without a row; the first: .*record 2 \(id 'b'\), residue 1: '!'"
    sequences = {"a": "AC", "b": "!", "c": "GU"}
    with pytest.warns(UserWarning, match=flaw) as warned:
        assert embed(sequences, toy, on_invalid="skip").shape == (2, WIDTH)
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match=flaw):
        assert [row.id for row in embed_iter(sequences, toy, on_invalid="skip")] == ["a", "c"]


def test_vectors_are_near_the_published_ones(toy: ProtRNA, golden_records: list[tuple[str, str]]) -> None:
    """Golden outputs of the published implementation, pooled here over its residues in float64."""
    golden = np.load(GOLDEN / "toy.npz")
    letters = [sequence for _, sequence in golden_records]
    found = embed(letters, toy, layers=(1, 3), on_invalid="unknown", gaps="unknown")
    residues = embed(letters, toy, layers=(1, 3), on_invalid="unknown", gaps="unknown", per_token=True)
    for layer in (1, 3):
        for i, sequence in enumerate(letters):
            published = golden[f"layer_{layer}"][i, 1 : len(sequence) + 1]
            np.testing.assert_allclose(residues[layer][i], published, rtol=0, atol=2e-5)
            mean = published.mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(found[layer][i], mean, rtol=0, atol=2e-5)


def test_layers_are_given_by_their_number_as_asked(toy: ProtRNA) -> None:
    found = embed(["ACGU"], toy, layers=(-1, 3, 0))
    assert list(found) == [-1, 3, 0]
    assert found[-1].tobytes() == found[3].tobytes() == embed(["ACGU"], toy).tobytes()
    assert embed(["ACGU"], toy, layers=[0]).tobytes() == found[0].tobytes()  # type: ignore[union-attr]


def test_a_stream_need_not_end(toy: ProtRNA) -> None:
    """Only what a chunk needs is taken from the stream."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield "ACGU" * (taken % 7 + 1)

    rows = embed_iter(endless(), toy, chunk=5)
    assert [row.id for row in itertools.islice(rows, 12)] == [str(i) for i in range(1, 13)]
    assert taken == 15  # three chunks of five
    rows.close()  # type: ignore[attr-defined]


def test_rows_come_chunk_by_chunk_and_chunks_grow(toy: ProtRNA) -> None:
    """The first fills one batch, and each next one twice as many, up to 16."""
    taken = 0

    def watched() -> Iterator[str]:
        nonlocal taken
        while taken < 500:
            taken += 1
            yield "A" * 10

    seen: dict[int, int] = {}
    for number, row in enumerate(embed_iter(watched(), toy, batch_tokens=50), start=1):
        assert row.id == str(number)
        seen[taken] = number
    sizes = np.diff([0, *seen.values()]).tolist()
    assert sizes[:7] == [5, 10, 20, 40, 80, 80, 80]
    assert [read - done for read, done in seen.items()][:-1] == [1] * (len(seen) - 1)  # which did not fit


@pytest.mark.parametrize(("chunk", "count"), [(None, 100), (1, 10), (3, 20), (64, 100), (4096, 100)])
def test_the_size_of_chunks_changes_last_bits_only(toy: ProtRNA, chunk: int | None, count: int) -> None:
    sequences = [("GAUUACA" * 20)[: 3 + (i * 37) % 130] for i in range(count)]
    for how in ({}, {"per_token": True}, {"layers": (1, 3), "pool": "max"}):
        expected: Any = embed(sequences, toy, **how)  # type: ignore[call-overload]
        rows = list(embed_iter(iter(sequences), toy, chunk=chunk, **how))  # type: ignore[call-overload]
        assert [row.id for row in rows] == [str(i) for i in range(1, count + 1)]
        for layer in (1, 3):
            of_layer = expected[layer] if "layers" in how else expected
            for row, vectors in zip(rows, of_layer, strict=True):
                mine = row.vectors[layer] if "layers" in how else row.vectors
                np.testing.assert_allclose(mine, vectors, rtol=0, atol=0 if chunk == 4096 else 1e-5)


@pytest.mark.parametrize("chunk", [0, 4097, -1, 2.0, True, "8"])
def test_a_wrong_chunk_is_refused(toy: ProtRNA, chunk: Any) -> None:
    with pytest.raises(UsageError, match="chunk takes a whole number from 1 to 4,096"):
        embed_iter(["ACGU"], toy, chunk=chunk)


def test_an_error_in_a_stream_comes_after_the_chunks_before_it(toy: ProtRNA) -> None:
    rows = embed_iter(["A", "C", "G", "!"], toy, chunk=2)
    assert [next(rows).id, next(rows).id] == ["1", "2"]
    with pytest.raises(InputError, match=r"record 4 \(id '4'\), residue 1: '!'"):
        next(rows)


def test_ids_of_the_rows_are_returned(toy: ProtRNA) -> None:
    sequences = {"a": "AC", "b": "!", "c": "GU", "d": "ACGU" * 200}
    with pytest.warns(UserWarning, match=r"2 sequences of 4 skipped, without a row; the first: .*\(id 'b'\)"):
        found, ids = embed(sequences, toy, on_invalid="skip", long="skip", return_ids=True)
    assert (found.shape, ids) == ((2, WIDTH), ["a", "c"])
    residues, ids = embed(["AC", "GU"], toy, per_token=True, return_ids=True)
    assert ([each.shape for each in residues], ids) == ([(2, WIDTH)] * 2, ["1", "2"])
    layers, ids = embed([("x", "AC")], toy, layers=(1, 3), return_ids=True)
    assert (layers[3].shape, ids) == ((1, WIDTH), ["x"])
    assert embed([], toy, return_ids=True)[1] == []


@pytest.mark.parametrize(
    "how", [{}, {"pool": "max"}, {"pool": "cls"}, {"per_token": True}, {"layers": (0, 3)}]
)
def test_vectors_of_unit_length(toy: ProtRNA, how: dict[str, Any]) -> None:
    """The same as scikit-learn's, of the same vectors."""
    sequences = ["ACGU" * 9, "GGGGCCCC", "A"]
    expected: Any = embed(sequences, toy, **how)
    rows = list(embed_iter(sequences, toy, normalize=True, **how))
    for dtype, error in (("float32", 1e-6), ("float16", 1e-3)):
        found: Any = embed(sequences, toy, normalize=True, dtype=dtype, **how)
        for layer in how.get("layers", [None]):
            mine, plain = (found, expected) if layer is None else (found[layer], expected[layer])
            for i in range(3):
                assert mine[i].dtype == dtype
                unit = normalize(np.atleast_2d(plain[i])).reshape(plain[i].shape)
                np.testing.assert_allclose(mine[i], unit, rtol=0, atol=error)
                if dtype == "float32":
                    streamed = rows[i].vectors if layer is None else rows[i].vectors[layer]
                    assert streamed.tobytes() == mine[i].tobytes()


def test_half_precision_is_that_of_the_file(toy: ProtRNA) -> None:
    sequences = ["ACGU" * 9, "GGGGCCCC", "A"]
    options = EmbedOptions(model=str(TOY), dtype="float16")
    expected, _ = from_file([(str(i), letters) for i, letters in enumerate(sequences)], options)
    found = embed(sequences, toy, dtype="float16")
    assert found.dtype == expected.dtype == np.float16
    assert found.tobytes() == expected.tobytes()
    for row, vectors in zip(embed_iter(sequences, toy, dtype="float16"), expected, strict=True):
        assert row.vectors.tobytes() == vectors.tobytes()


def test_a_model_is_loaded_as_it_is_asked_for() -> None:
    assert embed(["ACGU"], TOY, device="cpu").shape == (1, WIDTH)
    with pytest.raises(UsageError, match="there is no gpu:7"):
        embed(["ACGU"], TOY, device="gpu:7")
    with pytest.raises(UsageError, match="threads= takes a whole number from 1 up"):
        embed(["ACGU"], TOY, threads=0)


def test_a_row_keeps_no_other_row_in_memory(toy: ProtRNA) -> None:
    first, second = embed_iter(["ACGU", "GGCC"], toy)
    assert first.vectors.base is None or first.vectors.base.size == WIDTH
    assert not np.shares_memory(first.vectors, second.vectors)


def test_a_long_sequence_in_one_piece_must_fit_into_memory(toy: ProtRNA) -> None:
    with pytest.raises(UsageError, match=r"record '1' of 300,000 residues needs .* use long=.window."):
        embed(["A" * 300_000], toy, long="whole")


def test_progress_is_a_bar_and_silent_by_default(toy: ProtRNA, capsys: pytest.CaptureFixture[str]) -> None:
    embed(["ACGU" * 9] * 4, toy)
    list(embed_iter(["ACGU"], toy))
    assert capsys.readouterr() == ("", "")
    embed(["ACGU" * 9] * 4, toy, progress=True)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "4/4 records" in shown
    assert "100%" in shown
    list(embed_iter(["ACGU" * 9] * 4, toy, progress=True))
    assert "4 records, " in capsys.readouterr().err.split("\r")[-1]


def test_a_checkpoint_is_loaded_by_name_and_path(toy: ProtRNA) -> None:
    assert embed(["ACGU"], TOY).tobytes() == embed(["ACGU"], str(TOY)).tobytes()
    assert embed(["ACGU"], TOY).tobytes() == embed(["ACGU"], toy).tobytes()
    half = load_model(TOY, precision="bfloat16")
    assert embed(["ACGU"], TOY, precision="bfloat16").tobytes() == embed(["ACGU"], half).tobytes()
    assert embed(["ACGU"], half, precision="bfloat16").tobytes() != embed(["ACGU"], toy).tobytes()
