"""What other libraries do that a user of ours should not meet, and what keeps it off.

Versions are those in which it was seen. No library is imported here.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from protrna_cli.errors import ProtrnaError, SystemLimit, TensorFlowUnusable
from protrna_cli.machine import address_space_text, check_address_space, check_processor, check_threads

IMPORT_BYTES = 5 << 29
"""Address space that TensorFlow takes when it is imported and runs a small model: 2.3 GiB were measured."""

_owned = False

_starting = threading.RLock()
"""Held while TensorFlow starts."""

_tensorflow_speaks = False
_tensorflow_is_ours = False


def own_process() -> None:
    """Declare that this process runs nothing but protrna: libraries may be set up for all of it.

    The command line and the workers of a cluster declare it. In somebody's notebook or program, TensorFlow's
    settings are not ours to change.
    """
    global _owned
    _owned = True
    # TensorFlow 2.21 imports Keras, which we do not use. Keras 3.15 would keep settings in the user's home
    # folder, or in a folder named `~` where there is none.
    os.environ.setdefault("KERAS_HOME", os.devnull)


def is_own_process() -> bool:
    """Whether `own_process` was called."""
    return _owned


def without_keras() -> None:
    """Have this process import TensorFlow without Keras, which it would import although we do not use it.

    Keras 3.15 imports scikit-learn, SciPy and matplotlib where they are installed, and then takes half of the
    time of the import of TensorFlow 2.21. For processes in which nobody else's code runs.
    """
    _hide("keras", "tf_keras")


@contextmanager
def importing_umap() -> Iterator[None]:
    """Import and run UMAP without TensorFlow, and without its warnings.

    umap-learn 0.5 imports TensorFlow, which takes some 20 s, for a class not used here; it works without. It
    warns about that class and about its threads.
    """
    _hide("umap.parametric_umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _hide(*names: str) -> None:
    """Let the import of modules fail, unless they are imported already."""
    modules: dict[str, Any] = sys.modules
    for name in names:
        modules.setdefault(name, None)


@contextmanager
def writable_home() -> Iterator[None]:
    """Give numba, matplotlib and Bokeh a temporary home folder, unless the user's own can be written.

    Without one numba 0.68 and Bokeh 3.9 fail, or numba makes a folder named `~`.
    """
    from tempfile import TemporaryDirectory

    before = os.environ.get("HOME")
    try:
        writable = os.access(Path.home(), os.W_OK)
    except RuntimeError:  # there is none
        writable = False
    if writable:
        yield
        return
    with TemporaryDirectory(prefix="protrna-") as home:
        os.environ["HOME"] = home
        try:
            yield
        finally:
            del os.environ["HOME"]
            if before is not None:
                os.environ["HOME"] = before


@contextmanager
def importing_tensorflow() -> Iterator[None]:
    """Refuse to import TensorFlow where that would end the process, and translate how the import fails."""
    if "tensorflow" in sys.modules:  # somebody else has imported it already
        yield
        return
    check_processor()
    check_threads()
    check_address_space(IMPORT_BYTES)
    global _tensorflow_is_ours
    _tensorflow_is_ours = True
    try:
        with starting_quietly():
            yield
    except (ImportError, MemoryError, RuntimeError) as error:
        raise _failed_import(error) from error


def _failed_import(error: Exception) -> ProtrnaError:
    """Tell why TensorFlow cannot be imported, by the error that began it."""
    first: BaseException = error
    while cause := first.__cause__ or first.__context__:
        first = cause
    text = next(iter(str(first).splitlines()), type(first).__name__)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if isinstance(first, MemoryError) or re.search("failed to map segment|annot allocate memory", text):
        cause_text = "the memory is full" if limit == resource.RLIM_INFINITY else address_space_text(limit)
        return SystemLimit(f"TensorFlow cannot be imported ({text}): {cause_text}; it needs more")
    if "start new thread" in text:
        return SystemLimit(f"TensorFlow cannot be imported ({text}); raise the limit on threads (ulimit -u)")
    return TensorFlowUnusable(
        f"TensorFlow cannot be imported ({text}); install it again: pip install --force-reinstall tensorflow"
    )


def let_tensorflow_speak() -> None:
    """Have TensorFlow's log shown while it starts in this process."""
    global _tensorflow_speaks
    _tensorflow_speaks = True


@contextmanager
def quiet_libraries(verbose: bool) -> Iterator[None]:
    """Keep the messages of TensorFlow and matplotlib off stderr during a command, unless `verbose`.

    TensorFlow's C++ side writes to file descriptor 2 before it reads any setting, so the descriptor itself is
    pointed at the null device; Python's `sys.stderr` keeps the terminal.
    """
    if verbose:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for library in ("tensorflow", "matplotlib"):
        logging.getLogger(library).setLevel(logging.ERROR)
    if _xla_is_told():
        yield
        return
    with Path(os.devnull).open("wb") as null, _native_stderr_at(null.fileno()):
        yield


@contextmanager
def starting_quietly() -> Iterator[bool]:
    """Keep what TensorFlow logs as it starts off stderr; if an error ends the block, it is shown after all.

    Yields whether it is kept off. It stays as it is where somebody else imported TensorFlow, and in a process
    of our own, whose commands care for it with `quiet_libraries`.
    """
    if _owned or _tensorflow_speaks or not _tensorflow_is_ours or _xla_is_told():
        yield False
        return
    from tempfile import TemporaryFile  # takes 10 ms, for which no --help should wait

    with _starting, TemporaryFile() as log:
        try:
            with _native_stderr_at(log.fileno()):
                yield True
        except BaseException:
            log.seek(0)
            with suppress(OSError):
                os.write(2, log.read())
            raise


def _xla_is_told() -> bool:
    """Whether XLA is given flags: one that it does not know ends the process, and only stderr says so."""
    return bool(os.environ.get("XLA_FLAGS") or os.environ.get("TF_XLA_FLAGS"))


@contextmanager
def _native_stderr_at(descriptor: int) -> Iterator[None]:
    """Point descriptor 2, to which native code writes, elsewhere; Python's `sys.stderr` stays where it is."""
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    before = sys.stderr
    try:
        os.dup2(descriptor, 2)
        if before is sys.__stderr__ and before is not None:
            how: dict[str, Any] = {"encoding": before.encoding, "errors": before.errors}
            sys.stderr = open(kept, "w", buffering=1, closefd=False, **how)  # noqa: SIM115
        yield
    finally:
        os.dup2(kept, 2)
        if sys.stderr is before:
            os.close(kept)
        else:
            with suppress(OSError):
                sys.stderr.flush()
            sys.stderr = before  # what was handed the other one meanwhile, as loggers are, goes on with it
