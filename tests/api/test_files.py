"""`embed_fasta` takes the options of the command as keywords, and its errors name them so."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

import protrna_cli
from protrna_cli import (
    EmbedOptions,
    InputUnreadable,
    OutputUnwritable,
    ProtrnaError,
    Rules,
    RunMismatch,
    Shard,
    UsageError,
    WeightsError,
    embed,
    embed_fasta,
    embed_iter,
    load_model,
    manual,
    read_embeddings,
)
from protrna_cli import errors as all_errors
from protrna_cli.api.keywords import FileKeywords, Keywords, in_python
from protrna_cli.output.files import H5_LAYOUTS, RUN_FORMATS
from protrna_cli.run.options import Format, H5Layout
from protrna_cli.run.report import Progress, Stop
from protrna_cli.weights.checkpoint import Checkpoint
from tests.conftest import SAMPLE, TOY

BED = SAMPLE.parent / "regions.bed"


def test_every_option_is_a_keyword() -> None:
    options = {field.name for field in fields(EmbedOptions)} - {"model", "rules"}
    rules = {field.name for field in fields(Rules)}
    assert set(FileKeywords.__annotations__) == options | rules
    assert set(Keywords.__annotations__) - {"normalize", "progress"} <= options | rules
    documented = str(embed_fasta.__doc__)
    assert all(f"`{name}`" in documented for name in options | rules)
    assert get_args(Format) == RUN_FORMATS
    assert get_args(H5Layout) == H5_LAYOUTS


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        ({}, {}),
        (
            {"layers": 1, "pool": "max", "dtype": "float16"},
            {"layers": (1,), "pool": "max", "dtype": "float16"},
        ),
        ({"layers": [1, -1], "per_token": True}, {"layers": (1, -1), "per_token": True}),
        (
            {"long": "truncate", "max_length": 60, "skip_unknown": True},
            {"rules": Rules(long="truncate", max_length=60, skip_unknown=True)},
        ),
        ({"shard": Shard(1, 2)}, {"shard": Shard(1, 2)}),
        ({"regions": BED}, None),
        ({"regions": str(BED)}, None),
    ],
)
def test_keywords_and_options_make_the_same_file(
    tmp_path: Path, keywords: dict[str, Any], options: dict[str, Any] | None
) -> None:
    """With the name of a model, and with one that is loaded."""
    from protrna_cli.fasta.bed import read_bed

    if options is None:
        options = {"rules": Rules(regions=read_bed(str(BED)))}
    model = load_model(TOY)
    for name, how in (
        ("named", {"model": TOY, **keywords}),
        ("loaded", {"model": model, **keywords}),
        ("options", {"options": EmbedOptions(model=str(TOY), **options)}),
    ):
        (tmp_path / name).mkdir()
        summary = embed_fasta(SAMPLE, tmp_path / name / "out.npy", **how)
        assert summary.n_records > 0
    found = {
        name: {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("named", "loaded", "options")
    }
    assert found["named"] == found["options"] == found["loaded"]


def test_a_loaded_model_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo, half = load_model("demo"), load_model(TOY, precision="bfloat16")
    monkeypatch.setattr(Checkpoint, "load", None)
    embed_fasta(SAMPLE, tmp_path / "demo.npy", model=demo)
    assert read_embeddings(tmp_path / "demo.npy").provenance["model"]["name"] == "demo"
    embed_fasta(SAMPLE, tmp_path / "half.npy", model=half, device="auto")
    assert read_embeddings(tmp_path / "half.npy").provenance["precision"] == "bfloat16"


def test_progress_is_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (None, False, Progress()):
        embed_fasta(SAMPLE, tmp_path / "out.npy", model=TOY, overwrite=True, progress=kind)
        assert capsys.readouterr() == ("", "")
    embed_fasta(SAMPLE, tmp_path / "out.npy", model=TOY, overwrite=True, progress=True)
    assert "46/46 records" in capsys.readouterr().err.split("\r")[-1]


class Stopping(Stop):
    """Stops the run at the first check."""

    def check(self) -> None:
        raise protrna_cli.Stopped("stopped by a test")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"pool": "avg"}, UsageError, "pool= takes mean, max or cls, not 'avg'"),
        ({"layers": "3"}, UsageError, "layers= takes one or more whole numbers"),
        (
            {"per_token": True, "pool": "max"},
            UsageError,
            "pool= is for pooled rows, but per_token=True writes none; to get both, use "
            "per_token_output=FILE instead of per_token=True",
        ),
        (
            {"pool": "cls", "skip_unknown": True},
            UsageError,
            'skip_unknown=True is for pool="mean", not for pool="cls"',
        ),
        ({"resume": True, "overwrite": True}, UsageError, "resume=True continues a run, but overwrite=True"),
        ({"max_length": 1}, UsageError, "max_length=1 is too short"),
        ({"overlap": 600}, UsageError, "overlap=600 must be at least 1 and less than max_length=510"),
        ({"format": "csv"}, UsageError, "format= takes parquet, h5 or npy, not 'csv'"),
        ({"workers": 0}, UsageError, "workers= takes auto or a whole number from 1 up"),
        ({"workers": 2, "device": "gpu:1"}, UsageError, 'but device="gpu:1" is only one'),
        ({"shard": "1/2"}, UsageError, "shard= takes a Shard, such as Shard(1, 8), not '1/2'"),
        ({"regions": 7}, UsageError, "regions= takes the result of"),
        ({"regions": "gone.bed"}, InputUnreadable, "gone.bed"),
        ({"model": "gone.h5"}, WeightsError, 'model= takes protrna, demo or the path'),
        ({"model": 7}, UsageError, "model takes protrna, demo, the path of a checkpoint or a loaded model"),
        ({"output_path": "new.xyz"}, UsageError, "use .parquet, .pq, .h5, .hdf5, .npy, or format="),
        ({"output_path": 7}, UsageError, "output_path= takes a path, not 7"),
        ({"inputs": []}, UsageError, "inputs= takes one or more paths, but the list is empty"),
        ({}, OutputUnwritable, "exists; use overwrite=True to replace it"),
        ({"options": EmbedOptions(), "model": "demo"}, UsageError, "options has all options; give it alone"),
        ({"options": EmbedOptions(), "pool": "max"}, UsageError, "options has all options; give it alone"),
        ({"options": {"pool": "max"}, "model": None}, UsageError, "options takes EmbedOptions"),
    ],
)  # fmt: skip
def test_an_error_names_keywords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.npy").touch()
    arguments = {"inputs": SAMPLE, "output_path": "out.npy", "model": TOY, **how}
    with pytest.raises(error) as raised:
        embed_fasta(**arguments)
    assert message in str(raised.value)
    assert not re.search(r"(?<!\w)--[a-z]|(?<!\w)-o\b", str(raised.value))


def test_the_command_keeps_its_words_and_python_has_its_own(tmp_path: Path, run: Any) -> None:
    (tmp_path / "out.npy").touch()
    done = run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", TOY)
    assert "use --overwrite to replace it" in done.err
    with pytest.raises(protrna_cli.Stopped) as stopped:
        embed_fasta(SAMPLE, tmp_path / "new.npy", model=TOY, stop=Stopping())
    assert stopped.value.exit_code == 75
    embed_fasta(SAMPLE, tmp_path / "layers.npy", model=TOY, layers=(1, 3))
    with pytest.raises(UsageError, match="choose one with layer="):
        read_embeddings(tmp_path / "layers.npy")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"precision": "float32"}, "precision='float32', but the model was loaded in bfloat16"),
        ({"device": "cpu"}, "device= and threads= are for a model that is loaded by its name"),
        ({"threads": 2}, "device= and threads= are for a model that is loaded by its name"),
        ({"workers": 2}, "workers= load models of their own; give the name or path"),
    ],
)
def test_what_a_loaded_model_has_already_is_refused(
    tmp_path: Path, how: dict[str, Any], message: str
) -> None:
    model = load_model(TOY, precision="bfloat16")
    with pytest.raises(UsageError) as raised:
        embed_fasta(SAMPLE, tmp_path / "out.npy", model=model, **how)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("use --overwrite to replace it", "use overwrite=True to replace it"),
        ("leave --workers out", "leave workers= out"),
        ("use --long window with a smaller --max-length", 'use long="window" with a smaller max_length='),
        ("try --dtype float32, and check", 'try dtype="float32", and check'),
        ("use --device cpu", 'use device="cpu"'),
        ("or try the tool with --model demo (synthetic", 'or try the tool with model="demo" (synthetic'),
        ("pass a copy with --model PATH, or", "pass a copy with model=PATH, or"),
        (
            "-o /dev/null is not a file; give -o one",
            "output_path=/dev/null is not a file; give output_path= one",
        ),
        ("run protrna weights fetch --to DIR", "run protrna weights fetch --to DIR"),
        (
            "use: zstd -dc --long=31 in.zst | protrna embed -",
            "use: zstd -dc --long=31 in.zst | protrna embed -",
        ),
        ("run protrna embed with --shard 1/3", "run protrna embed with --shard 1/3"),
        ("with protrna embed --shard 1/3 --overwrite and", "with protrna embed --shard 1/3 --overwrite and"),
        ("protrna weights fetch, or leave --reuse out", "protrna weights fetch, or leave reuse= out"),
        ("raise it: ulimit -v unlimited", "raise it: ulimit -v unlimited"),
        ("pip install --force-reinstall tensorflow", "pip install --force-reinstall tensorflow"),
        ("co-opt well-o, a-o -omit --layers", "co-opt well-o, a-o -omit --layers"),
    ],
)
def test_words_of_the_command_become_words_of_python(message: str, words: str) -> None:
    assert in_python(message) == words


def test_words_without_a_keyword_stay() -> None:
    assert in_python("use --overwrite, or --layer 3", ["layer"]) == "use --overwrite, or layer=3"
    for function in (embed, embed_iter):
        with pytest.raises(WeightsError, match="no such checkpoint; model= takes protrna, demo or"):
            list(function(["ACGU"], "gone.h5"))
    with pytest.raises(WeightsError, match="no such checkpoint; name= takes protrna, demo or"):
        load_model("gone.h5")


def test_the_page_names_every_keyword() -> None:
    """So does the help of the functions; the page lists what is not an option of the command."""
    page = manual.page("python")
    for function in (embed, embed_iter):
        for name in inspect.signature(function).parameters:
            assert name in str(function.__doc__), name
            if name not in ("sequences", "records"):
                assert re.search(rf"`(\w+\()?{name}\b|\b{name}=", page), name


def test_errors_that_a_caller_may_catch_are_public() -> None:
    """All but those of the command: of its Dask cluster, and of the reader of its pipe."""
    tree = {
        name for name, value in vars(all_errors).items()
        if isinstance(value, type) and issubclass(value, ProtrnaError)
    }  # fmt: skip
    assert tree - set(protrna_cli.__all__) == {"ClusterError", "ReaderGone"}
    assert all(f"`{name}`" in manual.page("python") for name in tree - {"ClusterError", "ReaderGone"})
    assert protrna_cli.RunMismatch is RunMismatch is all_errors.RunMismatch
