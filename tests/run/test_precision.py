"""`--precision auto` and the note that recommends bfloat16 follow what was measured on this machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from protrna_cli import EmbedOptions, embed_fasta, load_model
from protrna_cli.errors import Stopped
from protrna_cli.model import trial
from protrna_cli.model.structure import PUBLISHED_SIZE, ModelSize
from protrna_cli.output.stored import open_output
from protrna_cli.run.auto import recommend_bfloat16, settle
from tests.conftest import GOLDEN, SAMPLE, TOY, Run
from tests.tools.runs import Notes, StopAfter


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROTRNA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def machine(monkeypatch: pytest.MonkeyPatch, gain: float) -> list[str]:
    """Pretend that bfloat16 is so many times as fast; returns the devices that were tried."""
    tried: list[str] = []
    monkeypatch.setattr(trial, "bfloat16_gain", lambda device: tried.append(device) or gain)
    return tried


@pytest.mark.parametrize(("gain", "precision"), [(1.49, "float32"), (1.5, "bfloat16"), (8.0, "bfloat16")])
def test_auto_takes_what_is_faster(
    tmp_path: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, gain: float, precision: str
) -> None:
    tried = machine(monkeypatch, gain)
    words = ["embed", SAMPLE, "--model", TOY, "--precision", "auto"]
    assert run(*words, "-o", tmp_path / "out.npy").code == 0
    assert open_output(tmp_path / "out.npy").header.provenance["precision"] == precision
    assert f"computed in {precision}" in run(*words, "-o", tmp_path / "x.npy", "--dry-run").out
    assert load_model(TOY, precision="auto").precision == precision
    assert len(tried) == 1  # the result is kept with the speeds of this machine
    [(key, kept)] = [
        item for item in json.loads((home / "rates.json").read_text()).items() if "bfloat16 to" in item[0]
    ]
    assert ("cpu" in key, kept) == (True, [gain])


@pytest.mark.usefixtures("small_chunks")
def test_a_resumed_run_keeps_its_precision(
    tmp_path: Path, home: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine, or with other measurements; also when it is complete."""
    machine(monkeypatch, 8.0)
    options: dict[str, Any] = {"model": str(TOY), "precision": "auto", "format": "npy", "resume": True}
    path = tmp_path / "one.fa"
    path.write_text("".join(f">r{i}\n{'ACGU' * (i + 1)}\n" for i in range(40)))
    with pytest.raises(Stopped):
        embed_fasta(path, tmp_path / "out", EmbedOptions(**options), stop=StopAfter(9))
    (home / "rates.json").unlink()
    machine(monkeypatch, 1.0)
    assert embed_fasta(path, tmp_path / "out", EmbedOptions(**options)).n_resumed > 0
    assert open_output(tmp_path / "out").header.provenance["precision"] == "bfloat16"
    assert embed_fasta(path, tmp_path / "out", EmbedOptions(**options)).already_whole


@pytest.mark.parametrize(
    ("size", "precision", "gain", "recommended"),
    [
        (PUBLISHED_SIZE, "float32", 2.0, True),
        (PUBLISHED_SIZE, "float32", 1.4, False),
        (PUBLISHED_SIZE, "bfloat16", 2.0, False),
        (ModelSize(6, 320, 20), "float32", 2.0, False),
    ],
)
def test_bfloat16_is_recommended_where_it_is_worth_it(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: ModelSize,
    precision: str,
    gain: float,
    recommended: bool,
) -> None:
    machine(monkeypatch, gain)
    progress = Notes()
    recommend_bfloat16(size, EmbedOptions(precision=precision), progress)
    found = ["2.0 times as fast with --precision bfloat16" in note for note in progress.notes]
    assert found == [True] * recommended


def test_the_trial_measures_both_precisions() -> None:
    """No speed is asserted: only that both ran."""
    assert 0.01 < trial.bfloat16_gain("/device:CPU:0") < 100


def test_a_precision_that_was_chosen_stays(home: Path) -> None:
    for precision in ("float32", "bfloat16"):
        options = EmbedOptions(model=str(GOLDEN / "toy.h5"), precision=precision, batch_tokens=2048)
        assert settle(options) is options
