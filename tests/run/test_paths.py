"""Nothing of the user's is destroyed: every path that a command may write, and what may stand there."""

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from protrna_cli.cli import main as cli
from protrna_cli.errors import RunMismatch
from protrna_cli.fasta.records import Skipped
from protrna_cli.output.files import journal_path, manifest_path, partial_path
from protrna_cli.output.protect import MARK, make_partial, remove_partial
from protrna_cli.plan.pieces import SKIPPED_COLUMNS
from protrna_cli.run.outputs import Journal
from protrna_cli.weights.checkpoint import Checkpoint
from tests.conftest import TOY, Run, load_once
from tests.tools.cases import pairs_among

FASTA = ">a\nACGU\n>b\nGGCA\n>c\nUUAC\n"
BED = "a\t0\t2\tfirst\n"
EMBED = ["embed", "in.fa", "--model", "toy.h5", "-q"]


@dataclass(frozen=True)
class Command:
    """A command line, and what it may write.

    Attributes
    ----------
    words
        Its words; OUT is among them.
    out
        The output.
    companions
        Files that belong to the output.
    others
        Whether there are a list of skipped records and a folder of unfinished output too.
    allowed
        Exit code if nothing was refused.
    """

    words: tuple[str, ...]
    out: str
    companions: tuple[str, ...] = ()
    others: bool = True
    allowed: int = 0

    def path(self, role: str) -> str:
        """Path of a role, such as `.lock`, which stands beside the output."""
        return self.out if role == "OUT" else f"{self.out}{role}"

    @property
    def roles(self) -> list[str]:
        """Every path that the command may write."""
        return ["OUT", *self.companions, ".lock", *([".skipped.tsv", ".partial"] if self.others else [])]


NPY = (".index.tsv", ".meta.json")
COMMANDS = {
    "embed": Command((*EMBED, "-o", "out.npy"), "out.npy", NPY),
    "embed OUT2": Command((*EMBED, "-o", "x.npy", "--per-token-output", "out.npy"), "out.npy", NPY),
    "embed --shard": Command((*EMBED, "-o", "out.npy", "--shard", "1/2"), "out.1-of-2.npy", NPY),
    # There is no cluster, so the exit code is 76 if nothing was refused.
    "embed --dask": Command((*EMBED, "-o", "out", "--dask", "nonsense"), "out", allowed=76),
    "merge": Command(("merge", "part1.npy", "part2.npy", "-o", "out.npy", "-q"), "out.npy", NPY),
    "convert": Command(
        ("convert", "made.npy", "-o", "out.tsv", "-q"), "out.tsv", (".metadata.tsv", ".meta.json")
    ),
    "map": Command(("map", "made.npy", "-o", "out.html", "--method", "pca", "-q"), "out.html", others=False),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input, a checkpoint, an output of it, and its two parts."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in.fa").write_text(FASTA)
    (folder / "in.bed").write_text(BED)
    shutil.copy(TOY, folder / "toy.h5")
    words = ["embed", str(folder / "in.fa"), "--model", str(TOY), "-q", "-o"]
    assert cli.run([*words, str(folder / "made.npy")]) == 0
    for i in (1, 2):
        assert cli.run([*words, str(folder / "part.npy"), "--shard", f"{i}/2"]) == 0
        for suffix in ("", *NPY):
            (folder / f"part.{i}-of-2.npy{suffix}").rename(folder / f"part{i}.npy{suffix}")
    return folder


@pytest.fixture(autouse=True)
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the model only once, also for the copies of its checkpoint in the folders of the tests."""
    monkeypatch.setattr(Checkpoint, "load", lambda checkpoint, *settings: load_once(TOY, *settings[:3]))


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder; it is the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    (folder / "precious.txt").write_text("years of work")
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Kind and content of everything in a folder; the content of a link is its target."""
    found = {}
    for path in folder.rglob("*"):
        kind = stat.S_IFMT(path.lstat().st_mode)
        content = b""
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = bytes(path.readlink())
        found[str(path.relative_to(folder))] = (kind, content)
    return found


# What may stand at a path.


