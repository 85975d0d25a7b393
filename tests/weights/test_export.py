"""Exports: what is written, that it comes back bit for bit, and that nothing half-written is left or used."""

import json
import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors import numpy as library
from safetensors import safe_open

from protrna_cli.errors import OutputUnwritable, WeightsError
from protrna_cli.model.alphabet import TOKENS
from protrna_cli.model.checkpoint import demo_weights, read_checkpoint, read_size
from protrna_cli.model.structure import ModelSize, for_each_weight, weight_names
from protrna_cli.weights import export as exporting
from protrna_cli.weights import mapped
from protrna_cli.weights.checkpoint import Checkpoint, locate
from protrna_cli.weights.export import export
from tests.conftest import GOLDEN, SAMPLE, TOY, Run
from tests.tools.checkpoints import write_checkpoint
from tests.tools.special import SPECIAL_FILES, special_file

Arrays = dict[str, Any]
NAME = "model.safetensors"
FILES = ["README.md", "config.json", NAME, "special_tokens_map.json", "tokenizer_config.json", "vocab.txt"]
LAYER = "esm.encoder.layer.1."
FC1 = f"{LAYER}intermediate.dense.weight"


def read(path: Path) -> Arrays:
    """Read a checkpoint into a dict."""
    found: Arrays = {}
    read_checkpoint(path, lambda name, values: found.setdefault(name, values.copy()))
    return found


