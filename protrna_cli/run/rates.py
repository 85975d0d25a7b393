"""Speeds that were measured on this machine, which `--dry-run` uses to estimate the time of a run."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from protrna_cli.disk import write_whole
from protrna_cli.weights.locate import weights_folder_if_any

KEPT = 5
"""How many speeds of a kind are kept, so that one which a busy machine spoiled does not stay for ever."""


def rates_file() -> Path | None:
    """File with the remembered speeds; None for a user without a home folder."""
    folder = weights_folder_if_any()
    return folder / "rates.json" if folder else None


def of_doctor(key: str) -> str:
    """Key of the speed that `protrna doctor` measured, which a run goes before."""
    return f"{key}, doctor"


def recall(file: Path | None, key: str) -> list[float]:
    """Read the last speeds of this kind, newest first, as they were remembered."""
    kept = _rates(file).get(key)
    kept = kept if isinstance(kept, list) else [kept]  # version 0.2.0 kept one
    return [float(rate) for rate in kept if isinstance(rate, (int, float)) and rate > 0]


def remember(file: Path | None, key: str, rate: float) -> None:
    """Record a speed, in operations per second; does nothing if there is no file, or it cannot be written."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        newest = [round(rate, 2), *recall(file, key)][:KEPT]
        write_whole(file, json.dumps({**_rates(file), key: newest}), shared=True)


def _rates(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    try:
        rates = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}
