"""Load models, under today's names and the published ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from protrna_cli.api.keywords import python_words
from protrna_cli.errors import UsageError, WeightsError
from protrna_cli.libraries import let_tensorflow_speak
from protrna_cli.plan.rules import AUTO, AnyPath, path_text, switch
from protrna_cli.run.auto import faster_precision
from protrna_cli.run.options import EmbedOptions, Precision
from protrna_cli.weights.checkpoint import DEMO, PUBLISHED, locate, locate_in

if TYPE_CHECKING:
    from protrna_cli.api.loaded import LoadedModel
    from protrna_cli.model.transformer import ProtRNA


@dataclass(frozen=True)
class Origin:
    """Where a loaded model came from: what a pickle of it holds."""

    name: str
    folder: str | None  # this and the name as `load_model` takes them, of files with their folders
    precision: Precision
    device: str  # the one that was asked for, as `auto`
    sha256: str | None  # of the checkpoint, in hexadecimal; None for the demo model

    @property
    def path(self) -> str:
        """The checkpoint, as `model` takes it."""
        return self.name if self.folder is None else str(Path(self.folder, self.name))

    def load(self) -> LoadedModel:
        """Return this model, loaded again unless this process has it.

        The last one that was loaded so is kept, for the next task of a worker process.
        """
        with _loading:
            model = LOADED.get(self)
            if model is None:
                model = load_model(self.name, self.folder, precision=self.precision, device=self.device)
                _kept.append(model)
        if model.origin.sha256 != self.sha256:
            raise WeightsError(
                f"{self.name}: another checkpoint than that of the pickled model (SHA-256 "
                f"{model.origin.sha256}, not {self.sha256}); put that one there, or pickle again"
            )
        return model


LOADED: WeakValueDictionary[Origin, LoadedModel] = WeakValueDictionary()
"""The loaded models of this process."""

_kept: list[LoadedModel] = []
"""The last model that was loaded for a pickle; the next one that is loaded takes its place."""

_loading = threading.Lock()

_starting = threading.Lock()
"""Held while TensorFlow is imported, and while a model is loaded: of threads that do it at once, one would
show the log of its start that another one holds back. Not the lock of `libraries`, which a thread may wait
for while it imports what the holder of this one waits for."""


def load_model(
    name: AnyPath = PUBLISHED,
    path: AnyPath | None = None,
    *,
    precision: Precision = "float32",
    device: str = "auto",
    threads: int | None = None,
    verbose: bool = False,
) -> LoadedModel:
    """Load a model. It is released with the last reference to it.

    Parameters
    ----------
    name
        `protrna` (the published weights, downloaded if they are missing), `demo` (synthetic weights, for
        trying the tool), or the path of a checkpoint or of the folder of an export.
    path
        A folder: `name` is then the name of a file in it, as in the published code. The published weights,
        `ProtRNA_pretrained.h5`, are downloaded into it if they are missing.
    precision
        Precision of matrix multiplication: `float32`, or `bfloat16`, which halves the memory of the weights,
        or `auto` for bfloat16 where it is at least 1.5 times as fast.
    device
        `auto` (the first GPU, or the CPU if there is none), `cpu`, `gpu` or `gpu:N`. Models on several
        devices can be used in one process.
    threads
        CPU threads of TensorFlow, for the whole process: to be given before TensorFlow first runs. By
        default TensorFlow's own setting stays as it is.
    verbose
        Show what TensorFlow logs as it starts, if this is the first model of the process. It is kept off
        stderr otherwise, unless an error ends the start, or this process imported TensorFlow before.

    Raises
    ------
    WeightsError
        The checkpoint is missing or not usable.
    OutputUnwritable, WriteFailed
        The checkpoint must be downloaded, but its folder cannot be written or the disk is full.
    UsageError
        An argument is not one that its option takes, there is no such device, or this process was forked from
        one that runs TensorFlow.

    Examples
    --------
    >>> from protrna_cli import load_model
    >>> model = load_model("demo")
    >>> model.size.layers, model.size.width
    (6, 320)
    """
    with python_words(load_model):
        switch("verbose", verbose)
        if verbose:
            let_tensorflow_speak()
        text = path_text("--model", name)
        options = EmbedOptions(model=text, precision=precision, device=device, threads=threads)
        return load_named(options, path)


def load_named(options: EmbedOptions, path: AnyPath | None = None) -> LoadedModel:
    """Load the model of some options as `load_model` does; errors name the options of the command."""
    _kept.clear()
    name, device = options.model, options.device
    precision = faster_precision(options) if options.precision == AUTO else options.precision
    checkpoint = locate(name) if path is None else locate_in(Path(path_text("path", path)), name)
    checkpoint.obtain()
    with checkpoint.hashing() as sha256, _starting:
        import protrna_cli.model.load  # noqa: F401 (takes 2 s, as the hash does the first time)
        from protrna_cli.api.loaded import LoadedModel

        digest = sha256()  # refuses a checkpoint that changed since it was verified
        loaded = checkpoint.load(precision, device, options.threads)
    if path is not None:
        folder = str(Path(path).absolute())
    else:
        folder, name = None, name if name in (PUBLISHED, DEMO) else str(Path(name).absolute())
    return LoadedModel(loaded, Origin(name, folder, precision, device, digest))


def refuse_settings(model: ProtRNA, precision: object, device: object, threads: object) -> None:
    """Refuse settings that a loaded model has already."""
    if precision not in (None, model.precision):
        raise UsageError(
            f"precision={precision!r}, but the model was loaded in {model.precision}; leave it "
            "out, or load the model with this precision"
        )
    if device != AUTO or threads is not None:
        raise UsageError(
            "device= and threads= are for a model that is loaded by its name, but this one is loaded; leave "
            "them out, or give them to load_model"
        )


def load_pretrained_model(name: str = "ProtRNA_pretrained", path: AnyPath = "./weights") -> LoadedModel:
    """Load `path/name.h5`, as the published code does; `ProtRNA_pretrained` is downloaded if it is missing.

    Raises
    ------
    WeightsError
        `name` is that of a downstream head, which protrna does not have, or there is no such file.
    ProtrnaError
        As `load_model`.
    """
    return load_model(f"{path_text('name', name)}.h5", path)
