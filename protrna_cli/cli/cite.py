"""`protrna cite`."""

from __future__ import annotations

import click

from protrna_cli._version import version
from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.options import show

TEXT = """ProtRNA, the model:
  Zhang R, Ma B, Xu G, Ma J. ProtRNA: A protein-derived RNA language model by cross-modality
  transfer learning. Cell Systems (2025). https://doi.org/10.1016/j.cels.2025.101371

ESM-2, the protein model that it continues:
  Lin Z, Akin H, Rao R, et al. Evolutionary-scale prediction of atomic-level protein structure with
  a language model. Science 379, 1123-1130 (2023). https://doi.org/10.1126/science.ade2574

protrna, this tool:
  protrna-cli {version}: RNA sequences to ProtRNA embeddings."""

BIBTEX = """@article{{zhang2025protrna,
  title   = {{{{ProtRNA}}: A protein-derived {{RNA}} language model by cross-modality transfer learning}},
  author  = {{Zhang, Ruoxi and Ma, Ben and Xu, Gang and Ma, Jianpeng}},
  journal = {{Cell Systems}},
  year    = {{2025}},
  doi     = {{10.1016/j.cels.2025.101371}}
}}

@article{{lin2023esm2,
  title   = {{Evolutionary-scale prediction of atomic-level protein structure with a language model}},
  author  = {{Lin, Zeming and Akin, Halil and Rao, Roshan and others}},
  journal = {{Science}},
  volume  = {{379}},
  pages   = {{1123--1130}},
  year    = {{2023}},
  doi     = {{10.1126/science.ade2574}}
}}

@software{{protrna_cli,
  title   = {{protrna-cli: {{RNA}} sequences to {{ProtRNA}} embeddings}},
  version = {{{version}}}
}}"""


@click.command(
    cls=Command, epilog=epilog("protrna cite", "protrna cite --bibtex >> paper.bib", topics="citing")
)
@click.option("--bibtex", is_flag=True, help="Print BibTeX.")
def cite(bibtex: bool) -> None:
    """Print what to cite: the model, ESM-2, this tool."""
    show((BIBTEX if bibtex else TEXT).format(version=version()))
