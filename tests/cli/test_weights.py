"""`protrna weights`, and `protrna embed` without a checkpoint, as users see them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from protrna_cli.model import structure
from protrna_cli.model.structure import PUBLISHED_SIZE, ModelSize
from protrna_cli.weights import fetch as fetching
from tests.conftest import GOLDEN, SAMPLE, TOY, Run, on_a_terminal
from tests.tools.special import SPECIAL_FILES, special_file
from tests.tools.zenodo import Zenodo

NAME = "ProtRNA_pretrained.h5"
SHA256 = hashlib.sha256(TOY.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def small_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the size of the toy checkpoint for that of the published model."""
    monkeypatch.setattr(structure, "PUBLISHED_SIZE", ModelSize(layers=3, width=40, heads=5))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the published weights; still empty."""
    monkeypatch.setenv("PROTRNA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    """A local server instead of the published addresses."""
    monkeypatch.delenv("PROTRNA_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Zenodo(TOY.read_bytes()) as server:
        monkeypatch.setattr(fetching, "MIRRORS", (server.record(),))
        yield server


def test_embed_downloads_missing_weights(run: Run, home: Path, zenodo: Zenodo, tmp_path: Path) -> None:
    outcome = run("embed", SAMPLE, "-o", tmp_path / "out.npy")
    assert outcome.code == 0, outcome.err
    address = zenodo.record().address
    announced, summary = outcome.err.splitlines()
    assert announced == f"protrna: fetching {NAME} (0.3 MiB) from {address} to {home}"
    assert "46 records" in summary
    assert SHA256 in run("info", tmp_path / "out.npy").out
    assert run("embed", SAMPLE, "-o", tmp_path / "again.npy", "-q").err == ""
    assert len(zenodo.log) == 1


def test_an_invalid_input_downloads_nothing(run: Run, home: Path, zenodo: Zenodo, tmp_path: Path) -> None:
    assert run("embed", GOLDEN / "sequences.fa", "-o", tmp_path / "out.npy").code == 65
    assert zenodo.log == []


def test_python_downloads_and_logs_it(home: Path, zenodo: Zenodo, caplog: pytest.LogCaptureFixture) -> None:
    from protrna_cli import load_model

    assert load_model().size.layers == 3
    assert f"fetching {NAME} (0.3 MiB)" in caplog.text


@pytest.mark.parametrize("way", ["--offline", "PROTRNA_OFFLINE"])
def test_offline_the_error_names_three_remedies(
    run: Run, home: Path, zenodo: Zenodo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "PROTRNA_OFFLINE":
        monkeypatch.setenv(way, "1")
    outcome = run("embed", SAMPLE, "-o", tmp_path / "out.npy", *([way] if way.startswith("--") else []))
    assert outcome.code == 69
    assert len(outcome.err.splitlines()) == 1
    for words in (f"{home}/{NAME}", "protrna weights fetch --to DIR", "--model PATH", "--model demo"):
        assert words in outcome.err
    assert zenodo.log == []


def test_a_failed_fetch_ends_embed(run: Run, home: Path, zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.faults = {"/": 404}
    outcome = run("embed", SAMPLE, "-o", tmp_path / "out.npy")
    assert outcome.code == 69
    assert "answers 404 Not Found; run protrna weights fetch --to DIR on a machine with" in outcome.err
    assert not (tmp_path / "out.npy").exists()


def test_the_folder_is_chosen_by_option_then_environment(run: Run, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("weights", "fetch", "--from", TOY, "--to", other).code == 0
    assert run("weights", "path").code == 69
    assert run("weights", "path", "--weights-dir", other).out == f"{other / NAME}\n"
    assert run("embed", SAMPLE, "-o", tmp_path / "out.npy", "--weights-dir", other).code == 0


def test_a_shared_folder_is_left_as_it_is(run: Run, home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / NAME).symlink_to(TOY)
    before = home.stat().st_mtime_ns
    assert run("embed", SAMPLE, "-o", tmp_path / "out.npy").code == 0
    assert home.stat().st_mtime_ns == before
    assert [path.name for path in home.iterdir()] == [NAME]


def test_list_path_and_info_show_what_is_there(run: Run, home: Path) -> None:
    empty = run("weights", "list")
    assert (empty.code, empty.out) == (0, "name\tbytes\tsha256\tverified\tfrom\tpath\n")
    assert "run protrna weights fetch" in empty.err
    assert "not at" in run("weights", "path").err
    fetched = run("weights", "fetch", "--from", TOY)
    assert fetched.err.splitlines()[-1] == f"protrna: verified: {home / NAME}"
    _, row = run("weights", "list").out.splitlines()
    name, size, sha256, verified, source, path = row.split("\t")
    assert (name, size, sha256, source, path) == ("protrna", "338696", SHA256, str(TOY), str(home / NAME))
    assert verified.startswith("20")
    assert run("info", home / NAME).out.splitlines() == [
        f"{home / NAME}: checkpoint",
        "",
        "layers      3, width 40, 5 heads",
        "parameters  62,518, float32",
        "size        0.3 MiB",
        f"SHA-256     {SHA256}",
    ]


def test_a_damaged_checkpoint_is_named_and_never_used(run: Run, home: Path, tmp_path: Path) -> None:
    run("weights", "fetch", "--from", TOY)
    with h5py.File(home / NAME, "r+") as file:  # one value, still finite: only the hash shows it
        file["lm_head/bias:0"][3] += np.float32(1)
    for words in (
        ["weights", "verify"],
        ["embed", SAMPLE, "-o", tmp_path / "out.npy"],
        ["info", home / NAME],
    ):
        outcome = run(*words)
        assert outcome.code == 69
        assert f"protrna: error: {home / NAME}: damaged or replaced since" in outcome.err
    assert not (tmp_path / "out.npy").exists()
    assert run("weights", "fetch", "--from", TOY).code == 0
    assert run("weights", "verify").err == f"protrna: verified: {home / NAME}, SHA-256 {SHA256}\n"


def test_offline_fetch_verifies_what_is_there(run: Run, home: Path) -> None:
    outcome = run("weights", "fetch")
    assert outcome.code == 69
    assert "PROTRNA_OFFLINE forbids" in outcome.err
    assert run("weights", "fetch", "--from", TOY, "-q").err == ""
    assert run("weights", "fetch").code == 0


def test_fetch_from_an_address(run: Run, home: Path, zenodo: Zenodo) -> None:
    assert run("weights", "fetch", "--from", zenodo.share.address).code == 0
    assert (home / NAME).read_bytes() == TOY.read_bytes()


def test_a_model_of_another_size_is_never_the_published_one(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    assert run("weights", "fetch", "--from", TOY).code == 0
    monkeypatch.setattr(structure, "PUBLISHED_SIZE", PUBLISHED_SIZE)
    words = "a model of 3 layers × 40, 5 heads, but the published one has 33 layers × 1280, 20 heads; use a"
    for command in (["verify"], ["fetch"], ["fetch", "--from", TOY], ["fetch", "--from", TOY, "--to", new]):
        outcome = run("weights", *command)
        assert outcome.code == 69
        assert words in outcome.err.splitlines()[-1]
        assert "--model PATH" in outcome.err
    assert list(new.iterdir()) == []
    assert run("weights", "verify", home / NAME).code == 0  # a checkpoint of one's own, by its path


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fetch", "--from", "missing.h5"], 69, "missing.h5 cannot be read (No such file or directory)"),
        (["fetch", "--from", "file:///etc/passwd"], 69, "file:/etc/passwd cannot be read"),
        (["fetch", "--from", SAMPLE], 69, f"{SAMPLE} provided an invalid file: not an HDF5 file"),
        (["fetch", "--from", TOY, "--to", SAMPLE], 73, f"{SAMPLE}: cannot be created"),
        (["verify", SAMPLE], 69, f"{SAMPLE}: not an HDF5 file; run protrna weights fetch"),
        (["verify", "missing.h5"], 69, "missing.h5: no such checkpoint"),
        (["verify", "demo"], 2, "demo is built in"),
    ],
)
def test_errors_have_a_code_and_one_line(
    run: Run, home: Path, words: list[object], code: int, message: str
) -> None:
    outcome = run("weights", *words)
    assert outcome.code == code
    *_, last = outcome.err.splitlines()
    assert last.startswith("protrna: error: ")
    assert message in last
    assert not (home / NAME).exists()


@pytest.mark.parametrize("name", SPECIAL_FILES)
def test_what_is_not_a_file_is_refused_at_once(run: Run, home: Path, tmp_path: Path, name: str) -> None:
    path = special_file(tmp_path, name)
    for words in (
        ["weights", "verify", path],
        ["embed", SAMPLE, "-o", tmp_path / "out.npy", "--model", path],
        ["weights", "fetch", "--from", path],
    ):
        outcome = run(*words)
        assert outcome.code == 69
        last = outcome.err.splitlines()[-1]
        assert last.startswith("protrna: error: ")
        assert str(path) in last
        assert ("folder" if name == "folder" else "a pipe, a socket or a device, not a file") in last
    assert not (tmp_path / "out.npy").exists()


def test_a_terminal_shows_the_download_progress(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.pace = 0.02
    small = "from protrna_cli.model import structure as s; s.PUBLISHED_SIZE = s.ModelSize(3, 40, 5)"
    words = ["weights", "fetch", "--from", zenodo.share.address, "--to", tmp_path]
    code, shown = on_a_terminal(*words, columns=100, first=small)
    assert code == 0
    assert "331k/331k" in shown
    assert "B/s" in shown
