"""A loaded model is copied, pickled and sent to other processes, as other libraries do with their models."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protrna_cli import embed, load_model, load_pretrained_model
from protrna_cli.api import models
from protrna_cli.errors import UsageError, WeightsError
from tests.conftest import GOLDEN, TOY

SEQUENCES = ["ACGU" * 9, "GGGGCCCC", "GAUUACA"]


def test_a_copy_is_the_model_itself() -> None:
    model = load_model("demo")
    assert copy.copy(model) is copy.deepcopy(model) is copy.deepcopy({"model": model})["model"] is model
    assert pickle.loads(pickle.dumps(model)) is model  # in the process that has it
    assert len(pickle.dumps(model)) < 500


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_pickle_is_loaded_again(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that does not have it, in another folder, with the same precision and device."""
    shutil.copy(TOY, tmp_path / "demo")  # not the demo model
    monkeypatch.chdir(tmp_path)
    loads = [
        lambda: load_model("demo", precision=precision),
        lambda: load_model("./demo", precision=precision, device="cpu"),
        lambda: load_model("toy.h5", GOLDEN, precision=precision),
    ]
    for load in loads:
        model = load()
        expected, pickled, origin = embed(SEQUENCES, model).tobytes(), pickle.dumps(model), model.origin
        del model
        models.LOADED.clear()
        with monkeypatch.context() as patch:
            patch.chdir("/")
            again = pickle.loads(pickled)
        assert again.origin == origin
        assert (again.precision, again.device) == (precision, "/device:CPU:0")
        assert embed(SEQUENCES, again).tobytes() == expected


def test_a_pickle_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    from tests.tools.checkpoints import write_checkpoint

    path = tmp_path / "model.h5"
    write_checkpoint(path, layers=2, width=40, heads=5, seed=1)
    pickled = pickle.dumps(load_model(path))
    models.LOADED.clear()
    write_checkpoint(path, layers=2, width=40, heads=5, seed=2)
    with pytest.raises(WeightsError, match="another checkpoint than that of the pickled model"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(WeightsError, match="no such checkpoint"):
        pickle.loads(pickled)


def test_threads_that_read_one_pickle_share_a_model() -> None:
    pickled = pickle.dumps(load_pretrained_model("toy", GOLDEN))
    models.LOADED.clear()
    together = threading.Barrier(4)

    def load(_: int) -> Any:
        together.wait(60)
        return pickle.loads(pickled)

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(load, range(4))
    assert all(other is first for other in others)


def test_a_worker_keeps_the_last_model_of_its_tasks() -> None:
    """So that it is not loaded for each task; the next one that is loaded takes its place."""
    pickled = [pickle.dumps(load_model(TOY, precision=precision)) for precision in ("float32", "bfloat16")]
    models.LOADED.clear()
    first = weakref.ref(pickle.loads(pickled[0]))
    assert pickle.loads(pickled[0]) is first() is not None
    second = weakref.ref(pickle.loads(pickled[1]))
    gc.collect()
    assert first() is None
    assert second() is not None
    load_model("demo")
    gc.collect()
    assert second() is None


def test_a_model_embeds_and_says_what_it_is() -> None:
    model = load_model(TOY)
    expected = embed(SEQUENCES, model, layers=(1, 3), per_token=True)
    for method in (model.embed, model.encode):
        found = method(SEQUENCES, layers=(1, 3), per_token=True)
        assert [each.tobytes() for each in found[3]] == [each.tobytes() for each in expected[3]]
    assert repr(model) == f"<ProtRNA {TOY}: 3 layers of 40, float32, CPU:0>"
    assert (
        repr(load_model("demo", precision="bfloat16")) == "<ProtRNA demo: 6 layers of 320, bfloat16, CPU:0>"
    )


@pytest.mark.parametrize("wrong", [["ACGU"], ["12"], "ACGU", [[1, 2], [3]], [5, 6], None])
def test_a_model_that_is_given_sequences_names_the_way(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"get_batch_converter.* or use embed"):
        load_model(TOY)(wrong)


def test_joblib_saves_a_model(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib", reason="needs joblib")
    model = load_model(TOY)
    joblib.dump({"model": model, "k": np.zeros(3)}, tmp_path / "saved")
    assert joblib.load(tmp_path / "saved")["model"] is model
    assert joblib.hash(model) == joblib.hash(load_model(TOY))  # joblib.Memory finds what it kept


@pytest.mark.slow
def test_torch_loads_data_in_spawned_workers() -> None:
    """A data set that embeds what it is asked for."""
    pytest.importorskip("torch", reason="needs PyTorch")
    program = """
import sys
import numpy as np
from torch.utils.data import DataLoader, Dataset
from protrna_cli import embed, load_model

SEQUENCES = ["ACGU" * 9, "GGGGCCCC", "GAUUACA", "AC"]

class Embedded(Dataset):
    def __init__(self, model): self.model = model
    def __len__(self): return len(SEQUENCES)
    def __getitem__(self, i): return self.model.embed([SEQUENCES[i]])[0]

if __name__ == "__main__":
    model = load_model("demo")
    expected = np.concatenate([embed([each], model) for each in SEQUENCES])
    batches = DataLoader(Embedded(model), batch_size=2, num_workers=2, multiprocessing_context="spawn")
    assert (np.concatenate([batch.numpy() for batch in batches]) == expected).all()
    print("equal")
"""
    done = run_file(program)
    assert (done.stdout, done.stderr) == ("equal\n", "")


@pytest.mark.slow
def test_a_dask_graph_takes_a_model() -> None:
    pytest.importorskip("dask", reason="needs Dask")
    program = """
import dask
from protrna_cli import embed, load_model

if __name__ == "__main__":
    model = load_model("demo")
    graph = [dask.delayed(embed)(["ACGU" * n], model) for n in (3, 9)]
    found = dask.compute(*graph, scheduler="processes", num_workers=2)
    assert all((each == embed(["ACGU" * n], model)).all() for each, n in zip(found, (3, 9)))
    assert dask.base.tokenize(model) == dask.base.tokenize(load_model("demo"))
    print("equal")
"""
    done = run_file(program)
    assert done.stdout == "equal\n", done.stderr


def run_file(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program from a file, as processes that it spawns import it."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(program)
        file.flush()
        return subprocess.run([sys.executable, file.name], capture_output=True, text=True, timeout=300)