def exported(folder: Path, model: str | Path = TOY, precision: str = "float32") -> Path:
    export(locate(str(model)), folder, precision)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of the toy checkpoint."""
    return exported(tmp_path / "exported")


def tensors(folder: Path) -> Arrays:
    """Read the tensors of an export with their library."""
    return library.load_file(folder / NAME)


def rewrite(folder: Path, change: Callable[[Arrays], object]) -> None:
    """Change the tensors of an export."""
    arrays = tensors(folder)
    change(arrays)
    library.save_file({name: np.ascontiguousarray(each) for name, each in arrays.items()}, folder / NAME)


def configure(folder: Path, **settings: object) -> None:
    """Change the config of an export; None removes a setting."""
    path = folder / "config.json"
    changed = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


@pytest.mark.parametrize("name", ["toy", "head64"])
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    before, after = read(GOLDEN / f"{name}.h5"), read(exported(tmp_path / "x", GOLDEN / f"{name}.h5") / NAME)
    assert before.keys() == after.keys()
    for weight, values in before.items():
        assert after[weight].dtype == np.float32
        np.testing.assert_array_equal(after[weight], values, err_msg=weight)
    assert read_size(tmp_path / "x" / NAME) == read_size(GOLDEN / f"{name}.h5")


def test_kernels_are_rounded_to_bfloat16_and_nothing_else(tmp_path: Path) -> None:
    import ml_dtypes  # TensorFlow's own number types

    before, after = read(TOY), read(exported(tmp_path / "x", precision="bfloat16") / NAME)
    for weight, values in before.items():
        if weight.endswith("_kernel"):
            values = values.astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(after[weight], values, err_msg=weight)
    assert read_size(tmp_path / "x" / NAME)[1] == "bfloat16, float32"


def test_names_and_axes_are_those_of_pytorch(folder: Path) -> None:
    """Against the published file itself, whose kernels are (in, out)."""
    found = tensors(folder)
    with h5py.File(TOY) as file:
        scope = file["layer_._1/ProtRNA/layer_._1"]
        for name, dataset in {
            "attention.self.query.weight": "multihead_attention_1/dense_6/kernel:0",
            "attention.output.dense.bias": "multihead_attention_1/dense_9/bias:0",
            "attention.LayerNorm.weight": "layer_normalization_2/gamma:0",
            "intermediate.dense.weight": "dense_10/kernel:0",
            "output.dense.weight": "dense_11/kernel:0",
            "LayerNorm.bias": "layer_normalization_3/beta:0",
        }.items():
            np.testing.assert_array_equal(found[LAYER + name], scope[dataset][()].T, err_msg=name)
    assert not any(name.startswith("lm_head.decoder") for name in found)  # tied


def test_the_library_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    library.save_file(tensors(folder), tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "theirs").read_bytes() == (folder / NAME).read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_exports_have_equal_bytes(tmp_path: Path, precision: str) -> None:
    one, two = (exported(tmp_path / name, precision=precision) for name in ("one", "two"))
    again = exported(tmp_path / "again", one, precision)  # an export of an export
    assert [path.name for path in sorted(one.iterdir())] == FILES
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert name == "README.md" or (one / name).read_bytes() == (again / name).read_bytes()


def test_the_demo_model_is_exported_as_it_is(tmp_path: Path) -> None:
    made: Arrays = {}
    demo_weights(lambda name, values: made.setdefault(name, values))
    found = read(exported(tmp_path / "x", "demo") / NAME)
    assert all(np.array_equal(found[name], values) for name, values in made.items())
    assert "no biological meaning" in (tmp_path / "x" / "README.md").read_text()


def test_every_weight_has_its_name() -> None:
    names: list[str] = []
    for_each_weight(names.append, weight_names(ModelSize(layers=2, width=40, heads=5)))
    assert len(names) == len(set(names)) == 1 + 2 * 17 + 2 + 5


def test_one_weight_is_in_memory_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "wide.h5"
    write_checkpoint(path, layers=3, width=512, heads=8)
    largest = 512 * 2048 * 4
    checkpoint = locate(str(path))
    checkpoint.sha256()
    tracemalloc.start()
    try:
        export(checkpoint, tmp_path / "x", "float32")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < largest * 2.5  # as it was read, and (out, in)


def test_the_card_says_where_it_is_from(tmp_path: Path, folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for words in (TOY.name, str(locate(str(TOY)).sha256()), "10.1016/j.cels.2025.101371", "lower case"):
        assert words in card
    assert str(TOY.parent) not in card  # nothing of this machine
    published = Checkpoint(TOY, is_published=True)
    export(published, tmp_path / "published", "float32")
    assert "https://zenodo.org/records/" in (tmp_path / "published" / "README.md").read_text()


def test_the_vocabulary_is_ours(folder: Path) -> None:
    assert tuple((folder / "vocab.txt").read_text().splitlines()) == TOKENS


def test_the_command_exports_and_says_so(run: Run, tmp_path: Path) -> None:
    words = ["weights", "export", tmp_path / "x", "--model", TOY]
    assert run(*words).err == f"protrna: exported: {tmp_path / 'x'}, 0.2 MiB in float32\n"
    outcome = run(*words)
    assert (outcome.code, outcome.out) == (73, "")
    assert outcome.err.splitlines() == [
        f"protrna: error: {tmp_path / 'x'}: exists, and an export replaces nothing; choose another DIR"
    ]
    assert run("weights", "verify", tmp_path / "x").err.startswith(
        f"protrna: verified: {tmp_path / 'x' / NAME}"
    )
    assert "layers      3, width 40, 5 heads" in run("info", tmp_path / "x").out
    missing = run("weights", "export", tmp_path / "y")
    assert (missing.code, "--offline or PROTRNA_OFFLINE forbids" in missing.err) == (69, True)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
def test_what_is_there_stays(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "x"
    {
        "file": target.touch,
        "folder": target.mkdir,
        "link": partial(target.symlink_to, "nowhere"),
        "pipe": partial(os.mkfifo, target),
    }[kind]()
    before = target.lstat()
    with pytest.raises(OutputUnwritable, match="exists, and an export replaces nothing"):
        exported(target)
    assert os.path.samestat(target.lstat(), before)


@pytest.mark.parametrize("name", ["journal", "manifest.json", "mine.txt"])
def test_an_unfinished_run_of_that_name_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / name).touch()
    with pytest.raises(OutputUnwritable, match=r"x\.partial: .*; .*choose another DIR"):
        exported(tmp_path / "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["x.partial", name]


def test_without_a_folder_or_room_nothing_is_written(tmp_path: Path, small_disk: Path) -> None:
    with pytest.raises(OutputUnwritable, match="missing/x: cannot be created"):
        exported(tmp_path / "missing" / "x")
    with pytest.raises(
        OutputUnwritable, match=r"needs 28\.7 MiB, but only 1\.0 MiB are free; choose another"
    ):
        exported(small_disk / "x", "demo")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(
    run: Run, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_check_space", lambda *words: None)
    outcome = run("weights", "export", small_disk / "x", "--model", "demo")
    assert outcome.code == 74
    assert outcome.err.splitlines() == [
        f"protrna: error: {small_disk / 'x'}: writing failed (No space left on device); free space and run "
        "again, or choose another DIR"
    ]
    assert list(small_disk.iterdir()) == []


def test_a_limit_of_file_size_is_no_flaw_of_the_checkpoint(run: Run, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        outcome = run("weights", "export", tmp_path / "x", "--model", TOY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (outcome.code, "writing failed (File too large)" in outcome.err) == (74, True)
    assert list(tmp_path.iterdir()) == []


STOPPED = """
import os, sys
from protrna_cli.cli.main import main
from protrna_cli.model import exported
planned, number = exported._plan, int(sys.argv.pop())
def plan(*words):
    found = planned(*words)
    class Once(dict):
        def __getitem__(self, name):
            if name.startswith("esm.encoder.layer.2."):
                os.kill(os.getpid(), number)
            return found[name]
    return Once(found)
