"""`protrna weights`: fetch, verify, path, list."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from tqdm import tqdm

from protrna_cli.cli.terminal import say, verbosity
from protrna_cli.errors import UsageError, WeightsError
from protrna_cli.weights import PUBLISHED, PUBLISHED_FILE, folder, is_offline, is_there, locate
from protrna_cli.weights.watch import Watcher, announcement

_F = TypeVar("_F", bound=Callable[..., Any])


def weights_dir(command: _F) -> _F:
    """Add `--weights-dir`."""
    return click.option(
        "--weights-dir",
        metavar="DIR",
        help="Where the published weights are kept.  [default: PROTRNA_HOME, or the user's cache folder]",
    )(command)


class Shown(Watcher):
    """A fetch on stderr: what comes from where to where; with `bar`, how far it is."""

    def __init__(self, bar: bool) -> None:
        self._bar_wanted = bar
        self._bar: tqdm[Any] | None = None

    def start(self, address: str, target: Path, total: int | None, done: int) -> None:
        say(announcement(address, target, total, done))
        if self._bar_wanted:
            self._bar = tqdm(
                total=total, initial=done, unit="B", unit_scale=True, file=sys.stderr, dynamic_ncols=True
            )

    def advance(self, size: int) -> None:
        if self._bar is not None:
            self._bar.update(size)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def note(self, text: str) -> None:
        self.close()
        say(text)


def watcher_for(progress: str, quiet: bool) -> Watcher:
    """Show a fetch as `--progress` asks; a quiet command shows none."""
    bar = progress == "bar" or (progress == "auto" and sys.stderr.isatty())
    return Watcher() if quiet else Shown(bar)


@click.group()
def weights() -> None:
    """Fetch, verify and find the published weights.

    Start with:  protrna weights fetch
    """


def _name(command: _F) -> _F:
    return click.argument("name", metavar="[NAME]", type=click.Choice([PUBLISHED]), default=PUBLISHED)(
        command
    )


@weights.command(
    epilog="""\b
Examples:
  protrna weights fetch
  protrna weights fetch --to /shared/protrna
  protrna weights fetch --from https://intranet.example.org/ProtRNA_pretrained.h5
  protrna weights fetch --from /mnt/usb/ProtRNA_pretrained.h5
"""
)
@_name
@click.option(
    "--to",
    "--weights-dir",
    "to",
    metavar="DIR",
    help="Folder to put it into.  [default: PROTRNA_HOME, or the user's cache folder]",
)
@click.option(
    "--from",
    "origin",
    metavar="URL|FILE",
    help="Where to get it.  [default: Zenodo, or else Dropbox, as published]",
)
@verbosity
def fetch(name: str, to: str | None, origin: str | None, quiet: bool, verbose: bool) -> None:
    """Download the published checkpoint (2.6 GB) and verify it.

    An interrupted download goes on where it stopped. What is there already is verified, and fetched anew
    if it is damaged. NAME is protrna.
    """
    del name, verbose  # there is one name, and no library talks here
    from protrna_cli.weights import fetching, mirrors, trust

    target = folder(to) / PUBLISHED_FILE
    if is_offline() and (origin is None or mirrors.is_remote(origin)):
        locate(PUBLISHED, to)  # says how to come by it if it is not there
        trust.verify(target)
    else:
        named = [mirrors.Mirror(origin)] if origin else None
        fetching.fetch(target, named, watcher_for("auto", quiet))
    if not quiet:
        say(f"verified: {target}")


@weights.command(epilog="\b\nExample:\n  protrna weights verify /data/ProtRNA_pretrained.h5\n")
@click.argument("name_or_path", metavar="[NAME|PATH]", default=PUBLISHED)
@weights_dir
@verbosity
def verify(name_or_path: str, weights_dir: str | None, quiet: bool, verbose: bool) -> None:
    """Check a checkpoint: recorded SHA-256, every group, every shape, all values finite."""
    del verbose
    path = _at_hand(name_or_path, weights_dir)
    from protrna_cli.weights import trust

    record = trust.verify(path)
    if not quiet:
        say(f"verified: {path}, SHA-256 {record.sha256}")


@weights.command(epilog='\b\nExample:\n  cp "$(protrna weights path)" /mnt/usb/\n')
@_name
@weights_dir
@verbosity
def path(name: str, weights_dir: str | None, quiet: bool, verbose: bool) -> None:
    """Print where the published checkpoint is."""
    del quiet, verbose
    click.echo(_at_hand(name, weights_dir))


@weights.command("list")
@weights_dir
@verbosity
def list_(weights_dir: str | None, quiet: bool, verbose: bool) -> None:
    """List the checkpoints in the folder, tab-separated, and what is known of them."""
    del verbose
    from protrna_cli.weights import trust

    where = folder(weights_dir)
    found = sorted(where.glob("*.h5"))
    if not found and not quiet:
        say(f"no checkpoint in {where}; run protrna weights fetch")
    click.echo("name\tbytes\tsha256\tverified\tfrom\tpath")
    for path in found:
        record = trust.read_record(path)
        name = PUBLISHED if path.name == PUBLISHED_FILE else path.stem
        known = (record.sha256, record.verified, record.source or "-") if record else ("-", "never", "-")
        click.echo("\t".join([name, str(path.stat().st_size), *known, str(path)]))


def _at_hand(name_or_path: str, weights_dir: str | None) -> Path:
    path = locate(name_or_path, weights_dir)
    if path is None:
        raise UsageError("demo is built in and has no file; name protrna or the path of a checkpoint")
    if not is_there(path):
        raise WeightsError(f"the published weights are not at {path}; run protrna weights fetch")
    return path
