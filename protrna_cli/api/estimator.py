"""A scikit-learn transformer, from sequences to vectors."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from protrna_cli.api.keywords import python_words
from protrna_cli.api.memory import embed
from protrna_cli.api.models import load_named
from protrna_cli.errors import MissingExtra, UsageError
from protrna_cli.plan.rules import AUTO, TRAINED_LENGTH, Gaps, Long, OnInvalid, Pool, path_text, whole_number
from protrna_cli.run.options import EmbedOptions, Precision
from protrna_cli.weights.checkpoint import PUBLISHED

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError:
    raise MissingExtra("Embedder needs scikit-learn; run pip install scikit-learn") from None

if TYPE_CHECKING:
    from protrna_cli.api.loaded import LoadedModel
    from protrna_cli.api.memory import AnySequences, Floats
    from protrna_cli.plan.rules import AnyPath


@dataclass(eq=False, repr=False)  # scikit-learn compares and shows its objects in its own way
class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The embedding as a step of a scikit-learn pipeline: it takes sequences, and learns nothing from them.

    It can be cloned, cross-validated in several processes and saved with joblib. Clones share a loaded model;
    one that is named is loaded anew by each `fit`.

    Parameters
    ----------
    model, pool, precision, device, long, max_length, overlap, on_invalid, gaps, skip_unknown
        As in `embed`; but neither `long` nor `on_invalid` may be `skip`, since each sequence needs a row.
    normalize, batch_tokens
        As in `embed`.
    layers
        One layer.

    Attributes
    ----------
    model_
        The loaded model.

    Examples
    --------
    >>> from protrna_cli import Embedder
    >>> embedder = Embedder("demo")
    >>> embedder.fit_transform(["GGGGCCCC", "ACGU"]).shape
    (2, 320)
    >>> embedder.get_feature_names_out()[:2]
    array(['embedder0', 'embedder1'], dtype=object)
    """

    model: AnyPath | LoadedModel = PUBLISHED
    _: KW_ONLY
    layers: int = -1
    pool: Pool = "mean"
    precision: Precision | None = None
    device: str = AUTO
    long: Long = "window"
    max_length: int = TRAINED_LENGTH
    overlap: int | None = None
    on_invalid: OnInvalid = "error"
    gaps: Gaps = "error"
    skip_unknown: bool = False
    normalize: bool = False
    batch_tokens: int | str = AUTO

    def fit(self, X: AnySequences, y: object = None) -> Embedder:
        """Load the model, and check the keywords; `X` and `y` are not looked at."""
        how = self.get_params()
        model, precision, device = how.pop("model"), how.pop("precision"), how.pop("device")
        with python_words(Embedder):
            for name in ("long", "on_invalid"):
                if how[name] == "skip":
                    raise UsageError(f"{name}='skip' leaves sequences without a row, which a pipeline needs")
            whole_number("--layer", how["layers"])
            if isinstance(model, (str, os.PathLike)):
                name = path_text("--model", model)
                model = load_named(EmbedOptions(model=name, precision=precision or "float32", device=device))
        embed([], model, precision=precision, **how)
        self.model_ = model
        self._n_features_out = model.size.width
        return self

    def transform(self, X: AnySequences) -> Floats:
        """Embed sequences, in any form that `embed` takes; returns their vectors, float32 (N, D)."""
        if not hasattr(self, "model_"):
            self.fit(X)
        how = {name: value for name, value in self.get_params().items() if name not in ("model", "device")}
        vectors: Floats = embed(X, self.model_, **how)
        return vectors

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        return tags