def own_file(path: Path) -> None:
    """Write what an earlier command left, with the files that belong to it."""
    if path.name == "out":  # a folder of parts
        path.mkdir()
        (path / "part-1-of-1.parquet").write_bytes(b"a part")
    elif path.name.endswith(".skipped.tsv"):
        path.write_text("\t".join(SKIPPED_COLUMNS) + "\nin.fa\t4\td\t8\t1\tnot RNA\n")
    elif path.suffix == ".npy":
        for suffix in ("", *NPY):
            shutil.copy(f"made.npy{suffix}", f"{path}{suffix}")
    else:
        path.write_text("an earlier output")


def foreign_file(path: Path) -> None:
    path.write_text("years of work")


def stale_lock(path: Path) -> None:
    path.write_text("process 1 on some-node\n")


def link(path: Path) -> None:
    path.symlink_to("precious.txt")


def dangling_link(path: Path) -> None:
    path.symlink_to("nowhere.txt")


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, Path("/dev/full").stat().st_rdev)
    except PermissionError:
        pytest.skip("only root may make a device")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def folder_of_files(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("all of it")


def link_to_own_partial(path: Path) -> None:
    make_partial(Path("elsewhere"))
    path.symlink_to("elsewhere.partial")


def our_partial(path: Path) -> None:
    make_partial(path.with_suffix(""))


THINGS: dict[str, Callable[[Path], None]] = {
    "own file": own_file,
    "foreign file": foreign_file,
    "link": link,
    "dangling link": dangling_link,
    "device": device,
    "pipe": os.mkfifo,
    "socket": a_socket,
    "foreign folder": folder_of_files,
    "empty folder": Path.mkdir,
    "link to own partial": link_to_own_partial,
    "own partial": our_partial,
    "stale lock": stale_lock,
    "empty lock": Path.touch,
}


def things_at(role: str) -> list[str]:
    """What may stand at a path of this role."""
    only = {".partial": {"own partial", "link to own partial"}, ".lock": {"stale lock", "empty lock"}}
    special = set().union(*only.values())
    without = {"own file"} if role in only else set()
    return [
        *(["nothing"] if role == "OUT" else []),
        *(name for name in THINGS if name not in special - only.get(role, set()) | without),
    ]


TABLE = [line.split("\t") for line in Path(__file__).with_name("paths.tsv").read_text().splitlines()[1:]]
"""Command, mode, role, thing; exit code, and words of the message. A `-` is nothing."""


def test_the_table_has_every_thing_in_every_place_and_all_of_them_with_every_command() -> None:
    possible = {
        (name, mode, role, thing)
        for name, command in COMMANDS.items()
        for mode in ("-", "--overwrite", *(["--resume"] if command.words[0] == "embed" else []))
        for role in command.roles
        for thing in things_at(role)
    }
    cases = {(name, mode, role, thing) for name, mode, role, thing, *_ in TABLE}
    assert cases <= possible
    for columns in ((1, 2, 3), (0, 1), (0, 2), (0, 3)):
        found, wanted = ({tuple(case[i] for i in columns) for case in all_} for all_ in (cases, possible))
        assert found == wanted


@pytest.mark.parametrize(
    ("name", "mode", "role", "thing", "code", "words"),
    [pytest.param(*case, id=" ".join(case[:4])) for case in TABLE],
)
def test_what_stands_in_the_way(
    here: Path, run: Run, name: str, mode: str, role: str, thing: str, code: str, words: str
) -> None:
    command = COMMANDS[name]
    if thing != "nothing":
        THINGS[thing](Path(command.path(role)))
    before = snapshot(here)
    done = run(*command.words, *([] if mode == "-" else [mode]))
    assert done.code == int(code), done.err
    assert words == "-" or words in done.err
    assert len(done.err.splitlines()) == (code != "0")
    after = snapshot(here)
    if code not in ("0", "76"):
        assert after == before
        return
    outputs = {command.path(role) for role in command.roles} | {"x.npy", "x.npy.index.tsv", "x.npy.meta.json"}
    mine = {name for name in before if name.split("/")[0] not in outputs}
    assert {name: after.get(name) for name in mine} == {name: before[name] for name in mine}
    assert f"{command.out}.lock" not in after
    if code == "0":
        assert f"{command.out}.partial" not in after
        assert after[command.out][0] == stat.S_IFREG


# What a command reads, by any path.


def dots(path: Path) -> str:
    Path("sub").mkdir()
    return f"sub/../{path}"


def linked_folder(path: Path) -> str:
    Path("linked").symlink_to(".")
    return f"linked/{path}"


def hard_link(path: Path) -> str:
    os.link(path, "hard")
    return "hard"


def symbolic_link(path: Path) -> str:
    Path("soft").symlink_to(path)
    return "soft"


def links_both_ways(path: Path) -> str:
    """Move the file, and leave a link to it at its old path."""
    path.rename("moved")
    path.symlink_to("moved")
    return "moved"


SPELLINGS: dict[str, Callable[[Path], str]] = {
    "the same": str,
    "absolute": lambda path: str(path.absolute()),
    "dots": dots,
    "a linked folder": linked_folder,
    "a hard link": hard_link,
    "a link": symbolic_link,
    "its target": links_both_ways,
}

READ = {
    "embed": ("in.fa", "toy.h5", "in.bed"),
    "embed OUT2": ("in.fa", "toy.h5"),
    "embed --dask": ("in.fa", "toy.h5", "in.bed"),
    "merge": ("part1.npy",),
    "convert": ("made.npy",),
    "map": ("made.npy", "families.tsv"),
}
OPTIONS = {"in.bed": "--regions", "families.tsv": "--color-by"}


@contextmanager
def standard_input(path: str) -> Iterator[None]:
    """Read standard input from a file, as `< path` does."""
    kept = os.dup(0)
    opened = os.open(path, os.O_RDONLY)
    os.dup2(opened, 0)
    os.close(opened)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.mark.parametrize(
    ("name", "role", "read", "spelling"),
    [
        pytest.param(*case, id="{} {} is {}, by {}".format(*case))
        for case in pairs_among(
            (name, role, read, spelling)
            for name, reads in READ.items()
            for read in reads
            for role in COMMANDS[name].roles
            for spelling in SPELLINGS
        )
    ],
)
def test_a_command_does_not_write_what_it_reads(
    here: Path, run: Run, name: str, role: str, read: str, spelling: str
) -> None:
    command = COMMANDS[name]
    (here / "families.tsv").write_text("a\tx\nb\ty\n")
    target = Path(command.path(role))
    Path(read).rename(target)
    spelled = SPELLINGS[spelling](target)
    words = [spelled if word == read else word for word in command.words]
    if read in OPTIONS:
        words += [OPTIONS[read], spelled]
    before = snapshot(here)
    done = run(*words, "--overwrite")
    assert done.code == 2, done.err
    assert f"{target}: would replace {spelled}, " in done.err
    assert len(done.err.splitlines()) == 1
    assert snapshot(here) == before


@pytest.mark.parametrize("role", COMMANDS["embed"].roles)
@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
def test_standard_input_is_a_file_that_is_read(here: Path, run: Run, role: str, word: str) -> None:
    command = COMMANDS["embed"]
    Path("in.fa").rename(command.path(role))
    words = [word if each == "in.fa" else each for each in command.words]
    before = snapshot(here)
    with standard_input(command.path(role)):
        done = run(*words, "--overwrite")
    assert done.code == 2, done.err
    assert f"{command.path(role)}: would replace {'standard input' if word == '-' else word}" in done.err
    assert snapshot(here) == before


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "out.npy", "--per-token-output", "./out.npy"],
        ["-o", "out.npy", "--per-token-output", "linked/out.npy"],
        ["-o", "hard.npy", "--per-token-output", "made.npy"],
        ["-o", "out.npy", "--per-token-output", "out.npy.partial/out.npy"],
        ["-o", "out.npy.index.tsv", "--format", "parquet", "--per-token-output", "out.npy"],
    ],
)
def test_two_outputs_are_two_files(here: Path, run: Run, words: list[str]) -> None:
    (here / "linked").symlink_to(here)
    (here / "hard.npy").hardlink_to("made.npy")
    make_partial(Path("out.npy"))
    before = snapshot(here)
    done = run(*EMBED, *words, "--overwrite")
    assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
    assert snapshot(here) == before


