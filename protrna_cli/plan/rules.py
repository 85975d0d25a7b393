"""The rules of a run: what happens to gaps, invalid letters, long records and regions.

An option is declared once, as the field that holds its value. The command line and the check of values that
come from Python both follow from the declaration.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from protrna_cli.errors import UsageError

AnyPath = str | os.PathLike[str]

STDIN = "-"
"""The path that means standard input."""

AUTO = "auto"
"""The value of an option that is chosen for this machine."""


@dataclass(frozen=True)
class Option:
    """What the metadata of a field say of its option."""

    # `choice`, `switch`, `number`, `numbers or all` (the option may be repeated), `number or auto`, `path`,
    # `paths`, `folder`, `model`, `shard`, or `text`.
    kind: str
    help: str  # a line for `--help`; empty for a field without an option of its own
    # Called with the name of the option and a value; returns the value to keep, or refuses it.
    check: Callable[[str, Any], Any]
    # What the value is called in the help; the texts that are taken, or the smallest number.
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    name: str = ""  # as it is written on the command line; by default it follows from the name of the field
    letters: tuple[str, ...] = ()  # short names on the command line, such as `-t`
    # Environment variable with the default of the command line; Python functions do not read it.
    variable: str | None = None


ALL = "all"
"""The value of an option for layers that takes every one, from 0, the embedding, to the last."""


def option(default: Any, kind: str, help: str, check: Callable[[str, Any], Any], **more: Any) -> Any:
    """Declare a field with an option; `None` is taken only if it is the default."""
    return field(default=default, metadata={"option": Option(kind, help, check, **more)})


def choice(allowed: Sequence[str], default: str | None, help: str, variable: str | None = None) -> Any:
    """Declare an option that takes one of a few texts."""
    check = partial(one_of, allowed=allowed)
    return option(default, "choice", help, check, choices=tuple(allowed), variable=variable)


def number(default: int | None, help: str, least: int | None = None, letters: tuple[str, ...] = ()) -> Any:
    """Declare an option that takes a whole number."""
    check = partial(whole_number, least=least)
    return option(default, "number", help, check, metavar="N", least=least, letters=letters)


def number_or_auto(default: int | str, help: str) -> Any:
    """Declare an option that takes a whole number from 1 up, or `auto`."""
    return option(default, "number or auto", help, _number_or_auto, metavar="N|auto")


def _number_or_auto(option: str, value: object) -> object:
    if value != AUTO and (type(value) is not int or value < 1):
        raise _refusal(option, f"{AUTO} or a whole number from 1 up", value)
    return value


def flag(help: str) -> Any:
    """Declare an option without a value."""
    return option(False, "switch", help, switch)


def path(
    default: str | None, help: str, metavar: str, kind: str = "path", variable: str | None = None
) -> Any:
    """Declare an option that takes a path, of any `kind` that does: `path`, `folder` or `model`."""
    return option(default, kind, help, path_text, metavar=metavar, variable=variable)


def option_of(declaring: Any, name: str) -> tuple[str, Option]:
    """Find the option of a field, and its name on the command line."""
    [found] = [declared.metadata["option"] for declared in fields(declaring) if declared.name == name]
    return found.name or f"--{name.replace('_', '-')}", found


def check_options(values: Any) -> None:
    """Check all fields of a frozen dataclass, and keep what their checks return."""
    for declared in fields(values):
        name, declaration = option_of(values, declared.name)
        value = getattr(values, declared.name)
        if value is not None or declared.default is not None:
            object.__setattr__(values, declared.name, declaration.check(name, value))


def one_of(option: str, value: object, allowed: Iterable[str]) -> object:
    """Return a value if it is one of the allowed texts.

    Raises UsageError: the message names the option as the command does, and the values that it takes.
    """
    *others, last = allowed
    if not isinstance(value, str) or value not in (*others, last):
        raise _refusal(option, f"{', '.join(others)} or {last}", value)
    return value


def whole_number(option: str, value: object, least: int | None = None) -> object:
    """Return a value if it is an `int` of `least` or more; raises as `one_of` does."""
    if type(value) is not int or (least is not None and value < least):
        words = "a whole number" if least is None else f"a whole number from {least} up"
        raise _refusal(option, words, value)
    return value


def whole_numbers(option: str, values: object) -> object:
    """Return a sequence of one or more `int`; raises as `one_of` does."""
    if not isinstance(values, Sequence) or not values or any(type(value) is not int for value in values):
        raise _refusal(option, "one or more whole numbers, such as (20, 33)", values)
    return values


def switch(option: str, value: object) -> object:
    """Return a value if it is True or False; raises as `one_of` does."""
    return instance(option, value, bool, "True or False")


def instance(option: str, value: object, kind: type, words: str) -> object:
    """Return a value of this class, which the message calls `words`; raises as `one_of` does."""
    if not isinstance(value, kind):
        raise _refusal(option, words, value)
    return value


def path_text(option: str, value: object) -> str:
    """Return the text of a path, unchanged: `./demo` is not `demo`. Raises as `one_of` does."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or "\0" in text:
        raise _refusal(option, "a path", value)
    return text


