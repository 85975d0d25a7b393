"""Decide between float32 and bfloat16 by how fast this machine multiplies in either.

The trial takes some 50 ms, and its result is kept with the speeds of earlier runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from protrna_cli.errors import ProtrnaError
from protrna_cli.machine import available_cpus
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.parts import read_joined
from protrna_cli.output.paths import journal_path, manifest_path
from protrna_cli.run import rates
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.report import Progress

WORTH_IT = 1.5
"""How many times as fast bfloat16 must be to be taken, or to be recommended."""

SMALL_MODEL = 50_000_000
"""Parameters of a model whose speed nobody needs to think about; the published one has 651 million."""


def choose_precision(options: EmbedOptions, outputs: Sequence[Path] = ()) -> EmbedOptions:
    """Replace the precision `auto` by float32 or bfloat16.

    Parameters
    ----------
    outputs
        The outputs of the run. If one is to be resumed, its precision is taken.

    Raises
    ------
    UsageError
        There is no such device.
    """
    if options.precision != "auto":
        return options
    earlier = filter(None, map(_precision_of, outputs)) if options.resume else iter(())
    fast = "bfloat16" if _gain(options) >= WORTH_IT else "float32"
    return replace(options, precision=next(earlier, fast))


def recommend_bfloat16(size: ModelSize, options: EmbedOptions, progress: Progress) -> None:
    """Recommend bfloat16 if it is much faster here than float32."""
    if options.precision == "float32" and size.parameters > SMALL_MODEL and _gain(options) >= WORTH_IT:
        progress.note(
            f"this machine multiplies {_gain(options):.1f} times as fast with --precision bfloat16, see "
            "protrna help precision"
        )


def _gain(options: EmbedOptions) -> float:
    """How many times as fast as in float32 the device multiplies in bfloat16, as measured here once."""
    from protrna_cli.model import runtime, trial

    device = runtime.configure(options.device, options.threads)
    key = f"bfloat16 to float32, {device}, {options.threads or available_cpus()} threads"
    known = rates.recall(rates.rates_file(), key)
    if known is None:
        known = trial.bfloat16_gain(runtime.tensorflow_name(device))
        rates.remember(rates.rates_file(), key, known)
    return known


def _precision_of(output: Path) -> str | None:
    """Precision of an unfinished run, or of a complete output; None if there is neither."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        return str(json.loads(journal_path(output).read_text("utf-8").splitlines()[0])["precision"])
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(manifest_path(output).read_text("utf-8"))["key"]["precision"])
    with suppress(ProtrnaError, KeyError):
        return str(read_joined(output)[0].provenance["precision"])
    return None
