"""Measure speed against error: protrna and what people would run instead, with equal weights.

    python -m tests.benchmarks.peers INPUT.fa CHECKPOINT.h5 > figures.jsonl
    python -m tests.benchmarks.peers --draw figures.jsonl PICTURE.svg

The others are Hugging Face's EsmModel with SDPA and fair-esm's ESM2 (PyTorch, both in batches of 1,024
tokens that are sorted by length) and esm.cpp (packed by itself): `pip install torch transformers fair-esm
esm-cpp`. All have the weights of CHECKPOINT.h5 and two threads. Each measurement is made in its own
process, in turn; start-up is not counted, but what protrna compiles is. The error of a row, the mean of its
residues, is its distance to that in float64 (tests/tools/reference.py), relative to the length of that. It
is measured on every fourth record, and the median counts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from Bio import SeqIO

from protrna_cli.machine import cpu_flags
from protrna_cli.model.alphabet import Alphabet

BUDGET, EVERY = 1024, 4
PAD = Alphabet().padding_idx
MATRIX_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
FAIR_ESM = {
    "esm.embeddings.word_embeddings": "embed_tokens",
    "esm.encoder.emb_layer_norm_after": "emb_layer_norm_after",
    "esm.encoder.layer": "layers",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    ".LayerNorm": ".final_layer_norm",
    "lm_head.decoder": "lm_head",
    "lm_head.layer_norm": "lm_head.layer_norm",
}
"""Names of weights of Hugging Face's model, and those of fair-esm, in the order of their replacement."""

Rows = Any  # a float array (N, D)


@dataclass(frozen=True)
class Engine:
    """A model that is loaded: `run` is what is timed, `rows` what gives the rows if `run` does not."""

    run: Callable[[list[str]], Any]
    rows: Callable[[list[str]], Rows] | None = None


def batches(tokens: list[np.ndarray]) -> Iterator[list[int]]:
    """Group sequences, longest first, under the budget, pads included."""
    batch: list[int] = []
    for i in sorted(range(len(tokens)), key=lambda i: -len(tokens[i])):
        if batch and len(tokens[batch[0]]) * (len(batch) + 1) > BUDGET:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def pooled(vectors: Any) -> Any:
    """Mean of the residues of (T, D), without the marks at both ends."""
    return np.asarray(vectors, np.float64)[1:-1].mean(axis=0)


def protrna(precision: str, checkpoint: Path, export: Path) -> Engine:
    from protrna_cli import embed, load_model

    model = load_model(checkpoint, precision=precision)
    return Engine(lambda sequences: embed(sequences, model))


def in_pytorch(call: Callable[[Any, Any], Any]) -> Engine:
    """Run a model of PyTorch: `call` takes tokens (B, T) and their mask, and returns vectors (B, T, D)."""
    import torch

    def run(sequences: list[str]) -> Rows:
        tokens = tokens_of(sequences)
        rows: list[Any] = [None] * len(tokens)
        for batch in batches(tokens):
            width = len(tokens[batch[0]])
            padded = [np.pad(tokens[i], (0, width - len(tokens[i])), constant_values=PAD) for i in batch]
            ids = torch.tensor(np.array(padded), dtype=torch.long)
            mask = ids != PAD
            with torch.inference_mode():
                vectors = call(ids, mask).float()
                residues = mask.clone()
                residues[:, 0] = False
                residues[torch.arange(len(batch)), mask.sum(1) - 1] = False
                means = (vectors * residues[..., None]).sum(1) / residues.sum(1, keepdim=True)
            for i, mean in zip(batch, means.numpy(), strict=True):
                rows[i] = mean
        return np.array(rows)

    return Engine(run)


def hugging_face(precision: str, checkpoint: Path, export: Path) -> Engine:
    import torch
    from transformers import EsmModel

    torch.set_num_threads(2)
    dtype = getattr(torch, precision)
    model = EsmModel.from_pretrained(export, dtype=dtype, attn_implementation="sdpa", add_pooling_layer=False)
    model.eval()
    return in_pytorch(lambda ids, mask: model(input_ids=ids, attention_mask=mask.long()).last_hidden_state)


