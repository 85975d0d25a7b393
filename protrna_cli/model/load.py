"""Load a model onto a device: from its checkpoint, or from a file of its weights that is mapped into memory.

Such a file is laid out once, then ready in milliseconds. A mapped weight is the page cache of its file. It
takes no memory of the process, and all processes of a machine share it. The published layout cannot be
mapped: its weights are not aligned.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
import numpy.typing as npt

from protrna_cli.machine import LOAD_BYTES, check_address_space
from protrna_cli.model import runtime
from protrna_cli.model.checkpoint import read_checkpoint
from protrna_cli.model.reading import WriteError
from protrna_cli.model.structure import ModelSize, ModelWeights, for_each_weight
from protrna_cli.model.transformer import ProtRNA

ALIGNMENT = 64
"""Bytes. TensorFlow takes an unaligned tensor without a word, and aborts in its first matmul."""

_STORED = {"float32": np.float32, "bfloat16": np.uint16}
_BYTES = {"float32": 4, "bfloat16": 2}


class Span(TypedDict):
    """Where a weight is in the file: its dtype, its shape, and the offset of its first byte."""

    dtype: str
    shape: list[int]
    offset: int


class Layout(TypedDict):
    """What is in a file of weights."""

    size: list[int]  # layers, width and heads
    weights: list[Any]  # the spans of all weights, nested as `ModelWeights`
    sha256: str  # of the file, in hexadecimal


def lay_out(checkpoint: Path, precision: str, target: BinaryIO) -> Layout:
    """Write the weights of a checkpoint to a file, in the precision in which the model computes.

    Raises OSError: the file cannot be written.
    """
    import tensorflow as tf  # not above: `runtime` must be the first to import it, as it looks at the limits

    digest = hashlib.sha256()

    def write(data: bytes | memoryview) -> None:
        try:
            target.write(data)
        except OSError as error:  # not one of reading the checkpoint, in which it happens
            raise WriteError(error) from error
        digest.update(data)

    make = runtime.placer(precision)

    def place(name: str, values: npt.NDArray[np.float32]) -> Span:
        write(bytes(-target.tell() % ALIGNMENT))
        offset = target.tell()
        tensor = make(name, values)
        write(tf.reshape(tf.bitcast(tensor, tf.uint8), (-1,)).numpy().data)
        return Span(dtype=tensor.dtype.name, shape=tensor.shape.as_list(), offset=offset)

    try:
        with runtime.running_on("/device:CPU:0"):  # in a program with a GPU, that would be the default
            size, weights = read_checkpoint(checkpoint, place)
    except WriteError as failed:
        raise failed.error from None
    return Layout(
        size=[size.layers, size.width, size.heads], weights=list(weights), sha256=digest.hexdigest()
    )


def map_weights(path: Path, layout: Layout) -> tuple[ModelSize, ModelWeights]:
    """Map a file of weights into memory, as tensors on the CPU.

    Raises OSError: the file cannot be read.
    Raises ValueError, TypeError, KeyError: the layout is not that of the file.
    """
    import tensorflow as tf

    with path.open("rb") as file:
        # Private and writable, as NumPy gives no others away; nothing writes, so that all pages stay shared.
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    mapped.madvise(mmap.MADV_WILLNEED)
    whole = np.frombuffer(mapped, np.uint8)

    def tensor(span: Span) -> Any:
        dtype, shape, start = span["dtype"], span["shape"], span["offset"]
        values = whole[start : start + math.prod(shape) * _BYTES[dtype]].view(_STORED[dtype]).reshape(shape)
        if values.ctypes.data % ALIGNMENT:
            raise ValueError(f"a weight at byte {start} is not aligned")
        shared = tf.experimental.dlpack.from_dlpack(values.__dlpack__())
        return tf.bitcast(shared, tf.bfloat16) if dtype == "bfloat16" else shared

    return ModelSize(*layout["size"]), for_each_weight(tensor, ModelWeights(*layout["weights"]))


def load_checkpoint(
    path: Path | None,
    precision: str,
    device: str,
    threads: int | None,
    find_mapped: Callable[[], tuple[Path, Layout] | None] = lambda: None,
) -> ProtRNA:
    """Load a model from a checkpoint, or the built-in demo model if `path` is None.

    precision: precision of matrix multiplication: `float32` or `bfloat16`.
    device, threads: see `runtime.configure`.
    find_mapped: finds a file of the same weights that can be mapped into memory, for a model on the CPU.
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
