"""Export a model to a folder that Hugging Face transformers loads, and `--model` too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from protrna_cli.disk import creating, locked, sync, writing
from protrna_cli.errors import OutputUnwritable
from protrna_cli.model import hugging_face
from protrna_cli.model.checkpoint import read_checkpoint
from protrna_cli.model.exported import (
    CONFIG_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    export_bytes,
    write_weights,
)
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.paths import journal_path, manifest_path, partial_path
from protrna_cli.output.protect import make_partial, refuse_foreign_partial, remove_partial
from protrna_cli.text import size_text
from protrna_cli.weights.card import model_card
from protrna_cli.weights.checkpoint import Checkpoint

ANOTHER_FOLDER = "choose another DIR"


def export(checkpoint: Checkpoint, target: Path, precision: str) -> int:
    """Export a model; the folder is complete or not there, and equal weights give equal bytes.

    Parameters
    ----------
    target
        The folder, which must not exist.
    precision
        Of kernels: `float32` or `bfloat16`.

    Returns
    -------
    int
        Bytes of the weights.
    """
    _refuse_existing(target)
    size, sha256 = checkpoint.size(), checkpoint.sha256()
    n_bytes = export_bytes(size, precision)
    with locked(target, remedy=ANOTHER_FOLDER):
        _refuse_existing(target)
        _check_space(target, n_bytes)
        try:
            with writing(target, f"free space and run again, or {ANOTHER_FOLDER}"):
                made = make_partial(target) / target.name  # in place of one that a killed process left
                made.mkdir()
                _write(made, checkpoint, size, precision)
                card = model_card(checkpoint, size, precision, sha256)
                (made / "README.md").write_text(card, encoding="utf-8")
                for file in (*made.iterdir(), made):
                    sync(file)
                made.rename(target)
                sync(target.parent)
        finally:
            remove_partial(target)
    return n_bytes


def _refuse_existing(target: Path) -> None:
    """Refuse to replace anything, or an unfinished run of the same name."""
    if os.path.lexists(target):
        raise OutputUnwritable(f"{target}: exists, and an export replaces nothing; {ANOTHER_FOLDER}")
    if journal_path(target).exists() or manifest_path(target).exists():
        raise OutputUnwritable(f"{partial_path(target)}: of an unfinished run; {ANOTHER_FOLDER}")
    refuse_foreign_partial(target, f"move it away, or {ANOTHER_FOLDER}")


def _check_space(target: Path, n_bytes: int) -> None:
    with creating(target, ANOTHER_FOLDER):
        free = shutil.disk_usage(target.parent).free
    if n_bytes > free:
        raise OutputUnwritable(
            f"{target}: needs {size_text(n_bytes)}, but only {size_text(free)} are free; {ANOTHER_FOLDER}"
        )


def _write(folder: Path, checkpoint: Checkpoint, size: ModelSize, precision: str) -> None:
    """Write all but the model card."""
    texts = {
        CONFIG_FILE: _json(hugging_face.config(size, precision)),
        VOCABULARY_FILE: hugging_face.VOCABULARY_TEXT,
        "tokenizer_config.json": _json(hugging_face.TOKENIZER_CONFIG),
        "special_tokens_map.json": _json(hugging_face.SPECIAL_TOKENS),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    with (folder / WEIGHTS_FILE).open("wb") as file:
        write_weights(file, size, precision, partial(read_checkpoint, checkpoint.path))


def _json(settings: Mapping[str, object]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"
