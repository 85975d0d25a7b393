"""What type checkers say of a user's program. This file is also checked by mypy."""

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from protrna_cli import Embedding, embed, embed_iter, load_model

Floats = npt.NDArray[np.float32]


def test_the_types_are_those_of_the_values() -> None:
    """`assert_type` is for the type checker; what it says is compared with the values here."""
    model = load_model("demo")
    sequences = ["GGGGCCCC", "ACGU"]
    pooled = embed(sequences, model)
    assert_type(pooled, Floats)
    assert isinstance(pooled, np.ndarray)
    residues = embed({"a": "GGGG"}, model, per_token=True, progress=False)
    assert_type(residues, list[Floats])
    assert isinstance(residues, list)
    one = embed(sequences, model, layers=(3,), pool="max")
    assert_type(one, Floats)
    assert isinstance(one, np.ndarray)
    several = embed(sequences, model, layers=(1, 3))
    assert_type(several, dict[int, Floats])
    assert isinstance(several, dict)
    both = embed(sequences, model, layers=(1, 3), per_token=True, long="truncate")
    assert_type(both, dict[int, list[Floats]])
    assert isinstance(both[3], list)
    for row in embed_iter(sequences, model):
        assert_type(row, Embedding[Floats])
        assert_type(row.id, str)
        assert isinstance(row.vectors, np.ndarray)
    for each in embed_iter(sequences, model, layers=(1, 3), per_token=True):
        assert_type(each.vectors, dict[int, Floats])
        assert isinstance(each.vectors, dict)
