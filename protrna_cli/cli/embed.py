"""`protrna embed`."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from protrna_cli.cli.options import (
    ANY_PATH,
    as_json,
    format_of_output,
    on_device,
    overwrite,
    verbosity,
    was_given,
    weights_dir,
)
from protrna_cli.cli.progress import progress_for, watcher_for
from protrna_cli.cli.terminal import claim_stdout, quiet_libraries, say
from protrna_cli.cluster.job_array import resolve_shard
from protrna_cli.disk import is_null_device
from protrna_cli.errors import UsageError
from protrna_cli.output.formats.table import choose_format
from protrna_cli.plan.rules import GAPS, LONG, ON_INVALID, TRAINED_LENGTH, Rules
from protrna_cli.run.options import DTYPE_BYTES, POOLS, PRECISIONS, EmbedOptions, pooled_only
from protrna_cli.run.stop import SignalStop
from protrna_cli.weights.names import DEMO, DEMO_NOTICE, PUBLISHED

STDOUT = "-"

EPILOG = """\b
Examples:
  protrna embed input.fa -o out.parquet
  protrna embed a.fa b.fa -o residues.h5 --per-token
  zcat input.fa.gz | protrna embed - -o - > out.parquet
  protrna embed input.fa -o out.h5 --model ProtRNA_pretrained.h5 --layer 20 --layer 33
