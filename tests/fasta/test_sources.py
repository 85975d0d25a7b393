"""Real-world FASTA: every way of storing it reads the same, and every bad file gets a message that helps."""

import bz2
import errno
import fcntl
import gzip
import hashlib
import lzma
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.records import Record
from protrna_cli.fasta.sources import open_sources
from protrna_cli.plan.rules import DEFAULT_RULES, Rules
from protrna_cli.plan.shard import WHOLE
from tests.conftest import GOLDEN, SAMPLE, Run, wait_until
from tests.tools.runs import light

TEXT = b">one first\nACGU\nTTNN\n>two\nacgu\n"


def read(path: Path, rules: Rules = DEFAULT_RULES) -> list[Record]:
    with open_sources([path]) as sources:
        items = list(take_census(sources, rules).records(WHOLE, 1))
    return [item for item in items if isinstance(item, Record)]


EXPECTED = [Record(1, "one", "first", "acguuuxx", 2), Record(2, "two", "", "acgu", 0)]


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def in_halves(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Compress in two streams, one after the other, as bgzip and cat do."""
    return lambda data: pack(data[:13]) + pack(data[13:])


STORED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "no final newline": bytes.rstrip,
    "blank lines": lambda data: b"\n\n" + data.replace(b"\n", b"\n\n"),
    "byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "spaces and tabs": lambda data: data.replace(b"ACGU\n", b" AC\tG U \n"),
    "one letter a line": lambda data: data.replace(b"ACGU\nTTNN", b"A\nC\nG\nU\nT\nT\nN\nN"),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "two gzip members": in_halves(gzip.compress),
    "two bzip2 streams": in_halves(bz2.compress),
    "two xz streams": in_halves(lzma.compress),
    "two zstd frames": in_halves(zstd),
    "CRLF in gzip": lambda data: gzip.compress(data.replace(b"\n", b"\r\n")),
}


@pytest.mark.parametrize("way", STORED)
def test_every_way_of_storing_reads_the_same(tmp_path: Path, way: str) -> None:
    path = tmp_path / "no suffix"
    path.write_bytes(STORED[way](TEXT))
    assert read(path) == EXPECTED


def test_the_hash_is_of_the_file_as_stored(tmp_path: Path) -> None:
    """Of a file that is read in many blocks, also where it is compressed."""
    content = b">one\n" + os.urandom(9 << 18).translate(b"ACGU" * 64) + b"\n" + TEXT
    for pack in (bytes, gzip.compress, bz2.compress, partial(lzma.compress, preset=0), zstd):
        path = tmp_path / "in"
        path.write_bytes(pack(content))
        with open_sources([path]) as sources:
            [known] = take_census(sources, DEFAULT_RULES).census.inputs
        assert known == {"name": "in", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]


LETTER = "is not an RNA or DNA letter"
DAMAGED = "compressed, but damaged or truncated"
CORRECT = "correct it, or use --on-invalid skip or --on-invalid unknown"
GAP = "but a gap; use --gaps remove or --gaps unknown"

# By problem: content of the file, words of the message, further options. All exit with 65.
BAD: dict[str, tuple[bytes, str, list[str]]] = {
    "empty": (b"", "contains no FASTA record; a record starts with '>ID description'", []),
    "blank": (b"\n \n\n", "contains no FASTA record", []),
    "only a BOM": (b"\xef\xbb\xbf", "contains no FASTA record", []),
    "empty gzip": (gzip.compress(b""), "contains no FASTA record", []),
    "no header": (b"ACGU\n>a\nA\n", "line 1: not FASTA; a record starts with a line '>ID description'", []),
    "text before the header": (b"\n\nNote\n>a\nA\n", "line 3: not FASTA", []),
    "comment before the header": (b"; old style\n>a\nA\n", "line 1: not FASTA", []),
    "FASTQ": (b"@r\nACGU\n+\nIIII\n", "it looks like FASTQ; convert it to FASTA first (seqtk seq -a)", []),
    "Stockholm": (
        b"# STOCKHOLM 1.0\n",
        "looks like Stockholm; convert it to FASTA first (esl-reformat fasta)",
        [],
    ),
    "GenBank": (b"LOCUS       X\n", "looks like GenBank", []),
    "EMBL": (b"ID   X56734; SV 1\n", "looks like EMBL", []),
    "Clustal": (b"CLUSTAL W\n\na ACGU\n", "looks like Clustal", []),
    "binary": (b"\x00\x01\x02\x03" * 20, "a binary file or UTF-16, not text; give FASTA as plain text", []),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0", "a binary file or UTF-16", []),
    "UTF-16": (">a\nACGU\n".encode("utf-16"), "a binary file or UTF-16", []),
    "Latin-1 header": (
        b">a\nA\n>b caf\xe9\nA\n",
        "line 3: not UTF-8; convert it, for example: iconv -f latin1",
        [],
    ),
    "NUL in a header": (b">a\0b\nA\n", "line 1: a header with a NUL byte", []),
    "NUL in a sequence": (b">a\nA\0C\n", "record 1 (id 'a'), line 2: a NUL byte", []),
    "cut gzip": (gzip.compress(TEXT * 99)[:-20], DAMAGED, []),
    "cut bzip2": (bz2.compress(TEXT * 99)[:-20], DAMAGED, []),
    "cut xz": (lzma.compress(TEXT * 99)[:-20], DAMAGED, []),
    "cut zstd": (zstd(TEXT * 99)[:-9], DAMAGED, []),
    "gzip with a wrong checksum": (flip(gzip.compress(TEXT), -5), DAMAGED, []),
    "damaged xz": (flip(lzma.compress(TEXT * 99), 40), DAMAGED, []),
    "gzip and then something else": (
        gzip.compress(TEXT) + b"more",
        "compressed, but with other bytes behind its end; use: gzip -dc",
        [],
    ),
    "star": (
        b">a\nACGU\n>b\nAC\nGU*\n",
        f"record 2 (id 'b'), line 5, residue 5: '*' {LETTER}; {CORRECT}",
        [],
    ),
    "digit": (b">a\n1 ACGU\n", f"line 2, residue 1: '1' {LETTER}", []),
    "protein letter": (b">a\nACGUACGUACGUACGUACGUACGUE\n", f"residue 25: 'E' {LETTER}; {CORRECT}", []),
    "umlaut": (">a\nACÜ\n".encode(), f"line 2, residue 3: 'Ü' {LETTER}", []),
    "long id": (b">" + b"i" * 5000 + b"\n*\n", f"(id '{'i' * 40}…{'i' * 16}'), line 2", []),
    "after a BOM and CRLF": (b"\xef\xbb\xbf>a\r\nAC\r\nG!\r\n", "line 3, residue 4: '!'", []),
    "in gzip": (gzip.compress(b">a\nAC\n>b\nA?\n"), "record 2 (id 'b'), line 4, residue 2: '?'", []),
    "protein": (b">sp|P1\nMKTAYIAKQRQISFVKSHFSRQ\n", "looks like protein; give RNA or DNA", []),
    "protein after RNA": (b">r\nACGU\n>p\nMEEPQSDPSVEPPLSQETFSDLWKLL\n", "record 2 (id 'p'), line 4", []),
    "gap": (b">a\nAC-GU\n", f"record 1 (id 'a'), line 2, residue 3: '-' {LETTER} {GAP}", []),
    "dot": (b">a\nAC\n.GU\n", f"line 3, residue 3: '.' {LETTER} {GAP}", []),
    "tilde": (b">a\nACGU~\n", f"line 2, residue 5: '~' {LETTER} {GAP}", []),
    "gap though invalid ones are skipped": (b">a\nAC-GU\n", GAP, ["--on-invalid", "skip"]),
    "invalid though gaps are removed": (b">a\nA-C*\n", "line 2, residue 3: '*'", ["--gaps", "remove"]),
    "no residues": (b">a\n>b\nA\n", "record 1 (id 'a'), line 1: no residues; remove the record, or", []),
    "no residues at the end": (b">a\nA\n>b\n", "record 2 (id 'b'), line 3: no residues", []),
    "no residues, read as unknown": (
        b">a\n\n",
        "record 1 (id 'a'), line 1: no residues",
        ["--on-invalid", "unknown"],
    ),
    "nothing but gaps": (b">a\n--\n", "record 1 (id 'a'), line 1: no residues", ["--gaps", "remove"]),
    "all skipped": (b">a\n*\n>b\n", "all records were skipped (2)", ["--on-invalid", "skip"]),
    "too long": (
        b">a\n" + b"A" * 511,
        "(id 'a'), line 1: 511 residues, longer than 510; use --long window, truncate, skip or whole",
        ["--long", "error"],
    ),
    "all too long": (b">a\n" + b"A" * 511, "all records were skipped (1)", ["--long", "skip"]),
    "equal ids in flat HDF5": (
        b">a\nA\n>a\nC\n",
        "record 2: the id 'a' repeats, and flat HDF5 names a dataset by it; use --h5-layout packed",
        ["--format", "h5"],
    ),
    "no id in flat HDF5": (b">\nA\n", "record 1: it has no id, and flat HDF5", ["--format", "h5"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_where_and_what_to_do(run: Run, tmp_path: Path, case: str) -> None:
    content, words, options = BAD[case]
    path = tmp_path / "in.fa"
    path.write_bytes(content)
    outcome = run("embed", path, "-o", tmp_path / "out.npy", "--model", GOLDEN / "toy.h5", *options)
    assert outcome.code == 65
    [line] = outcome.err.splitlines()
    assert line.startswith("protrna: error: ")
    assert words in line
    assert str(path) in line
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_table_is_long_enough() -> None:
    assert len(BAD) >= 40


def test_bad_input_is_reported_before_the_model_is_loaded(tmp_path: Path) -> None:
    """A census that fails does not import TensorFlow."""
    (tmp_path / "in.fa").write_text(">a\nA*\n")
    script = (
        "import sys; from protrna_cli.cli.main import run; code = run(sys.argv[1:]);"
        "print(code, 'tensorflow' in sys.modules)"
    )
    words = ["embed", "in.fa", "-o", "out.npy", "--model", "demo"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "65 False", done.stderr


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "cannot be read (No such file or directory); check the path"),
        (lambda path: path.mkdir(), "a folder; name its files, for example "),
        (lambda path: path.symlink_to(path), "cannot be read (Too many levels of symbolic links)"),
        (lambda path: path.symlink_to("gone"), "cannot be read (No such file or directory)"),
        (lambda path: path.symlink_to(f"{SAMPLE}/in.fa"), "cannot be read (Not a directory)"),
        (lambda path: path.symlink_to(f"/{'n' * 300}"), "cannot be read (File name too long)"),
        (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read (Input/output error)"),
    ],
)
def test_unreadable_input_exits_with_66(
    run: Run, tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "in.fa"
    make(path)
    outcome = run("embed", path, "-o", tmp_path / "out.npy", "--model", "demo", "-q")
    assert outcome.code == 66
    assert f"{path}: {words}" in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "in.fa", "-o", "out.npy", "--model", "demo", "-q"],
        ["embed", "closed/in.fa", "-o", "out.npy", "--model", "demo", "-q"],
        ["embed", "other.fa", "-o", "out.npy", "--model", "demo", "-q", "--regions", "in.fa"],
        ["verify", "in.fa", "in.fa"],
        ["verify", "closed", "in.fa"],
        ["merge", "in.fa", "-o", "out.npy"],
        ["convert", "in.fa", "-o", "out.npy"],
        ["info", "in.fa"],
        ["info", "closed"],
    ],
)
def test_a_file_without_read_permission(tmp_path: Path, words: list[str]) -> None:
    for name in ("in.fa", "other.fa"):
        (tmp_path / name).write_bytes(TEXT)
    (tmp_path / "in.fa").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    as_user = []
    if os.geteuid() == 0:  # root can read everything, unless it gives up that right
        as_user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
        if not shutil.which("setpriv") or subprocess.run([*as_user, "true"], capture_output=True).returncode:
            pytest.skip("root cannot give up its rights here")
    done = subprocess.run(
        [*as_user, *command(*words)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, "Permission denied" in done.stderr) == (66, True), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_input_that_fails_in_the_middle(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.fa"
    path.write_bytes(b">a\n" + b"ACGU\n" * 500_000)
    read = os.pread

    def fail(descriptor: int, length: int, offset: int) -> bytes:
        if offset > 1_000_000:
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", fail)
    outcome = run("embed", path, "-o", tmp_path / "out.npy", "--model", "demo", "-q")
    assert outcome.code == 66
    assert f"{path}: cannot be read (Input/output error)" in outcome.err


class Stream:
    """Standard input that gives some bytes, and then does not go on as it should."""

    def __init__(self, *answers: object) -> None:
        self.buffer = self
        self._answers = list(answers)

    def read(self, length: int) -> object:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), "cannot be read (Input/output error)"),
        (OSError(errno.EISDIR, "Is a directory"), "a folder; name its files"),
        (None, "its next bytes are not ready"),
    ],
)
def test_standard_input_that_fails_is_not_a_failed_write(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: object, words: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Stream(TEXT, last))
    outcome = run("embed", "-", "-o", tmp_path / "out.npy", "--model", "demo", "-q")
    assert outcome.code == 66
    assert f"<stdin>: {words}" in outcome.err
    assert not list(tmp_path.iterdir())


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "protrna_cli", *map(str, words)]


def test_standard_input_is_read_and_its_spool_is_gone(tmp_path: Path) -> None:
    spools = tmp_path / "spools"
    spools.mkdir()
    done = subprocess.run(
        light("embed", "-", "-o", tmp_path / "out.npy", "--model", GOLDEN / "toy.h5"),
        input=gzip.compress(b">a\nACGU\n" * 46),
        env={**os.environ, "TMPDIR": str(spools)},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert b"46 records" in done.stderr
    assert not list(spools.iterdir())


def unread(pipe: int) -> int:
    """Bytes in a pipe that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_killed_run_leaves_no_spool(tmp_path: Path) -> None:
    spools = tmp_path / "spools"
    spools.mkdir()
    with subprocess.Popen(
        command("embed", "-", "-o", tmp_path / "out.npy", "--model", GOLDEN / "toy.h5"),
        stdin=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(spools)},
    ) as process:
        assert process.stdin is not None
        process.stdin.write(SAMPLE.read_bytes())
        process.stdin.flush()
        pipe = process.stdin.fileno()
        wait_until(lambda: not unread(pipe), process)  # then it waits for the rest
        process.send_signal(signal.SIGKILL)
    assert not list(spools.iterdir())


