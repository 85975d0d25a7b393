"""Fetch the checkpoint while networks, servers and disks fail in various ways."""

import errno
import fcntl
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from protrna_cli.disk import locked
from protrna_cli.errors import OutputUnwritable, WeightsError, WriteFailed
from protrna_cli.model import structure
from protrna_cli.model.structure import ModelSize
from protrna_cli.weights.checkpoint import Watcher, read_verification, verify_checkpoint
from protrna_cli.weights.download import RetryPolicy
from protrna_cli.weights.fetch import MIRRORS, Mirror, fetch, look_up
from tests.conftest import wait_until
from tests.tools.checkpoints import write_checkpoint
from tests.tools.zenodo import Zenodo

NAME = "ProtRNA_pretrained.h5"
QUICK = RetryPolicy(timeout=60, retries=2, pause=0.01)
IMPATIENT = replace(QUICK, timeout=0.5)
"""For a server that does not answer."""


@pytest.fixture(autouse=True)
def small_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the size of `content` for that of the published model."""
    monkeypatch.setattr(structure, "PUBLISHED_SIZE", ModelSize(layers=2, width=96, heads=4))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("made") / "made.h5"
    write_checkpoint(path, layers=2, width=96, heads=4)
    return path.read_bytes()


@pytest.fixture
def zenodo(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Zenodo(content) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights" / NAME


def assert_whole(target: Path, content: bytes) -> None:
    """Check that the checkpoint is there and recorded, and that no unfinished file is beside it."""
    assert target.read_bytes() == content
    record = read_verification(target)
    assert record is not None
    assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert {path.name for path in target.parent.iterdir()} == {NAME, f"{NAME}.json"}


class Notes(Watcher):
    """Collects the notes that the user would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


# Connections break.


@pytest.mark.parametrize("seed", range(4))
def test_a_connection_cut_at_random_bytes_is_resumed(
    zenodo: Zenodo, target: Path, content: bytes, seed: int
) -> None:
    rng = random.Random(seed)
    zenodo.cuts = [rng.randrange(1, len(content) // 8) for _ in range(6)]
    expected = [sum(zenodo.cuts[:i]) for i in range(7)]
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)
    assert [request.start for request in zenodo.log] == expected
    assert sum(request.sent for request in zenodo.log) == len(content)


def test_a_later_call_resumes_where_an_earlier_one_stopped(
    zenodo: Zenodo, target: Path, content: bytes
) -> None:
    zenodo.cuts = [50_000]
    with pytest.raises(WeightsError, match="bytes early"):
        fetch(target, [zenodo.record()], retry_policy=RetryPolicy(retries=0))
    assert not target.exists()
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)
    assert [request.start for request in zenodo.log] == [0, 50_000]


def test_another_mirror_resumes_the_same_file(zenodo: Zenodo, target: Path, content: bytes) -> None:
    zenodo.cuts = [50_000]
    fetch(target, [zenodo.record(1), zenodo.record(2)], retry_policy=RetryPolicy(retries=0))
    assert_whole(target, content)
    assert [(request.path.split("/")[2], request.start) for request in zenodo.log] == [
        ("1", 0),
        ("2", 50_000),
    ]


def test_a_server_without_ranges_is_asked_for_the_whole_file_again(
    zenodo: Zenodo, target: Path, content: bytes
) -> None:
    zenodo.ranges = False
    zenodo.cuts = [100_000, 60_000]
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)
    assert [request.start for request in zenodo.log] == [0, 0, 0]


def test_a_server_that_always_breaks_the_connection_is_given_up(zenodo: Zenodo, target: Path) -> None:
    zenodo.ranges, zenodo.cuts = False, [60_000] * 50
    with pytest.raises(WeightsError, match="bytes early"):
        fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert len(zenodo.log) == 1 + QUICK.retries


@pytest.mark.parametrize(
    ("etag", "grown"), [("strong", False), ("strong", True), ("weak", False), ("", True)]
)
def test_a_partial_file_is_never_joined_to_another_file(
    zenodo: Zenodo, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etag: str, grown: bool
) -> None:
    """The file at an address without a record changes, which its ETag or its size shows."""
    monkeypatch.setattr(structure, "PUBLISHED_SIZE", ModelSize(3 if grown else 2, 96, 4))
    zenodo.etag, zenodo.cuts = etag, [50_000]
    with pytest.raises(WeightsError):
        fetch(target, [zenodo.share], retry_policy=RetryPolicy(retries=0))
    other = tmp_path / "other.h5"
    write_checkpoint(other, layers=3 if grown else 2, width=96, heads=4, seed=1)
    zenodo.content = other.read_bytes()
    fetch(target, [zenodo.share], retry_policy=QUICK)
    assert_whole(target, zenodo.content)


