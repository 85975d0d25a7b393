"""Load a model onto a device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from protrna_cli.machine import LOAD_BYTES, check_address_space
from protrna_cli.model import runtime
from protrna_cli.model.checkpoint import read_checkpoint
from protrna_cli.model.mapped import Layout, map_weights
from protrna_cli.model.transformer import ProtRNA


def load_checkpoint(
    path: Path | None,
    precision: str,
    device: str,
    threads: int | None,
    find_mapped: Callable[[], tuple[Path, Layout] | None] = lambda: None,
) -> ProtRNA:
    """Load a model from a checkpoint, or the built-in demo model if `path` is None.

    Parameters
    ----------
    precision
        Precision of matrix multiplication: `float32` or `bfloat16`.
    device, threads
        See `runtime.configure`.
    find_mapped
        Finds a file of the same weights that can be mapped into memory, for a model on the CPU.

    Raises
    ------
    WeightsError
        The file is not a complete ProtRNA checkpoint.
    SystemLimit
        The limit on address space leaves no room for the weights.
    UsageError
        The device does not exist, or TensorFlow is already running with other settings.
    """
    if path and path.exists():
        check_address_space(LOAD_BYTES + path.stat().st_size)
    name = runtime.tensorflow_name(runtime.configure(device, threads))
    if "CPU" in name and (mapped := find_mapped()):
        with runtime.running_on(name), suppress(OSError, ValueError, TypeError, KeyError):
            return ProtRNA(*map_weights(*mapped), precision, name)
    place = runtime.placer(precision)
    with runtime.running_on(name):
        size, weights = read_checkpoint(path, place)
    return ProtRNA(size, weights, precision, name)
