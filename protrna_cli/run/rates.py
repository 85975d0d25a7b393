"""Speeds of earlier runs on this machine, which `--dry-run` uses to estimate the time of the next one."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from protrna_cli.disk import write_whole
from protrna_cli.weights.locate import weights_folder_if_any


def rates_file() -> Path | None:
    """File with the remembered speeds; None for a user without a home folder."""
    folder = weights_folder_if_any()
    return folder / "rates.json" if folder else None


def recall(file: Path | None, key: str) -> float | None:
    """Operations per second of the last run of this kind; None if there was none."""
    rate = _rates(file).get(key)
    return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None


def remember(file: Path | None, key: str, rate: float) -> None:
    """Record operations per second; does nothing if there is no such file, or it cannot be written."""
    if file is None:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({**_rates(file), key: round(rate, 2)}), shared=True)


def _rates(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    try:
        rates = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}
