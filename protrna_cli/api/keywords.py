"""Keywords of the Python functions: the options of the command, in Python's spelling.

The messages of errors name options as the command does; `python_words` spells them as the keywords of the
function that was called.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from protrna_cli.errors import ProtrnaError
from protrna_cli.plan.rules import AnyPath, Gaps, Long, OnInvalid, Regions, Rules, option_of, path_text
from protrna_cli.plan.shard import Shard
from protrna_cli.run.options import Dtype, EmbedOptions, Format, H5Layout, Pool, Precision

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Unpack

    OneLayer: TypeAlias = int | tuple[int]
    SeveralLayers: TypeAlias = tuple[int, int, Unpack[tuple[int, ...]]] | Literal["all"]


class Keywords(TypedDict, total=False):
    """Keywords of `embed` and `embed_iter` that do not change the type of the result."""

    pool: Pool
    precision: Precision | None
    device: str
    threads: int | None
    long: Long
    max_length: int
    overlap: int | None
    on_invalid: OnInvalid
    gaps: Gaps
    skip_unknown: bool
    normalize: bool
    batch_tokens: int | str
    progress: bool


class FileKeywords(TypedDict, total=False):
    """Keywords of `embed_fasta`: the options of `EmbedOptions` and the rules of `Rules`."""

    layers: int | Sequence[int] | Literal["all"]
    per_token: bool
    per_token_output: AnyPath | None
    pool: Pool
    precision: Precision
    dtype: Dtype
    format: Format | None
    h5_layout: H5Layout
    device: str
    threads: int | None
    batch_tokens: int | str
    workers: int | str
    weights_dir: AnyPath | None
    check_weights: bool
    offline: bool
    overwrite: bool
    resume: bool
    shard: Shard
    reuse: AnyPath | Sequence[AnyPath]
    on_invalid: OnInvalid
    gaps: Gaps
    long: Long
    max_length: int
    overlap: int | None
    skip_unknown: bool
    regions: AnyPath | Regions | None


def options_of(layers: Any = -1, regions: Any = None, **given: Any) -> EmbedOptions:
    """Make options of keywords: one layer may be a number, and regions the path of their file."""
    if isinstance(regions, (str, os.PathLike)):
        from protrna_cli.fasta.bed import read_bed

        regions = read_bed(path_text("--regions", regions))
    names = {field.name for field in fields(Rules)}
    rules = Rules(regions=regions, **{name: given.pop(name) for name in names & set(given)})
    if not isinstance(layers, str):  # a text is refused with the other options, but for `all`
        layers = tuple(layers) if isinstance(layers, Sequence) else (layers,)
    return EmbedOptions(layers=layers, rules=rules, **given)


class _Spelling(NamedTuple):
    """An option's name as a keyword: the first of these that the function has; and what values it takes."""

    keywords: tuple[str, ...]
    kind: str
    choices: tuple[str, ...] = ()


@cache
def _spellings() -> dict[str, _Spelling]:
    """The keyword of each option of the command."""
    found = {
        "-o": _Spelling(("output_path",), "path"),
        "INPUT": _Spelling(("inputs",), "path"),
    }
    for declaring in (EmbedOptions, Rules):
        for field in fields(declaring):
            name, option = option_of(declaring, field.name)
            other = {"layers": "layer", "model": "name"}.get(field.name, field.name)
            found[name] = _Spelling((field.name, other), option.kind, option.choices)
    return found


_OPTION = re.compile(
    r"protrna [a-z]+( [a-z]+)?( --[a-z-]+( [\w/]+)?)+"  # of a command to type, which stays
    r"|(?<![\w-])(?P<option>--[a-z][a-z0-9-]*|-o|INPUT)(?![\w=-])(?: (?P<value>[\w./][\w./:-]*))?"
)

_VALUES = {
    "number": r"\d+|N",
    "number or auto": r"\d+|N|auto",
    "numbers": r"\d+",
    "numbers or all": r"\d+|all",
    "path": r"demo|[A-Z]+|[A-Z]+\d|/.*",
    "paths": r"[A-Z]+",
    "model": r"demo|[A-Z]+|/.*",
    "text": r"auto|cpu|gpu(:\d+)?",
    "shard": r"I/N",
}
"""Words after an option that are its value, and not the next word of the sentence."""


def in_python(message: str, keywords: Sequence[str] | None = None) -> str:
    """Spell the options in a message as keywords.

    >>> in_python("use --per-token-output FILE instead of --per-token, or --long window")
    'use per_token_output=FILE instead of per_token=True, or long="window"'

    Parameters
    ----------
    keywords
        Those that there are; others stay as they are. By default all.
    """

    def spelled(found: re.Match[str]) -> str:
        spelling = _spellings().get(found["option"], _Spelling((), ""))
        names = [name for name in spelling.keywords if keywords is None or name in keywords]
        if not names:
            return found[0]
        value = found["value"] or ""
        after = f" {value}" if value else ""
        if spelling.kind == "switch":
            return f"{names[0]}={'' if value == 'takes' else 'True'}{after}"
        if (spelling.kind == "choice" and value in spelling.choices) or value == "demo":
            return f'{names[0]}="{value}"'
        if re.fullmatch(_VALUES.get(spelling.kind, "(?!)"), value):
            quote = '"' if spelling.kind == "text" else ""
            return f"{names[0]}={quote}{value}{quote}"
        return f"{names[0]}={after}"

    return _OPTION.sub(spelled, message)


@contextmanager
def python_words(function: Callable[..., Any]) -> Iterator[None]:
    """Let errors name the keywords of a function, where they would name options of the command."""
    try:
        yield
    except ProtrnaError as error:
        parameters = inspect.signature(function).parameters.values()
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names = None if takes_all else [parameter.name for parameter in parameters]
        error.args = (in_python(str(error), names),)
        raise
