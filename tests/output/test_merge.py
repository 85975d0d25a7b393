"""Parts of a sharded run are merged into the output of one run, or refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import embed_fasta
from protrna_cli.output.files import shard_path
from protrna_cli.output.make import merge
from protrna_cli.output.stored import open_output
from protrna_cli.plan import pieces
from protrna_cli.plan.shard import Shard
from protrna_cli.run.verify import find_flaws
from tests.conftest import Run
from tests.tools.cases import slow_except
from tests.tools.formats import named
from tests.tools.kill import content, write_input
from tests.tools.runs import OPTIONS, RUN_KINDS


@pytest.mark.parametrize(
    ("format", "h5_layout", "count", "by_chunk"),
    slow_except(
        [(*RUN_KINDS[0], 7, False), *((*kind, 2, True) for kind in RUN_KINDS[1:])],
        [(*kind, *shards) for kind in RUN_KINDS for shards in ((7, False), (2, True))],
    ),
)
def test_merged_shards_equal_one_run(
    tmp_path: Path, source: Path, format: str, h5_layout: str, count: int, by_chunk: bool, monkeypatch: Any
) -> None:
    """Bit for bit if the input is sharded between chunks, and no shard has copies of another's sequences.

    Else within 1e-5.
    """
    if by_chunk:
        write_input(source, far_copies=False)
        monkeypatch.setattr(pieces, "CHUNK_RECORDS", 7)
        monkeypatch.setattr(pieces, "CHUNK_RESIDUES", 300)
        monkeypatch.setattr(pieces, "CHUNKS_A_SHARD", 2)
    options = replace(OPTIONS, format=format, h5_layout=h5_layout)
    target = tmp_path / "out.x"
    for i in range(1, count + 1):
        embed_fasta(source, target, replace(options, shard=Shard(i, count)))
    parts = [shard_path(target, Shard(i, count)) for i in range(count, 0, -1)]
    assert all(find_flaws(part, [source]) == [] for part in parts[:: max(1, count // 5)])
    sizes = [open_output(part).header.n_rows for part in parts]
    assert sum(sizes) == 84
    merge(parts, target, named(format, h5_layout), overwrite=False)
    embed_fasta(source, tmp_path / "whole", options)
    merged, whole = content(target), content(tmp_path / "whole")
    distinct = [each.header.provenance.pop("distinct") for each in (merged, whole)]
    assert distinct == ([83, 83] if by_chunk else [83, 74])  # a shard computes its own sequences
    assert merged.header == whole.header
    assert merged.rows == whole.rows
    assert merged.skipped == whole.skipped
    if by_chunk:
        assert merged.values == whole.values
    for layers in zip(merged.values, whole.values, strict=True):
        one, other = (np.frombuffer(layer, "<f4") for layer in layers)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert find_flaws(target, [source]) == []


def test_more_shards_than_records(tmp_path: Path) -> None:
    source, target = tmp_path / "in.fa", tmp_path / "out.parquet"
    source.write_text(">a\nACGU\n>b\nGG\n>c\n*\n")
    options = replace(OPTIONS, format="parquet")
    parts = []
    for i in range(1, 8):
        embed_fasta(source, target, replace(options, shard=Shard(i, 7)))
        parts.append(shard_path(target, Shard(i, 7)))
    assert sorted(open_output(part).header.n_rows for part in parts) == [0, 0, 0, 0, 0, 1, 1]
    merge(parts, target, named("parquet", "flat"), overwrite=False)
    assert find_flaws(target, [source]) == []


def test_merge_refuses_parts_that_are_not_one_whole_run(tmp_path: Path, source: Path, run: Run) -> None:
    def part(i: int, count: int, **change: Any) -> Path:
        folder = tmp_path / repr(change)
        folder.mkdir(exist_ok=True)
        options = replace(OPTIONS, shard=Shard(i, count), overwrite=True, **change)
        embed_fasta(source, folder / "p.npy", options)
        return shard_path(folder / "p.npy", Shard(i, count))

    first, second, third = (part(i, 3) for i in (1, 2, 3))
    out = tmp_path / "out.npy"
    for parts, words in [
        ([first, third], "no part for shard 2/3; run protrna embed with --shard 2/3"),
        ([first, second, third, second], "is shard 2/3, and so is "),
        (
            [first, second, part(3, 3, pool="max")],
            f'p.3-of-3.npy: its pooling is "max", but that of {first} is "mean"; make one of them '
            "again as the other, for example with protrna embed --shard 3/3 --overwrite and the input and "
            f"options that protrna info {first} shows",
        ),
        ([first, second, part(3, 4)], f"p.3-of-4.npy: is shard 3/4, but {first} is 1/3; name the parts of"),
        ([first, second, source], "neither Parquet, HDF5 nor NumPy"),
        ([first, second, tmp_path / "none.npy"], "cannot be read"),
    ]:
        outcome = run("merge", *parts, "-o", out)
        assert outcome.code in (65, 66, 78)
        assert words in outcome.err
        assert "choose another -o" not in outcome.err
        assert not out.exists()
    assert run("merge", first, second, third, "-o", out).code == 0
    assert run("merge", first, second, third, "-o", out).code == 73
    assert run("merge", first, second, third, "-o", out, "--overwrite", "-q").err == ""
