"""Provenance of outputs: how an output was made, and whether two runs would make the same one."""

from __future__ import annotations

import json
from typing import Any

from protrna_cli.errors import InputError, RunMismatch, UsageError
from protrna_cli.output.rows import Header
from protrna_cli.plan.rules import Regions, Rules
from protrna_cli.plan.shard import Shard

COUNTS = ("records", "embedded", "skipped")

RunKey = dict[str, Any]
"""Everything that determines the values of an output: runs with equal keys make equal outputs."""


def run_key(header: Header, name: str = "output") -> RunKey:
    """Collect everything that determines the values of an output; file names and folders do not.

    Parameters
    ----------
    name
        What a message calls the output.
    """
    try:
        if not all(isinstance(header.provenance[count], int) for count in COUNTS):
            raise TypeError("a count is not a number")
        shard_of(header)
        return _run_key(header)
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
        raise InputError(f"{name}: its provenance {what}; was it made by protrna embed?") from None


def _run_key(header: Header) -> RunKey:
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
        "reuse": [None if "replaced" in each else each["sha256"] for each in provenance.get("reuse", [])],
        "shard": provenance["shard"],
        "input SHA-256": [each["sha256"] for each in provenance["inputs"]],
    }


def exact_key(header: Header) -> RunKey:
    """The key of a run that has not put its outputs in place: an output that it replaces is named, too."""
    sha256s = [each["sha256"] for each in header.provenance.get("reuse", [])]
    return {**run_key(header), "reuse": sha256s}


def rules_of(header: Header, regions: Regions | None) -> Rules:
    """Restore the rules of an output; `regions` must come from a file with the recorded SHA-256."""
    fields = {**header.provenance["rules"], "regions": regions}
    if fields["long"] != "window":
        del fields["overlap"]  # recorded, but only windows have one
    return Rules(**fields)


def shard_of(header: Header) -> Shard:
    """Shard of an output; 1/1 is the whole run."""
    return Shard.parse(header.provenance["shard"])


def compare_keys(found: RunKey, wanted: RunKey, name: str) -> None:
    """Refuse to mix two runs that would make different outputs."""
    if difference := first_difference(found, wanted):
        field, before, now = difference
        raise RunMismatch(
            f"{name}: made by another run: its {field} was {before}, not {now}; "
            "run it as before, or use --overwrite to start again, or choose another -o"
        )


def first_difference(one: RunKey, other: RunKey) -> tuple[str, str, str] | None:
    """Return the first field that differs between two runs, and its value in each; None if none does."""
    for field in {**one, **other}:
        if one.get(field) != other.get(field):
            return field, json.dumps(one.get(field)), json.dumps(other.get(field))
    return None
