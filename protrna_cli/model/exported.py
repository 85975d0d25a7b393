"""The layout of exports: `model.safetensors` under Hugging Face's names, with `config.json` beside it.

ProtRNA has the architecture of ESM-2, Hugging Face's `EsmForMaskedLM`, so that nothing but names and the
order of axes differ: kernels are (out, in), as in PyTorch and as in our model. A safetensors file is the
length of its header (8 bytes), the header (JSON: dtype, shape and place of each tensor), and the tensors
without gaps.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from protrna_cli.disk import open_regular
from protrna_cli.model.alphabet import TOKENS, Alphabet
from protrna_cli.model.reading import (
    Flaw,
    WriteError,
    find_foreign,
    finite_float32,
    naming,
    not_protrna,
    reading,
)
from protrna_cli.model.structure import (
    VOCABULARY,
    HeadWeights,
    LayerWeights,
    ModelSize,
    ModelWeights,
    NormWeights,
    Placer,
    Shape,
    for_each_weight,
    rotary_frequencies,
    weight_names,
    weight_shapes,
)
from protrna_cli.text import counted, unreadable

EMBEDDING = "esm.embeddings.word_embeddings.weight"
TIED = "lm_head.decoder.weight"
"""The output kernel of the language-model head, which is the embedding; transformers does not store it."""

LAYER = re.compile(r"esm\.encoder\.layer\.(\d+)\.")

SHARED_FREQUENCIES = "esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq"
"""Rotary frequencies of all layers, as transformers 5 stores them; earlier ones store them for each layer."""

_UNUSED = re.compile(r"esm\.(contact_head\.regression\.(weight|bias)|embeddings\.position_ids)")
"""What transformers adds to a model that it saves: a head that ProtRNA does not have, and constants."""

_LAYER_NAMES = LayerWeights(
    query_kernel="attention.self.query.weight",
    query_bias="attention.self.query.bias",
    key_kernel="attention.self.key.weight",
    key_bias="attention.self.key.bias",
    value_kernel="attention.self.value.weight",
    value_bias="attention.self.value.bias",
    out_kernel="attention.output.dense.weight",
    out_bias="attention.output.dense.bias",
    inv_freq="attention.self.rotary_embeddings.inv_freq",
    norm1_gamma="attention.LayerNorm.weight",
    norm1_beta="attention.LayerNorm.bias",
    fc1_kernel="intermediate.dense.weight",
    fc1_bias="intermediate.dense.bias",
    fc2_kernel="output.dense.weight",
    fc2_bias="output.dense.bias",
    norm2_gamma="LayerNorm.weight",
    norm2_beta="LayerNorm.bias",
)


def stored_names(size: ModelSize) -> dict[str, str]:
    """Map our names of the weights of a model (see `weight_names`) to Hugging Face's."""
    layers = (
        LayerWeights(*(f"esm.encoder.layer.{i}.{name}" for name in _LAYER_NAMES)) for i in range(size.layers)
    )
    theirs = ModelWeights(
        embedding=EMBEDDING,
        layers=tuple(layers),
        final_norm=NormWeights(*(f"esm.encoder.emb_layer_norm_after.{name}" for name in ("weight", "bias"))),
        lm_head=HeadWeights(
            bias="lm_head.bias",
            dense_kernel="lm_head.dense.weight",
            dense_bias="lm_head.dense.bias",
            norm_gamma="lm_head.layer_norm.weight",
            norm_beta="lm_head.layer_norm.bias",
        ),
    )
    names: dict[str, str] = {}
    for_each_weight(names.__setitem__, weight_names(size), theirs)
    return names


def today_name(stored: str) -> str | None:
    """Return the name of a stored weight as we write it; None if the model does not use it.

    transformers 5 writes the names of TensorFlow's LayerNorm for a model that it did not load itself.
    """
    if _UNUSED.fullmatch(stored):
        return None
    if stored == "esm.rotary_embeddings.inv_freq":
        return SHARED_FREQUENCIES
    scope, _, last = stored.rpartition(".")
    if scope.endswith("LayerNorm") and last in ("gamma", "beta"):
        return f"{scope}.{'weight' if last == 'gamma' else 'bias'}"
    return stored


