"""Embedding inside somebody's program: threads, processes, signals, and nothing of theirs changed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from protrna_cli import embed, load_model
from protrna_cli.model import runtime
from tests.conftest import SAMPLE, TOY
from tests.tools.checkpoints import write_checkpoint

SEQUENCES = [("ACGU" * 40)[: 20 + 7 * i] for i in range(12)]


def python(script: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process, without the level of TensorFlow's log that an earlier test set."""
    env = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    words = [sys.executable, "-c", script]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=env)


def embedded(sequences: list[str]) -> bytes:
    """Embed in another process."""
    return embed(sequences, TOY).tobytes()


def test_threads_share_a_model() -> None:
    """Each thread gets the numbers that it would get alone."""
    model = load_model(TOY)
    batches = [SEQUENCES[i:] + SEQUENCES[:i] for i in range(8)]
    expected = [embed(batch, model).tobytes() for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda batch: embed(batch, model).tobytes(), batches * 3))
    assert found == expected * 3


def test_threads_load_models() -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: embedded(SEQUENCES), range(4)))
    assert set(found) == {embedded(SEQUENCES)}


@pytest.mark.slow
def test_spawned_processes_embed() -> None:
    expected = embedded(SEQUENCES)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(embedded, [SEQUENCES] * 2) == [expected] * 2


@pytest.mark.slow
def test_a_forked_process_gets_a_clear_error() -> None:
    done = python("""
import multiprocessing
from protrna_cli import embed, load_model
from protrna_cli.errors import UsageError

def run(queue):
    for each in (model, "demo"):
        try:
            embed(["ACGU"], each)
        except UsageError as error:
            queue.put(str(error))

model = load_model("demo")
embed(["ACGU"], model)
forking = multiprocessing.get_context("fork")
queue = forking.Queue()
child = forking.Process(target=run, args=[queue])
child.start()
print(queue.get(timeout=300))
print(queue.get(timeout=300))
""")
    for line in done.stdout.splitlines():
        assert "forked from one in which TensorFlow runs" in line
        assert 'get_context("spawn")' in line
    assert len(done.stdout.splitlines()) == 2, done.stderr


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_the_process_goes_on() -> None:
    """As in a notebook: KeyboardInterrupt ends the cell, and the next cell works."""
    script = """
import os, signal, threading, time
from protrna_cli import embed, load_model

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
model = load_model("demo")
expected = embed(["ACGU" * 9], model)
threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
started = time.monotonic()
try:
    embed(["ACGU" * 120] * 100 + [("ACGU" * i) for i in range(1, 3000)], model, progress=True)
except KeyboardInterrupt:
    print("interrupted after", time.monotonic() - started)
print((embed(["ACGU" * 9], model) == expected).all())
"""
    done = python(script)
    interrupted, again = done.stdout.splitlines()
    assert interrupted.startswith("interrupted after"), done.stderr
    assert float(interrupted.split()[-1]) < 100  # of hours
    assert again == "True"


@pytest.mark.slow
def test_nothing_of_the_process_is_changed() -> None:
    done = python("""
import logging, signal, warnings
import tensorflow as tf

def state():
    return (
        [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)],
        logging.getLogger().level, list(logging.getLogger().handlers), logging.getLogger("tensorflow").level,
        tf.get_logger().level, list(warnings.filters),
        tf.config.threading.get_intra_op_parallelism_threads(),
        tf.config.threading.get_inter_op_parallelism_threads(),
        tf.config.experimental.tensor_float_32_execution_enabled(),
        tf.config.get_visible_devices(),
        tf.config.get_soft_device_placement(),
    )

before = state()
from protrna_cli import embed, embed_iter, load_model
model = load_model("demo")
embed(["ACGU"], model)
list(embed_iter(["ACGU"], model, per_token=True))
embed(["ACGU"], "demo")
print(state() == before, before[6], before[8])
""")
    assert done.stdout.split() == ["True", "0", "True"], done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "model = load_model('demo'); embed(['ACGU'], model)",
        "embed(['ACGU'], 'demo', precision='bfloat16')",
        f"embed_fasta({str(SAMPLE)!r}, os.devnull, EmbedOptions(model='demo'))",
        "list(ThreadPoolExecutor(3).map(load_model, ['demo'] * 3))",
        "load_model('demo', precision='auto')",
    ],
)
def test_a_program_sees_nothing_of_tensorflow(program: str) -> None:
    """Its own words are seen, of Python and of native code, before and after."""
    done = python(f"""
import os, sys
from concurrent.futures import ThreadPoolExecutor
from protrna_cli import *
print("before", file=sys.stderr)
{program}
print("after", file=sys.stderr, flush=True)
os.write(2, b"native")
assert sys.stderr is sys.__stderr__
""")
    assert done.stderr == "before\nafter\nnative", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "load_model('demo', verbose=True)",
        "load_model('demo', device='gpu:9')",  # its log may say why there is none
        "import tensorflow; load_model('demo')",
    ],
)
def test_what_tensorflow_says_is_shown_where_it_should_be(program: str) -> None:
    done = python(f"from protrna_cli import load_model; {program}")
    assert "cpu_feature_guard" in done.stderr or "cuInit" in done.stderr, done.stderr
    assert ("Traceback" in done.stderr) == ("gpu:9" in program)