"""


@click.command(epilog=EPILOG)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=ANY_PATH)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=ANY_PATH,
    help="Output file: .parquet, .h5 or .npy; - writes Parquet to standard output, /dev/null discards it. "
    "A symbolic link is refused: name the file that it points to.  [required, but not with --dry-run]",
)
@click.option("--per-token", is_flag=True, help="One vector per residue instead of one per record.")
@click.option(
    "--per-token-output",
    metavar="OUT2",
    type=ANY_PATH,
    help="Second output file from the same run, with one vector per residue; its suffix sets its format.",
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    default="mean",
    show_default=True,
    help="How the residues of a record become one vector; cls takes the vector of the <cls> token.",
)
@click.option(
    "--skip-unknown",
    is_flag=True,
    help="Leave unknown residues out of the mean; n_embedded counts the known ones.",
)
@click.option(
    "--regions",
    metavar="BED",
    type=ANY_PATH,
    help="One vector per region of BED; the model still sees the whole record. Row ids are ID:NAME.",
)
@click.option(
    "--layer",
    "layers",
    type=int,
    multiple=True,
    default=[-1],
    metavar="N",
    help="Layer to take; may be given several times. 0 is the token embedding, negative numbers count from "
    "the end.  [default: the last, 33]",
)
@click.option(
    "--model",
    default=PUBLISHED,
    show_default=True,
    metavar="NAME|PATH",
    help="protrna (the published weights, downloaded if missing), demo (synthetic weights, for trying the "
    "tool) or the path of a checkpoint.",
)
@weights_dir
@click.option("--offline", is_flag=True, help="Never download weights; PROTRNA_OFFLINE=1 does the same.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="Precision of matrix multiplication. bfloat16 halves the memory of the weights and is several times "
    "faster on CPUs with AMX and on GPUs.",
)
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPE_BYTES)),
    default="float32",
    show_default=True,
    help="Number type of the output vectors.",
)
@format_of_output()
@click.option(
    "--on-invalid",
    type=click.Choice(ON_INVALID),
    default="error",
    show_default=True,
    help="What to do with a letter that is not RNA or DNA: stop, read it as unknown, or skip its record and "
    "list it in OUT.skipped.tsv.",
)
@click.option(
    "--gaps",
    type=click.Choice(GAPS),
    default="error",
    show_default=True,
    help="What to do with gaps (- . and ~): stop, remove them, or read them as unknown residues.",
)
@click.option(
    "--long",
    type=click.Choice(LONG),
    default="window",
    show_default=True,
    help="What to do with a record of more than --max-length residues: embed it in overlapping windows and "
    "join them, embed only its start, stop, skip it, or run it in one piece.",
)
@click.option(
    "--max-length",
    type=int,
    default=TRAINED_LENGTH,
    show_default=True,
    metavar="N",
    help="Longest piece that runs at once, in residues.",
)
@click.option(
    "--overlap",
    type=int,
    metavar="N",
    help="Residues that neighbouring windows share, at least.  [default: a quarter of --max-length]",
)
@on_device
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    metavar="N",
    help="Tokens per batch; more tokens need more memory.",
)
@click.option(
    "--shard",
    metavar="I/N",
    default="1/1",
    help="Embed slice I of N, into OUT with I-of-N before its suffix; see protrna merge. auto takes I and N "
    "from a job array, auto/N takes only I.",
)
@click.option(
    "--dask",
    metavar="ADDRESS|local:N",
    help="Run on a Dask cluster: a scheduler's address or scheduler file, or N processes on this machine. "
    "OUT is a folder of Parquet parts.",
)
@click.option("--resume", is_flag=True, help="Continue an unfinished run, or start if there is none.")
@overwrite()
@click.option(
    "--dry-run",
    is_flag=True,
    help="Read the input, print counts and the estimated time, memory and output size, and stop.",
)
@as_json
@click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "json", "none"]),
    default="auto",
    show_default=True,
    help="Progress on stderr. auto: a bar on a terminal, otherwise one line per minute. json: one line every "
    "5 seconds.",
)
@verbosity
def embed(
    inputs: tuple[str, ...],
    output: str | None,
    dry_run: bool,
    as_json: bool,
    progress: str,
    dask: str | None,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Embed the RNA or DNA sequences of FASTA files.

    INPUT is one or more FASTA files, plain or compressed (gzip, bzip2, xz, zstd), or - for standard input.
    Rows are in input order, each with the record's id, description and counts. OUT also stores how it was
    made (see protrna info).
    """
    if output is None:
        if not dry_run:
            raise UsageError("-o OUT is missing: give the output file, or - for standard output")
        output = STDOUT  # counts as Parquet
    embed_options = _parse_options(options)
    if dask and output == STDOUT:
        raise UsageError("--dask writes a folder of Parquet parts, but -o - is a pipe; give -o a folder")
    if as_json and not dry_run:
        raise UsageError("--json needs --dry-run; for progress as JSON use --progress json")
    as_parquet = bool(dask) or output == STDOUT or is_null_device(Path(output))
    if not as_parquet:
        choose_format(Path(output), embed_options.format)  # report a wrong suffix before loading libraries
    if dry_run:
        _print_estimate(inputs, output, embed_options, as_json, as_parquet)
        return
    if embed_options.model == DEMO and not quiet:
        say(f"note: {DEMO_NOTICE}")
    with quiet_libraries(verbose), SignalStop() as stop:
        from protrna_cli.api.files import embed_fasta, stream_fasta

        callbacks = progress_for(progress, quiet), stop, watcher_for(progress, quiet)
        if dask:
            from protrna_cli.cluster.distribute import embed_distributed

            summary = embed_distributed(inputs, output, embed_options, dask, *callbacks)
        elif output == STDOUT:
            summary = stream_fasta(inputs, claim_stdout(), embed_options, *callbacks)
        else:
            summary = embed_fasta(inputs, output, embed_options, *callbacks)
    if not quiet:
        say(summary.text())


def _parse_options(options: dict[str, Any]) -> EmbedOptions:
    """Turn the values of the command line into options."""
    if options["per_token"] and was_given("pool"):
        raise pooled_only("--pool")
    options["shard"] = resolve_shard(options["shard"], os.environ)
    if options["regions"]:
        from protrna_cli.fasta.bed import read_bed

        options["regions"] = read_bed(options["regions"])
    rules = Rules(**{field.name: options.pop(field.name) for field in fields(Rules)})
    return EmbedOptions(**options, rules=rules)


def _print_estimate(
    inputs: tuple[str, ...], output: str, options: EmbedOptions, as_json: bool, as_parquet: bool
) -> None:
    """Print the estimate of a run."""
    from protrna_cli.api.files import estimate_fasta

    if as_parquet and not options.format:
        options = replace(options, format="parquet")
    with SignalStop() as stop, stop.abandoning():
        estimate = estimate_fasta(inputs, output, options)
    click.echo(estimate.json() if as_json else estimate.text())
