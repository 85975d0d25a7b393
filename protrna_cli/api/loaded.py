"""A loaded model: the published interface, embedding, and copies that are loaded again elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

from protrna_cli.api.memory import embed
from protrna_cli.api.models import LOADED, Origin, refuse_settings
from protrna_cli.errors import UsageError
from protrna_cli.model.structure import ModelSize
from protrna_cli.model.transformer import ProtRNA
from protrna_cli.plan.rules import AUTO, instance
from protrna_cli.weights.checkpoint import Checkpoint, silent

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from protrna_cli.api.keywords import AnyKeywords, ForArray, ForArrays, ForList, ForLists
    from protrna_cli.api.memory import AnySequences, Floats


class LoadedModel(ProtRNA):
    """A ProtRNA model that `load_model` loaded.

    Pickled, it is where it came from, its precision and its device: whoever reads the pickle loads it again.
    A copy is the model itself.

    Attributes
    ----------
    size
        Its `layers`, `width` and `heads`.
    alphabet
        Its letters and tokens, as published.
    precision
        Precision of matrix multiplication: `float32` or `bfloat16`.
    origin
        Where it came from.
    """

    def __init__(self, model: ProtRNA, origin: Origin) -> None:
        super().__init__(model.size, model._weights, model.precision, model.device)
        self.origin = origin
        LOADED[origin] = self

    @overload
    def embed(
        self, sequences: AnySequences, *, return_ids: Literal[False] = ..., **how: Unpack[ForArray]
    ) -> Floats: ...

    @overload
    def embed(
        self, sequences: AnySequences, *, return_ids: Literal[False] = ..., **how: Unpack[ForList]
    ) -> list[Floats]: ...

    @overload
    def embed(
        self, sequences: AnySequences, *, return_ids: Literal[False] = ..., **how: Unpack[ForArrays]
    ) -> dict[int, Floats]: ...

    @overload
    def embed(
        self, sequences: AnySequences, *, return_ids: Literal[False] = ..., **how: Unpack[ForLists]
    ) -> dict[int, list[Floats]]: ...

    @overload
    def embed(
        self, sequences: AnySequences, *, return_ids: bool = ..., **how: Unpack[AnyKeywords]
    ) -> Any: ...

    def embed(self, sequences: AnySequences, **how: Any) -> Any:
        """Embed sequences with this model; arguments, result and errors as in `protrna_cli.embed`.

        Examples
        --------
        >>> from protrna_cli import load_model
        >>> load_model("demo").embed(["GGGGCCCC", "ACGU"]).shape
        (2, 320)
        """
        return embed(sequences, self, **how)

    encode = embed

    def __repr__(self) -> str:
        layers, width, device = self.size.layers, self.size.width, self.device.rpartition("device:")[2]
        return f"<ProtRNA {self.origin.name}: {layers} layers of {width}, {self.precision}, {device}>"

    def __copy__(self) -> LoadedModel:
        return self

    def __deepcopy__(self, memo: object) -> LoadedModel:
        return self

    def __reduce__(self) -> tuple[Callable[[], LoadedModel], tuple[()]]:
        return self.origin.load, ()


class HeldCheckpoint(Checkpoint):
    """The checkpoint of a model that is loaded already, for a run that writes files."""

    def __init__(self, model: LoadedModel) -> None:
        instance("model", model, LoadedModel, "protrna, demo, the path of a checkpoint or a loaded model")
        super().__init__(path=None)
        self._model = model

    def settings(
        self,
        precision: object = None,
        device: object = AUTO,
        threads: object = None,
        workers: object = 1,
        **how: Any,
    ) -> dict[str, Any]:
        """Complete the keywords of a run by those that the model decides; it refuses others for these."""
        refuse_settings(self._model, precision, device, threads)
        if workers != 1:
            raise UsageError("--workers load models of their own; give the name or path of the model")
        origin = self._model.origin
        device = origin.device if "GPU" in self._model.device else "cpu"
        return {**how, "model": origin.path, "precision": self._model.precision, "device": device}

    def size(self) -> ModelSize:
        return self._model.size

    def sha256(self) -> str | None:
        return self._model.origin.sha256

    def load(
        self, precision: str, device: str, threads: int | None, note: Callable[[str], None] = silent
    ) -> ProtRNA:
        return self._model
