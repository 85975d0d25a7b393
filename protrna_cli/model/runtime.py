"""TensorFlow's devices, threads and processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from protrna_cli.errors import TensorFlowUnusable, UsageError
from protrna_cli.libraries import importing_tensorflow, is_own_process, starting_quietly
from protrna_cli.machine import available_cpus, gpu_cards, parse_device
from protrna_cli.model.structure import Placer
from protrna_cli.text import counted

with importing_tensorflow():
    import tensorflow as tf

_process: int | None = None
"""Id of the process in which TensorFlow runs; None before it is configured."""


def refuse_fork() -> None:
    """Refuse a process that was forked from one in which TensorFlow runs: it would wait for it forever."""
    if _process not in (None, os.getpid()):
        raise UsageError(
            "this process was forked from one in which TensorFlow runs, and would wait for it forever; start "
            'it with multiprocessing.get_context("spawn"), or load the model only in the new processes'
        )


def configure(device: str = "auto", threads: int | None = None) -> str:
    """Choose a device, and set up TensorFlow for it as far as this process is ours.

    In a process of our own (see `libraries.own_process`) TensorFlow gets this device only, `available_cpus()`
    threads by default, and memory of the GPU as needed, and the GPU is tried. In any other process nothing is
    set but `threads`, if they are given.

    device: `auto` (the first GPU, or the CPU if there is none), `cpu`, `gpu` or `gpu:N`.
    threads: CPU threads of the whole process.

    Returns the device: `cpu` or `gpu:N`.
    """
    global _process
    refuse_fork()
    first, _process = _process is None, os.getpid()
    if not first:
        return _configure(device, threads)
    with starting_quietly() as quiet:
        name = _configure(device, threads)
        if quiet:
            _wake(tensorflow_name(name))
    return name


def _configure(device: str, threads: int | None) -> str:
    gpu = _find_gpu(device)
    try:
        if is_own_process():
            _take_process(gpu)
            threads = threads or available_cpus()
        if threads and tf.config.threading.get_intra_op_parallelism_threads() != threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise UsageError(
            f"set device and threads before TensorFlow first runs in this process ({error})"
        ) from error
    if gpu and is_own_process():
        _try(gpu)
    return f"gpu:{gpu.name.rpartition(':')[2]}" if gpu else "cpu"


def _wake(device: str) -> None:
    """Compute something, so that TensorFlow says now what it says when it first computes."""
    with suppress(tf.errors.OpError), tf.device(device):  # a model meets the error too
        _multiply(tf.ones((8, 8)))


def _multiply(x: Any) -> None:
    """Compute with each of the libraries that a model needs."""
    tf.matmul(x, x).numpy()
    tf.function(lambda x: tf.tanh(tf.matmul(x, x)), jit_compile=True)(x).numpy()


@cache
def _try(gpu: Any) -> None:
    """Compute something on the only visible GPU, with each of the libraries that a model needs there."""
    try:
        with tf.device("/device:GPU:0"):
            _multiply(tf.ones((8, 8)))
    except tf.errors.OpError as error:
        [name] = _names([gpu])
        reason = next(iter(error.message.splitlines()), type(error).__name__)
        raise TensorFlowUnusable(
            f"TensorFlow {tensorflow_version()} sees the GPU {name}, but cannot compute on it ({reason}); "
            "use --device cpu, or install a TensorFlow that supports this GPU and its driver"
        ) from error


def _take_process(gpu: Any) -> None:
    """Hide all GPUs but this one (None: all), take its memory as needed, and turn TF32 off."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if tf.config.get_visible_devices("GPU") != ([gpu] if gpu else []):
        tf.config.set_visible_devices([gpu] if gpu else [], "GPU")
    if gpu:
        tf.config.experimental.set_memory_growth(gpu, True)


def threads() -> int:
    """CPU threads of TensorFlow in this process."""
    return int(tf.config.threading.get_intra_op_parallelism_threads()) or available_cpus()