exported._plan = plan
main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_stop_in_the_middle_leaves_no_export(tmp_path: Path, number: int, code: int) -> None:
    target = tmp_path / "x"
    words = ["weights", "export", target, "--model", TOY, str(int(number))]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    assert not target.exists()
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
        assert "run it again with: protrna weights export" in done.stderr
    exported(target)  # in place of what the killed process left
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert sorted(path.name for path in target.iterdir()) == FILES


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every checkpoint for large and old enough for a mapped copy."""
    monkeypatch.setattr(mapped, "SMALLEST", 0)
    monkeypatch.setattr(mapped, "SETTLED_NS", 0)


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_from_an_export_is_that_of_its_checkpoint(
    run: Run, tmp_path: Path, home: Path, precision: str
) -> None:
    """Read, mapped, and in Python; also in bfloat16 from either export."""
    folder = exported(tmp_path / "x", precision=precision)
    words = ["embed", SAMPLE, "--precision", precision, "--layer", 1, "--layer", 3, "--batch-tokens", 2048]
    for name, model in (("1", TOY), ("2", folder), ("3", folder), ("4", folder / NAME)):
        outcome = run(*words, "-o", tmp_path / f"{name}.npy", "--model", model)
        assert outcome.code == 0, outcome.err
        assert ("laid out the weights" in outcome.err) == (name in "12")
    values = {(tmp_path / f"{name}.npy").read_bytes() for name in "1234"}
    assert len(values) == 1
    made = json.loads((tmp_path / "2.npy.meta.json").read_text())
    model = json.loads(made["protrna"])["model"] if "protrna" in made else made["model"]
    assert model["name"] == str(folder)
    assert model["weights_sha256"] == locate(str(folder / NAME)).sha256()
    assert len(mapped.copies_in(home)) == 2


def test_python_loads_an_export(folder: Path) -> None:
    from protrna_cli import load_model

    golden = np.load(GOLDEN / "toy.npz")
    found = load_model(folder, device="cpu")(golden["tokens"], repr_layers=[3])
    np.testing.assert_allclose(found["representations"][3], golden["layer_3"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["logits"], golden["logits"], rtol=0, atol=1e-4)


def rename(old: str, new: str) -> Callable[[Arrays], None]:
    """Rename all tensors whose names contain a word."""

    def change(arrays: Arrays) -> None:
        for name in [name for name in arrays if old in name]:
            arrays[name.replace(old, new)] = arrays.pop(name)

    return change


def as_transformers_saves(arrays: Arrays) -> None:
    """Rename and add what transformers 5 does for a model that was trained further."""
    rename("LayerNorm.weight", "LayerNorm.gamma")(arrays)
    rename("LayerNorm.bias", "LayerNorm.beta")(arrays)
    rename("layer.0.attention.self.rotary", "layer.*.attention.self.rotary")(arrays)
    without_frequencies(arrays, "layer.*")
    arrays["esm.contact_head.regression.weight"] = np.ones((1, 15), np.float32)
    arrays["esm.contact_head.regression.bias"] = np.ones(1, np.float32)


def without_frequencies(arrays: Arrays, keep: str = "none") -> None:
    for name in [name for name in arrays if name.endswith("inv_freq") and keep not in name]:
        del arrays[name]


def with_an_output_kernel(arrays: Arrays) -> None:
    arrays["lm_head.decoder.weight"] = arrays["esm.embeddings.word_embeddings.weight"].copy()


@pytest.mark.parametrize("change", [as_transformers_saves, without_frequencies, with_an_output_kernel])
def test_what_transformers_saves_is_read(folder: Path, change: Callable[[Arrays], None]) -> None:
    """Also without rotary frequencies, which are then computed: those of the toy are exact."""
    before = read(TOY)
    rewrite(folder, change)
    after = read(folder / NAME)
    assert all(np.array_equal(after[name], values) for name, values in before.items())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_number_types_are_read(folder: Path, dtype: type) -> None:
    rewrite(folder, lambda arrays: arrays.update({FC1: arrays[FC1].astype(dtype)}))
    values = read(folder / NAME)["layers.1.fc1_kernel"]
    np.testing.assert_allclose(values, read(TOY)["layers.1.fc1_kernel"], rtol=0, atol=1e-3)
    assert values.dtype == np.float32


def put(name: str, values: Any) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: values})


def spoil(arrays: Arrays) -> None:
    arrays[FC1][3, 3] = np.nan


def one_more(arrays: Arrays) -> None:
    arrays["lm_head.decoder.weight"] = arrays["esm.embeddings.word_embeddings.weight"] + 1


BROKEN: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "a key too few": (lambda arrays: arrays.pop(FC1), f"it lacks 1 weight, such as {FC1}"),
    "a key too many": (put("esm.pooler.weight", np.ones(3, "f4")), "1 weight .* such as esm.pooler.weight"),
    "another shape": (put(FC1, np.ones((40, 160), "f4")), rf"{FC1} has shape \(40, 160\), not \(160, 40\)"),
    "a vector": (put(FC1, np.ones(6400, "f4")), r"has shape \(6400,\), not \(160, 40\)"),
    "integers": (put(FC1, np.ones((160, 40), "i4")), f"{FC1} has dtype I32, not floating point"),
    "not finite": (spoil, f"{FC1} has values that are not finite"),
    "no language-model head": (
        lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith("lm_head")],
        "it lacks 5 weights, such as lm_head.bias",
    ),
    "the model alone": (rename("esm.", ""), "no matrix esm.embeddings.* saved as EsmForMaskedLM"),
    "nothing": (lambda arrays: arrays.clear(), "it has no matrix esm.embeddings"),
    "a missing layer": (rename("layer.1.", "layer.7."), r"its layers are not esm.encoder.layer.0 … 7"),
    "the same twice": (
        lambda arrays: put(f"{LAYER}LayerNorm.gamma", arrays[f"{LAYER}LayerNorm.weight"])(arrays),
        "LayerNorm.weight is there twice",
    ),
    "an output kernel of its own": (one_more, "lm_head.decoder.weight is not the embedding"),
    "frequencies of other heads": (
        lambda arrays: put(f"{LAYER}attention.self.rotary_embeddings.inv_freq", np.ones(2, "f4"))(arrays),
        r"inv_freq has shape \(2,\), not \(4,\)",
    ),
    "names of several lines": (put("a\nb\x1b[31m", np.ones(3, "f4")), "such as a�b"),
}


def refused(path: Path, words: str) -> None:
    """Check that a checkpoint is refused in one line that names it and says what to do."""
    with pytest.raises(WeightsError, match=words) as caught:
        read_checkpoint(path, lambda name, values: None)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert told.isprintable()
    assert len(told) < 1000
    assert "--model" in told


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_export_is_refused(folder: Path, case: str) -> None:
    change, words = BROKEN[case]
    rewrite(folder, change)
    refused(folder / NAME, words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "bert"}, "model_type is 'bert', not 'esm'"),
        ({"num_hidden_layers": 30}, "num_hidden_layers is 30, not 3"),
        ({"hidden_size": 80}, "hidden_size is 80, not 40"),
        ({"vocab_size": 33}, "vocab_size is 33, not 38"),
        ({"intermediate_size": 40}, "intermediate_size is 40, not 160"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3; width 40 does not divide"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"num_attention_heads": "5"}, "num_attention_heads is '5'"),
        ({"num_attention_heads": None}, "num_attention_heads is None"),
        ({"num_attention_heads": 10}, r"inv_freq has shape \(4,\), not \(2,\)"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute', not 'rotary'"),
        ({"position_embedding_type": None}, "position_embedding_type is None"),
        ({"token_dropout": True}, "token_dropout is True, not False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, not True"),
        ({"layer_norm_eps": None}, "layer_norm_eps is None, not 1e-05"),
        ({"emb_layer_norm_before": True}, "emb_layer_norm_before is True"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"rope_theta": 5000}, "rope_theta is 5000"),
        ({"hidden_size": [["x" * 5000]]}, "hidden_size is"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(
    folder: Path, settings: dict[str, object], words: str
) -> None:
    configure(folder, **settings)
    refused(folder / NAME, words)


def test_settings_that_transformers_leaves_out_or_adds_do_no_harm(folder: Path) -> None:
    left_out = ("token_dropout", "tie_word_embeddings", "emb_layer_norm_before", "rope_theta", "is_decoder")
    configure(folder, transformers_version="4.57.6", **dict.fromkeys(left_out))
    assert read_size(folder / NAME)[0] == ModelSize(3, 40, 5)
    (folder / "vocab.txt").unlink()
    assert read_size(folder / NAME)[0] == ModelSize(3, 40, 5)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\xff", "[" * 100_000, None])
def test_a_damaged_config_is_refused(folder: Path, content: str | None) -> None:
    path = folder / "config.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="latin-1")
    refused(folder / NAME, r"config\.json beside it")


def test_another_vocabulary_is_refused(folder: Path) -> None:
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in sorted(TOKENS)))
    refused(folder / NAME, r"its vocab\.txt has other tokens than ProtRNA, or another order")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\xff" * 100, b"<!DOCTYPE html>", b"version https://git-lfs"]
)
def test_what_is_no_safetensors_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / NAME).write_bytes(content)
    refused(folder / NAME, "an empty file|damaged safetensors|an HTML page")


def test_a_git_lfs_pointer_is_named(folder: Path) -> None:
    (folder / NAME).write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:9f86d081\nsize 260\n"
    )
    refused(folder / NAME, "a Git LFS pointer, not the weights themselves; run git lfs pull")


def test_a_cut_export_is_refused_wherever_it_is_cut(folder: Path) -> None:
    content = (folder / NAME).read_bytes()
    for length in [*range(1, 12_000, 500), *range(12_000, len(content), 20_000), len(content) - 1]:
        (folder / NAME).write_bytes(content[:length])
        refused(folder / NAME, "safetensors")


def test_flipped_bytes_of_the_header_never_end_in_a_traceback(folder: Path) -> None:
    content = bytearray((folder / NAME).read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(0, int.from_bytes(content[:8], "little"), 300):
        before, content[place] = content[place], int(rng.integers(256))
        (folder / NAME).write_bytes(content)
        try:
            read_checkpoint(folder / NAME, lambda name, values: None)
        except WeightsError as error:
            assert str(error).isprintable()
        content[place] = before


def test_an_export_that_becomes_shorter_while_it_is_read_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="it became shorter while it was read"):
        read_checkpoint(folder / NAME, lambda name, values: os.truncate(folder / NAME, 20_000))


@pytest.mark.parametrize("name", [NAME, "config.json", "vocab.txt"])
@pytest.mark.parametrize("kind", SPECIAL_FILES[:3])
def test_what_is_not_a_file_is_refused_at_once(folder: Path, name: str, kind: str) -> None:
    (folder / name).unlink()
    special_file(folder, kind).rename(folder / name)
    refused(folder / NAME, "a pipe, a socket or a device|a folder|cannot be read")


def test_the_command_line_names_what_is_wrong(run: Run, tmp_path: Path, folder: Path) -> None:
    configure(folder, token_dropout=True)
    for words in (
        ["embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", folder],
        ["weights", "verify", folder],
        ["weights", "export", tmp_path / "again", "--model", folder],
        ["info", folder],
    ):
        outcome = run(*words)
        assert outcome.code == 69
        [line] = outcome.err.splitlines()
        assert line.startswith(
            f"protrna: error: {folder / NAME}: not a ProtRNA checkpoint: in its config.json, "
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported"]


def test_a_folder_without_weights_is_named(run: Run, tmp_path: Path, folder: Path) -> None:
    (folder / NAME).rename(folder / "model-00001-of-00002.safetensors")
    words = ["embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", folder]
    outcome = run(*words)
    assert (outcome.code, f"{folder}: a folder, not a checkpoint: it has no {NAME}" in outcome.err) == (
        69,
        True,
    )
    (folder / f"{NAME}.index.json").touch()
    assert "its weights are in several files; save them in one" in run(*words).err


@pytest.mark.usefixtures("copies")
def test_a_config_that_changes_does_not_meet_a_copy_for_other_heads(home: Path, folder: Path) -> None:
    """Without the frequencies, the number of heads is in the config only, which no hash covers."""
    rewrite(folder, without_frequencies)

    def loaded() -> Any:
        found = locate(str(folder))
        found.sha256()
        return found.load("float32", "cpu", None)

    assert loaded().size.heads == 5
    configure(folder, num_attention_heads=4)
    assert loaded().size.heads == 4
    assert len(mapped.copies_in(home)) == 1


def test_a_checkpoint_with_frequencies_of_its_own_is_not_exported(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "own.h5"
    path.write_bytes(TOY.read_bytes())
    with h5py.File(path, "r+") as file:
        [name] = [name for name in file["layer_._1"].attrs["weight_names"] if "inv_freq" in name]
        file[f"layer_._1/{name}"][1] *= 2
    outcome = run("weights", "export", tmp_path / "x", "--model", path)
    assert outcome.code == 69
    assert "layers.1.inv_freq is not 10000^(-2i / 8), which other programs expect" in outcome.err
    assert [each.name for each in tmp_path.iterdir()] == ["own.h5"]


def test_metadata_let_pytorch_load_it(folder: Path) -> None:
    with safe_open(folder / NAME, framework="np") as file:
        assert file.metadata() == {"format": "pt"}
