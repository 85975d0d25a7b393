"""Equal runs make equal files, byte for byte, whenever they run."""

import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.output.make import convert
from tests.conftest import TOY
from tests.tools.formats import named
from tests.tools.runs import RUN_KINDS


def make_all(source: Path, folder: Path, layers: tuple[int, ...]) -> dict[str, bytes]:
    """Make an output of every kind; returns the content of every file by its name."""
    folder.mkdir()
    for format, h5_layout in RUN_KINDS:
        options = EmbedOptions(model=str(TOY), layers=layers, h5_layout=h5_layout)
        embed_fasta(source, folder / f"{h5_layout}.{format}", options)
    convert(folder / "flat.npy", folder / "out.h5ad", named("h5ad"))
    convert(folder / "flat.npy", folder / "out.npz", named("npz"), layers=(3,))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("layers", [(3,), pytest.param((1, 3), marks=pytest.mark.slow)])
def test_two_runs_a_second_apart(
    tmp_path: Path, fasta: Callable[[str], Path], layers: tuple[int, ...]
) -> None:
    source = fasta(">a/b first\nACGU\n>c\nGGGGCCCCNN\n")
    before = make_all(source, tmp_path / "before", layers)
    time.sleep(1.1)  # timestamps in HDF5 count seconds
    after = make_all(source, tmp_path / "after", layers)
    assert len(before) == 8
    assert [name for name in after if after[name] != before.get(name)] == []


def test_no_group_and_no_dataset_has_a_timestamp(tmp_path: Path, fasta: Callable[[str], Path]) -> None:
    make_all(fasta(">a\nACGU\n"), tmp_path / "out", (1, 3))
    for path in [*tmp_path.glob("out/*.h5"), *tmp_path.glob("out/*.h5ad")]:
        with h5py.File(path) as file:
            items = [file]
            file.visititems(lambda _, item, items=items: items.append(item))
            assert len(items) > 3
            for item in items[1:]:
                assert not item.id.get_create_plist().get_obj_track_times(), f"{path}: {item.name}"
