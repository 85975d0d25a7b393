"""Check values given from Python as the command line checks them, and refuse them in the same words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from protrna_cli.errors import UsageError

AnyPath = str | os.PathLike[str]

AUTO = "auto"
"""The value of an option that is chosen for this machine."""


def one_of(option: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a value that is not one of the allowed texts.

    Raises
    ------
    UsageError
        The message names the option as the command does, and the values that it takes.
    """
    *others, last = allowed
    if not isinstance(value, str) or value not in (*others, last):
        raise _refusal(option, f"{', '.join(others)} or {last}", value)


def whole_number(option: str, value: object, least: int | None = None) -> None:
    """Refuse a value that is not an `int`, or is less than `least`; raises as `one_of` does."""
    if type(value) is not int or (least is not None and value < least):
        raise _refusal(
            option, "a whole number" if least is None else f"a whole number from {least} up", value
        )


def auto_or_number(option: str, value: object, least: int) -> None:
    """Refuse anything but `auto` and an `int` of at least `least`; raises as `one_of` does."""
    if value != AUTO and (type(value) is not int or value < least):
        raise _refusal(option, f"{AUTO} or a whole number from {least} up", value)


def whole_numbers(option: str, values: object) -> None:
    """Refuse anything but a sequence of one or more `int`; raises as `one_of` does."""
    if not isinstance(values, Sequence) or not values or any(type(each) is not int for each in values):
        raise _refusal(option, "one or more whole numbers, such as (20, 33)", values)


def switch(option: str, value: object) -> None:
    """Refuse a value that is neither True nor False; raises as `one_of` does."""
    instance(option, value, bool, "True or False")


def instance(option: str, value: object, kind: type, words: str) -> None:
    """Refuse a value that is not of this class, which the message calls `words`; raises as `one_of` does."""
    if not isinstance(value, kind):
        raise _refusal(option, words, value)


def path_text(option: str, value: object) -> str:
    """Return the text of a path, unchanged: `./demo` is not `demo`. Raises as `one_of` does."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise _refusal(option, "a path", value)
    return text


def _refusal(option: str, words: str, value: object) -> UsageError:
    kind = "" if isinstance(value, str) or value is None else f" ({type(value).__name__})"
    return UsageError(f"{option} takes {words}, not {value!r}{kind}")
