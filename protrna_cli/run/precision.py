"""Decide between float32 and bfloat16 by how fast this machine multiplies in either.

The trial takes some 50 ms, and its result is kept with the speeds of earlier runs.
"""

from __future__ import annotations

from protrna_cli.machine import available_cpus
from protrna_cli.model.structure import ModelSize
from protrna_cli.run import rates
from protrna_cli.run.options import EmbedOptions, Precision
from protrna_cli.run.report import Progress

WORTH_IT = 1.5
"""How many times as fast bfloat16 must be to be taken, or to be recommended."""

SMALL_MODEL = 50_000_000
"""Parameters of a model whose speed nobody needs to think about; the published one has 651 million."""


def faster_precision(options: EmbedOptions) -> Precision:
    """Choose bfloat16 where it is worth it, otherwise float32."""
    return "bfloat16" if _gain(options) >= WORTH_IT else "float32"


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
    if known := rates.recall(rates.rates_file(), key):
        return known[0]
    gain = trial.bfloat16_gain(runtime.tensorflow_name(device))
    rates.remember(rates.rates_file(), key, gain)
    return gain
