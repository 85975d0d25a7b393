"""Replace the values `auto` of the options by what suits this machine, or by what the run to resume used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protrna_cli.errors import ProtrnaError
from protrna_cli.machine import Gpu, parse_device, visible_gpus
from protrna_cli.output.parts import read_joined
from protrna_cli.output.paths import journal_path, manifest_path
from protrna_cli.plan.values import AUTO
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.precision import faster_precision
from protrna_cli.run.seats import threads_of_worker

if TYPE_CHECKING:
    from protrna_cli.model.transformer import ProtRNA

CPU_TOKENS = 2048
"""Fewest tokens of a batch. On two threads neither 4,096 nor 8,192 are faster: four layers of the published
model run 1,468 tokens/s in float32 against 1,366 and 1,396, and 2,978 in bfloat16 against 2,942 and 3,055."""

TOKENS_A_THREAD = 1024
MOST_CPU_TOKENS = 16_384

GPU_TOKENS = 8192
"""Tokens of a batch on a GPU whose free memory is small or not known."""

MOST_GPU_TOKENS = 32_768

GPU_TOKEN_BYTES = 256 << 10
"""Memory of a token in a batch of the published model: 17 arrays of its width, and its attention scores if
its sequence has 510 residues, in float32; some 170 KiB, and half of that again for what runs beside it."""


def settle(options: EmbedOptions, outputs: Sequence[Path] = ()) -> EmbedOptions:
    """Replace `auto` by a value: the precision, and the token budget of a batch.

    Parameters
    ----------
    outputs
        The outputs of the run. If one is to be resumed, its values are taken.
    """
    if AUTO not in (options.precision, options.batch_tokens):
        return options
    earlier = next(filter(None, map(_key_of_earlier, outputs)), {}) if options.resume else {}
    if options.precision == AUTO:
        options = replace(options, precision=earlier.get("precision") or faster_precision(options))
    if options.batch_tokens == AUTO:
        options = replace(options, batch_tokens=earlier.get("batch_tokens") or _batch_tokens(options))
    return options


def batch_tokens_of(model: ProtRNA) -> int:
    """Token budget of a batch for a model that is loaded, the same as for a run of the command."""
    from protrna_cli.model import runtime

    return _gpu_tokens(visible_gpus()) if "GPU" in model.device else _cpu_tokens(runtime.threads())


def _cpu_tokens(threads: int) -> int:
    return min(max(CPU_TOKENS, TOKENS_A_THREAD * threads), MOST_CPU_TOKENS)


def _gpu_tokens(gpus: Sequence[Gpu]) -> int:
    """As many as fit into half of what is free on each GPU."""
    free = min((gpu.free or 0 for gpu in gpus), default=0)
    return max(GPU_TOKENS, min(free // 2 // GPU_TOKEN_BYTES, MOST_GPU_TOKENS))


def _batch_tokens(options: EmbedOptions) -> int:
    """Choose the token budget; TensorFlow, whose import takes seconds, is asked only if there is a GPU."""
    if parse_device(options.device)[0] != "cpu" and (gpus := visible_gpus()):
        from protrna_cli.model import runtime

        if runtime.configure(options.device, options.threads) != "cpu":
            return _gpu_tokens(gpus)
    return _cpu_tokens(threads_of_worker(options))


def _key_of_earlier(output: Path) -> dict[str, Any]:
    """Read the key of an unfinished run, or of a complete output; empty if there is neither."""
    with suppress(OSError, ValueError, IndexError):
        return _object(json.loads(journal_path(output).read_text("utf-8").splitlines()[0]))
    with suppress(OSError, ValueError):
        return _object(_object(json.loads(manifest_path(output).read_text("utf-8"))).get("key"))
    with suppress(ProtrnaError):
        return read_joined(output)[0].provenance
    return {}


def _object(value: Any) -> dict[str, Any]:
    """Take a JSON object; a damaged file, which is reported later, may hold anything."""
    return value if isinstance(value, dict) else {}