def test_typed_input_ends_with_one_end_of_file(tmp_path: Path) -> None:
    """A record is typed on a terminal, then Ctrl-D once."""
    words = light("embed", "-", "-o", tmp_path / "out.npy", "--model", GOLDEN / "toy.h5")
    typist, terminal = pty.openpty()
    with subprocess.Popen(words, stdin=terminal, stderr=subprocess.PIPE, text=True) as process:
        os.write(typist, b">a\nACGU\n\x04")
        try:
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
            os.close(typist)
            os.close(terminal)
    assert process.returncode == 0, err
    assert "1 record, 4 residues" in err


def test_a_named_pipe_is_spooled_too(tmp_path: Path, run: Run) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cp", str(SAMPLE), str(pipe)]):
        outcome = run("embed", pipe, "-o", tmp_path / "out.npy", "--model", GOLDEN / "toy.h5")
    assert outcome.code == 0
    assert "46 records" in outcome.err


def test_standard_input_cannot_be_named_twice(run: Run, tmp_path: Path) -> None:
    outcome = run("embed", "-", "-", "-o", tmp_path / "out.npy", "--model", "demo", "-q")
    assert (outcome.code, "only once" in outcome.err) == (2, True)


def test_the_fuzzer_finds_nothing_in_a_thousand_inputs() -> None:
    from tests.tools.fuzz import fuzz

    outcomes = fuzz(1000, seed=time.time_ns())
    assert outcomes["records"] > 10
    assert outcomes["InputError"] > 10