def test_a_redirected_address_is_resumed(zenodo: Zenodo, target: Path, content: bytes) -> None:
    zenodo.cuts = [70_000]
    fetch(target, [zenodo.share], retry_policy=QUICK)
    assert_whole(target, content)
    assert [request.start for request in zenodo.log] == [0, 70_000]
    record = read_verification(target)
    assert record is not None
    assert (record.source, record.md5) == (f"{zenodo.url}/share/{NAME}", None)


def test_bytes_lost_by_the_machine_are_fetched_again(zenodo: Zenodo, target: Path, content: bytes) -> None:
    """After a power cut, bytes counted as written may be zeros."""
    zenodo.cuts = [50_000]
    with pytest.raises(WeightsError):
        fetch(target, [zenodo.record()], retry_policy=RetryPolicy(retries=0))
    partial = target.with_name(f"{NAME}.partial")
    with partial.open("r+b") as file:
        file.seek(30_000)
        file.write(bytes(20_000))
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)
    assert [request.start for request in zenodo.log] == [0, 50_000, 0]


def test_a_partial_file_that_is_too_long_is_dropped(zenodo: Zenodo, target: Path, content: bytes) -> None:
    zenodo.cuts = [50_000]
    with pytest.raises(WeightsError):
        fetch(target, [zenodo.share], retry_policy=RetryPolicy(retries=0))
    with target.with_name(f"{NAME}.partial").open("ab") as file:
        file.write(bytes(len(content)))
    fetch(target, [zenodo.share], retry_policy=QUICK)
    assert_whole(target, content)


def test_a_killed_download_is_resumed(zenodo: Zenodo, target: Path, content: bytes) -> None:
    zenodo.pace = 0.05
    partial = target.with_name(f"{NAME}.partial")
    with fetching_process(zenodo, target) as process:
        wait_until(lambda: partial.exists() and partial.stat().st_size > 100_000, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not target.exists()
    had = partial.stat().st_size
    zenodo.pace = 0
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)
    assert 0 < had < len(content)
    assert zenodo.log[-1].start == had


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_many_processes_download_once(zenodo: Zenodo, target: Path, content: bytes, count: int) -> None:
    zenodo.opened.clear()
    processes = [fetching_process(zenodo, target) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    zenodo.opened.set()
    for process in processes:
        with process:
            _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert_whole(target, content)
    assert [(request.start, request.sent) for request in zenodo.log] == [(0, len(content))]


def test_what_another_process_is_making_is_not_foreign(zenodo: Zenodo, target: Path, content: bytes) -> None:
    """It is looked at only once nobody else fetches: a record half written is no record."""
    record, notes = target.with_name(f"{target.name}.partial.json"), Notes()
    target.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        with locked(target):
            record.write_text("{")
            fetched = pool.submit(fetch, target, [zenodo.record()], notes, QUICK)
            wait_until(lambda: notes.lines or fetched.done())
            record.unlink()
        fetched.result(timeout=300)
    assert "waiting for it" in notes.lines[0]
    assert_whole(target, content)


# Servers fail.


@pytest.mark.parametrize("fault", [404, 403, 500, 429, 0])
@pytest.mark.parametrize("part", ["/api/records/1", "/records/1/"])
def test_the_next_mirror_is_tried(
    zenodo: Zenodo, target: Path, content: bytes, part: str, fault: int
) -> None:
    zenodo.faults = {part: fault}
    notes = Notes()
    fetch(target, [zenodo.record(1), zenodo.record(2)], notes, QUICK if fault else IMPATIENT)
    assert_whole(target, content)
    assert [request.path.split("/")[2] for request in zenodo.log] == ["2"]
    assert notes.lines[-1].endswith("trying the next address")
    assert (f"answers {fault}" if fault else "does not answer (timed out)") in notes.lines[-1]


def test_a_temporary_failure_is_retried(zenodo: Zenodo, target: Path, content: bytes) -> None:
    zenodo.faults = {"/api": [503, 500], "/records": [502, 429]}
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)


def test_a_wrong_checksum_is_refused_and_leaves_nothing(zenodo: Zenodo, target: Path) -> None:
    zenodo.checksum = "md5:" + 32 * "a"
    with pytest.raises(
        WeightsError, match=f"its MD5 is [0-9a-f]{{32}}, but its record states {32 * 'a'}"
    ) as caught:
        fetch(target, [zenodo.record(1), zenodo.record(2)], retry_policy=QUICK)
    assert "\n" not in str(caught.value)
    assert [path.name for path in target.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:9f\nsize 12\n", "a Git LFS pointer"),
        (None, "has values that are not finite"),
    ],
)
def test_without_a_checksum_the_content_is_checked(
    zenodo: Zenodo, target: Path, tmp_path: Path, served: bytes | None, words: str
) -> None:
    if served is None:
        path = tmp_path / "nan.h5"
        path.write_bytes(zenodo.content)
        with h5py.File(path, "r+") as file:
            file["embedding/embedding/embeddings:0"][7, 7] = float("nan")
        served = path.read_bytes()
    zenodo.content = served
    with pytest.raises(WeightsError, match=f"provided an invalid file: .*{words}"):
        fetch(target, [zenodo.share], retry_policy=QUICK)
    assert [path.name for path in target.parent.iterdir()] == []