@pytest.mark.slow
def test_threads_are_set_when_they_are_asked_for() -> None:
    done = python("""
import tensorflow as tf
from protrna_cli import load_model
from protrna_cli.errors import UsageError

load_model("demo", threads=1)
print(tf.config.threading.get_intra_op_parallelism_threads())
load_model("demo")  # whatever they are
try:
    load_model("demo", threads=2)
except UsageError as error:
    print(error)
""")
    assert done.stdout.splitlines()[0] == "1", done.stderr
    assert "before TensorFlow first runs in this process" in done.stdout.splitlines()[1]


def test_tf32_is_off_only_while_a_model_runs() -> None:
    """On a GPU; the setting itself exists on every machine."""
    enabled = tf.config.experimental.tensor_float_32_execution_enabled

    def run() -> bool:
        with runtime.TF32_OFF:
            return not enabled()

    before = enabled()
    try:
        for setting in (True, False):
            tf.config.experimental.enable_tensor_float_32_execution(setting)
            with runtime.TF32_OFF, ThreadPoolExecutor(1) as thread:
                assert thread.submit(run).result()
                assert not enabled()  # although the other thread has ended
            assert enabled() is setting
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.mark.slow
def test_models_run_on_the_devices_that_have_their_weights() -> None:
    """Two devices in one process; logical CPUs stand in for GPUs."""
    done = python("""
import tensorflow as tf
from protrna_cli import embed
from protrna_cli.model import runtime
from protrna_cli.model import checkpoint
from protrna_cli.model.transformer import ProtRNA

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
found = []
for name in ("/device:CPU:0", "/device:CPU:1"):
    with runtime.running_on(name):
        size, weights = checkpoint.demo_weights(runtime.placer("float32"))
    model = ProtRNA(size, weights, device=name)
    tokens = model.alphabet.get_batch_converter()(["ACGU"])
    print(weights.embedding.device[-5:], model(tokens, [6])["representations"][6].device[-5:])
    found.append(embed(["ACGU", "GGC"], model))
print((found[0] == found[1]).all())
""")
    assert done.stdout.split() == ["CPU:0", "CPU:0", "CPU:1", "CPU:1", "True"], done.stderr


def test_a_hidden_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [tf.config.PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus[1:])
    assert runtime.configure("auto") == runtime.configure("gpu:1") == "gpu:1"
    assert runtime.tensorflow_name("gpu:1") == "/device:GPU:0"  # the first of the visible ones
    with pytest.raises(runtime.UsageError, match="gpu:0 is hidden from TensorFlow in this process"):
        runtime.configure("gpu:0")
    with pytest.raises(runtime.UsageError, match="there is no gpu:2: TensorFlow sees 2 GPUs"):
        runtime.configure("gpu:2")


@pytest.mark.slow
def test_the_memory_of_a_model_is_released_with_it(tmp_path: Path) -> None:
    """Of five models of 192 MB no more than what the allocator keeps for the next one stays."""
    path = tmp_path / "large.h5"
    write_checkpoint(path, layers=4, width=1000, heads=10, seed=1)
    done = python(f"""
import gc, weakref
from protrna_cli import embed, load_model
from protrna_cli.machine import resident_memory

def use():
    model = load_model({str(path)!r})
    embed(["ACGU" * 30], model)
    return weakref.ref(model)

alive = [use()]
gc.collect()
before = resident_memory()
alive += [use() for _ in range(5)]
gc.collect()
print([each() for each in alive], (resident_memory() - before) / 1e6)
""")
    released, _, megabytes = done.stdout.strip().rpartition(" ")
    assert released == str([None] * 6), done.stderr
    assert float(megabytes) < 2 * 192


def test_a_model_is_not_kept_by_what_it_computed() -> None:
    model = load_model(TOY)
    vectors = embed(SEQUENCES, model, per_token=True)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert np.isfinite(np.concatenate(vectors)).all()


def test_signals_keep_their_handlers() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    embed(SEQUENCES, TOY)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
