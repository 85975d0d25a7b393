"""Measure how fast a machine runs a model, and check that its numbers are right.

Rates are medians, because the speed of a shared machine varies.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from protrna_cli.model.runtime import gpu_multiplies_bfloat16

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

MATMUL = (2048, 1280, 5120)
"""Rows, width and inner width of the largest matmul of the published model, for a batch of the usual size."""

TRIAL = (512, 1280, 1280)
"""The same for the matmul that is tried to compare precisions, which must be over soon."""

REFERENCE_SEQUENCE = "GGGGCCCCAAAAUUUUGCGCAUAUGGAUCCNAGCU"
REFERENCE_ROW = (-0.7513578, -1.7711610, -1.1199075, 0.7073146, -0.7041183, 0.9128749, 0.5635683, 1.0495993)
"""First values of the demo model's row for this sequence (mean, last layer), computed in float64 without
TensorFlow by the reference model in the tests."""


def matmul_rate(dtype: str) -> float:
    """Measure a plain matmul of the size `MATMUL`, in operations per second."""
    rows, inner, columns = MATMUL
    left = tf.cast(tf.random.stateless_normal((rows, inner), (1, 2)), dtype)
    right = tf.cast(tf.random.stateless_normal((inner, columns), (3, 4)), dtype)
    return 2 * rows * inner * columns / _median_seconds(lambda: tf.matmul(left, right)[0, 0].numpy(), 5)


def bfloat16_gain(device: str) -> float:
    """Measure how many times as fast as float32 the device multiplies bfloat16; takes some 50 ms.

    Parameters
    ----------
    device
        TensorFlow's name of it. A GPU is judged by its compute capability, 8.0 (Ampere) or more.
    """
    if "GPU" in device:
        return 2.0 if gpu_multiplies_bfloat16() else 0.5
    with tf.device(device):
        return _least_seconds("float32") / _least_seconds("bfloat16")


def _least_seconds(dtype: str) -> float:
    """Least seconds of a few matmuls of the size `TRIAL`: a busy machine makes some of them slower."""
    rows, inner, columns = TRIAL
    left, right = tf.ones((rows, inner), dtype), tf.ones((inner, columns), dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        tf.matmul(left, right)[0, 0].numpy()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def token_rate(model: ProtRNA, lengths: tuple[int, ...] = (126,) * 8) -> float:
    """Measure a model on batches of sequences of these lengths, in tokens per second."""
    tokens, weights = _batch(model, [("ACGU" * length)[:length] for length in lengths])
    n_batches = 2 * model.at_once

    def run(_: int) -> None:
        model.embed(tokens, weights, [model.size.layers], "mean")

    with ThreadPoolExecutor(model.at_once) as threads:
        seconds = _median_seconds(lambda: list(threads.map(run, range(n_batches))), 3)
    return n_batches * sum(length + 2 for length in lengths) / seconds


def reference_error(demo: ProtRNA) -> float:
    """Largest difference between values of the demo model and those computed in float64."""
    tokens, weights = _batch(demo, [REFERENCE_SEQUENCE])
    [[row]] = demo.embed(tokens, weights, [demo.size.layers], "mean")
    return float(np.abs(row[: len(REFERENCE_ROW)] - REFERENCE_ROW).max())


def batch_error(model: ProtRNA) -> float:
    """Largest difference between the row of a sequence alone and in a batch with longer and shorter ones."""
    sequences = [REFERENCE_SEQUENCE, "ACGU" * 30, "GC"]
    together = model.embed(*_batch(model, sequences), [model.size.layers], "mean")[0]
    alone = [model.embed(*_batch(model, [each]), [model.size.layers], "mean")[0][0] for each in sequences]
    return float(np.abs(together - np.stack(alone)).max())


def _batch(model: ProtRNA, sequences: list[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Make tokens (B, T) of sequences, and weights (B, T) for their means."""
    tokens = model.alphabet.frame([model.alphabet.residue_ids(each) for each in sequences])
    weights = np.zeros(tokens.shape, np.float32)
    for row, sequence in zip(weights, sequences, strict=True):
        row[1 : len(sequence) + 1] = 1 / len(sequence)
    return tokens, weights


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` calls, after one call to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