def config(size: ModelSize, precision: str) -> dict[str, Any]:
    """Make the config of a model."""
    return {
        "architectures": ["EsmForMaskedLM"],
        **_architecture(size),
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "is_folding_model": False,
        "max_position_embeddings": 1026,  # as in ESM-2; rotary positions have no end
        "pad_token_id": Alphabet().padding_idx,
        "eos_token_id": Alphabet().eos_idx,
        "mask_token_id": Alphabet().mask_idx,
        "torch_dtype": precision,  # `dtype` since transformers 5, which reads both
        "use_cache": False,
    }


def _architecture(size: ModelSize) -> dict[str, Any]:
    """What a config must say, so that Hugging Face's model computes what ours does."""
    return {
        "model_type": "esm",
        "vocab_size": VOCABULARY,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.width,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary",
        "rope_theta": 10000.0,
        "emb_layer_norm_before": False,
        "token_dropout": False,
        "is_decoder": False,
        "tie_word_embeddings": True,
    }


_IF_MISSING = ("rope_theta", "emb_layer_norm_before", "token_dropout", "is_decoder", "tie_word_embeddings")
"""Settings that transformers takes as ours where a config does not have them."""


def find_contradiction(settings: Mapping[str, Any], size: ModelSize) -> str | None:
    """Say what in a config is not so in our model of this size; None if nothing is."""
    for key, ours in _architecture(size).items():
        theirs = settings.get(key, ours if key in _IF_MISSING else None)
        if key == "emb_layer_norm_before" and theirs is None:
            continue
        if theirs != ours or isinstance(theirs, bool) != isinstance(ours, bool):
            return f"{key} is {theirs!r}, not {ours!r}"
    return None


SPECIAL_TOKENS = {
    "cls_token": "<cls>",
    "eos_token": "<eos>",
    "mask_token": "<mask>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}

TOKENIZER_CONFIG = {
    "tokenizer_class": "EsmTokenizer",
    "model_max_length": 1026,
    "clean_up_tokenization_spaces": False,
    **SPECIAL_TOKENS,
}

VOCABULARY_TEXT = "".join(f"{token}\n" for token in TOKENS)

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
VOCABULARY_FILE = "vocab.txt"

SAVE_AGAIN = "save or export it again (protrna help pytorch)"

LARGEST_TEXT = 1 << 20
"""Bytes of the largest config or vocabulary that is read; ours have a thousand."""

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Floating-point dtypes of safetensors."""

FREQUENCY_TOLERANCE = 1e-5
"""How far rotary frequencies may be from ours, relatively: float32 arithmetic differs by less."""


class Tensor(NamedTuple):
    """A tensor in a safetensors file; `start` is its first byte, counted from the end of the header."""

    dtype: str
    shape: Shape
    start: int

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.start + self.n_values * _BYTES[self.dtype]


def is_export(path: Path) -> bool:
    """Whether a file is the weights of an export, or of a model that transformers saved, by its name."""
    return path.suffix == ".safetensors"


def read_export(path: Path, place: Placer) -> tuple[ModelSize, ModelWeights]:
    """Read an export of any size; parameters as of `read_checkpoint`."""
    with naming(path, SAVE_AGAIN), reading():
        export = _survey(path)
        names = stored_names(export.size)
        with open_regular(path) as file:

            def read(name: str) -> Any:
                values = _values(file, export, names[name])
                return place(name, values.T if name.endswith("_kernel") else values)

            weights = for_each_weight(read, weight_names(export.size))
            if TIED in export.tensors and not np.array_equal(
                _values(file, export, TIED), _values(file, export, EMBEDDING)
            ):
                raise not_protrna(f"{TIED} is not the embedding, to which it is tied in ProtRNA")
        return export.size, weights


def read_export_size(path: Path) -> tuple[ModelSize, str]:
    """Read the size and dtypes of an export, as `read_size` does."""
    with naming(path, SAVE_AGAIN), reading():
        export = _survey(path)
        return export.size, ", ".join(sorted({_NAMES[tensor.dtype] for tensor in export.tensors.values()}))


@dataclass(frozen=True)
class _Export:
    """What is in an export: its size, its tensors by their names of today, and the end of the header."""

    size: ModelSize
    tensors: dict[str, Tensor]
    body: int


def _survey(path: Path) -> _Export:
    """Find every weight, and check everything that does not need its values."""
    stored, body = _header(path)
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if (today := today_name(name)) is None:
            continue
        if today in tensors:
            raise not_protrna(f"{today} is there twice, once as {name}")
        if tensor.dtype not in _BYTES:
            raise not_protrna(f"{name} has dtype {tensor.dtype}, not floating point")
        tensors[today] = tensor
    settings = _settings(path.with_name(CONFIG_FILE))
    size = _size(tensors, settings)
    if contradiction := find_contradiction(settings, size):
        raise not_protrna(f"in its {CONFIG_FILE}, {contradiction}")
    _check_vocabulary(path.with_name(VOCABULARY_FILE))
    _check_tensors(tensors, size)
    return _Export(size, tensors, body)


def _header(path: Path) -> tuple[dict[str, Tensor], int]:
    """Read the header of a safetensors file, which its library checks; returns also where it ends."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise Flaw("no such checkpoint")
    if foreign := find_foreign(path):
        raise foreign
    try:
        # Offsets without gaps that end with the file, and sizes that fit the shapes.
        with safe_open(path, framework="np"):
            pass
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise Flaw(f"truncated or damaged safetensors ({str(error).splitlines()[0]})") from error
    header.pop("__metadata__", None)
    tensors = {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][0])
        for name, entry in header.items()
    }
    return tensors, 8 + length


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(_text(path))
    except FileNotFoundError:
        raise Flaw(f"there is no {path.name} beside it, which says how many heads the model has") from None
    except (ValueError, RecursionError) as error:
        raise Flaw(f"the {path.name} beside it is damaged ({error})") from error
    if not isinstance(settings, dict):
        raise Flaw(f"the {path.name} beside it is damaged (not an object of JSON)")
    return settings


