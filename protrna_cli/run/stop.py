"""Stop a run on SIGTERM, SIGUSR1 (used by batch systems) or Ctrl-C, with its work committed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from protrna_cli.errors import Interrupted, Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stop:
    """A source of stop requests that never asks to stop; `SignalStop` listens to signals."""

    def check(self) -> None:
        """Raise if the run was asked to stop.

        Raises
        ------
        Stopped
            The run was asked to stop.
        """

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Let a stop request interrupt the code in this context at once."""
        yield


class SignalStop(Stop):
    """Listens to signals inside its context, in the main thread.

    Inside `abandoning` a signal raises at once. Elsewhere it waits for the next `check`, so that no work is
    interrupted halfway. A second Ctrl-C raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self._requested: Stopped | None = None
        self._abandoning = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalStop:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        if self._requested:
            raise self._requested

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        self.check()
        self._abandoning = True
        try:
            yield
        except Exception:
            # Raised in the middle of a library, our error may have become one of its own: TensorFlow's
            # "Binding inputs to tf.function failed due to ...".
            self.check()
            raise
        finally:
            self._abandoning = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        kind = Interrupted if number == signal.SIGINT else Stopped
        self._requested = self._requested or kind(f"stopped by {signal.Signals(number).name}")
        if self._abandoning:
            raise self._requested
