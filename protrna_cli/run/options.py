"""The options of a run, and the combinations of options that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from protrna_cli.errors import UsageError
from protrna_cli.machine import parse_device
from protrna_cli.output.formats.table import H5_LAYOUTS, RUN_FORMATS, choose_format, refuse_layout
from protrna_cli.plan.rules import DEFAULT_RULES, Rules
from protrna_cli.plan.shard import WHOLE, Shard
from protrna_cli.plan.values import (
    AUTO,
    auto_or_number,
    instance,
    one_of,
    path_text,
    switch,
    whole_number,
    whole_numbers,
)
from protrna_cli.weights.names import PUBLISHED

POOLS = ("mean", "max", "cls")
PRECISIONS = ("float32", "bfloat16", AUTO)
DTYPE_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; the defaults and the checks are the command line's.

    Attributes
    ----------
    model
        `protrna` (the published weights), `demo`, or the path of a checkpoint.
    layers
        Layers to take, all from one run of the model: 0 is the embedding, negatives count from the end.
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

    model: str = PUBLISHED
    layers: tuple[int, ...] = (-1,)
    per_token: bool = False
    per_token_output: str | None = None
    pool: str = "mean"
    precision: str = "float32"
    dtype: str = "float32"
    format: str | None = None
    h5_layout: str = "flat"
    device: str = "auto"
    threads: int | None = None
    batch_tokens: int | str = AUTO
    workers: int | str = 1
    weights_dir: str | None = None
    check_weights: bool = False
    offline: bool = False
    overwrite: bool = False
    resume: bool = False
    shard: Shard = WHOLE
    reuse: tuple[str, ...] = ()
    rules: Rules = DEFAULT_RULES

    def __post_init__(self) -> None:
        self._check_values()
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
    def budget(self) -> int:
        """Token budget of a batch, once `auto` is settled."""
        assert isinstance(self.batch_tokens, int)
        return self.batch_tokens

    def _check_values(self) -> None:
        """Refuse values that the command line would not take. Paths become text, and layers a tuple."""
        object.__setattr__(self, "model", path_text("--model", self.model))
        for name in ("per_token_output", "weights_dir"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, path_text(_option(name), getattr(self, name)))
        whole_numbers("--layer", self.layers)
        object.__setattr__(self, "layers", tuple(self.layers))
        one_of("--pool", self.pool, POOLS)
        one_of("--precision", self.precision, PRECISIONS)
        one_of("--dtype", self.dtype, DTYPE_BYTES)
        if self.format is not None:
            one_of("--format", self.format, RUN_FORMATS)
        one_of("--h5-layout", self.h5_layout, H5_LAYOUTS)
        parse_device(self.device)
        if self.threads is not None:
            whole_number("--threads", self.threads, 1)
        auto_or_number("--batch-tokens", self.batch_tokens, 1)
        auto_or_number("--workers", self.workers, 1)
        if isinstance(self.reuse, (str, PathLike)):
            object.__setattr__(self, "reuse", (self.reuse,))
        instance("--reuse", self.reuse, Sequence, "one or more paths")
        object.__setattr__(self, "reuse", tuple(path_text("--reuse", path) for path in self.reuse))
        for name in ("per_token", "check_weights", "offline", "overwrite", "resume"):
            switch(_option(name), getattr(self, name))
        instance("--shard", self.shard, Shard, "a Shard, such as Shard(1, 8)")
        instance("rules", self.rules, Rules, "Rules")

    def refuse_for_pipe(self, output: str) -> None:
        """Refuse options that need an output file, for a run whose output is a pipe.

        Parameters
        ----------
        output
            The output as messages name it: `-`, or the null device.

        Raises
        ------
        UsageError
            Another format than Parquet, `resume`, `overwrite`, `reuse`, a second output, or rules that may
            skip records, whose list is a file beside the output.
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
        """Refuse options that do not work with a folder of parts, for a run on a Dask cluster.

        Raises
        ------
        UsageError
            Another format than Parquet, a second output, or a shard.
        """
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


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def pooled_only(option: str) -> UsageError:
    """Make the error for an option that has no effect with `--per-token`."""
    return UsageError(
        f"{option} is for pooled rows, but --per-token writes none; "
        "to get both, use --per-token-output FILE instead of --per-token"
    )