def fair_esm(precision: str, checkpoint: Path, export: Path) -> Engine:
    import esm
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(2)
    settings = json.loads((export / "config.json").read_text())
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    alphabet.all_toks = Alphabet().all_toks  # the same special tokens, but five more
    layers = settings["num_hidden_layers"]
    model = esm.model.esm2.ESM2(
        layers, settings["hidden_size"], settings["num_attention_heads"], alphabet, token_dropout=False
    )
    weights = {}
    for name, weight in load_file(export / "model.safetensors").items():
        for theirs, ours in FAIR_ESM.items():
            name = name.replace(theirs, ours)
        weights[name] = weight
    weights["lm_head.weight"] = weights["embed_tokens.weight"]
    missing, left = model.load_state_dict(weights, strict=False)
    missing = [
        name
        for name in missing
        if not name.startswith(("contact_head", "lm_head")) and "inv_freq" not in name
    ]
    left = [name for name in left if not name.startswith("lm_head") and "inv_freq" not in name]
    if missing or left:
        raise SystemExit(f"fair-esm: missing {missing}, left over {left}")
    model.eval().to(getattr(torch, precision))
    return in_pytorch(lambda ids, mask: model(ids, repr_layers=[layers])["representations"][layers])


def esm_cpp(precision: str, checkpoint: Path, export: Path) -> Engine:
    import esm_cpp as library
    from safetensors.numpy import load_file, save_file

    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "model.safetensors"
        weights = load_file(export / "model.safetensors")
        # It takes 33 tokens only: the five of RNA go where five protein letters were.
        embedding = weights["esm.embeddings.word_embeddings.weight"]
        embedding = np.concatenate([embedding[:4], embedding[33:38], embedding[9:33]])
        embedding /= 0.88  # by which it always multiplies, for ESM-2's token dropout
        weights["esm.embeddings.word_embeddings.weight"] = embedding
        weights["lm_head.decoder.weight"] = embedding.copy()
        weights["lm_head.bias"] = weights["lm_head.bias"][:33].copy()
        save_file(weights, file, metadata={"format": "pt"})
        model = library.Model.load_from_safetensors(str(file))
    if precision == "int8":
        model.quantize_weights()

    def ours(sequences: list[str]) -> list[np.ndarray]:
        return [np.where(ids < 33, ids, ids - 29).astype(np.int32) for ids in tokens_of(sequences)]

    def rows(sequences: list[str]) -> Rows:  # one sequence at a time
        return np.array([pooled(model.forward_with_hidden_states(ids)[1][-1]) for ids in ours(sequences)])

    return Engine(lambda sequences: model.forward_scheduled(ours(sequences)), rows)


ENGINES: dict[str, tuple[Callable[[str, Path, Path], Engine], tuple[str, ...], str]] = {
    "protrna": (protrna, ("float32", "bfloat16"), "tensorflow"),
    "Hugging Face, SDPA": (hugging_face, ("float32", "bfloat16"), "transformers"),
    "fair-esm": (fair_esm, ("float32", "bfloat16"), "fair-esm"),
    "esm.cpp": (esm_cpp, ("float32", "int8"), "esm-cpp"),
}
"""What runs a model, by name: what loads it, its precisions, and the package whose version is told."""


def measure(engine: str, precision: str, fasta: Path, checkpoint: Path, work: Path) -> dict[str, Any]:
    """Time an engine, and compare its rows with those in float64."""
    sequences = read(fasta)
    load, _, package = ENGINES[engine]
    started = time.perf_counter()
    loaded = load(precision, checkpoint, work / "export")
    startup = time.perf_counter() - started
    if (
        engine != "protrna"
    ):  # a first batch, for what is made on first use; ours compiles shapes, which is counted
        loaded.run(sequences[:1])
    started = time.perf_counter()
    rows = loaded.run(sequences)
    seconds = time.perf_counter() - started
    rows = loaded.rows(sequences[::EVERY]) if loaded.rows else rows[::EVERY]
    true = np.load(work / "float64.npy")
    errors = np.linalg.norm(rows - true, axis=1) / np.linalg.norm(true, axis=1)
    count = sum(map(len, tokens_of(sequences)))
    return {
        "engine": engine,
        "version": f"{package} {metadata.version(package)}",
        "precision": precision,
        "tokens": count,
        "seconds": round(seconds, 2),
        "tokens_per_s": round(count / seconds, 1),
        "startup_s": round(startup, 1),
        "error": float(f"{np.median(errors):.3g}"),
        "largest_error": float(f"{errors.max():.3g}"),
    }


def read(fasta: Path) -> list[str]:
    """Read the sequences of a FASTA file."""
    with fasta.open() as file:
        return [str(record.seq) for record in SeqIO.parse(file, "fasta")]


def tokens_of(sequences: list[str]) -> list[np.ndarray]:
    """Make the tokens of sequences, int32 (T,), as protrna makes them."""
    alphabet = Alphabet()
    ends = [alphabet.cls_idx], [alphabet.eos_idx]
    return [
        np.concatenate([ends[0], alphabet.residue_ids(text), ends[1]]).astype(np.int32) for text in sequences
    ]


