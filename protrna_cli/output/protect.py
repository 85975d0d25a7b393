"""Keep a command that writes from destroying what it reads, and what protrna did not make.

Every command calls these checks before it reads anything.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from protrna_cli.disk import creating, lock_path
from protrna_cli.errors import OutputUnwritable, UsageError
from protrna_cli.output.files import (
    Format,
    is_part,
    journal_path,
    manifest_path,
    partial_path,
    possible_files,
    skipped_path,
)
from protrna_cli.output.stored import parts_of
from protrna_cli.plan.pieces import SKIPPED_COLUMNS

STANDARD_INPUT = Path("/dev/stdin")
STANDARD_INPUT_NAMES = ("-", "<stdin>")

FILE, FOLDER = "a file", "a folder"
KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

MOVE_AWAY = "move it away, or choose another -o"

MARK = "made-by-protrna"
"""First file in the folder of an unfinished output, and the last one to be removed."""


def protect(target: Path, format: Format, read: Iterable[str | Path], overwrite: bool) -> None:
    """Refuse an output that would replace what its command reads, or what protrna did not make.

    read: everything that the command reads; see `refuse_to_replace`.
    overwrite: whether files of the output may be replaced.
    """
    _refuse_long_name(target, written_files(target, format))
    refuse_to_replace(written_files(target, format), read)
    refuse_unless_output(target)
    refuse_foreign_companions(target, format, overwrite)


def protect_folder(folder: Path, format: Format, read: Iterable[str], overwrite: bool) -> None:
    """Refuse a folder of parts as `protect` does a file: only another folder of parts may be replaced."""
    refuse_to_replace(written_files(folder, format), read)
    refuse_foreign_companions(folder, format, overwrite)
    if folder.is_symlink():
        refuse_unless_file(folder, "name that folder with -o")
    if folder.exists() and not (folder.is_dir() and all(map(is_part, folder.iterdir()))):
        raise OutputUnwritable(f"{folder}: not a folder that protrna embed --dask made; choose another -o")


def _refuse_long_name(target: Path, written: Iterable[Path]) -> None:
    """Refuse a name to which the names of the files beside it cannot be added."""
    with suppress(OSError):  # a folder that is missing is told of where the output is made
        most = os.pathconf(target.parent, "PC_NAME_MAX")
        longest = max(len(os.fsencode(file.name)) for file in written)
        if longest > most:
            added = longest - len(os.fsencode(target.name))
            raise OutputUnwritable(
                f"{target}: its name is too long, as names of files beside it have {added} bytes more; "
                f"choose one of at most {most - added} bytes"
            )


def written_files(target: Path, format: Format) -> list[Path]:
    """List every path that a command may write or remove to make an output."""
    return [*format.files(target), skipped_path(target), partial_path(target), lock_path(target)]


def files_read(source: Path) -> list[Path]:
    """List every path that may be read to read an output, a file or a folder of parts."""
    parts = parts_of(source)
    return [*(file for part in parts for file in possible_files(part)), *map(skipped_of, parts)]


def skipped_of(part: Path) -> Path:
    """List of skipped records of an output; the parts of a folder share one."""
    return skipped_path(part.parent if is_part(part) else part)


def refuse_to_replace(
    written: Iterable[Path], read: Iterable[str | Path], remedy: str = "choose another -o"
) -> None:
    """Refuse a command that would replace a file that it reads, by whatever path, or a folder with that file.

    written: every path that the command may write or remove.
    read: every path that it reads, and everything else that it writes; `-` is standard input.
    """
    replaced = {_identity(path): path for path in written}
    wanted: dict[Path, str | Path] = {}
    for name in read:
        path = STANDARD_INPUT if name in STANDARD_INPUT_NAMES else Path(name)
        for folder in (path, *Path(os.path.realpath(path)).parents):
            wanted.setdefault(folder, "standard input" if path is STANDARD_INPUT else name)
    for folder, name in wanted.items():
        if found := replaced.get(_identity(folder)):
            raise UsageError(
                f"{found}: would replace {name}, which the same command reads or writes; {remedy}"
            )


def real_path(path: Path) -> Path:
    """Follow all links of a path, as far as there are files; `Path.resolve` fails for links in a circle."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> tuple[int, int] | str:
    """Identify a file by device and inode, and one that does not exist by its folder and name."""
    try:
        status = path.stat()
    except OSError:
        return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 (not to be a Path again)
    return status.st_dev, status.st_ino


