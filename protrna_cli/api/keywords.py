"""Keywords of the Python functions: the options of the command, in Python's spelling.

The messages of errors name options as the command does; `python_words` spells them as the keywords of the
function that was called. `progress=True` is a bar.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from protrna_cli.errors import ProtrnaError
from protrna_cli.plan.rules import AnyPath, Gaps, Long, OnInvalid, Pool, Regions, Rules, option_of, path_text
from protrna_cli.plan.shard import Shard
from protrna_cli.run.options import Dtype, EmbedOptions, Format, H5Layout, Precision
from protrna_cli.run.report import NOTHING, Amount, Progress

if TYPE_CHECKING:
    from typing_extensions import Unpack


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


class AnyKeywords(Keywords, total=False):
    """All keywords of `embed` and `embed_iter` but those that only one of them has."""

    layers: int | Sequence[int] | Literal["all"]
    per_token: bool
    dtype: Dtype


class _Float32(Keywords, total=False):
    dtype: Literal["float32"]


class OneLayer(_Float32, total=False):
    """Keywords for one layer in float32."""

    layers: int | tuple[int]


class SeveralLayers(_Float32):
    """Keywords for several layers in float32."""

    layers: tuple[int, int, Unpack[tuple[int, ...]]] | Literal["all"]


class ForArray(OneLayer, total=False):
    """Keywords for which `embed` returns an array."""

    per_token: Literal[False]


class ForList(OneLayer):
    """Keywords for which `embed` returns a list of arrays."""

    per_token: Literal[True]


class ForArrays(SeveralLayers, total=False):
    """Keywords for which `embed` returns an array for each layer."""

    per_token: Literal[False]


class ForLists(SeveralLayers):
    """Keywords for which `embed` returns a list of arrays for each layer."""

    per_token: Literal[True]


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
    found = {"-o": _Spelling(("output_path",), "path"), "INPUT": _Spelling(("inputs",), "path")}
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
    """Spell the options in a message as keywords; of given keywords, only these.

    >>> in_python("use --per-token-output FILE instead of --per-token, or --long window")
    'use per_token_output=FILE instead of per_token=True, or long="window"'
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


class Bar(Progress):
    """A progress bar: records, residues per second, time left. Without a total it counts.

    It is shown by a class of tqdm: `tqdm.tqdm` in terminals, `tqdm.auto.tqdm` also in notebooks.
    """

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm

    def start(self, total: Amount, resumed: Amount = NOTHING) -> None:
        self._total, self._done = total, resumed
        self._bar = self._tqdm(
            total=total.residues or None,
            initial=resumed.residues,
            smoothing=0,  # the mean of this process, as in the summary
            unit=" residues",
            unit_scale=True,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{desc} {bar} {percentage:3.0f}% {rate_fmt}, {remaining} left"
            if total.residues
            else "{desc}, {rate_fmt}",
        )
        self.advance(NOTHING)

    def advance(self, amount: Amount) -> None:
        self._done += amount
        of_all = f"/{self._total.records:,}" if self._total.residues else ""
        self._bar.set_description_str(f"{self._done.records:,}{of_all} records", refresh=False)
        self._bar.update(amount.residues)

    def resume(self, amount: Amount) -> None:
        self._bar.initial += amount.residues  # tqdm leaves these out of its rate
        self.advance(amount)

    def close(self) -> None:
        self._bar.close()


def any_bar() -> Bar:
    """Make a bar for wherever this runs: a terminal, or a notebook."""
    from tqdm.auto import tqdm

    return Bar(tqdm)
