"""Measure protrna on a GPU: whether its numbers are right, how fast it is, and how fast the card could be.

    python -m tests.benchmarks.gpu INPUT.fa [--batch-tokens 8192 32768 131072] [--times 3]

Prints one JSON line per measurement, as soon as it is made. The model has random weights, made on the device.
Tokens are residues plus two per piece; every rate is of a second pass, when all shapes are compiled, and
`first_s` is the time of the first. `--device cpu --layers 2 --width 64 --heads 4` tries the script anywhere.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from protrna_cli import load_model
from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.records import Record
from protrna_cli.fasta.sources import open_sources
from protrna_cli.libraries import own_process
from protrna_cli.model import runtime
from protrna_cli.model.structure import LayerWeights, ModelSize, weight_shapes
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.plan.rules import DEFAULT_RULES
from protrna_cli.plan.shard import WHOLE
from protrna_cli.run.workers import InProcess
from tests.benchmarks.speed import chunk_of, embed_batches

GOLDEN = Path(__file__).parents[1] / "golden"
PRECISIONS = ("float32", "bfloat16")


def report(what: str, **found: Any) -> None:
    """Print a measurement."""
    print(json.dumps({"what": what, **found}), flush=True)


def golden_errors(device: str) -> Iterator[tuple[str, float]]:
    """Yield the largest difference to the published implementation's outputs, per golden checkpoint."""
    for name in ("toy", "head64"):
        model = load_model(GOLDEN / f"{name}.h5", device=device)
        with np.load(GOLDEN / f"{name}.npz") as golden:
            indices = range(model.size.layers + 1)
            layers = model(golden["tokens"], repr_layers=indices)["representations"]
            yield name, max(float(np.abs(layers[i] - golden[f"layer_{i}"]).max()) for i in indices)


def random_model(size: ModelSize, precision: str, device: str) -> ProtRNA:
    """Make a model of random weights on a device."""
    shapes = weight_shapes(size)
    seed = iter(range(10**6))

    def weight(name: str, shape: tuple[int, ...]) -> Any:
        if name == "inv_freq":
            return tf.constant(10000.0 ** (-np.arange(shape[0]) / shape[0]), tf.float32)
        values = tf.random.stateless_normal(shape, (next(seed), 0))
        if name.endswith("_kernel"):
            return tf.transpose(tf.cast(0.7 * values / shape[0] ** 0.5, precision))
        return values * 0.1 + float(name.endswith("gamma"))

    def group(shapes: Any) -> Any:
        return type(shapes)(*(weight(name, shape) for name, shape in shapes._asdict().items()))

    with runtime.running_on(device):
        layers: tuple[LayerWeights, ...] = tuple(map(group, shapes.layers))
        weights = shapes._replace(
            embedding=weight("embedding", shapes.embedding),
            layers=layers,
            final_norm=group(shapes.final_norm),
            lm_head=group(shapes.lm_head),
        )
    return ProtRNA(size, weights, precision, device)


def matmul_rate(precision: str, device: str, rows: int, inner: int, columns: int) -> float:
    """Measure a plain matmul, in operations per second: the limit for any implementation."""
    repeats = 20
    with runtime.running_on(device):
        left = tf.cast(tf.random.stateless_normal((rows, inner), (1, 2)), precision)
        right = tf.cast(tf.random.stateless_normal((columns, inner), (3, 4)), precision)
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            for _ in range(repeats):
                result = tf.matmul(left, right, transpose_b=True)
            result[0, 0].numpy()
            seconds.append(time.perf_counter() - started)
    return 2 * rows * inner * columns * repeats / min(seconds)


def read_records(fasta: Path, times: int) -> list[Record]:
    """Read all records, several times over."""
    with open_sources([fasta]) as sources:
        items = take_census(sources, DEFAULT_RULES).records(WHOLE, 1)
        return [item for item in items if isinstance(item, Record)] * times


def engine(model: ProtRNA, records: list[Record], budget: int) -> dict[str, Any]:
    """Time the forward pass and pooling of all batches of these records, twice."""
    chunk = chunk_of(records, budget)
    tokens = sum(piece.length + 2 for piece in chunk.pieces)
    gpu = model.device.removeprefix("/device:") if "GPU" in model.device else None
    if gpu:
        tf.config.experimental.reset_memory_stats(gpu)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        with InProcess(model) as embedder:
            embed_batches(embedder, chunk, chunk.batches, model.size.layers)
        seconds.append(time.perf_counter() - started)
    found = {"tokens": tokens, "batches": len(chunk.batches), "tokens_per_s": round(tokens / seconds[1])}
    if gpu:
        found["peak_gib"] = round(tf.config.experimental.get_memory_info(gpu)["peak"] / 2**30, 2)
    return {**found, "first_s": round(seconds[0], 1), "second_s": round(seconds[1], 2)}


def main() -> None:
    """Measure everything, the most valuable first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fasta", type=Path)
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS[::-1])
    parser.add_argument("--batch-tokens", nargs="+", type=int, default=[32_768, 131_072, 8_192])
    parser.add_argument("--times", type=int, default=3, help="how often the input is repeated")
    parser.add_argument("--layers", type=int, default=33)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--heads", type=int, default=20)
    args = parser.parse_args()
    own_process()
    name = runtime.tensorflow_name(runtime.configure(args.device))
    report("machine", tensorflow=runtime.tensorflow_version(), gpus=runtime.gpu_names(), device=name)
    for checkpoint, error in golden_errors(args.device):
        report("golden", checkpoint=checkpoint, largest_difference=error)
    size = ModelSize(args.layers, args.width, args.heads)
    records = read_records(args.fasta, args.times)
    for precision in args.precision:
        rate = matmul_rate(precision, name, args.batch_tokens[0], size.width, 4 * size.width)
        report("matmul", precision=precision, tflops=round(rate / 1e12, 3))
        model = random_model(size, precision, name)
        for budget in args.batch_tokens:
            found = engine(model, records, budget)
            share = found["tokens_per_s"] * size.operations / rate
            report("engine", precision=precision, batch_tokens=budget, **found, share=round(share, 3))


if __name__ == "__main__":
    main()