@pytest.mark.parametrize("command", ["merge", "convert"])
def test_a_folder_of_parts_is_not_written_into_itself(here: Path, run: Run, command: str) -> None:
    (here / "parts").mkdir()
    for i in (1, 2):
        assert run("convert", f"part{i}.npy", "-o", f"parts/part-{i}-of-2.parquet").code == 0
    before = snapshot(here)
    for out in ("parts/part-2-of-2.parquet", "parts"):
        done = run(command, "parts", "-o", out, "--format", "parquet", "--overwrite")
        assert (done.code, f"{out}: would replace parts/part-" in done.err) == (2, True), done.err
        assert snapshot(here) == before


@pytest.mark.parametrize("outside", [True, False])
def test_an_input_in_the_folder_of_unfinished_output_is_kept(here: Path, run: Run, outside: bool) -> None:
    make_partial(Path("out.npy"))
    shutil.move("in.fa", "out.npy.partial/in.fa")
    if outside:
        (here / "link.fa").symlink_to("out.npy.partial/in.fa")
    name = "link.fa" if outside else "out.npy.partial/in.fa"
    done = run("embed", name, "--model", "toy.h5", "-o", "out.npy", "--overwrite")
    assert (done.code, "out.npy.partial: would replace" in done.err) == (2, True)
    assert Path("out.npy.partial/in.fa").read_text() == FASTA


