"""`protrna embed`."""

from __future__ import annotations

import os
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from protrna_cli.cli.help import Command, epilog
from protrna_cli.cli.messages import claim_stdout, is_quiet, is_verbose, say, show, suggest, tell, verbosity
from protrna_cli.cli.options import ANY_PATH, OneOf, as_json, options_of, several_paths, was_given
from protrna_cli.cli.progress import progress_for, watcher_for
from protrna_cli.disk import is_null_device
from protrna_cli.errors import UsageError
from protrna_cli.libraries import quiet_libraries
from protrna_cli.machine import check_threads
from protrna_cli.output.files import choose_format, shard_path
from protrna_cli.plan.rules import Rules
from protrna_cli.plan.shard import resolve_shard
from protrna_cli.run.options import EmbedOptions, pooled_only
from protrna_cli.run.report import SignalStop
from protrna_cli.weights.checkpoint import DEMO, DEMO_NOTICE

STDOUT = "-"

PANELS = {
    "Input": ["--files-from", "--null", "--on-invalid", "--gaps", "--regions"],
    "Embedding": ["--per-token", "--pool", "--layer", "--skip-unknown"],
    "Model": ["--model", "--precision", "--weights-dir", "--offline", "--check-weights"],
    "Output": ["--output", "--format", "--per-token-output", "--dtype", "--h5-layout", "--overwrite"],
    "Long records": ["--long", "--max-length", "--overlap"],
    "Running": [
        "--dry-run",
        "--no-trial",
        "--resume",
        "--reuse",
        "--device",
        "--threads",
        "--workers",
        "--batch-tokens",
    ],
    "Many machines": ["--shard", "--dask"],
    "Messages": ["--progress", "--json", "--quiet", "--verbose", "--help"],
}
"""The options in groups, most used first."""


@click.command(
    cls=Command,
    panels=PANELS,
    epilog=epilog(
        "protrna embed input.fa -o out.parquet",
        "protrna embed a.fa b.fa -o residues.h5 --per-token",
        "zcat input.fa.gz | protrna embed - -o - > out.parquet",
        "protrna embed release2.fa -o release2.parquet --reuse release1.parquet",
        "protrna embed input.fa -o out.h5 --model ProtRNA_pretrained.h5 --layer 20 --layer 33",
        topics="start, inputs, outputs, options, resume, shards, speed",
    ),
)
@several_paths("inputs", "INPUT...")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=ANY_PATH,
    help=".parquet, .h5 or .npy; - is a pipe.  [required unless --dry-run]",
)
@options_of(EmbedOptions)
@options_of(Rules)
@click.option(
    "--dask", metavar="ADDRESS|local:N", help="Use a Dask cluster; OUT is a folder of Parquet parts."
)
@click.option(
    "--dry-run", is_flag=True, help="Check all records and estimate time, memory and size; embed nothing."
)
@click.option("--no-trial", is_flag=True, help="Do not run a batch to estimate the time.")
@as_json
@click.option(
    "--progress",
    type=OneOf(["auto", "bar", "json", "none"]),
    default="auto",
    show_default=True,
    help="On stderr; auto is a bar, or lines in a log.",
)
@verbosity
def embed(
    inputs: tuple[str, ...],
    output: str | None,
    dry_run: bool,
    no_trial: bool,
    as_json: bool,
    progress: str,
    dask: str | None,
    **options: Any,
) -> None:
    """Embed the RNA or DNA sequences of FASTA files.

    INPUT is one or more FASTA files, plain or compressed, or - for standard input. Rows are in input order.
    """
    check_threads()
    if output is None and not dry_run:
        raise UsageError("-o OUT is missing: give the output file, or - for standard output")
    given, output = output, output or STDOUT  # without one it counts as Parquet
    embed_options = _parse_options(options)
    if dask and output == STDOUT:
        raise UsageError("--dask writes a folder of Parquet parts, but -o - is a pipe; give -o a folder")
    if as_json and not dry_run:
        raise UsageError("--json needs --dry-run; for progress as JSON use --progress json")
    if no_trial and not dry_run:
        raise UsageError("--no-trial needs --dry-run, which measures how fast this machine is")
    as_parquet = bool(dask) or output == STDOUT or is_null_device(Path(output))
    if not as_parquet:
        choose_format(Path(output), embed_options.format)  # report a wrong suffix before loading libraries
    if dry_run:
        _refuse_what_a_run_refuses(given, dask, embed_options)
        if as_parquet and not embed_options.format:
            embed_options = replace(embed_options, format="parquet")
        with quiet_libraries(is_verbose()), SignalStop() as stop, stop.abandoning():
            from protrna_cli.api.files import estimate_fasta

            estimate = estimate_fasta(
                inputs, output, embed_options, not no_trial, lambda flaw: say(f"error: {flaw}")
            )
        show(estimate.json() if as_json else estimate.text())
        return
    if embed_options.model == DEMO:
        tell(f"note: {DEMO_NOTICE}")
    with quiet_libraries(is_verbose()), SignalStop() as stop:
        from protrna_cli.api.files import embed_files, stream_fasta

        callbacks = progress_for(progress, is_quiet()), stop, watcher_for(progress, is_quiet())
        if dask:
            from protrna_cli.cluster.distribute import embed_distributed

            summary = embed_distributed(inputs, output, embed_options, dask, *callbacks)
        elif output == STDOUT:
            summary = stream_fasta(inputs, claim_stdout(), embed_options, *callbacks)
        else:
            summary = embed_files(inputs, output, embed_options, *callbacks)
    tell(summary.text())
    if output != STDOUT and not is_null_device(Path(output)):
        suggest(shlex.join(["protrna", "info", str(shard_path(Path(output), embed_options.shard))]))


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


def _refuse_what_a_run_refuses(output: str | None, dask: str | None, options: EmbedOptions) -> None:
    """Refuse options that do not go with the output of the run whose estimate is asked for."""
    if dask:
        options.refuse_for_cluster()
    elif output and (output == STDOUT or is_null_device(Path(output))):
        options.refuse_for_pipe(output)