def test_a_page_instead_of_the_file_keeps_the_partial_file(
    zenodo: Zenodo, target: Path, content: bytes
) -> None:
    zenodo.cuts = [50_000]
    with pytest.raises(WeightsError):
        fetch(target, [zenodo.record()], retry_policy=RetryPolicy(retries=0))
    with Zenodo(b"<html>down for maintenance</html>", ranges=False) as other:
        mirror = Mirror(other.record().address, zenodo.record().record)
        with pytest.raises(WeightsError, match=r"has 33 bytes, but its record states [\d,]+"):
            fetch(target, [mirror], retry_policy=QUICK)
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)
    assert [request.start for request in zenodo.log] == [0, 50_000]


@pytest.mark.parametrize("cuts", [[], [50_000]])
def test_the_record_has_the_size_that_a_reply_lacks(
    zenodo: Zenodo, target: Path, content: bytes, cuts: list[int]
) -> None:
    zenodo.sized, zenodo.cuts = False, cuts
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)


def test_a_file_of_unknown_length_is_fetched(zenodo: Zenodo, target: Path, content: bytes) -> None:
    zenodo.sized = False
    fetch(target, [zenodo.share], retry_policy=QUICK)
    assert_whole(target, content)


def test_without_a_network_the_error_comes_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    with socket.socket() as listener:  # bound and not listening: refused
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(
            WeightsError, match=r"cannot be reached \(Connection refused\); run protrna"
        ) as caught:
            fetch(target, [Mirror(f"{url}/{NAME}"), Mirror(f"{url}/2/{NAME}")])
    assert str(caught.value).count("cannot be reached") == 1
    for way in ("protrna weights fetch --to DIR", "--weights-dir", "--model PATH", "--model demo"):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://a..b/x.h5", "http://[::1/x.h5", "http://host:port/x.h5", "http:///x.h5"]
)
def test_an_invalid_address_is_an_error(target: Path, address: str) -> None:
    with pytest.raises(WeightsError, match=r"is not a valid address|cannot be reached \(no host given\)"):
        fetch(target, [Mirror(address)], retry_policy=QUICK)


# Proxies and certificates.