# The null device.


def beside_null() -> list[str]:
    """The null device, and what a command could leave beside it."""
    return sorted(path.name for path in Path("/dev").iterdir() if path.name.startswith("null"))


@pytest.mark.parametrize("spelling", ["/dev/null", "/dev/../dev/null", "//dev/null"])
def test_the_null_device_takes_everything(here: Path, run: Run, spelling: str) -> None:
    before = snapshot(here), beside_null(), os.lstat("/dev/null").st_rdev
    done = run(*EMBED[:-1], "-o", spelling)
    assert (done.code, "3 records" in done.err) == (0, True)
    assert (snapshot(here), beside_null(), os.lstat("/dev/null").st_rdev) == before
    assert run(*EMBED, "-o", spelling, "--dry-run").code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([*EMBED, "-o", "/dev/null", "--overwrite"], 2),
        ([*EMBED, "-o", "/dev/null", "--per-token-output", "out.npy"], 2),
        ([*EMBED, "-o", "/dev/null", "--on-invalid", "skip"], 2),
        ([*EMBED, "-o", "/dev/null", "--dask", "local:1"], 73),
        (["merge", "part1.npy", "part2.npy", "-o", "/dev/null", "--format", "npy", "--overwrite"], 73),
        (["convert", "made.npy", "-o", "/dev/null", "--format", "h5", "--overwrite"], 73),
        (["map", "made.npy", "-o", "/dev/null", "--overwrite"], 2),
    ],
)
def test_only_embed_writes_to_the_null_device(here: Path, run: Run, words: list[str], code: int) -> None:
    before = beside_null()
    done = run(*words)
    assert (done.code, "/dev/null" in done.err, len(done.err.splitlines())) == (code, True, 1), done.err
    assert beside_null() == before


# Folders of unfinished output.


