"""Read outputs of any format."""

from __future__ import annotations

from protrna_cli.api.keywords import python_words
from protrna_cli.output.embeddings import Embeddings, open_embeddings
from protrna_cli.plan.rules import AnyPath


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
