"""The model card of an export."""

from __future__ import annotations

from protrna_cli._version import version
from protrna_cli.model.structure import ModelSize
from protrna_cli.text import printable
from protrna_cli.weights.checkpoint import Checkpoint
from protrna_cli.weights.fetch import MIRRORS
from protrna_cli.weights.names import DEMO_NOTICE

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


def model_card(checkpoint: Checkpoint, size: ModelSize, precision: str, sha256: str | None) -> str:
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
