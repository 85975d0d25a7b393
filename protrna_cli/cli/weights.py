"""`protrna weights`: fetch, verify, path, list, prune, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from protrna_cli.cli.help import Group, epilog
from protrna_cli.cli.messages import is_quiet, say, show, tell, verbosity
from protrna_cli.cli.options import ANY_PATH, FOLDER, MODEL, OneOf, as_json, options_of
from protrna_cli.cli.progress import watcher_for
from protrna_cli.errors import UsageError, WeightsError
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.report import SignalStop
from protrna_cli.text import size_text
from protrna_cli.weights.checkpoint import (
    PUBLISHED,
    PUBLISHED_FILE,
    is_offline,
    locate,
    read_verification,
    verify_checkpoint,
    weights_folder,
    weights_folder_if_any,
)
from protrna_cli.weights.mapped import copies_in, damaged_copies, prune

_name = click.argument(
    "name", metavar="[NAME]", type=OneOf([PUBLISHED]), default=PUBLISHED, expose_value=False
)
"""Adds NAME, of which there is only one."""


@click.group(cls=Group, epilog=epilog("protrna weights fetch", topics="weights"))
def weights() -> None:
    """Fetch, verify, find and export the weights."""


@weights.command(
    epilog=epilog(
        "protrna weights fetch",
        "protrna weights fetch --to /shared/protrna",
        "protrna weights fetch --from https://intranet.example.org/ProtRNA_pretrained.h5",
        "protrna weights fetch --from /mnt/usb/ProtRNA_pretrained.h5",
        topics="weights",
    )
)
@_name
@click.option(
    "--to",
    "--weights-dir",
    "to",
    metavar="DIR",
    type=FOLDER,
    help="Folder to save it in.  [default: PROTRNA_HOME, or the user's cache folder]",
)
@click.option(
    "--from",
    "origin",
    metavar="URL|FILE",
    type=ANY_PATH,
    help="Address or file to get it from.  [default: the published addresses, Zenodo and then Dropbox]",
)
@verbosity
def fetch(to: str | None, origin: str | None) -> None:
    """Download the published checkpoint (2.4 GiB) and verify it.

    An interrupted download is resumed. A checkpoint that is already there is verified, and downloaded again
    if it is damaged. A checkpoint of another size is refused; use it with protrna embed --model PATH.
    The only NAME is protrna.
    """
    from protrna_cli.weights.fetch import Mirror, is_remote
    from protrna_cli.weights.fetch import fetch as fetch_checkpoint

    target = weights_folder(to) / PUBLISHED_FILE
    if is_offline() and (origin is None or is_remote(origin)):
        locate(PUBLISHED, to).check_reachable()
        verify_checkpoint(target, published=True)
    else:
        named = [Mirror(origin)] if origin else None
        fetch_checkpoint(target, named, watcher_for("auto", is_quiet()))
    tell(f"verified: {target}")


@weights.command(
    "verify", epilog=epilog("protrna weights verify /data/ProtRNA_pretrained.h5", topics="weights")
)
@click.argument("name_or_path", metavar="[NAME|PATH]", type=MODEL, default=PUBLISHED)
@options_of(EmbedOptions, "weights_dir")
@verbosity
def verify_(name_or_path: str, weights_dir: str | None) -> None:
    """Check a checkpoint.

    Compares the recorded SHA-256, and checks every group, every shape, and that all values are finite.
    The published one must also have the published size. Its mapped copies are compared with their SHA-256;
    one that is damaged is removed, and made again when it is needed.
    """
    path = _existing_file(name_or_path, weights_dir)
    record = verify_checkpoint(path, name_or_path == PUBLISHED)
    home = weights_folder_if_any(weights_dir)
    for damaged in damaged_copies(home, record.sha256) if home else ():
        say(f"note: {damaged}: damaged, and removed")
    tell(f"verified: {path}, SHA-256 {record.sha256}")


@weights.command(epilog=epilog('cp "$(protrna weights path)" /mnt/usb/', topics="weights"))
@_name
@options_of(EmbedOptions, "weights_dir")
@verbosity
def path(weights_dir: str | None) -> None:
    """Print where the published checkpoint is."""
    show(str(_existing_file(PUBLISHED, weights_dir)))


@weights.command(
    "list", epilog=epilog("protrna weights list", "protrna weights list --json", topics="weights")
)
@options_of(EmbedOptions, "weights_dir")
@as_json
@verbosity
def list_(weights_dir: str | None, as_json: bool) -> None:
    """List the checkpoints in the weights folder.

    One line per checkpoint, tab-separated: name, bytes, SHA-256, when verified, origin and path. Mapped
    copies have the name mapped, and the SHA-256 and the precision of their checkpoint.
    """
    where = weights_folder(weights_dir)
    found = [_list_entry(path) for path in sorted(where.glob("*.h5"))]
    checkpoints = len(found)
    found += [_copy_entry(path) for path in copies_in(where)]
    if not checkpoints:
        tell(f"no checkpoint in {where}; run protrna weights fetch")
    if as_json:
        show(json.dumps(found))
        return
    show("name\tbytes\tsha256\tverified\tfrom\tpath")
    for checkpoint in found:
        missing = {"bytes": "-", "sha256": "-", "verified": "never", "from": "-"}
        show(
            "\t".join(str(missing.get(key) if value is None else value) for key, value in checkpoint.items())
        )


def _list_entry(path: Path) -> dict[str, Any]:
    """Describe a checkpoint by its verification record; a field that was not recorded is None."""
    record = read_verification(path)
    return {
        "name": PUBLISHED if path.name == PUBLISHED_FILE else path.stem,
        "bytes": path.stat().st_size if path.exists() else None,  # a link may lead nowhere
        "sha256": record and record.sha256,
        "verified": record and record.verified,
        "from": record and record.source,
        "path": str(path),
    }


def _copy_entry(path: Path) -> dict[str, Any]:
    """Describe a mapped copy as `_list_entry` does a checkpoint."""
    sha256, _, precision = path.stem.partition("-")
    return {
        "name": f"mapped {precision}",
        "bytes": path.stat().st_size,
        "sha256": sha256,
        "verified": None,
        "from": None,
        "path": str(path),
    }


@weights.command("prune", epilog=epilog("protrna weights prune", topics="weights"))
@options_of(EmbedOptions, "weights_dir")
@verbosity
def prune_(weights_dir: str | None) -> None:
    """Remove the mapped copies of checkpoints.

    They only make a start faster, and are made again when they are needed. Checkpoints stay.
    """
    home = weights_folder(weights_dir)
    freed = prune(home)
    tell(f"removed {size_text(freed)} of mapped copies in {home}")


@weights.command(
    "export",
    epilog=epilog(
        "protrna weights export protrna-pytorch",
        "protrna weights export half --precision bfloat16 --model ProtRNA_pretrained.h5",
        topics="pytorch, weights",
    ),
)
@click.argument("folder", metavar="DIR", type=ANY_PATH)
@options_of(EmbedOptions, "model", "weights_dir", "offline")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the kernels; bfloat16 takes half the space.",
)
@verbosity
def export_(folder: str, model: str, weights_dir: str | None, offline: bool, precision: str) -> None:
    """Write a model to a folder that PyTorch users load.

    DIR, which must not exist yet, gets what Hugging Face transformers loads as EsmForMaskedLM: the weights
    (safetensors), the config, the tokenizer and a model card. PyTorch is not needed. protrna embed --model
    DIR reads such a folder, also one with a model that you trained further.
    """
    from protrna_cli.weights.export import export

    with SignalStop() as stop, stop.abandoning():
        checkpoint = locate(model, weights_dir)
        checkpoint.obtain(watcher_for("auto", is_quiet()), offline)
        n_bytes = export(checkpoint, Path(folder), precision)
    tell(f"exported: {folder}, {size_text(n_bytes)} in {precision}")


def _existing_file(name_or_path: str, weights_dir: str | None) -> Path:
    """Find a checkpoint file; refuses the demo model, and a file that is missing."""
    checkpoint = locate(name_or_path, weights_dir)
    if checkpoint.path is None:
        raise UsageError("demo is built in and has no file; give protrna or the path of a checkpoint")
    checkpoint.check_reachable()
    if not checkpoint.is_there:
        raise WeightsError(f"the published weights are not at {checkpoint.path}; run protrna weights fetch")
    return checkpoint.path