def _refusal(option: str, words: str, value: object) -> UsageError:
    kind = "" if isinstance(value, str) or value is None else f" ({type(value).__name__})"
    return UsageError(f"{option} takes {words}, not {value!r}{kind}")


TRAINED_LENGTH = 510
"""Residues of the longest sequence that the model was trained on."""

OnInvalid = Literal["error", "unknown", "skip"]
Gaps = Literal["error", "remove", "unknown"]
Long = Literal["window", "truncate", "error", "skip", "whole"]
ON_INVALID, GAPS, LONG = map(get_args, (OnInvalid, Gaps, Long))

Pool = Literal["mean", "max", "cls"]

RESIDUES = "residues"
"""The pooling that keeps one vector per residue."""


class Pooling(NamedTuple):
    """A way to make one vector of a record."""

    # What is taken of the residues of a record: in an account of an output, and below a picture.
    words: str
    label: str
    # What the vector of a record in windows is: the `sum` or the `mean` of the vectors of its windows, or
    # made of all its `residues`.
    windows: str


POOLINGS = {
    "mean": Pooling("the mean of", "mean of residues", "sum"),
    "max": Pooling("the maximum of", "maximum of residues", RESIDUES),
    "cls": Pooling("the <cls> token of", "<cls> token", "mean"),
}
"""By their names in `--pool`; for records in one piece the model does them, see `POOLINGS` in `layers`."""


@dataclass(frozen=True, slots=True)
class Region:
    """A named range of residues of one record."""

    name: str  # not empty; names may repeat
    # Residues of the record, from 0; `stop` is greater than `start` and not included.
    start: int
    stop: int
    line: int  # line number in the BED file

    @property
    def length(self) -> int:
        """Count of residues."""
        return self.stop - self.start


@dataclass(frozen=True)
class Regions:
    """The regions of a BED file."""

    # Path as the user gave it, and SHA-256 of the file.
    file: str
    sha256: str
    by_id: dict[str, list[Region]]  # regions by record id, in file order

    @property
    def origin(self) -> dict[str, str]:
        """Name (without folders) and SHA-256 of the file."""
        return {"name": Path(self.file).name, "sha256": self.sha256}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Regions:
        """Restore regions from the parsed JSON of `dataclasses.asdict`."""
        by_id = {
            name: [Region(**fields_of_one) for fields_of_one in listed]
            for name, listed in fields["by_id"].items()
        }
        return cls(**{**fields, "by_id": by_id})


@dataclass(frozen=True)
class Rules:
    """How records are read and cut. Defaults are those of the command line.

    Attributes
    ----------
    on_invalid
        What to do with a letter that is neither residue nor gap, or a record without residues: `error`;
        `unknown` reads the letter as an unknown residue (a record without residues stays an error); `skip`
        leaves the record out. Lines of dot-bracket structure are an error in any case.
    gaps
        `error`, `remove` them, or read them as `unknown` residues.
    long
        What to do with a record of more than `max_length` residues: `window` covers it with overlapping
        windows, `truncate` embeds its start, `error`, `skip`, or `whole` to run it in one piece.
    max_length
        Residues of the longest piece.
    overlap
        Least number of residues that neighbouring windows share; by default a quarter of `max_length`.
    skip_unknown
        Leave unknown residues out of means. A record or region without a known residue is then invalid.
    regions
        Make one pooled row per region instead of one per record. Records without a region are skipped.

    Raises
    ------
    UsageError
        A value is not one that its option takes: `max_length` is 2 or more, `overlap` from 1 to
        `max_length` - 1 and only for `window`.
    """

    on_invalid: OnInvalid = choice(ON_INVALID, "error", "What to do with a letter that is not RNA or DNA.")
    gaps: Gaps = choice(GAPS, "error", "What to do with gaps: - . and ~")
    long: Long = choice(LONG, "window", "How to embed longer records; whole: in one piece.")
    max_length: int = number(TRAINED_LENGTH, "Longest piece, in residues.")
    overlap: int | None = number(None, "Residues that windows share.  [default: a quarter]")
    skip_unknown: bool = flag("Leave unknown residues out of the mean.")
    regions: Regions | None = option(
        None,
        "path",
        "One vector per region of a BED file.",
        partial(instance, kind=Regions, words="the result of protrna_cli.fasta.bed.read_bed"),
        metavar="BED",
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.max_length < 2:
            raise UsageError(f"--max-length {self.max_length} is too short; give 2 or more")
        if not 1 <= self.shared < self.max_length:
            raise UsageError(
                f"--overlap {self.shared} must be at least 1 and less than --max-length {self.max_length}"
            )
        if self.overlap is not None and self.long != "window":
            raise UsageError(f"--overlap is for --long window, not for --long {self.long}; leave it out")

    @property
    def shared(self) -> int:
        """Least number of residues that neighbouring windows share."""
        return max(1, self.max_length // 4) if self.overlap is None else self.overlap


DEFAULT_RULES = Rules()