def _text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return file.read(LARGEST_TEXT).decode()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Flaw(f"the {path.name} beside it {unreadable(error)}") from error


def _check_vocabulary(path: Path) -> None:
    """Refuse tokens in another order than ours, if a file beside the weights lists them."""
    try:
        listed = _text(path)
    except FileNotFoundError:
        return
    except ValueError as error:
        raise Flaw(f"the {path.name} beside it is damaged ({error})") from error
    if listed.split() != VOCABULARY_TEXT.split():
        raise not_protrna(f"its {path.name} has other tokens than ProtRNA, or another order")


def _size(tensors: dict[str, Tensor], settings: dict[str, Any]) -> ModelSize:
    """Find the size of a model: layers and width from its weights, heads from its config."""
    if EMBEDDING not in tensors or len(tensors[EMBEDDING].shape) != 2:
        raise not_protrna(f"it has no matrix {EMBEDDING}, as models saved as EsmForMaskedLM have")
    found = [int(match[1]) for match in map(LAYER.match, tensors) if match]
    if len(set(found)) != max(found, default=-1) + 1 or not found:
        raise not_protrna(f"its layers are not esm.encoder.layer.0 … {max(found, default=0)}")
    heads, width = settings.get("num_attention_heads"), tensors[EMBEDDING].shape[1]
    if type(heads) is not int or heads < 1 or not width or width % (2 * heads):
        raise not_protrna(
            f"in its {CONFIG_FILE}, num_attention_heads is {heads!r}; width {width} does not divide into so "
            "many heads of an even width"
        )
    return ModelSize(max(found) + 1, width, heads)


