"""Embed FASTA files into output files, as `protrna embed` does, and read such files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from protrna_cli.api.keywords import any_bar, options_of, python_words
from protrna_cli.disk import is_null_device, locked
from protrna_cli.errors import Stopped, UsageError
from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.sources import open_sources
from protrna_cli.output.embeddings import Embeddings, open_embeddings
from protrna_cli.output.files import choose_format
from protrna_cli.plan.rules import AnyPath, instance, path_text
from protrna_cli.plan.shard import WHOLE
from protrna_cli.run.auto import settle
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.outputs import Target, need_unique_ids, protect_targets, refuse_existing, targets_of
from protrna_cli.run.report import Progress, Stop, Summary
from protrna_cli.run.run import Run, embed_shard
from protrna_cli.weights.checkpoint import locate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from protrna_cli.api.keywords import FileKeywords
    from protrna_cli.api.loaded import LoadedModel
    from protrna_cli.run.estimate import Estimate
    from protrna_cli.weights.checkpoint import Checkpoint, Watcher


def embed_fasta(
    inputs: AnyPath | Sequence[AnyPath],
    output_path: AnyPath,
    options: EmbedOptions | None = None,
    progress: Progress | bool | None = None,
    stop: Stop | None = None,
    watcher: Watcher | None = None,
    *,
    model: AnyPath | LoadedModel | None = None,
    **how: Unpack[FileKeywords],
) -> Summary:
    """Embed FASTA files into one output, as `protrna embed` does.

    Parameters
    ----------
    inputs
        One or more paths, or `-` for standard input; their records are read in this order.
    output_path
        The output file; a shard adds its number before the suffix, as in `out.3-of-7.parquet`. The null
        device takes them as Parquet.
    options
        All options as one value, instead of `model` and the keywords.
    progress
        Whether to show a progress bar, in a terminal or a notebook; or callbacks for the progress.
    stop
        Checked for a request to stop; see `protrna_cli.run.report`.
    watcher
        Callbacks for the progress of the download, if the weights are missing.
    model
        `protrna`, `demo` or the path of a checkpoint; or a model from `load_model`, with its precision and on
        its device.
    **how
        Everything else that `EmbedOptions` and `Rules` have, by the same names: `layers` (one or several),
        `per_token`, `per_token_output`, `pool`, `precision`, `dtype`, `format`, `h5_layout`, `device`,
        `threads`, `batch_tokens`, `workers`, `weights_dir`, `check_weights`, `offline`, `overwrite`,
        `resume`, `shard`, `reuse`, `on_invalid`, `gaps`, `long`, `max_length`, `overlap`, `skip_unknown`, and
        `regions`, which may be the path of a BED file.

    Returns
    -------
    Summary
        What was done; `print(summary.text())`.

    Raises
    ------
    UsageError
        An argument is not one that its option takes, or two contradict each other.
    ProtrnaError
        Any other error that the user can fix; see `protrna_cli.errors`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from protrna_cli import embed_fasta
    >>> with TemporaryDirectory() as folder:
    ...     summary = embed_fasta("sample_data/readme.fa", f"{folder}/out.npy", model="demo", layers=(3, -1))
    >>> summary.n_records
    3
    """
    checkpoint: Checkpoint | None = None
    with python_words(embed_fasta):
        if options is not None and (how or model is not None):
            raise UsageError("options has all options; give it alone, or only keywords")
        if model is not None and not isinstance(model, (str, os.PathLike)):
            from protrna_cli.api.loaded import HeldCheckpoint

            checkpoint = HeldCheckpoint(model)
            options = options_of(**checkpoint.settings(**how))
        elif options is None:
            options = options_of(**({} if model is None else {"model": model}), **how)
        shown = any_bar() if progress is True else progress or None
        return embed_files(inputs, output_path, options, shown, stop, watcher, checkpoint)


def embed_files(
    inputs: AnyPath | Sequence[AnyPath],
    output_path: AnyPath,
    options: EmbedOptions,
    progress: Progress | None = None,
    stop: Stop | None = None,
    watcher: Watcher | None = None,
    checkpoint: Checkpoint | None = None,
) -> Summary:
    """Embed FASTA files into one output: what `embed_fasta` does, with the messages of the command.

    The checkpoint of the model is by default that which the options name.
    """
    options, names = _checked(options), _as_list(inputs)
    progress, stop = progress or Progress(), stop or Stop()
    output = Path(path_text("-o", output_path))
    if is_null_device(output):
        with Path(os.devnull).open("wb") as null:
            return stream_fasta(
                names, null.fileno(), options, progress, stop, watcher, os.devnull, checkpoint
            )
    targets = targets_of(output, options)
    options = settle(options, [target.path for target in targets])
    located = locate(options.model, options.weights_dir, options.check_weights)
    protect_targets(targets, names, located, options)
    checkpoint = checkpoint or located
    checkpoint.check_reachable(options.offline)
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(locked(target.path))
        for target in targets:
            refuse_existing(target, options)
        with stop.abandoning():
            sources = stack.enter_context(open_sources(names))
            unique_ids = need_unique_ids(targets, options)
            counted_input = take_census(sources, options.rules, unique_ids, options.shard == WHOLE)
            checkpoint.obtain(watcher, options.offline)
        return embed_shard(Run(counted_input, targets, checkpoint, options), progress, stop)


def stream_fasta(
    inputs: AnyPath | Sequence[AnyPath],
    descriptor: int,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    watcher: Watcher | None = None,
    name: str = "-",
    checkpoint: Checkpoint | None = None,
) -> Summary:
    """Embed FASTA files into a pipe as Parquet, as `protrna embed -o -` does; see `protrna_cli.run.stream`.

    It is written to a file descriptor, which stays open. Messages call it `name`: what was given to `-o`.
    """
    options, names = _checked(options), _as_list(inputs)
    progress, stop = progress or Progress(), stop or Stop()
    options.refuse_for_pipe(name)
    options = settle(options)
    from protrna_cli.run.stream import Stream  # imports pyarrow, which other formats do not need

    checkpoint = checkpoint or locate(options.model, options.weights_dir, options.check_weights)
    checkpoint.check_reachable(options.offline)
    output = Path("<stdout>" if name == "-" else name)
    target = Target(output, choose_format(output, "parquet"), options.per_token)
    try:
        with ExitStack() as stack:
            with stop.abandoning():
                sources = stack.enter_context(open_sources(names))
                counted_input = take_census(sources, options.rules)
                checkpoint.obtain(watcher, options.offline)
                run = Run(counted_input, [target], checkpoint, options)
                run.plan(across_chunks=False)
            model = stack.enter_context(run.model(progress, stop))
            with Stream(descriptor, run.headers[target], stop) as stream:
                run.embed(model, [stream], progress, stop)
    except Stopped as stopped:
        raise type(stopped)(f"{stopped}; standard output is incomplete, and --resume needs a file") from None
    return run.summary()


def estimate_fasta(
    inputs: AnyPath | Sequence[AnyPath],
    output_path: AnyPath,
    options: EmbedOptions | None = None,
    trial: bool = False,
    listing: Callable[[str], None] | None = None,
) -> Estimate:
    """Estimate time, memory and output size of `embed_fasta`; nothing is written.

    With `trial`, if no speed of this machine is known, it is measured with one small batch, where the model
    loads quickly. `listing` is called with what is wrong with each bad record, before the error that counts
    them; by default the error is about the first one.
    """
    from protrna_cli.run.estimate import estimate  # which other runs do not need

    options, names = settle(_checked(options)), _as_list(inputs)
    checkpoint = locate(options.model, options.weights_dir, options.check_weights)
    if options.reuse and not checkpoint.is_there:
        raise UsageError(
            "--dry-run with --reuse compares the weights, but they are not here; get them with "
            "protrna weights fetch, or leave --reuse out"
        )
    targets = targets_of(Path(path_text("-o", output_path)), options)
    across_chunks = targets[0].path.name != "-"
    with open_sources(names) as sources:
        whole = across_chunks and options.shard == WHOLE
        counted_input = take_census(sources, options.rules, need_unique_ids(targets, options), whole, listing)
        run = Run(counted_input, targets, checkpoint, options)
        if options.reuse:  # what can be reused depends on the headers, for which the weights are hashed
            run.plan(across_chunks)
        else:
            run.count(across_chunks)
        return estimate(run, trial)


def read_embeddings(path: AnyPath, layer: int | None = None, check: bool = False) -> Embeddings:
    """Read an output of any format, or a folder of parts.

    Sizes, types, counts and the rows are checked. The vectors of a file that is mapped into memory (NumPy,
    packed HDF5, AnnData) are not read, so that changed ones are given without a word: `check=True`, or later
    `check()`, proves them. `protrna verify` also compares an output with its input.

    Parameters
    ----------
    path
        A file that `protrna embed`, `merge` or `convert` made, or the folder of a Dask run.
    layer
        Layer to read, needed if the output has several; negatives count from the end of the model. The
        vectors of the others are not read.
    check
        Read everything, and compare it with the checksums of the output.

    Warns
    -----
    UserWarning
        Another program wrote the file anew, without its checksums.

    Raises
    ------
    InputUnreadable
        It does not exist, or cannot be read.
    InputError
        It is not an output of protrna, or is damaged.
    RunMismatch
        Parts of the folder are missing, or belong to different runs.
    UsageError
        The output has no such layer, or has several and none was given.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from protrna_cli import embed_fasta, read_embeddings
    >>> with TemporaryDirectory() as folder:
    ...     out = f"{folder}/families.npy"
    ...     summary = embed_fasta("sample_data/rna_families.fa", out, model="demo")
    ...     embeddings = read_embeddings(out)
    >>> embeddings.vectors.shape
    (46, 320)
    >>> embeddings["tRNA_Phe_yeast"].shape
    (320,)
    """
    with python_words(read_embeddings):
        return open_embeddings(path, layer, check)


def _checked(options: EmbedOptions | None) -> EmbedOptions:
    """Return the options, or the defaults if there are none; raises UsageError for anything else."""
    options = options if options is not None else EmbedOptions()
    instance("options", options, EmbedOptions, "EmbedOptions")
    return options


def _as_list(inputs: AnyPath | Sequence[AnyPath]) -> list[str]:
    """List the paths of the inputs; raises UsageError if there is none, or one is not a path."""
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        if not inputs:
            raise UsageError("INPUT takes one or more paths, but the list is empty")
        return [path_text("INPUT", path) for path in inputs]
    return [path_text("INPUT", inputs)]
