"""ProtRNA as Hugging Face's `EsmForMaskedLM`: the names of its weights, its config and its tokenizer.

ProtRNA has the architecture of ESM-2, so that nothing but names and the order of axes differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from protrna_cli.model.alphabet import TOKENS, Alphabet
from protrna_cli.model.structure import (
    VOCABULARY,
    HeadWeights,
    LayerWeights,
    ModelSize,
    ModelWeights,
    NormWeights,
    for_each_weight,
    weight_names,
)

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


_IF_MISSING = {
    "rope_theta": 10000.0,
    "emb_layer_norm_before": False,
    "token_dropout": False,
    "is_decoder": False,
    "tie_word_embeddings": True,
}
"""What transformers takes for a setting of a config that is not there."""


def find_contradiction(settings: Mapping[str, Any], size: ModelSize) -> str | None:
    """Say what in a config is not so in our model of this size; None if nothing is."""
    for key, ours in _architecture(size).items():
        theirs = settings.get(key, _IF_MISSING.get(key))
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