def test_a_folder_is_ours_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process is killed between two steps of making or removing it, it can still be removed."""
    steps = 0
    for name in ("mkdir", "touch", "unlink", "rmdir"):
        real = getattr(os, "utime" if name == "touch" else name)

        def step(*words: object, real: Callable[..., None] = real, **options: object) -> None:
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise KeyboardInterrupt
            real(*words, **options)

        monkeypatch.setattr(os, "utime" if name == "touch" else name, step)
    target = tmp_path / "out"
    for count in range(1, 20):
        steps = count
        with suppress(KeyboardInterrupt):
            folder = make_partial(target)
            (folder / "vectors.npy").touch()
            journal_path(target).touch()
            manifest_path(target).touch()
            (folder / "parts").mkdir()
            (folder / "parts" / "one").touch()
            remove_partial(target)
        finished, steps = steps > 0, 0
        left = {path.name for path in tmp_path.rglob("*")}
        assert left <= {"out.partial"} or MARK in left
        remove_partial(target)
        assert not list(tmp_path.iterdir())
    assert finished


@pytest.mark.parametrize("command", ["merge", "convert"])
@pytest.mark.parametrize("name", ["journal", "manifest.json"])
def test_only_embed_replaces_an_unfinished_run(here: Path, run: Run, command: str, name: str) -> None:
    (make_partial(Path(COMMANDS[command].out)) / name).write_text("{}\n")
    before = snapshot(here)
    done = run(*COMMANDS[command].words, "--overwrite")
    assert (done.code, "an unfinished run; finish it" in done.err) == (73, True)
    assert snapshot(here) == before


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("embed", "manifest.json", "an unfinished run with --dask; add --dask to continue it"),
        ("embed --dask", "journal", "an unfinished run without --dask; leave --dask out"),
    ],
)
def test_a_run_of_the_other_kind_is_not_resumed(
    here: Path, run: Run, name: str, other: str, words: str
) -> None:
    (make_partial(Path(COMMANDS[name].out)) / other).write_text("{}\n")
    before = snapshot(here)
    done = run(*COMMANDS[name].words, "--resume")
    assert (done.code, words in done.err) == (78, True)
    assert snapshot(here) == before


DAMAGED = [
    b"\x00\xff\n",
    b"no JSON\n",
    b"7\n",
    b'{"version": "1"}\nno JSON\n',
    b'{"version": "1"}\n[]\n',
    b'{"version": "1"}\n{"chunk": 1}\n',
    b'{"version": "1"}\n{"chunks": "1"}\n',
    b'{"version": "1"}\n{"chunks": -1}\n',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(RunMismatch, match="a damaged journal; use --overwrite to start again"):
        Journal.resume(tmp_path / "journal", {"version": "1"})
    assert (tmp_path / "journal").read_bytes() == content


@pytest.mark.parametrize(("name", "file"), [("embed", "journal"), ("embed --dask", "manifest.json")])
def test_a_damaged_run_is_replaced_only_when_asked(here: Path, run: Run, name: str, file: str) -> None:
    command = COMMANDS[name]
    (make_partial(Path(command.out)) / file).write_text("{no JSON\n")
    before = snapshot(here)
    done = run(*command.words, "--resume")
    assert (done.code, "use --overwrite to start again" in done.err) == (78, True)
    assert snapshot(here) == before
    assert run(*command.words, "--overwrite").code == command.allowed


def test_a_journal_alone_is_a_mark(here: Path, run: Run) -> None:
    """Earlier versions left no other one."""
    partial_path(Path("out.npy")).mkdir()
    journal_path(Path("out.npy")).write_bytes(b"")
    assert run(*COMMANDS["embed"].words, "--resume").code == 0


def test_the_list_of_skipped_records_has_all_that_is_known_of_them() -> None:
    assert tuple(field.name for field in fields(Skipped) if field.compare) == SKIPPED_COLUMNS


# The weights.


@pytest.mark.parametrize("role", ["", ".json", ".lock", ".partial", ".partial.json"])
@pytest.mark.parametrize(
    "thing", ["foreign file", "link", "dangling link", "device", "pipe", "socket", "foreign folder"]
)
def test_fetch_replaces_only_what_is_ours(here: Path, run: Run, role: str, thing: str) -> None:
    target = Path("weights") / f"ProtRNA_pretrained.h5{role}"
    target.parent.mkdir()
    THINGS[thing](target)
    if role == "" and thing in ("link", "foreign file"):
        return  # a checkpoint may be a link, and a damaged one is replaced
    before = snapshot(here)
    done = run("weights", "fetch", "--from", "toy.h5", "--to", "weights")
    assert (done.code, str(target) in done.err, len(done.err.splitlines())) == (73, True, 1), done.err
    assert snapshot(here) == before


@pytest.mark.parametrize("role", ["", ".json", ".lock", ".partial", ".partial.json"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_fetch_does_not_replace_the_file_to_copy(here: Path, run: Run, role: str, spelling: str) -> None:
    target = Path(f"ProtRNA_pretrained.h5{role}")
    target.write_text("a checkpoint, damaged")
    before = snapshot(here)
    spelled = SPELLINGS[spelling](target)
    before = snapshot(here)
    done = run("weights", "fetch", "--from", spelled, "--to", ".", "-q")
    assert (done.code, f"{target}: would replace {spelled}, " in done.err) == (2, True), done.err
    assert snapshot(here) == before


def test_verify_keeps_a_file_with_the_name_of_the_record(here: Path, run: Run) -> None:
    (here / "toy.h5.json").write_text('{"mine": 1}')
    assert run("weights", "verify", "toy.h5").code == 0
    assert (here / "toy.h5.json").read_text() == '{"mine": 1}'
