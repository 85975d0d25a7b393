"""`protrna embed`."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from protrna_cli.arrays import shard_of
from protrna_cli.cli.device import on_device
from protrna_cli.cli.progress import progress_for
from protrna_cli.cli.terminal import claim_stdout, hushed_libraries, say, verbosity
from protrna_cli.cli.weights import watcher_for, weights_dir
from protrna_cli.errors import UsageError
from protrna_cli.machine import parse_device
from protrna_cli.options import EmbedOptions
from protrna_cli.output import FORMATS, H5_LAYOUTS, format_of
from protrna_cli.regions import read_bed
from protrna_cli.rules import GAPS, LONG, ON_INVALID, TRAINED_LENGTH, Rules
from protrna_cli.stopping import SignalStop
from protrna_cli.weights import DEMO, DEMO_NOTICE, PUBLISHED

STDOUT = "-"

EPILOG = """\b
Examples:
  protrna embed input.fa -o out.parquet
  protrna embed a.fa b.fa -o residues.h5 --per-token
  zcat input.fa.gz | protrna embed - -o - > out.parquet
  protrna embed input.fa -o out.h5 --model ProtRNA_pretrained.h5 --layer 20 --layer 33
"""


@click.command(epilog=EPILOG)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT",
    type=click.Path(),
    help="File to make: .parquet, .h5 or .npy; - is Parquet on standard output.",
)
@click.option(
    "--format", type=click.Choice([*FORMATS, "json"]), help="Format of OUT.  [default: told by its suffix]"
)
@click.option("--per-token", is_flag=True, help="One vector a residue, not one a record.")
@click.option(
    "--per-token-output",
    metavar="OUT2",
    type=click.Path(),
    help="A second file to make from the same run, with one vector a residue; its suffix tells the format.",
)
@click.option(
    "--pool",
    type=click.Choice(["mean", "max", "cls"]),
    default="mean",
    show_default=True,
    help="How the residues of a record become one vector; cls takes the <cls> token's.",
)
@click.option(
    "--skip-unknown",
    is_flag=True,
    help="Leave unknown residues out of the mean; n_embedded counts the rest.",
)
@click.option(
    "--regions",
    metavar="BED",
    type=click.Path(),
    help="One vector a region of BED, from records that run whole. Rows are named ID:NAME.",
)
@click.option(
    "--layer",
    "layers",
    type=int,
    multiple=True,
    default=[-1],
    metavar="N",
    help="Layer to take; may be given several times. 0 is the embedding, negatives count from the end.  "
    "[default: the last, 33]",
)
@click.option(
    "--model",
    default=PUBLISHED,
    show_default=True,
    metavar="NAME|PATH",
    help="protrna (the published weights, fetched if they are not at hand), demo (synthetic weights, for "
    "trying), or a checkpoint's path.",
)
@weights_dir
@click.option("--offline", is_flag=True, help="Fetch no weights; PROTRNA_OFFLINE=1 says the same.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the model's matmuls. bfloat16 halves the memory of the weights and is several times faster on "
    "CPUs with AMX and on GPUs.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the numbers written.",
)
@click.option(
    "--h5-layout",
    type=click.Choice(H5_LAYOUTS),
    default="flat",
    show_default=True,
    help="flat: a dataset a record, named by its id. packed: one matrix.",
)
@click.option(
    "--on-invalid",
    type=click.Choice(ON_INVALID),
    default="error",
    show_default=True,
    help="A letter that is no RNA or DNA: read it as unknown, or skip its record, listed in OUT.skipped.tsv.",
)
@click.option(
    "--gaps", type=click.Choice(GAPS), default="error", show_default=True, help="What becomes of - . and ~."
)
@click.option(
    "--long",
    type=click.Choice(LONG),
    default="window",
    show_default=True,
    help="A record of more than --max-length residues: overlapping windows joined again, its start alone, "
    "an error, left out, or in one piece.",
)
@click.option(
    "--max-length",
    type=int,
    default=TRAINED_LENGTH,
    show_default=True,
    metavar="N",
    help="Residues of the longest piece.",
)
@click.option(
    "--overlap",
    type=int,
    metavar="N",
    help="Residues that windows share.  [default: a quarter of --max-length]",
)
@on_device
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    metavar="N",
    help="Tokens of a batch: more need more memory.",
)
@click.option(
    "--shard",
    metavar="I/N",
    default="1/1",
    help="Embed the I-th of N slices, into OUT with I-of-N before its suffix; see protrna merge. auto takes "
    "I and N from a job array, auto/N takes I.",
)
@click.option(
    "--dask",
    metavar="ADDRESS|local:N",
    help="Run on a Dask cluster: a scheduler's address or its scheduler file, or N processes here. OUT is a "
    "folder of Parquet parts, made by all workers.",
)
@click.option("--resume", is_flag=True, help="Go on with a run that did not finish; without one, begin.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Read the input, say what the run would take, and stop.  [json: --format json]",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "json", "none"]),
    default="auto",
    show_default=True,
    help="On stderr. auto: a bar on a terminal, elsewhere a line a minute. json: a line every 5 seconds.",
)
@verbosity
def embed(
    inputs: tuple[str, ...],
    output: str,
    dry_run: bool,
    progress: str,
    dask: str | None,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Embed the RNA or DNA sequences of FASTA files.

    INPUT is one FASTA file or several, or - for standard input; gzip, bzip2, xz and zstd are read as they
    are. Rows stand in input order; every row carries the record's id, description and counts, and OUT says
    how it was made (see protrna info).
    """
    parse_device(options["device"])
    options["shard"] = shard_of(options["shard"], os.environ)
    if options["regions"]:
        options["regions"] = read_bed(options["regions"])
    rules = Rules(**{field.name: options.pop(field.name) for field in fields(Rules)})
    as_json = options["format"] == "json"
    if dask and output == STDOUT:
        raise UsageError("--dask makes a folder of Parquet parts, and -o - is none; give -o a folder")
    if as_json and not dry_run:
        raise UsageError("--format json is for --dry-run; OUT is parquet, h5 or npy")
    if as_json or not options["format"]:
        options["format"] = "parquet" if dask or output == STDOUT else format_of(Path(output))
    asked = EmbedOptions(**options, rules=rules)
    if dry_run:
        from protrna_cli.api import estimate_fasta

        estimate = estimate_fasta(inputs, output, asked)
        click.echo(estimate.json() if as_json else estimate.text())
        return
    if asked.model == DEMO and not quiet:
        say(f"note: {DEMO_NOTICE}")
    with hushed_libraries(verbose), SignalStop() as stop:
        from protrna_cli.api import embed_fasta, stream_fasta

        watching = progress_for(progress, quiet), stop, watcher_for(progress, quiet)
        if dask:
            from protrna_cli.distribute import embed_distributed

            summary = embed_distributed(inputs, output, asked, dask, *watching)
        elif output == STDOUT:
            summary = stream_fasta(inputs, claim_stdout(), asked, *watching)
        else:
            summary = embed_fasta(inputs, output, asked, *watching)
    if not quiet:
        say(summary.text())
