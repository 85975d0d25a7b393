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

from protrna_cli.model.runtime import gpu_multiplies_bfloat16, threads
from protrna_cli.model.structure import batches_at_once

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
    """Measure plain matmuls of the size `MATMUL`, in operations per second.

    As many run at once as batches would on a CPU, which is faster than one by one.
    """
    rows, inner, columns = MATMUL
    left = tf.cast(tf.random.stateless_normal((rows, inner), (1, 2)), dtype)
    right = tf.cast(tf.random.stateless_normal((columns, inner), (3, 4)), dtype)
    at_once = batches_at_once(threads())
    seconds = _seconds_each(lambda: tf.matmul(left, right, transpose_b=True)[0, 0].numpy(), at_once, 5)
    return 2 * rows * inner * columns / seconds


def bfloat16_gain(device: str) -> float:
    """Measure how many times as fast as float32 the device multiplies bfloat16; takes some 50 ms.

    device: TensorFlow's name of it. A GPU is judged by its compute capability, 8.0 (Ampere) or more.
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
    last = [model.size.layers]
    seconds = _seconds_each(lambda: model._embed_batch(tokens, weights, last, "mean"), model.at_once, 3)
    return sum(length + 2 for length in lengths) / seconds


def quick_seconds(model: ProtRNA, length: int, count: int) -> float:
    """Measure one batch of so many sequences of a length, in seconds; takes about as long as three of them.

    As many run at once as in a run, unless the first alone takes a second.
    """
    tokens, weights = _batch(model, [("ACGU" * length)[:length]] * count)
    last = [model.size.layers]
    started = time.perf_counter()
    model._embed_batch(tokens, weights, last, "mean")  # compiles what the batch needs
    first = time.perf_counter() - started
    if first > 1:
        return first
    with ThreadPoolExecutor(model.at_once) as pool:
        started = time.perf_counter()
        for done in [
            pool.submit(model._embed_batch, tokens, weights, last, "mean") for _ in range(model.at_once)
        ]:
            done.result()
    return (time.perf_counter() - started) / model.at_once


def reference_error(demo: ProtRNA) -> float:
    """Largest difference between values of the demo model and those computed in float64."""
    tokens, weights = _batch(demo, [REFERENCE_SEQUENCE])
    [[row]] = demo._embed_batch(tokens, weights, [demo.size.layers], "mean")
    return float(np.abs(row[: len(REFERENCE_ROW)] - REFERENCE_ROW).max())


def batch_error(model: ProtRNA) -> float:
    """Largest difference between the row of a sequence alone and in a batch with longer and shorter ones."""
    sequences = [REFERENCE_SEQUENCE, "ACGU" * 30, "GC"]
    together = model._embed_batch(*_batch(model, sequences), [model.size.layers], "mean")[0]
    alone = [
        model._embed_batch(*_batch(model, [sequence]), [model.size.layers], "mean")[0][0]
        for sequence in sequences
    ]
    return float(np.abs(together - np.stack(alone)).max())


def _batch(model: ProtRNA, sequences: list[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Make tokens (B, T) of sequences, and weights (B, T) for their means."""
    tokens = model.alphabet.frame([model.alphabet.residue_ids(sequence) for sequence in sequences])
    weights = np.zeros(tokens.shape, np.float32)
    for row, sequence in zip(weights, sequences, strict=True):
        row[1 : len(sequence) + 1] = 1 / len(sequence)
    return tokens, weights


def _seconds_each(work: Callable[[], object], at_once: int, repeats: int) -> float:
    """Seconds for each of many calls, of which so many run at once; the median of `repeats`, once warm."""
    n_calls = 2 * at_once
    seconds = []
    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(1 + repeats):
            started = time.perf_counter()
            for done in [pool.submit(work) for _ in range(n_calls)]:
                done.result()
            seconds.append((time.perf_counter() - started) / n_calls)
    return statistics.median(seconds[1:])
