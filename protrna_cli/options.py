"""What can be asked of a run, and what cannot be had together."""

from __future__ import annotations

from dataclasses import dataclass

from protrna_cli import weights
from protrna_cli.errors import UsageError
from protrna_cli.rules import DEFAULT_RULES, Rules
from protrna_cli.shard import WHOLE, Shard


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed; the defaults are the command line's.

    Attributes
    ----------
    model
        `protrna` (the published weights), `demo`, or the path of a checkpoint.
    layers
        Layers to take, from one run of the model: 0 is the embedding, negatives count from the end.
    per_token
        One vector a residue, not one a record.
    per_token_output
        A second output, with one vector a residue, from the same run of the model.
    pool
        `mean` or `max` over the residues, or `cls`; nothing per token.
    precision
        Of the model's matmuls: `float32` or `bfloat16`. All else is computed in float32.
    dtype
        Of what is written: `float32` or `float16`.
    format, h5_layout
        `parquet`, `h5` or `npy`, by default told by the suffix; `flat` or `packed`.
    device, threads
        As `load_model` takes them.
    batch_tokens
        Budget of a batch in tokens.
    weights_dir
        Where the published weights are kept; by default `PROTRNA_HOME` or the user's cache folder.
    offline
        Do not fetch the published weights if they are not at hand; `PROTRNA_OFFLINE=1` says the same.
    overwrite
        Replace an output that exists.
    resume
        Go on with a run that did not finish; without one, begin.
    shard
        Embed one slice of the input.
    rules
        What becomes of invalid letters, gaps and long records, and of which residues a row speaks.

    Raises
    ------
    UsageError
        What is asked for cannot be had together.
    """

    model: str = weights.PUBLISHED
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
    batch_tokens: int = 2048
    weights_dir: str | None = None
    offline: bool = False
    overwrite: bool = False
    resume: bool = False
    shard: Shard = WHOLE
    rules: Rules = DEFAULT_RULES

    def __post_init__(self) -> None:
        for name, given in (
            ("--per-token-output", self.per_token_output),
            ("--skip-unknown", self.rules.skip_unknown),
            ("--regions", self.rules.regions),
        ):
            if given and self.per_token:
                raise UsageError(
                    f"{name} is for pooled rows, and --per-token makes none; "
                    "to have both, give --per-token-output a file instead"
                )
        if self.rules.skip_unknown and self.pool != "mean":
            raise UsageError(f"--skip-unknown is for --pool mean, not for --pool {self.pool}")
        if self.rules.regions and self.pool == "cls":
            raise UsageError("--regions is for --pool mean and max: cls speaks of a whole record")
