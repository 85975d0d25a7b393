"""How an output was made, in words: its provenance for people."""

from __future__ import annotations

import json
from typing import Any

from protrna_cli.plan.shard import WHOLE
from protrna_cli.text import counted, printable

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
        told = {key: value if isinstance(value, str) else _json(value) for key, value in provenance.items()}
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
    pooling = provenance["pooling"]
    per_row = {"mean": "the mean of", "max": "the maximum of", "cls": "the <cls> token of"}
    return {
        "layers": ", ".join(map(str, provenance["layers"])),
        "vectors": f"one per record, {per_row[pooling]} its residues" if pooling else "one per residue",
        "numbers": f"{provenance['dtype']}, computed in {provenance['precision']}, "
        f"up to {provenance['batch_tokens']:,} tokens a batch{_halved(provenance)}",
    }


def _halved(provenance: dict[str, Any]) -> str:
    if "halved_to" not in provenance:
        return ""
    return f", halved to {provenance['halved_to']:,} when memory ran out"


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
        "input" if len(inputs) == 1 else f"input {number}": f"{each['name']}, SHA-256 {each['sha256']}"
        for number, each in enumerate(inputs, start=1)
    }
    records, embedded, skipped = (provenance[name] for name in ("records", "embedded", "skipped"))
    told["records"] = f"{records:,}, all embedded"
    if embedded != records:
        told["records"] = f"{records:,} in the input, {embedded:,} embedded, {skipped:,} skipped"
    if provenance.get("distinct", embedded) != embedded:
        told["distinct"] = counted(provenance["distinct"], "sequence")
    for number, each in enumerate(provenance.get("reuse", []), start=1):
        name = f"{each['name']}, which this one replaced" if "replaced" in each else each["name"]
        what = f"{counted(each['sequences'], 'sequence')} of {name}, SHA-256 {each['sha256']}"
        told["reused" if number == 1 else f"reused {number}"] = what
    if provenance["shard"] != str(WHOLE):
        told["shard"] = provenance["shard"]
    return told


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