def refuse_unless_output(target: Path) -> None:
    """Refuse an output that would replace anything but a file; raises as `refuse_unless_file` does."""
    refuse_unless_file(target, "name that file with -o" if target.is_symlink() else "choose another -o")


def refuse_unless_file(path: Path, remedy: str = MOVE_AWAY) -> None:
    """Refuse to replace anything but a file: a symbolic link, a folder, a device, a pipe or a socket."""
    kind = _kind(path)
    if kind not in (None, FILE):
        raise OutputUnwritable(f"{path}: {kind}, which protrna does not replace; {remedy}")


def refuse_foreign_companions(target: Path, format: Format, overwrite: bool) -> None:
    """Refuse to replace what has the name of a file beside an output, but was not made by protrna."""
    *companions, _ = format.files(target)
    skipped = skipped_path(target)
    for file in (*companions, skipped):
        refuse_unless_file(file)
    if not overwrite and not _is_skipped_list(skipped):
        raise OutputUnwritable(
            f"{skipped}: protrna did not make it, but lists skipped records there; "
            "move it away, use --overwrite to replace it, or choose another -o"
        )
    refuse_foreign_partial(target)


def _is_skipped_list(path: Path) -> bool:
    """Whether a file is missing or empty, or starts as a list of skipped records does."""
    header = "\t".join(SKIPPED_COLUMNS).encode() + b"\n"
    try:
        with path.open("rb") as file:
            return file.read(len(header)) in (b"", header)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def refuse_foreign_partial(target: Path, remedy: str = MOVE_AWAY) -> None:
    """Refuse to use what has the name of an output's `OUT.partial`, but was not made by protrna."""
    folder = partial_path(target)
    kind = _kind(folder)
    if kind is None or (kind == FOLDER and _is_ours(target)):
        return
    raise OutputUnwritable(f"{folder}: {kind} that protrna did not make; {remedy}")


def _is_ours(target: Path) -> bool:
    """Whether a folder is empty or has a mark of ours; the journal of a run is one too."""
    folder = partial_path(target)
    with creating(folder, MOVE_AWAY):
        names = {entry.name for entry in folder.iterdir()}
    return not names or not names.isdisjoint({MARK, journal_path(target).name})


def make_partial(target: Path) -> Path:
    """Make the folder of an unfinished output, in place of an earlier one."""
    refuse_foreign_partial(target)
    _remove(target)
    folder = partial_path(target)
    folder.mkdir()
    (folder / MARK).touch()
    return folder


def remove_partial(target: Path) -> None:
    """Remove the folder of an unfinished output, as far as that is possible."""
    refuse_foreign_partial(target)
    with suppress(OSError):
        _remove(target)


def _remove(target: Path) -> None:
    """Remove a folder of ours; if the process ends early, the rest has its mark and cannot be resumed."""
    folder = partial_path(target)
    if not folder.exists():
        return
    (folder / MARK).touch()
    for file in (journal_path(target), manifest_path(target)):
        file.unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.name != MARK:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.rmtree(folder)


def _kind(path: Path) -> str | None:
    """Say what is at a path, without following a link; None if there is nothing, or it cannot be known."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return f"a symbolic link to {os.readlink(path)}"  # noqa: PTH115 (as it is written there)
    except OSError:
        return None
    return KINDS.get(stat.S_IFMT(mode), "a special file")
