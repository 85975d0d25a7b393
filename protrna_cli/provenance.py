"""How an output was made: what its header says, and the key by which two runs are told apart."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from protrna_cli import __version__, weights
from protrna_cli.census import Census
from protrna_cli.journal import RunKey
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.rows import Header
from protrna_cli.regions import Regions
from protrna_cli.rules import Rules
from protrna_cli.shard import Shard


def make_header(
    *,
    model: str,
    weights_sha256: str | None,
    size: ModelSize,
    layers: tuple[int, ...],
    per_token: bool,
    pool: str,
    precision: str,
    dtype: str,
    batch_tokens: int,
    rules: Rules,
    shard: Shard,
    whole: Census,
    part: Census,
) -> Header:
    """Say what an output will hold and how it is made.

    Parameters
    ----------
    weights_sha256
        None for the demo model, which has no file.
    whole, part
        Census of the input, and of the shard's slice of it.
    """
    provenance: dict[str, Any] = {
        "version": __version__,
        "model": {"name": model, "weights_sha256": weights_sha256, **asdict(size)},
        "layers": list(layers),
        "pooling": None if per_token else pool,
        "precision": precision,
        "dtype": dtype,
        "batch_tokens": batch_tokens,
        "rules": {
            **asdict(replace(rules, regions=None)),
            "overlap": rules.shared,
            "regions": rules.regions and rules.regions.origin,
        },
        "shard": str(shard),
        "inputs": whole.inputs,
        "records": whole.n_records + whole.n_skipped,
        "embedded": part.n_records,
        "skipped": part.n_skipped,
    }
    if weights_sha256 is None:
        provenance["notice"] = weights.DEMO_NOTICE
    rows = (part.n_records, part.n_embedded) if per_token else (part.n_rows, part.n_pooled)
    return Header(per_token, layers, size.width, dtype, *rows, provenance)


def run_key(header: Header) -> RunKey:
    """Everything that decides the values of an output; names and places of files do not.

    Raises
    ------
    KeyError
        The header is none that `make_header` made.
    """
    provenance = header.provenance
    regions = provenance["rules"]["regions"]
    return {
        "version": provenance["version"],
        "weights": provenance["model"]["weights_sha256"] or provenance["model"]["name"],
        "layers": provenance["layers"],
        "per_token": header.per_token,
        **{name: provenance[name] for name in ("pooling", "precision", "dtype", "batch_tokens")},
        **provenance["rules"],
        "regions": regions and regions["sha256"],
        "shard": provenance["shard"],
        "input SHA-256": [each["sha256"] for each in provenance["inputs"]],
    }


def rules_of(header: Header, regions: Regions | None) -> Rules:
    """The rules under which an output was made; the regions are those of a file of the same SHA-256."""
    return Rules(**{**header.provenance["rules"], "regions": regions})


def shard_of(header: Header) -> Shard:
    """The shard that an output holds; 1/1 is all of it."""
    return Shard.parse(header.provenance["shard"])