def test_the_proxy_is_used(
    zenodo: Zenodo, target: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", zenodo.url)
    fetch(target, [Mirror(f"http://weights.example/{NAME}")], retry_policy=QUICK)
    assert_whole(target, content)
    assert zenodo.log[0].path == f"http://weights.example/{NAME}"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here to make a certificate")
def test_certificates_are_checked(
    zenodo: Zenodo, target: Path, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    command = ["openssl", *words.split(), "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with Zenodo(content, tls=(certificate, key)) as secure:
        with pytest.raises(WeightsError, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE names the"):
            fetch(target, [secure.record()], retry_policy=QUICK)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fetch(target, [secure.record()], retry_policy=QUICK)
    assert_whole(target, content)


# Another model.


@pytest.mark.parametrize("way", ["file", "record", "address"])
def test_a_model_of_another_size_is_refused_and_leaves_nothing(
    zenodo: Zenodo, target: Path, tmp_path: Path, way: str
) -> None:
    other = tmp_path / "mine.h5"
    write_checkpoint(other, layers=1, width=24, heads=3)
    zenodo.content = other.read_bytes()
    mirror = {"file": Mirror(str(other)), "record": zenodo.record(), "address": zenodo.share}[way]
    words = (
        "a model of 1 layer × 24, 3 heads, but the published one has 2 layers × 96, 4 heads; "
        "use a checkpoint of your own with --model PATH"
    )
    with pytest.raises(WeightsError, match=words) as caught:
        fetch(target, [mirror], retry_policy=QUICK)
    assert "\n" not in str(caught.value)
    assert [path.name for path in target.parent.iterdir()] == []


def test_a_model_of_another_size_that_is_there_is_not_replaced(zenodo: Zenodo, target: Path) -> None:
    """It is whole, so it may be all that somebody has of it."""
    target.parent.mkdir()
    write_checkpoint(target, layers=1, width=24, heads=3)
    before = target.read_bytes()
    with pytest.raises(WeightsError, match=r"has 2 layers × 96, 4 heads; .*; move it away before you fetch"):
        fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert (target.read_bytes(), zenodo.log) == (before, [])


# Disks and folders.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_download_that_cannot_fit_is_not_started(zenodo: Zenodo, small_disk: Path) -> None:
    with pytest.raises(
        WriteFailed, match=r"1\.0 MiB needed, but only 0\.5 MiB free; free space and run again"
    ):
        fetch(small_disk / NAME, [zenodo.record()], retry_policy=QUICK)
    assert not list(small_disk.glob("*.partial"))


def test_a_disk_that_fills_up(zenodo: Zenodo, small_disk: Path, content: bytes) -> None:
    zenodo.sized = False  # so that the free space cannot be checked beforehand
    with pytest.raises(WriteFailed, match="No space left on device"):
        fetch(small_disk / NAME, [zenodo.share], retry_policy=QUICK)
    assert not (small_disk / NAME).exists()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    fetch(small_disk / NAME, [zenodo.share], retry_policy=QUICK)
    assert_whole(small_disk / NAME, content)


def test_a_limit_on_file_size(zenodo: Zenodo, target: Path, content: bytes) -> None:
    """The download hits the system's limit on file size, and is resumed afterwards."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))"
    with fetching_process(zenodo, target, first=limit) as process:
        _, errors = process.communicate(timeout=300)
    assert "WriteFailed" in errors
    assert "File too large" in errors
    assert not target.exists()
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert_whole(target, content)
    assert zenodo.log[-1].start == 150_000


def test_a_copy_that_fails_leaves_nothing(target: Path, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "source.h5"
    source.write_bytes(content)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(WriteFailed, match="File too large"):
            fetch(target, [Mirror(str(source))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in target.parent.iterdir()] == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputUnwritable, match=r"cannot be created .*; choose another folder"):
        fetch(tmp_path / "file" / NAME, [])


def test_a_read_only_folder_without_the_checkpoint(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputUnwritable, match="Read-only file system"):
        fetch(small_disk / NAME, [])


def test_without_locks_each_process_fetches_for_itself(
    zenodo: Zenodo, target: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    notes = Notes()
    fetch(target, [zenodo.record()], notes, QUICK)
    assert_whole(target, content)
    assert "on a file system without locks" in notes.lines[0]


# The file exists already.


def test_a_damaged_file_is_named_and_fetched_again(zenodo: Zenodo, target: Path, content: bytes) -> None:
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    with h5py.File(target, "r+") as file:  # all shapes are right, and all values finite
        file["lm_head/bias:0"][3] += 1
    with pytest.raises(WeightsError, match="damaged or replaced since it was verified on 2") as caught:
        verify_checkpoint(target)
    assert str(caught.value).startswith(f"{target}: ")
    notes = Notes()
    fetch(target, [zenodo.record()], notes, QUICK)
    assert_whole(target, content)
    assert "damaged" in notes.lines[0]


def test_a_whole_file_is_not_fetched_again(zenodo: Zenodo, target: Path, content: bytes) -> None:
    target.parent.mkdir()
    target.write_bytes(content)
    fetch(target, [zenodo.record()], retry_policy=QUICK)
    assert zenodo.log == []
    record = read_verification(target)
    assert record is not None
    assert (record.sha256, record.source) == (hashlib.sha256(content).hexdigest(), None)


def test_a_read_only_folder_is_enough_to_verify(small_disk: Path, content: bytes, tmp_path: Path) -> None:
    write_checkpoint(small_disk / NAME, layers=1, width=24, heads=3)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    verify_checkpoint(small_disk / NAME)
    assert [path.name for path in small_disk.iterdir()] == [NAME]


# The real addresses.


@pytest.mark.network
def test_the_published_addresses_answer() -> None:
    """Zenodo states sizes and checksums, and every mirror answers; nothing is downloaded."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.build_opener().open("https://zenodo.org/", timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError as error:
        pytest.skip(f"no network here: zenodo.org cannot be reached ({error})")
    for mirror in MIRRORS:
        source = look_up(mirror, RetryPolicy(), Watcher())
        if mirror.record:
            assert source.size is not None and source.size > 2_500_000_000
            assert source.md5 is not None
        request = urllib.request.Request(source.address, headers={"Range": "bytes=0-7"})
        with urllib.request.build_opener().open(request, timeout=30) as reply:
            assert reply.read(8) == b"\x89HDF\r\n\x1a\n"


def fetching_process(zenodo: Zenodo, target: Path, first: str = "pass") -> "subprocess.Popen[str]":
    """Fetch in another process."""
    script = (
        f"{first}\n"
        "import sys\nfrom pathlib import Path\n"
        "from protrna_cli.model import structure\n"
        "structure.PUBLISHED_SIZE = structure.ModelSize(2, 96, 4)\n"
        "from protrna_cli.weights.fetch import fetch\nfrom protrna_cli.weights.fetch import zenodo\n"
        "print('ready', flush=True)\n"
        "fetch(Path(sys.argv[1]), [zenodo(1, sys.argv[2])])"
    )
    words = [sys.executable, "-c", script, str(target), zenodo.url]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
