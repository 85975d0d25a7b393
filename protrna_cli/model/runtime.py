"""Configure TensorFlow's devices and threads before it starts."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from protrna_cli.errors import UsageError
from protrna_cli.machine import available_cpus, cpu_flags, parse_device
from protrna_cli.model.structure import Placer
from protrna_cli.text import counted

_process: int | None = None
"""Id of the process in which TensorFlow runs; None before it is configured."""


def refuse_fork() -> None:
    """Refuse to use TensorFlow in a process that was forked from one in which it runs: it would wait forever.

    Raises
    ------
    UsageError
        This is such a process.
    """
    if _process not in (None, os.getpid()):
        raise UsageError(
            "this process was forked from one in which TensorFlow runs, and would wait for it forever; start "
            'it with multiprocessing.get_context("spawn"), or load the model only in the new processes'
        )


def configure(device: str = "auto", threads: int | None = None) -> str:
    """Set the device and number of threads that TensorFlow uses, and turn TF32 off.

    Parameters
    ----------
    device
        `auto` (the first GPU, or the CPU if there is none), `cpu`, `gpu` or `gpu:N`.
    threads
        CPU threads; by default `available_cpus()`.

    Returns
    -------
    str
        The device that is used: `cpu` or `gpu:N`.

    Raises
    ------
    UsageError
        The device does not exist, TensorFlow has already started with other settings in this process, or this
        process was forked from one in which it runs.
    """
    global _process
    refuse_fork()
    _process = os.getpid()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpu = _find_gpu(device)
    threads = threads or available_cpus()
    try:
        if tf.config.threading.get_intra_op_parallelism_threads() != threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        if tf.config.get_visible_devices("GPU") != ([gpu] if gpu else []):
            tf.config.set_visible_devices([gpu] if gpu else [], "GPU")
        if gpu:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise UsageError(
            f"set device and threads before TensorFlow first runs in this process ({error})"
        ) from error
    return f"gpu:{gpu.name.rpartition(':')[2]}" if gpu else "cpu"


def placer(precision: str) -> Placer:
    """Return a function that puts a weight onto the device: matmul kernels in `precision`, others in float32.

    A constant made from an array keeps the array in memory besides its own copy, so that all weights would
    take twice their size (TensorFlow 2.21). A deep copy of the constant does not, and loads three times as
    fast.
    """

    def place(name: str, values: npt.NDArray[np.float32]) -> Any:
        constant = tf.constant(values)
        if precision == "bfloat16" and name.endswith("_kernel"):
            return tf.cast(constant, tf.bfloat16)
        return tf.raw_ops.DeepCopy(x=constant)

    return place


def gpu_names() -> tuple[str, ...]:
    """Names of the GPUs that TensorFlow sees."""
    gpus = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, gpus)
    return tuple(str(each.get("device_name", "unknown")) for each in details)


def bfloat16_is_fast() -> bool:
    """Whether the configured device multiplies bfloat16 several times faster than float32.

    True for CPUs with AMX and for GPUs of compute capability 8.0 (Ampere) or more.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return "amx_bf16" in cpu_flags()
    details = tf.config.experimental.get_device_details(gpus[0])
    return bool(details.get("compute_capability", (0, 0)) >= (8, 0))


def _find_gpu(device: str) -> Any:
    kind, number = parse_device(device)
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "cpu" or (kind == "auto" and not gpus):
        return None
    if number >= len(gpus):
        raise UsageError(
            f"there is no {device}: TensorFlow sees {counted(len(gpus), 'GPU')}; use --device cpu"
        )
    return gpus[number]
