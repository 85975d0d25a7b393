"""The options of a run, and the combinations of options that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from protrna_cli.errors import UsageError
from protrna_cli.machine import parse_device
from protrna_cli.output.files import H5_LAYOUTS, RUN_FORMATS, choose_format, refuse_layout
from protrna_cli.plan.rules import (
    ALL,
    AUTO,
    DEFAULT_RULES,
    POOLINGS,
    Pool,
    Rules,
    check_options,
    choice,
    flag,
    instance,
    number,
    number_or_auto,
    option,
    path,
    path_text,
    whole_numbers,
)
from protrna_cli.plan.shard import WHOLE, Shard
from protrna_cli.weights.checkpoint import PUBLISHED

Precision = Literal["float32", "bfloat16", "auto"]
Dtype = Literal["float32", "float16"]
Format = Literal["parquet", "h5", "npy"]
H5Layout = Literal["flat", "packed"]
PRECISIONS = get_args(Precision)
DTYPE_BYTES = {"float32": 4, "float16": 2}


def _layers(name: str, value: Any) -> tuple[int, ...] | str:
    if value == ALL or (isinstance(value, Sequence) and list(value) == [ALL]):
        return ALL
    if isinstance(value, Sequence) and ALL in value and not isinstance(value, str):
        raise UsageError(f"{name} {ALL} takes every layer; leave the others out")
    whole_numbers(name, value)
    return tuple(value)


def _paths(name: str, value: Any) -> tuple[str, ...]:
    paths = (value,) if isinstance(value, (str, PathLike)) else value
    instance(name, paths, Sequence, "one or more paths")
    return tuple(path_text(name, path) for path in paths)


def _device(name: str, value: Any) -> str:
    parse_device(value)
    return str(value)


_shard = partial(instance, kind=Shard, words="a Shard, such as Shard(1, 8)")
_rules = partial(instance, kind=Rules, words="Rules")


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; the defaults and the checks are the command line's.

    Attributes
    ----------
    model
        `protrna` (the published weights), `demo`, or the path of a checkpoint or of the folder of an export.
    layers
        Layers to take, all from one run of the model: 0 is the embedding, negatives count from the end; or
        `all`.
    per_token
        One vector per residue instead of one per record.
    per_token_output
        Path of a second output, with one vector per residue, from the same run of the model.
    pool
        `mean` or `max` over the residues, or `cls`; not for `per_token`.
    precision
        Precision of matrix multiplication: `float32` or `bfloat16`, or `auto` for bfloat16 where it is at
        least 1.5 times as fast. Everything else is computed in float32.
    dtype
        Number type of the output vectors: `float32` or `float16`.
    format, h5_layout
        `parquet`, `h5` or `npy`, by default decided by the suffix; `flat` or `packed`.
    device, threads
        As in `load_model`.
    batch_tokens
        Token budget of a batch, or `auto`: by CPU threads, or by the free memory of the GPU.
    workers
        Processes on this machine that run batches, each with its share of the cores or with a GPU, or `auto`;
        `threads` are then those of each.
    weights_dir
        Folder of the published weights; by default `PROTRNA_HOME` or the user's cache folder.
    check_weights
        Hash the checkpoint again, even if it has not changed since the last time.
    offline
        Never download the published weights; `PROTRNA_OFFLINE=1` does the same.
    overwrite
        Replace an output that exists.
    resume
        Continue an unfinished run, or start if there is none.
    shard
        Embed one slice of the input.
    reuse
        Paths of earlier outputs; vectors of sequences that they hold are taken from there.
    rules
        How invalid letters, gaps, unknown residues, regions and long records are treated.

    Raises
    ------
    UsageError
        A value is not one that its option takes, or two options contradict each other.
    """

    model: str = path(
        PUBLISHED, "protrna, demo (synthetic), or a checkpoint.", "NAME|PATH", "model", "PROTRNA_MODEL"
    )
    layers: tuple[int, ...] | str = option(
        (-1,),
        "numbers or all",
        "Layer; may be repeated; -1 is the last.  [default: -1]",
        _layers,
        metavar="N|all",
        name="--layer",
    )
    per_token: bool = flag("One vector per residue instead of one per record.")
    per_token_output: str | None = path(None, "Also write one vector per residue, here.", "OUT2")
    pool: Pool = choice(tuple(POOLINGS), "mean", "How residues become one vector; cls: that of <cls>.")
    precision: Precision = choice(
        PRECISIONS, "float32", "Of matrix multiplication; auto: bfloat16 if faster.", "PROTRNA_PRECISION"
    )
    dtype: Dtype = choice(tuple(DTYPE_BYTES), "float32", "Type of the numbers in OUT.")
    format: Format | None = choice(RUN_FORMATS, None, "Format of OUT.  [default: by its suffix]")
    h5_layout: H5Layout = choice(H5_LAYOUTS, "flat", "HDF5: a dataset per record, or one matrix.")
    device: str = option(
        AUTO, "text", "Device to run on.", _device, metavar="auto|cpu|gpu[:N]", variable="PROTRNA_DEVICE"
    )
    threads: int | None = number(
        None, "CPU threads.  [default: all that it may use]", least=1, letters=("-t", "-j")
    )
    batch_tokens: int | str = number_or_auto(AUTO, "Tokens in a batch; more need more memory.")
    workers: int | str = number_or_auto(1, "Processes that embed, each with some cores or a GPU.")
    weights_dir: str | None = path(
        None, "Folder of the weights.  [default: PROTRNA_HOME, or the user's cache]", "DIR", "folder"
    )
    check_weights: bool = flag("Hash the checkpoint even if it is unchanged.")
    offline: bool = flag("Never download weights, as PROTRNA_OFFLINE=1 does.")
    overwrite: bool = flag("Replace OUT if it exists.")
    resume: bool = flag("Continue an unfinished run, or start one.")
    shard: Shard = option(
        WHOLE, "shard", "Embed slice I of N; auto, auto/N: as the job array says.", _shard, metavar="I/N"
    )
    reuse: tuple[str, ...] = option(
        (), "paths", "Copy vectors of sequences that this output holds.", _paths, metavar="OLD"
    )
    rules: Rules = option(DEFAULT_RULES, "rules", "", _rules, name="rules")

    def __post_init__(self) -> None:
        check_options(self)
        for name, given in (
            ("--pool", self.pool != "mean"),
            ("--per-token-output", self.per_token_output),
            ("--skip-unknown", self.rules.skip_unknown),
            ("--regions", self.rules.regions),
        ):
            if given and self.per_token:
                raise pooled_only(name)
        if self.rules.skip_unknown and self.pool != "mean":
            raise UsageError(f"--skip-unknown is for --pool mean, not for --pool {self.pool}")
        if self.rules.regions and self.pool == "cls":
            raise UsageError(
                "--regions is for --pool mean and max, as cls is a vector of the whole record; use one"
            )
        if self.reuse and self.rules.regions:
            raise UsageError(
                "--reuse does not go with --regions: the vector of a region depends on its whole record; "
                "leave one of them out"
            )
        if self.workers != 1 and ":" in self.device:
            raise UsageError(
                f"--workers gives each process a GPU of its own, but --device {self.device} is only one; "
                "choose them with CUDA_VISIBLE_DEVICES instead"
            )
        if self.resume and self.overwrite:
            raise UsageError("--resume continues a run, but --overwrite starts it again; use one of them")

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Layers of the model, once `all` is settled."""
        assert not isinstance(self.layers, str)
        return self.layers

    @property
    def budget(self) -> int:
        """Token budget of a batch, once `auto` is settled."""
        assert isinstance(self.batch_tokens, int)
        return self.batch_tokens

    def refuse_for_pipe(self, output: str) -> None:
        """Refuse options that need an output file, for a run whose output is a pipe.

        output: the output as messages name it: `-`, or the null device.
        """
        if self.format not in (None, "parquet"):
            raise UsageError(f"-o {output} is always Parquet, not {self.format}; give -o a file")
        refuse_layout(self.h5_layout, [choose_format(Path("-"), "parquet")])
        if self.resume or self.overwrite:
            raise UsageError(
                f"--resume and --overwrite need a file, but -o {output} is not one; give -o a file"
            )
        if self.reuse:
            raise UsageError(f"--reuse needs a file as -o, but -o {output} is not one; give -o a file")
        if self.per_token_output:
            raise UsageError(
                f"--per-token-output needs a file as -o, but -o {output} is not one; give -o a file"
            )
        if "skip" in (self.rules.on_invalid, self.rules.long):
            raise UsageError(
                f"skipped records are listed beside OUT, but -o {output} is not a file; give -o one"
            )
        if self.rules.regions:
            raise UsageError(
                f"records without a region are listed beside OUT, but -o {output} is not a file; give -o one"
            )

    def refuse_for_cluster(self) -> None:
        """Refuse options that do not work with a folder of parts, for a run on a Dask cluster."""
        if self.format not in (None, "parquet"):
            raise UsageError(
                "--dask writes a folder of Parquet parts; use protrna merge to convert it to another format"
            )
        refuse_layout(self.h5_layout, [choose_format(Path("-"), "parquet")])
        if self.per_token_output:
            raise UsageError("--dask writes only one output; run it again with --per-token for the residues")
        if self.workers != 1:
            raise UsageError("--dask has workers of its own, as many as its cluster; leave --workers out")
        if self.shard.count > 1:
            raise UsageError("--dask cuts the run into shards itself; leave --shard out")


def pooled_only(option: str) -> UsageError:
    """Make the error for an option that has no effect with `--per-token`."""
    return UsageError(
        f"{option} is for pooled rows, but --per-token writes none; "
        "to get both, use --per-token-output FILE instead of --per-token"
    )
