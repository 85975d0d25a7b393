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
from protrna_cli.model import exported
from protrna_cli.model.checkpoint import read_checkpoint
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.files import journal_path, manifest_path, partial_path
from protrna_cli.output.protect import make_partial, refuse_foreign_partial, remove_partial
from protrna_cli.text import printable, size_text, version
from protrna_cli.weights.checkpoint import DEMO_NOTICE, Checkpoint
from protrna_cli.weights.fetch import MIRRORS

ANOTHER_FOLDER = "choose another DIR"

_PUBLISHED = "The licence of the weights is the one that their Zenodo record states."
_OWN = "The weights have the licence under which their checkpoint was given to you."
_DEMO = "The weights are made by protrna-cli, whose licence is Apache-2.0."

_CARD = """---
library_name: transformers
pipeline_tag: feature-extraction
tags: [rna, biology, protrna, esm]
---

# ProtRNA

An RNA language model: ESM-2, continued on RNA. {size}, {parameters:,} parameters in {dtypes}.

## Residues

- Write sequences in lower case: `a`, `c`, `g`, `u`. In this vocabulary, `A`, `C` and `G` are amino acids.
- Write `t` as `u`, and every other character (`n`, other IUPAC codes, gaps) as `x`.
- Give the model the attention mask. Leave `<cls>`, `<eos>` and padding out of a mean.
- It was trained on sequences of up to 510 residues.

## Use

```python
import re

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

folder = "."  # that of this file
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForMaskedLM.from_pretrained(folder).eval()

sequences = ["GGGGCCCC", "ACGTN"]
written = [re.sub("[^acgu]", "x", sequence.lower().replace("t", "u")) for sequence in sequences]
tokens = tokenizer(written, padding=True, return_tensors="pt")
with torch.no_grad():
    last = model.esm(**tokens).last_hidden_state.float()  # (B, T, D)
residues = tokens["attention_mask"].bool() & (tokens["input_ids"] > 32)  # a u g c x
vectors = torch.stack([each[kept].mean(0) for each, kept in zip(last, residues)])  # (B, D)
```

transformers says that the weights of `contact_head` are missing: ProtRNA has no such head.

`protrna embed input.fa -o out.parquet --model DIR` reads the same folder.

## Source

{source}

Exported by protrna-cli {version}.

## Licence

{licence}

## Citation

Zhang R, Ma B, Xu G, Ma J. ProtRNA: A protein-derived RNA language model by cross-modality transfer
learning. Cell Systems (2025). https://doi.org/10.1016/j.cels.2025.101371

Lin Z, Akin H, Rao R, et al. Evolutionary-scale prediction of atomic-level protein structure with a
language model. Science 379, 1123-1130 (2023). https://doi.org/10.1126/science.ade2574
"""


def export(checkpoint: Checkpoint, target: Path, precision: str) -> int:
    """Export a model to a folder that does not exist yet; returns the bytes of the weights.

    It is complete or not there, and equal weights give equal bytes. `precision` is that of kernels: `float32`
    or `bfloat16`.
    """
    _refuse_existing(target)
    size, sha256 = checkpoint.size(), checkpoint.sha256()
    n_bytes = exported.export_bytes(size, precision)
    with locked(target, remedy=ANOTHER_FOLDER):
        _refuse_existing(target)
        _check_space(target, n_bytes)
        try:
            with writing(target, f"free space and run again, or {ANOTHER_FOLDER}"):
                made = make_partial(target) / target.name  # in place of one that a killed process left
                made.mkdir()
                _write(made, checkpoint, size, precision)
                card = _model_card(checkpoint, size, precision, sha256)
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
        exported.CONFIG_FILE: _json(exported.config(size, precision)),
        exported.VOCABULARY_FILE: exported.VOCABULARY_TEXT,
        "tokenizer_config.json": _json(exported.TOKENIZER_CONFIG),
        "special_tokens_map.json": _json(exported.SPECIAL_TOKENS),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    with (folder / exported.WEIGHTS_FILE).open("wb") as file:
        exported.write_weights(file, size, precision, partial(read_checkpoint, checkpoint.path))


def _json(settings: Mapping[str, object]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"


def _model_card(checkpoint: Checkpoint, size: ModelSize, precision: str, sha256: str | None) -> str:
    """Write the README of an export: what it is, how to use it, where it is from, what to cite."""
    if checkpoint.path is None:
        source, licence = f"The {DEMO_NOTICE}.", _DEMO
    else:
        file = f"`{printable(checkpoint.path.name)}`, SHA-256 `{sha256}`"
        published = f"The published checkpoint, {MIRRORS[0].address}: {file}."
        source, licence = (published, _PUBLISHED) if checkpoint.is_published else (f"{file}.", _OWN)
    return _CARD.format(
        size=size,
        parameters=size.parameters,
        dtypes="float32" if precision == "float32" else f"float32, kernels in {precision}",
        source=source,
        licence=licence,
        version=version(),
    )