def tensorflow_name(device: str) -> str:
    """TensorFlow's name of a device that `configure` returned; it counts the visible GPUs only."""
    gpu = _find_gpu(device)
    return f"/device:GPU:{tf.config.get_visible_devices('GPU').index(gpu)}" if gpu else "/device:CPU:0"


@contextmanager
def running_on(device: str) -> Iterator[None]:
    """Run operations on a device, by TensorFlow's name, and in full float32.

    TF32 is a setting of the whole process. It is off in here and afterwards as it was before, so that
    programs which use it for their own models keep it.
    """
    refuse_fork()
    with tf.device(device), TF32_OFF if "GPU" in device else nullcontext():
        yield


class _Tf32Off:
    """Turns TF32 off while any thread is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = tf.config.experimental.tensor_float_32_execution_enabled()
                tf.config.experimental.enable_tensor_float_32_execution(False)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                tf.config.experimental.enable_tensor_float_32_execution(self._before)


TF32_OFF = _Tf32Off()


def placer(precision: str) -> Placer:
    """Return a function that puts a weight onto the device, as the model computes with it.

    Kernels of matmuls are transposed to (out, in), in `precision`; all others are in float32.

    A constant made from an array keeps the array in memory besides its own copy, so that all weights would
    take twice their size (TensorFlow 2.21). A deep copy of the constant does not, and loads three times as
    fast.
    """

    def place(name: str, values: npt.NDArray[np.float32]) -> Any:
        constant = tf.constant(values)
        if name.endswith("_kernel"):
            return tf.transpose(tf.cast(constant, precision))
        return tf.raw_ops.DeepCopy(x=constant)

    return place


def tensorflow_version() -> str:
    """Version of TensorFlow, whichever of its packages is installed: `tensorflow` or `tensorflow-cpu`."""
    return str(tf.__version__)


def gpu_names() -> tuple[str, ...]:
    """Names of the GPUs that TensorFlow sees."""
    return _names(tf.config.list_physical_devices("GPU"))


def gpu_name(device: str) -> str:
    """Name a GPU as its maker does, given TensorFlow's name of it."""
    return gpu_names()[int(device.rpartition(":")[2])]


def _names(gpus: Sequence[Any]) -> tuple[str, ...]:
    details = map(tf.config.experimental.get_device_details, gpus)
    return tuple(str(detail.get("device_name", "unknown")) for detail in details)


def unused_gpus() -> str | None:
    """Say which GPUs there are that TensorFlow does not see, why, and what to type; None without any."""
    if tf.config.list_physical_devices("GPU") or not (cards := gpu_cards()):
        return None
    why = "does not find its CUDA libraries" if tf.test.is_built_with_cuda() else "was built without CUDA"
    return (
        f"this machine has {', '.join(dict.fromkeys(cards))}, but TensorFlow {tensorflow_version()} {why}; "
        'run pip install "protrna-cli[gpu]" (from a clone pip install ".[gpu]"), then protrna doctor'
    )


def gpu_multiplies_bfloat16() -> bool:
    """Whether the first visible GPU has units for bfloat16: compute capability 8.0 (Ampere) or more."""
    details = tf.config.experimental.get_device_details(tf.config.get_visible_devices("GPU")[0])
    return bool(details.get("compute_capability", (0, 0)) >= (8, 0))


def _find_gpu(device: str) -> Any:
    """Find a GPU by our name; None for the CPU. Raises UsageError if it does not exist or is hidden."""
    kind, number = parse_device(device)
    visible = tf.config.get_visible_devices("GPU")
    if kind == "cpu" or (kind == "auto" and not visible):
        return None
    if kind == "auto":
        return visible[0]
    gpus = tf.config.list_physical_devices("GPU")
    if number >= len(gpus):
        raise UsageError(
            f"there is no {device}: TensorFlow sees {counted(len(gpus), 'GPU')}; "
            f"{unused_gpus() or 'use --device cpu'}"
        )
    if gpus[number] not in visible:
        raise UsageError(f"{device} is hidden from TensorFlow in this process; choose another device")
    return gpus[number]
