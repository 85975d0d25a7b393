"""Put a model's weights onto the device that was asked for."""

from __future__ import annotations

from pathlib import Path

from protrna_cli.model import demo, runtime
from protrna_cli.model.checkpoint import read_checkpoint
from protrna_cli.model.transformer import ProtRNA


def load_checkpoint(path: Path | None, precision: str, device: str, threads: int | None) -> ProtRNA:
    """Load a model from a checkpoint file, or, without one, the built-in demo model.

    Parameters
    ----------
    precision
        Of matrix multiplication: `float32` or `bfloat16`.
    device, threads
        As `runtime.configure` takes them.

    Raises
    ------
    WeightsError
        The file is not a whole ProtRNA checkpoint.
    UsageError
        There is no such device, or TensorFlow already runs with other settings.
    """
    runtime.configure(device, threads)
    place = runtime.placer(precision)
    return ProtRNA(*(read_checkpoint(path, place) if path else demo.demo_weights(place)))
