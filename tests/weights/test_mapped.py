"""Weights mapped into memory give the same numbers, and a copy that does not fit is made again."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli.disk import locked, this_process
from protrna_cli.errors import WeightsError
from protrna_cli.model import load
from protrna_cli.model.checkpoint import read_checkpoint
from protrna_cli.weights import checkpoint as checkpoints
from protrna_cli.weights import fetch as fetching
from protrna_cli.weights import mapped
from protrna_cli.weights.checkpoint import Checkpoint, locate
from tests.conftest import GOLDEN, SAMPLE, TOY, Run

LAST = {"toy": 3, "head64": 2}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights for which every checkpoint is large enough."""
    monkeypatch.setattr(mapped, "SMALLEST", 0)
    monkeypatch.setattr(mapped, "SETTLED_NS", 0)  # these checkpoints are made a moment before
    monkeypatch.setenv("PROTRNA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint that changed a minute ago, and so can be trusted."""
    return settled(shutil.copy(TOY, tmp_path / "toy.h5"))


def settled(path: Path) -> Path:
    then = time.time_ns() - 60_000_000_000
    os.utime(path, ns=(then, then))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that are read instead of being mapped."""
    read: list[Path] = []

    def watched(path: Path, place: Any) -> Any:
        if "lay_out" not in place.__qualname__:
            read.append(path)
        return read_checkpoint(path, place)

    monkeypatch.setattr(load, "read_checkpoint", watched)
    return read


def loaded(path: Path, precision: str = "float32") -> Any:
    """Load a model as a run does: its checkpoint is hashed first."""
    found = locate(str(path))
    found.sha256()
    return found.load(precision, "cpu", None)


def last_layer(model: Any, tokens: Any) -> Any:
    return model(tokens, repr_layers=[model.size.layers])["representations"][model.size.layers].numpy()


@pytest.mark.parametrize("name", ["toy", "head64"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_mapped_weights_give_the_same_bits(
    tmp_path: Path, home: Path, reads: list[Path], name: str, precision: str
) -> None:
    path = settled(shutil.copy(GOLDEN / f"{name}.h5", tmp_path / "x.h5"))
    golden = np.load(GOLDEN / f"{name}.npz")
    first, again = (last_layer(loaded(path, precision), golden["tokens"]) for _ in range(2))
    assert reads == []
    read = last_layer(Checkpoint(path).load(precision, "cpu", None), golden["tokens"])
    assert reads == [path]
    assert first.tobytes() == again.tobytes() == read.tobytes()
    if precision == "float32":
        np.testing.assert_allclose(first, golden[f"layer_{LAST[name]}"], rtol=0, atol=1e-5)
    assert len(mapped.copies_in(home)) == 1


def test_every_weight_is_aligned(home: Path, checkpoint: Path) -> None:
    loaded(checkpoint)
    [path] = mapped.copies_in(home)
    record = json.loads(Path(f"{path}.json").read_text())

    def offsets(node: Any) -> list[int]:
        if isinstance(node, dict):
            return [node["offset"]]
        return [offset for each in node for offset in offsets(each)]

    found = offsets(record["layout"]["weights"])
    assert len(found) == 1 + 3 * 17 + 2 + 5
    assert all(offset % 64 == 0 for offset in found)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def spoil_the_record(path: Path) -> None:
    Path(f"{path}.json").write_text('{"stamp": [1, 2, 3]}')


def of_another_version(path: Path) -> None:
    """A copy whose kernels are laid out another way: its bytes are as recorded."""
    record_path = Path(f"{path}.json")
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps(record | {"version": 1}))


def lose_the_record(path: Path) -> None:
    Path(f"{path}.json").unlink()


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut, spoil_the_record, of_another_version, lose_the_record, Path.unlink]
)
def test_a_damaged_copy_is_made_again(
    home: Path, checkpoint: Path, reads: list[Path], damage: Callable[[Path], None]
) -> None:
    tokens = np.load(GOLDEN / "toy.npz")["tokens"]
    before = last_layer(loaded(checkpoint), tokens)
    [path] = mapped.copies_in(home)
    content = path.read_bytes()
    damage(path)
    assert last_layer(loaded(checkpoint), tokens).tobytes() == before.tobytes()
    assert path.read_bytes() == content
    assert reads == []


def test_a_copy_that_was_moved_is_hashed_and_kept(home: Path, checkpoint: Path) -> None:
    loaded(checkpoint)
    [path] = mapped.copies_in(home)
    moved = path.with_suffix(".moved")
    shutil.copy(path, moved)
    moved.replace(path)
    inode = path.stat().st_ino
    loaded(checkpoint)
    assert path.stat().st_ino == inode


def test_without_room_or_a_folder_the_checkpoint_is_read(
    tmp_path: Path, home: Path, checkpoint: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "ROOM", 1 << 50)
    loaded(checkpoint)
    assert mapped.copies_in(home) == []
    (tmp_path / "file").touch()
    monkeypatch.setenv("PROTRNA_HOME", str(tmp_path / "file"))
    loaded(checkpoint)
    assert reads == [checkpoint] * 2


def test_a_checkpoint_that_just_changed_is_not_trusted(
    home: Path, checkpoint: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content may be new and its time of change old, as `cp --preserve` leaves it."""
    monkeypatch.setattr(mapped, "SETTLED_NS", 60_000_000_000)
    loaded(checkpoint)
    assert reads == [checkpoint]
    assert not (home / "trusted.json").exists()


def test_another_checkpoint_at_the_same_path_has_a_copy_of_its_own(home: Path, checkpoint: Path) -> None:
    loaded(checkpoint)
    settled(shutil.copy(GOLDEN / "head64.h5", checkpoint))
    assert loaded(checkpoint).size.width == 128
    assert len(mapped.copies_in(home)) == 2


def test_what_a_killed_process_left_is_removed(home: Path, checkpoint: Path) -> None:
    loaded(checkpoint)
    [path] = mapped.copies_in(home)
    path.unlink()
    (left := path.with_name(f"{path.name}.1234.new")).write_bytes(b"half")
    loaded(checkpoint)
    assert path.exists()
    assert not left.exists()


LOAD = """
import sys
from protrna_cli.weights import mapped
from protrna_cli.weights import mapped
from protrna_cli.weights.checkpoint import locate
mapped.SMALLEST = 0
make = mapped._make
mapped.SETTLED_NS = 0
mapped._make = lambda *words: print("made") or make(*words)
checkpoint = locate(sys.argv[1])
checkpoint.sha256()
checkpoint.load("float32", "cpu", None)
"""


@pytest.mark.slow
def test_of_many_processes_one_makes_the_copy(home: Path, checkpoint: Path) -> None:
    words = [sys.executable, "-c", LOAD, checkpoint]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "".join(said) == "made\n"


def change_a_byte(path: Path) -> None:
    """Change a file in place, and set its time back, as a program that keeps times does."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\x01")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("verified", [False, True])
def test_a_checkpoint_that_changed_in_place_is_hashed_again(
    tmp_path: Path, home: Path, checkpoint: Path, run: Run, verified: bool
) -> None:
    words = ["embed", GOLDEN / "sequences.fa", "-o", tmp_path / "out.npy", "--model", checkpoint]
    words += ["--gaps", "remove", "--overwrite"]
    if verified:
        assert run("weights", "verify", checkpoint).code == 0
    assert run(*words).code == 0
    before = locate(str(checkpoint)).sha256()
    change_a_byte(checkpoint)
    done = run(*words)
    if verified:
        assert (done.code, "damaged or replaced since it was verified" in done.err) == (69, True)
    else:
        assert done.code == 0
        assert locate(str(checkpoint)).sha256() not in (None, before)
        assert len(mapped.copies_in(home)) == 2


def test_a_checkpoint_that_vanishes_is_not_downloaded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "fetch", lambda *words, **more: pytest.fail("downloaded"))
    found = locate(str(checkpoint))
    found.check_reachable()
    checkpoint.unlink()
    with pytest.raises(WeightsError, match="no such checkpoint any more"):
        found.obtain()
    published = Checkpoint(checkpoint, is_published=True)
    with pytest.raises(WeightsError, match="forbids downloads"):
        published.obtain(offline=True)


def test_a_folder_of_weights_stays_open_to_its_users(home: Path, checkpoint: Path) -> None:
    """Whatever the umask of the first of them is."""
    home.mkdir()
    home.chmod(0o2775)
    before = os.umask(0o077)
    try:
        loaded(checkpoint)
    finally:
        os.umask(before)
    modes = {path.relative_to(home): path.stat().st_mode & 0o7777 for path in home.rglob("*")}
    assert {mode for path, mode in modes.items() if (home / path).is_dir()} == {0o2775}
    assert {mode for path, mode in modes.items() if not (home / path).is_dir()} == {0o644}
    assert len(modes) == 4  # the folder of copies, a copy, its record, and what is trusted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_another_user_closed_costs_only_time(home: Path, checkpoint: Path, tmp_path: Path) -> None:
    loaded(checkpoint)
    [copy] = mapped.copies_in(home)
    copy.parent.chmod(0o700)
    closed = [folder for folder in (tmp_path, *tmp_path.parents) if not folder.stat().st_mode & 0o001]
    for folder in closed:
        folder.chmod(folder.stat().st_mode | 0o011)
    os.seteuid(65534)
    try:
        found = locate(str(checkpoint))
        found.sha256()
        assert found.mapped_copy("float32") is None
        assert found.load("float32", "cpu", None).size.layers == 3
    finally:
        os.seteuid(0)
        for folder in closed:
            folder.chmod(folder.stat().st_mode & ~0o011)


def test_a_copy_that_a_limit_of_file_size_forbids_is_done_without(
    home: Path, checkpoint: Path, reads: list[Path]
) -> None:
    found = locate(str(checkpoint))
    found.sha256()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        model = found.load("float32", "cpu", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert model.size.layers == 3
    assert reads == [checkpoint]
    assert list((home / "mapped").iterdir()) == []


def test_half_made_copies_are_pruned(home: Path, run: Run) -> None:
    """Also those of other machines, and their records; one that is being made now is left alone."""
    folder = home / "mapped"
    folder.mkdir(parents=True)
    for name in ("abc-float32.weights.othernode-77.new", f"def-float32.weights.{this_process()}.new"):
        (folder / name).write_bytes(bytes(1 << 20))
    (folder / "def-float32.weights.json").write_bytes(bytes(1 << 20))
    mine = folder / f"ghi-float32.weights.{this_process()}.new"
    mine.write_bytes(b"in the making")
    with locked(folder / "ghi-float32.weights"):
        assert "removed 3.0 MiB of mapped copies" in run("weights", "prune").err
        assert mine.exists()
    assert list(folder.iterdir()) == [mine]


def test_what_changes_while_it_is_hashed_is_not_trusted(
    home: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = checkpoints.file_hash

    def hash_and_change(path: Path, algorithm: str) -> str:
        found = hashed(path, algorithm)
        change_a_byte(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "file_hash", hash_and_change)
        before = locate(str(checkpoint)).sha256()
    assert locate(str(checkpoint)).sha256() != before


def test_a_copy_that_cannot_be_removed_is_named(
    home: Path, checkpoint: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(checkpoint)
    [copy] = mapped.copies_in(home)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    done = run("weights", "prune")
    assert (done.code, f"{copy}: cannot be removed (Permission denied)" in done.err) == (73, True)


def test_a_link_to_nowhere_is_listed(home: Path, run: Run) -> None:
    home.mkdir()
    (home / "gone.h5").symlink_to("nowhere.h5")
    assert run("weights", "list").out.splitlines()[1].startswith("gone\t-\t-\tnever\t")


def test_the_first_run_tells_of_its_copy(tmp_path: Path, home: Path, checkpoint: Path, run: Run) -> None:
    words = ["embed", SAMPLE, "--model", checkpoint, "--batch-tokens", "2048"]
    first, second = (run(*words, "-o", tmp_path / name).err for name in ("1.npy", "2.npy"))
    assert f"note: laid out the weights in {home / 'mapped'}" in first
    assert "protrna weights prune removes them" in first
    assert "laid out" not in second


def test_copies_are_listed_verified_and_pruned(home: Path, checkpoint: Path, run: Run) -> None:
    loaded(checkpoint)
    loaded(checkpoint, "bfloat16")
    listed = json.loads(run("weights", "list", "--json").out)
    assert [each["name"] for each in listed] == ["mapped bfloat16", "mapped float32"]
    assert len({each["sha256"] for each in listed}) == 1
    flip_a_byte(Path(listed[1]["path"]))
    done = run("weights", "verify", checkpoint)
    assert (done.code, f"note: {listed[1]['path']}: damaged, and removed" in done.err) == (0, True)
    freed = Path(listed[0]["path"]).stat().st_size
    assert f"removed {freed / 2**20:.1f} MiB of mapped copies" in run("weights", "prune").err
    assert list((home / "mapped").iterdir()) == []
    assert run("weights", "prune").code == 0
