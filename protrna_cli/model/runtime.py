"""Devices and threads: what this process may use, told to TensorFlow before it starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from protrna_cli.errors import UsageError
from protrna_cli.machine import available_cpus, cpu_flags, parse_device
from protrna_cli.model.structure import Placer


def configure(device: str = "auto", threads: int | None = None) -> str:
    """Tell TensorFlow which device and how many threads to use; float32 means float32 (no TF32).

    Parameters
    ----------
    device
        `auto` (the first GPU, else the CPU), `cpu`, `gpu` or `gpu:N`.
    threads
        Threads for the CPU; by default `available_cpus()`.

    Returns
    -------
    str
        The device that will be used: `cpu` or `gpu:N`.

    Raises
    ------
    UsageError
        No such device, or TensorFlow has already started with other settings in this process.
    """
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
    """Give what puts weights onto the device: the kernels of matmuls in `precision`, all others in float32.

    A constant made from an array keeps the array's memory beside its own for as long as it lives, twice the
    weights in all (TensorFlow 2.21); a copy of it does not, and loads three times as fast.
    """

    def place(name: str, values: npt.NDArray[np.float32]) -> Any:
        constant = tf.constant(values)
        if precision == "bfloat16" and name.endswith("_kernel"):
            return tf.cast(constant, tf.bfloat16)
        return tf.raw_ops.DeepCopy(x=constant)

    return place


def gpu_names() -> tuple[str, ...]:
    """Say what GPUs TensorFlow sees."""
    gpus = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, gpus)
    return tuple(str(each.get("device_name", "unknown")) for each in details)


def bfloat16_is_fast() -> bool:
    """Whether the device that is configured multiplies bfloat16 several times faster than float32.

    CPUs with AMX do, and GPUs of compute capability 8.0 (Ampere) or more.
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
        raise UsageError(f"TensorFlow sees {len(gpus)} GPUs here, so not {device}; use --device cpu")
    return gpus[number]