def prepare(fasta: Path, checkpoint: Path, work: Path) -> None:
    """Compute the rows in float64, and export the weights for the others."""
    from tests.tools.reference import forward, read_weights

    weights = read_weights(checkpoint)
    tokens = tokens_of(read(fasta))
    np.save(
        work / "float64.npy",
        [pooled(forward(weights, ids[None]).representations[-1][0]) for ids in tokens[::EVERY]],
    )
    words = [sys.executable, "-m", "protrna_cli", "weights", "export", work / "export", "--model", checkpoint]
    subprocess.run([str(word) for word in words], check=True, stdout=sys.stderr)


def machine() -> dict[str, Any]:
    """Say what machine this is, and what day."""
    with open("/proc/cpuinfo") as file:  # noqa: PTH123
        [name] = {line.partition(":")[2].strip() for line in file if line.startswith("model name")}
    features = [flag for flag in MATRIX_FLAGS if flag in cpu_flags()]
    best = features[0] if features else platform.machine()
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores of {name}, {best}",
        "date": datetime.date.today().isoformat(),
    }


def summary(lines: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[float, float]]:
    """Best rate of each engine and precision, since others on a machine only slow it down, and the error."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if "engine" in line:
            found.setdefault((line["engine"], line["precision"]), []).append(line)
    return {
        key: (
            max(line["tokens_per_s"] for line in group),
            max(line["error"] for line in group),
        )
        for key, group in found.items()
    }


STYLES = {
    "protrna": ("#0b6e4f", "center", (0, 12)),
    "Hugging Face, SDPA": ("#c05a00", "left", (-4, -34)),
    "fair-esm": ("#7a5195", "right", (-10, -34)),
    "esm.cpp": ("#4a6fa5", "center", (0, 12)),
}
"""Colour of an engine, and where its label is, in points from its mark: apart where engines are alike."""

MARKERS = {"float32": "o", "bfloat16": "s", "int8": "^"}


def error_text(error: float) -> str:
    """Write a relative error: in percent, or as a power of ten if that is small."""
    return f"{error:.1%}" if error > 1e-4 else f"{error:.0e}".replace("e-0", "e-")


def draw(figures: Path, picture: Path) -> None:
    """Draw rate against error, one mark for each engine and precision."""
    import matplotlib
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in figures.read_text().splitlines()]
    [about] = [line for line in lines if "machine" in line]
    found = summary(lines)
    style = {"svg.fonttype": "none", "svg.hashsalt": "protrna", "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for (engine, precision), (rate, error) in found.items():
            colour, side, offset = STYLES[engine]
            ours = engine == "protrna"
            axes.plot(rate, error, MARKERS[precision], color=colour, markersize=12 if ours else 8, zorder=3)
            axes.annotate(
                f"{engine} {precision}\n{rate:,.0f} tokens/s, {error_text(error)}",
                (rate, error),
                xytext=offset,
                textcoords="offset points",
                ha=side,
                va="bottom",
                fontsize=8.5,
                weight="bold" if ours else "normal",
                color=colour,
            )
        rates, errors = zip(*found.values(), strict=True)
        axes.set_yscale("log")
        axes.set_xlim(0, 1.12 * max(rates))
        axes.set_ylim(min(errors) / 100, 50 * max(errors))
        axes.set_xlabel("tokens/s (faster to the right)")
        axes.set_ylabel("error of a vector, relative to float64\n(more exact to the bottom)")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        figure.supxlabel(
            f"Equal weights of full size, {about['machine']}, {about['date']}", fontsize=8, color="#555555"
        )
        figure.savefig(picture, metadata={"Date": None})


def main() -> None:
    """Measure everything in turn, each in its own process, or draw what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--draw", action="store_true", help="INPUT is a file of figures, CHECKPOINT a picture to make"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        draw(args.input, args.checkpoint)
    elif args.only:
        print(json.dumps(measure(*args.only, args.input, args.checkpoint, args.work)), flush=True)
    else:
        print(json.dumps(machine()), flush=True)
        with tempfile.TemporaryDirectory() as work:
            prepare(args.input, args.checkpoint, Path(work))
            again = [
                sys.executable,
                "-m",
                "tests.benchmarks.peers",
                args.input,
                args.checkpoint,
                "--work",
                work,
            ]
            for _ in range(args.rounds):
                for engine in args.engines:
                    for precision in ENGINES[engine][1]:
                        subprocess.run([*map(str, again), "--only", engine, precision], check=True)


if __name__ == "__main__":
    main()
