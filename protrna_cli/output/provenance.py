"""Provenance: how an output was made, also in words, and whether two runs would make the same one."""

from __future__ import annotations

import json
from typing import Any

from protrna_cli.errors import InputError, RunMismatch, UsageError
from protrna_cli.output.rows import Header
from protrna_cli.plan.rules import POOLINGS, Regions, Rules
from protrna_cli.plan.shard import WHOLE, Shard
from protrna_cli.text import counted, printable

COUNTS = ("records", "embedded", "skipped")

RunKey = dict[str, Any]
"""Everything that determines the values of an output: runs with equal keys make equal outputs."""


def run_key(header: Header, name: str = "output") -> RunKey:
    """Collect everything that determines the values of an output; file names and folders do not.

    name: what a message calls the output.
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
        "reuse": [
            None if "replaced" in source else source["sha256"] for source in provenance.get("reuse", [])
        ],
        "shard": provenance["shard"],
        "input SHA-256": [source["sha256"] for source in provenance["inputs"]],
    }


def exact_key(header: Header) -> RunKey:
    """The key of a run that has not put its outputs in place: an output that it replaces is named, too."""
    sha256s = [source["sha256"] for source in header.provenance.get("reuse", [])]
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


_LONG = {
    "window": "in windows of {max_length:,} residues that share at least {overlap:,}",
    "truncate": "only their first {max_length:,} residues",
    "error": "an error beyond {max_length:,} residues",
    "skip": "skipped beyond {max_length:,} residues",
    "whole": "in one piece",
}
_INVALID = {"error": "an error", "unknown": "read as unknown residues", "skip": "their record is skipped"}
_GAPS = {"error": "an error", "remove": "removed", "unknown": "read as unknown residues"}


def account(provenance: dict[str, Any]) -> dict[str, str]:
    """Tell how an output was made, as names and texts, in reading order.

    Provenance that does not have all its fields, as in outputs of other versions, is told as it is.
    """
    try:
        told = {
            "made by": f"protrna {provenance['version']}{_device(provenance)}",
            **settings_account(provenance),
            "weights": _weights(provenance["model"]["weights_sha256"]),
            **_input(provenance),
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        told = {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in provenance.items()
        }
    return {printable(name): printable(text) for name, text in told.items()}


def settings_account(provenance: dict[str, Any]) -> dict[str, str]:
    """Tell with which model, numbers and rules a run is made, as names and texts, in reading order."""
    model = provenance["model"]
    return {
        "model": f"{model['name']}: {model['layers']} layers, width {model['width']}, {model['heads']} heads",
        **_vectors(provenance),
        **_rules(provenance["rules"]),
    }


def _device(provenance: dict[str, Any]) -> str:
    return f" on {provenance['device']}" if provenance.get("device") else ""


def _weights(sha256: str | None) -> str:
    return f"SHA-256 {sha256}" if sha256 else "synthetic, without biological meaning"


def _vectors(provenance: dict[str, Any]) -> dict[str, str]:
    pooling = POOLINGS[provenance["pooling"]] if provenance["pooling"] else None
    halved = ""
    if "halved_to" in provenance:
        halved = f", halved to {provenance['halved_to']:,} when memory ran out"
    return {
        "layers": ", ".join(map(str, provenance["layers"])),
        "vectors": f"one per record, {pooling.words} its residues" if pooling else "one per residue",
        "numbers": f"{provenance['dtype']}, computed in {provenance['precision']}, "
        f"up to {provenance['batch_tokens']:,} tokens a batch{halved}",
    }


def _rules(rules: dict[str, Any]) -> dict[str, str]:
    told = {
        "long records": _LONG[rules["long"]].format(**rules),
        "invalid letters": _INVALID[rules["on_invalid"]],
        "gaps": _GAPS[rules["gaps"]],
    }
    if rules["skip_unknown"]:
        told["unknown residues"] = "left out of means"
    if rules["regions"]:
        told["regions"] = f"{rules['regions']['name']}, SHA-256 {rules['regions']['sha256']}"
    return told


def _input(provenance: dict[str, Any]) -> dict[str, str]:
    inputs = provenance["inputs"]
    told = {
        "input" if len(inputs) == 1 else f"input {number}": f"{source['name']}, SHA-256 {source['sha256']}"
        for number, source in enumerate(inputs, start=1)
    }
    records, embedded, skipped = (provenance[name] for name in ("records", "embedded", "skipped"))
    told["records"] = f"{records:,}, all embedded"
    if embedded != records:
        told["records"] = f"{records:,} in the input, {embedded:,} embedded, {skipped:,} skipped"
    if provenance.get("distinct", embedded) != embedded:
        told["distinct"] = counted(provenance["distinct"], "sequence")
    for number, source in enumerate(provenance.get("reuse", []), start=1):
        name = f"{source['name']}, which this one replaced" if "replaced" in source else source["name"]
        what = f"{counted(source['sequences'], 'sequence')} of {name}, SHA-256 {source['sha256']}"
        told["reused" if number == 1 else f"reused {number}"] = what
    if provenance["shard"] != str(WHOLE):
        told["shard"] = provenance["shard"]
    return told
