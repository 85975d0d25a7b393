"""Options from Python are checked as those of the command line, and options without effect are refused."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed, embed_fasta, load_model, read_embeddings
from protrna_cli.api.files import estimate_fasta, stream_fasta
from protrna_cli.errors import InputUnreadable, UsageError
from protrna_cli.map.drawing import draw_map
from protrna_cli.output.make import convert, merge
from protrna_cli.plan.rules import Rules, option_of
from protrna_cli.plan.shard import Shard
from protrna_cli.run.doctor import examine
from tests.conftest import SAMPLE, TOY, Run
from tests.tools.formats import named

SWITCH = ("takes True or False", [1, "yes", None])
NUMBER = [0, -1, 2.0, "4", True, np.int64(4)]
AUTO_OR_NUMBER = ("takes auto or a whole number from 1 up", [None, "Auto", "all", *NUMBER])
PATH = ("takes a path", [3, b"x", ["a"], True])

KINDS: dict[str, tuple[str, list[Any]]] = {
    "switch": SWITCH,
    "path": PATH,
    "folder": PATH,
    "model": PATH,
    "choice": ("takes ", ["MEAN", "avg", ".npy", True, 1, []]),
    "number or auto": AUTO_OR_NUMBER,
}
"""What the error says, and values that are refused, for each kind of option."""

FIELDS: dict[str, tuple[str, list[Any]]] = {
    "model": ("--model takes a path", [None, *PATH[1]]),
    "layers": (
        "--layer takes one or more whole numbers",
        [(), 33, "33", (True,), (1.0,), [np.int64(3)], {3}],
    ),
    "pool": ("--pool takes mean, max or cls", ["avg", None]),
    "precision": ("--precision takes float32, bfloat16 or auto", ["bf16", "float16", None]),
    "dtype": ("--dtype takes float32 or float16", ["float64", "bfloat16", np.float32]),
    "format": ("--format takes parquet, h5 or npy", ["csv", "h5ad"]),
    "h5_layout": ("--h5-layout takes flat or packed", ["tall", None]),
    "device": ("--device takes auto, cpu, gpu or gpu:N", ["cuda", "tpu", "gpu:-1", None, 0]),
    "threads": ("--threads takes a whole number from 1 up", NUMBER),
    "reuse": ("--reuse takes (a path|one or more paths)", [3, None, ["a", 3], {"a": 1}]),
    "shard": ("--shard takes a Shard", ["1/3", (1, 3), None]),
    "rules": ("rules takes Rules", [None, {"gaps": "remove"}]),
    "on_invalid": ("--on-invalid takes error, unknown or skip", ["drop", None]),
    "gaps": ("--gaps takes error, remove or unknown", ["keep", True]),
    "long": ("--long takes window, truncate, error, skip or whole", ["windows", None]),
    "max_length": ("--max-length", ["510", 510.0, True, None, 1, -510]),
    "overlap": ("--overlap", ["20", 2.5, True, 0, 510]),
    "regions": ("--regions takes the result of .*read_bed", ["x.bed", {}, 0]),
}
"""The same for the fields whose kind does not say all."""


def cases(declaring: type) -> list[Any]:
    """A case for every refused value of every field, by its own entry and that of its kind."""
    found = []
    for declared in fields(declaring):
        name, option = option_of(declaring, declared.name)
        words, values = FIELDS.get(declared.name, ("", []))
        found += [(declared.name, value, words) for value in values]
        if option.kind in KINDS and declared.name != "regions":
            words, values = KINDS[option.kind]
            found += [(declared.name, value, f"{name} {words}") for value in values]
        assert found and found[-1][0] == declared.name, f"no case for {declared.name}"
    return found


@pytest.mark.parametrize(("name", "value", "words"), cases(EmbedOptions))
def test_embed_options_are_checked(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EmbedOptions(**{name: value})


@pytest.mark.parametrize(("name", "value", "words"), cases(Rules))
def test_rules_are_checked(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Rules(**{name: value})


@pytest.mark.parametrize("numbers", [(0, 3), (4, 3), (1, 0), ("1", "3"), (1.0, 3), (True, True), (None, 2)])
def test_shards_are_checked(numbers: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError, match=r"--shard .*I/N"):
        Shard(*numbers)


def test_paths_and_lists_of_layers_are_taken_as_they_are_meant() -> None:
    options = EmbedOptions(model=Path("a/b.h5"), weights_dir=Path("w"), layers=[3, -1])  # type: ignore[arg-type]
    assert (options.model, options.weights_dir, options.layers) == ("a/b.h5", "w", (3, -1))
    assert EmbedOptions(model="./demo").model == "./demo"  # a file, not the built-in model


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda out: load_model(7), "name= takes a path"),  # type: ignore[arg-type]
        (lambda out: load_model("demo", precision="bf16"), "precision= takes float32, bfloat16 or auto"),
        (lambda out: load_model("demo", device="cuda"), "device= takes auto"),
        (lambda out: load_model("demo", threads=0), "threads= takes a whole number from 1 up, not 0"),
        (lambda out: examine("demo", threads=0), "--threads takes a whole number from 1 up, not 0"),
        (lambda out: embed_fasta(SAMPLE, out, {"pool": "max"}), "options takes EmbedOptions"),  # type: ignore[arg-type]
        (lambda out: embed_fasta([], out), "inputs= takes one or more paths"),
        (lambda out: embed_fasta([SAMPLE, None], out), "inputs= takes a path, not None"),  # type: ignore[list-item]
        (lambda out: embed_fasta(SAMPLE, None), "output_path= takes a path, not None"),  # type: ignore[arg-type]
        (lambda out: stream_fasta(SAMPLE, 1, "npy"), "options takes EmbedOptions"),  # type: ignore[arg-type]
        (lambda out: estimate_fasta(None, out), "INPUT takes a path"),  # type: ignore[arg-type]
        (lambda out: convert(out, out, "npy"), "--format takes a Format"),  # type: ignore[arg-type]
        (lambda out: convert(out, out, named("npy"), layers=33), "--layer takes one or more"),  # type: ignore[arg-type]
        (lambda out: convert(out, out, named("npy"), overwrite="no"), "--overwrite takes True or False"),  # type: ignore[arg-type]
        (lambda out: convert(None, out, named("npy")), "IN takes a path"),  # type: ignore[arg-type]
        (lambda out: merge([1], out, named("npy"), False), "PART takes a path"),  # type: ignore[list-item]
        (lambda out: merge([out], out, named("npy"), None), "--overwrite takes True or False"),  # type: ignore[arg-type]
        (lambda out: merge([out], out, None, False), "--format takes a Format"),  # type: ignore[arg-type]
        (lambda out: draw_map(out, "map.gif"), r"a map must be \.html, \.png, \.svg or \.pdf"),
        (lambda out: draw_map(out, "map.png", method="mds"), "--method takes umap, tsne or pca"),
        (lambda out: draw_map(out, "map.png", layer="33"), "--layer takes a whole number, not '33'"),  # type: ignore[arg-type]
        (lambda out: draw_map(out, "map.png", seed=-1), "--seed takes a whole number from 0 up, not -1"),
        (lambda out: draw_map(out, "map.png", color_by=3), "--color-by takes a column"),  # type: ignore[arg-type]
        (lambda out: draw_map(1, "map.png"), "OUT takes a path"),  # type: ignore[arg-type]
        (lambda out: draw_map(out, "map.png", title=3), "--title takes a text"),  # type: ignore[arg-type]
        (lambda out: draw_map(out, "map.png", coordinates=3), "--coordinates takes a path"),  # type: ignore[arg-type]
    ],
)
def test_functions_check_their_arguments(tmp_path: Path, call: Callable[[Path], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call(tmp_path / "out.npy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "out.npy", "--per-token", "--pool", "max"], "--pool is for pooled rows"),
        (["-o", "out.npy", "--per-token", "--pool", "mean"], "to get both, use --per-token-output FILE"),
        (["-o", "out.npy", "--h5-layout", "packed"], "--h5-layout packed is for HDF5, not for npy"),
        (
            ["-o", "a.npy", "--per-token-output", "b.parquet", "--h5-layout", "packed"],
            "not for npy and parquet; leave it out",
        ),
        (["-o", "-", "--h5-layout", "packed"], "--h5-layout packed is for HDF5, not for parquet"),
        (["-o", "out", "--dask", "local:1", "--h5-layout", "packed"], "not for parquet"),
        (["-o", "out.npy", "--long", "truncate", "--overlap", 20], "--overlap is for --long window, not for"),
        (
            ["-o", "a.h5", "--per-token-output", "./a.h5"],
            "a.h5: given to both -o and --per-token-output; give each its own",
        ),
        (
            ["-o", "a.h5", "--per-token-output", "folder/../a.h5"],
            "both -o and --per-token-output as folder/../a.h5; give",
        ),
        (
            ["-o", "a.h5", "--per-token-output", "link.h5"],
            "a.h5: given to both -o and --per-token-output as link.h5",
        ),
    ],
)
def test_options_without_effect_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.h5").symlink_to("a.h5")
    outcome = run("embed", SAMPLE, "--model", TOY, *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link.h5"]


@pytest.mark.parametrize("command", ["merge", "convert"])
def test_a_layout_that_the_output_has_not_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    outcome = run(command, tmp_path / "in.h5", "-o", tmp_path / "out.parquet", "--h5-layout", "packed")
    assert (outcome.code, "--h5-layout packed is for HDF5, not for parquet" in outcome.err) == (2, True)


def test_what_a_script_may_always_say_is_taken(run: Run, tmp_path: Path) -> None:
    """Options that have no effect here, but cannot mislead."""
    words = ["--model", TOY, "--offline", "--weights-dir", tmp_path, "--threads", 1, "--h5-layout", "flat"]
    words += ["--device", "auto", "--resume", "--max-length", 510, "--long", "whole"]
    assert run("embed", SAMPLE, "-o", tmp_path / "out.parquet", *words, "--dry-run").code == 0
    outputs = ["-o", tmp_path / "a.npy", "--per-token-output", tmp_path / "b.h5", "--h5-layout", "packed"]
    assert run("embed", SAMPLE, *outputs, "--model", TOY, "--dry-run").code == 0


@pytest.mark.parametrize("place", ["-o", "--per-token-output"])
def test_a_link_to_itself_is_refused_as_a_link(run: Run, tmp_path: Path, place: str) -> None:
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    outputs = {
        "-o": tmp_path / "a.npy",
        "--per-token-output": tmp_path / "b.npy",
        place: tmp_path / "loop.npy",
    }
    outcome = run("embed", SAMPLE, "--model", TOY, *(word for pair in outputs.items() for word in pair))
    assert outcome.code == 73
    assert "loop.npy: a symbolic link to loop.npy, which protrna does not replace" in outcome.err


def test_a_path_with_a_nul_byte_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="inputs= takes a path, not"):
        embed_fasta("a\0b", tmp_path / "out.npy")
    with pytest.raises(UsageError, match="path takes a path, not"):
        read_embeddings("a\0b")


def test_a_missing_output_is_one_error_not_two() -> None:
    with pytest.raises(InputUnreadable) as error:
        read_embeddings("missing.npy")
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


@pytest.mark.parametrize("suffix", ["npy", "parquet", "h5"])
def test_all_layers_are_those_asked_for_one_by_one(run: Run, tmp_path: Path, suffix: str) -> None:
    source = SAMPLE.with_name("readme.fa")
    for name, words in (("all", ["all"]), ("each", ["0", "1", "2", "3"])):
        layers = [part for word in words for part in ("--layer", word)]
        made = run("embed", source, "-o", tmp_path / f"{name}.{suffix}", "--model", TOY, *layers)
        assert made.code == 0, made.err
    found, expected = (read_embeddings(tmp_path / f"{name}.{suffix}", layer=2) for name in ("all", "each"))
    assert found.provenance["layers"] == [0, 1, 2, 3]
    assert np.array_equal(found.vectors, expected.vectors)


def test_all_layers_in_memory_are_a_dict_from_the_embedding_to_the_last() -> None:
    every = embed(["GGGGCCCC"], TOY, layers="all")
    assert list(every) == [0, 1, 2, 3]
    two = embed(["GGGGCCCC"], TOY, layers=(0, -1))
    assert np.array_equal(every[0], two[0])
    assert np.array_equal(every[3], two[-1])


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (("all", 3), "--layer all takes every layer; leave the others out"),
        (("all", "all"), "--layer all takes every layer; leave the others out"),
        ("last", "--layer takes one or more whole numbers"),
    ],
)
def test_all_goes_with_no_other_layer(layers: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        EmbedOptions(layers=layers)
