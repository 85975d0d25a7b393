"""TensorFlow and processes: it works where it was started, and nowhere else."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from tests.conftest import SAMPLE, TOY

FORKS = """
import multiprocessing
from protrna_cli import EmbedOptions, embed_fasta, load_model
from protrna_cli.errors import UsageError
import protrna_cli.model.runtime  # imports TensorFlow, but does not start it

forking = multiprocessing.get_context("fork")


def in_child(function):
    receiving, sending = forking.Pipe(duplex=False)

    def run():
        try:
            sending.send(str(function()))
        except UsageError as error:
            sending.send(f"refused: {error}")

    child = forking.Process(target=run)
    child.start()
    child.join(60)
    print(receiving.recv() if receiving.poll() else "hangs", flush=True)
    child.kill()


tokens = [[0, 33, 2]]
in_child(lambda: load_model("demo")(tokens)["logits"].shape)
model = load_model("demo")
in_child(lambda: model(tokens))
in_child(lambda: model._embed_batch(model.alphabet.frame([[5]]), [[0, 1, 0]], [6], "mean"))
in_child(lambda: load_model("demo"))
in_child(lambda: embed_fasta("in.fa", "out.npy", EmbedOptions(model="demo")))
print(model(tokens)["logits"].shape)
"""


def test_the_command_computes_without_keras_and_sets_its_process_up(tmp_path: Path) -> None:
    """Its threads are those available, and TF32 is off."""
    script = f"""
import sys
from protrna_cli.cli.main import main

sys.argv = ["protrna", "embed", "{SAMPLE}", "-o", "out.npy", "--model", "{TOY}", "--device", "cpu", "-q"]
try:
    main()
except SystemExit as ended:
    print(ended.code, "tensorflow" in sys.modules, "keras.src" in sys.modules)

import tensorflow as tf
from protrna_cli.machine import available_cpus

print(tf.config.threading.get_intra_op_parallelism_threads() == available_cpus())
print(tf.config.experimental.tensor_float_32_execution_enabled(), tf.config.get_visible_devices("GPU"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "True", "False", "True", "False", "[]"]


@pytest.mark.slow
def test_a_forked_process_is_refused_unless_it_starts_tensorflow_itself(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nACGU\n")
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=tmp_path, capture_output=True, text=True, timeout=400
    )
    before, *refused, own = done.stdout.splitlines()
    assert (before, own) == ("(1, 3, 38)", "(1, 3, 38)"), done.stderr
    assert len(refused) == 4
    for line in refused:
        assert line.startswith("refused: this process was forked from one in which TensorFlow runs")
        assert 'multiprocessing.get_context("spawn")' in line
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.slow
def test_weights_are_laid_out_on_the_cpu_whichever_device_is_chosen() -> None:
    """A GPU would be chosen where there is one; the second of two logical CPUs stands in for it."""
    script = f"""
import io
from pathlib import Path
import tensorflow as tf
from protrna_cli.model import load, runtime

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
devices, placer = set(), runtime.placer

def watched(precision):
    place = placer(precision)
    def watch(*weight):
        tensor = place(*weight)
        devices.add(tensor.device[-5:])
        return tensor
    return watch

runtime.placer = watched
with tf.device("/device:CPU:1"):
    load.lay_out(Path({str(TOY)!r}), "bfloat16", io.BytesIO())
print(*devices)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["CPU:0"]


UNUSABLE_GPU = """
import sys
import tensorflow as tf
from protrna_cli.cli.main import main
from protrna_cli.libraries import own_process
from protrna_cli.model import runtime

gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
tf.config.list_physical_devices = tf.config.get_visible_devices = lambda kind: [gpu] if kind == "GPU" else []
tf.config.set_visible_devices = lambda devices, kind: None
tf.config.experimental.set_memory_growth = lambda device, enable: None
tf.config.experimental.get_device_details = lambda device: {"device_name": "NVIDIA B200"}


def fail(*words):
    raise tf.errors.InternalError(None, None, "'cuModuleLoad' failed with 'CUDA_ERROR_INVALID_PTX'\\nmore")


tf.ones = fail
print(runtime.configure())  # not a process of our own: nothing is tried
main()
"""


@pytest.mark.slow
def test_a_gpu_that_tensorflow_cannot_use_is_named(tmp_path: Path) -> None:
    words = ["embed", str(SAMPLE), "-o", "out.npy", "--model", "demo", "--batch-tokens", "2048", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", UNUSABLE_GPU, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (69, "gpu:0\n"), done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(
        f"protrna: error: TensorFlow {tf.__version__} sees the GPU NVIDIA B200, but cannot"
    )
    assert "('cuModuleLoad' failed with 'CUDA_ERROR_INVALID_PTX'); use --device cpu" in line
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if ".partial" in path.name] == []
