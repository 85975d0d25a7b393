"""How fast runs were on this machine, so that `--dry-run` can say how long one will take."""

from __future__ import annotations

import json
from pathlib import Path


def recall(file: Path, key: str) -> float | None:
    """Tokens per second of the last run of this kind; None when there was none."""
    rate = _rates(file).get(key)
    return float(rate) if isinstance(rate, (int, float)) else None


def remember(file: Path, key: str, rate: float) -> None:
    """Note tokens per second; where nothing can be written, nothing is noted."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**_rates(file), key: round(rate, 1)}), encoding="utf-8")
    except OSError:
        pass


def _rates(file: Path) -> dict[str, object]:
    try:
        rates = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return rates if isinstance(rates, dict) else {}
