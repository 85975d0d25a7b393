"""A progress bar for terminals and notebooks."""

from __future__ import annotations

import sys
from typing import Any

from protrna_cli.run.report import NOTHING, Amount, Progress


class Bar(Progress):
    """A progress bar: records, residues per second, time left. Without a total it counts.

    Parameters
    ----------
    tqdm
        The class of tqdm to show it with: `tqdm.tqdm` for terminals, `tqdm.auto.tqdm` also for notebooks.
    """

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm

    def start(self, total: Amount, resumed: Amount = NOTHING) -> None:
        self._total, self._done = total, resumed
        self._bar = self._tqdm(
            total=total.residues or None,
            initial=resumed.residues,
            smoothing=0,  # the mean of this process, as in the summary
            unit=" residues",
            unit_scale=True,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f}% {rate_fmt}, {remaining} left"
            if total.residues
            else "{desc}, {rate_fmt}",
        )
        self.advance(NOTHING)

    def advance(self, amount: Amount) -> None:
        self._done += amount
        of_all = f"/{self._total.records:,}" if self._total.residues else ""
        self._bar.set_description_str(f"{self._done.records:,}{of_all} records", refresh=False)
        self._bar.update(amount.residues)

    def resume(self, amount: Amount) -> None:
        self._bar.initial += amount.residues  # tqdm leaves these out of its rate
        self.advance(amount)

    def close(self) -> None:
        self._bar.close()


def any_bar() -> Bar:
    """Make a bar for wherever this runs: a terminal, or a notebook."""
    from tqdm.auto import tqdm

    return Bar(tqdm)