def _check_tensors(tensors: dict[str, Tensor], size: ModelSize) -> None:
    shapes = _stored_shapes(size)
    missing = [name for name in shapes if name not in tensors and not name.endswith("inv_freq")]
    if missing:
        raise not_protrna(f"it lacks {counted(len(missing), 'weight')}, such as {missing[0]}")
    shapes[TIED] = shapes[EMBEDDING]
    shapes[SHARED_FREQUENCIES] = (size.head_width // 2,)
    extra = sorted(tensors.keys() - shapes.keys())
    if extra:
        raise not_protrna(
            f"it has {counted(len(extra), 'weight')} that the model does not use, such as {extra[0]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            raise not_protrna(f"{name} has shape {tensor.shape}, not {shapes[name]}")


def _stored_shapes(size: ModelSize) -> dict[str, Shape]:
    """Map the stored name of each weight to its shape: kernels are (out, in)."""
    names, shapes = stored_names(size), {}

    def add(name: str, shape: Shape) -> None:
        shapes[names[name]] = shape[::-1] if name.endswith("_kernel") else shape

    for_each_weight(add, weight_names(size), weight_shapes(size))
    return shapes


def _values(file: BinaryIO, export: _Export, name: str) -> npt.NDArray[np.float32]:
    """Read one tensor. NumPy has no bfloat16, so that the library cannot: it is the upper half of float32."""
    if name.endswith("inv_freq") and name not in export.tensors:
        name = SHARED_FREQUENCIES
        if name not in export.tensors:
            return rotary_frequencies(export.size.head_width)
    dtype, shape, start = tensor = export.tensors[name]
    file.seek(export.body + start)
    stored = np.fromfile(file, {"BF16": "<u2"}.get(dtype, f"<f{_BYTES[dtype]}"), tensor.n_values)
    if len(stored) != tensor.n_values:
        raise Flaw("it became shorter while it was read")
    values = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored
    return finite_float32(name, values.reshape(shape))


def export_bytes(size: ModelSize, precision: str) -> int:
    """Size of the weights of an export."""
    return max(tensor.end for tensor in _plan(size, precision).values())


def write_weights(file: BinaryIO, size: ModelSize, precision: str, read: Callable[[Placer], object]) -> None:
    """Write `model.safetensors`, one weight at a time; equal weights give equal bytes.

    precision: of kernels: `float32` or `bfloat16`. All others are in float32, as in our model.
    read: calls a placer with each weight of the model, in any order.
    """
    tensors, names = _plan(size, precision), stored_names(size)
    entries = {
        name: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [tensor.start, tensor.end]}
        for name, tensor in tensors.items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    body = file.tell()
    frequencies = rotary_frequencies(size.head_width)

    def place(name: str, values: npt.NDArray[np.float32]) -> None:
        if name.endswith("inv_freq") and not np.allclose(
            values, frequencies, rtol=FREQUENCY_TOLERANCE, atol=0
        ):
            raise not_protrna(f"{name} is not 10000^(-2i / {size.head_width}), which other programs expect")
        tensor = tensors[names[name]]
        stored = np.ascontiguousarray(values.T if name.endswith("_kernel") else values)
        try:
            file.seek(body + tensor.start)
            file.write((rounded_to_bfloat16(stored) if tensor.dtype == "BF16" else stored).data)
        except OSError as error:
            raise WriteError(error) from error

    try:
        read(place)
    except WriteError as failed:
        raise failed.error from None


def _plan(size: ModelSize, precision: str) -> dict[str, Tensor]:
    """Place all tensors in the file in the order of the library: the widest dtype first, then by name."""
    kernel = "BF16" if precision == "bfloat16" else "F32"
    dtypes = {
        their: kernel if our.endswith("_kernel") else "F32" for our, their in stored_names(size).items()
    }
    tensors, shapes, start = {}, _stored_shapes(size), 0
    for name in sorted(dtypes, key=lambda name: (-_BYTES[dtypes[name]], name)):
        tensors[name] = Tensor(dtypes[name], shapes[name], start)
        start = tensors[name].end
    return tensors


def rounded_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round finite values to the nearest bfloat16, ties to even, as TensorFlow and PyTorch do: its 16 bits.

    >>> rounded_to_bfloat16(np.array([1.0, -2.0, 1 + 2**-8, 1 + 3 * 2**-8], np.float32)).tolist()
    [16256, 49152, 16256, 16258]
    """
    bits = values.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1  # in place, as the largest weights take nearly all memory of an export
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)
