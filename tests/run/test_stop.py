"""Signals: work is committed, and the message shows how to continue."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.errors import Interrupted, Stopped
from protrna_cli.output.files import partial_path
from protrna_cli.run.report import SignalStop
from tests.conftest import ROOT, SAMPLE, TOY, wait_until
from tests.tools.runs import command


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)],
    ids=str,
)
@pytest.mark.parametrize(
    ("module", "model"),
    [("tests.tools.light", TOY), pytest.param("protrna_cli", "demo", marks=pytest.mark.slow)],
    ids=["reference", "TensorFlow"],
)
def test_signals_commit_and_show_how_to_continue(
    tmp_path: Path, module: str, model: object, number: int, code: int
) -> None:
    """A real process is stopped while it computes; its message has the command that continues the run."""
    rng = np.random.default_rng(1)
    source = tmp_path / "in.fa"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 400))}\n" for i in range(400)))
    target = tmp_path / "out.parquet"
    words = ["embed", source, "-o", target, "--model", model, "--threads", "1", "--batch-tokens", "512"]
    with subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)], stderr=subprocess.PIPE, text=True
    ) as process:
        journal = partial_path(target) / "journal"
        vectors = partial_path(target) / "vectors.npy"
        wait_until(lambda: vectors.exists() and vectors.stat().st_size > 1000, process)  # a batch is done
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert f"stopped by {signal.Signals(number).name}" in err
    assert f"continue with: protrna {' '.join(map(str, words))} --resume" in err
    assert not target.exists()
    _, computed = journal.read_text().splitlines()
    n_saved = json.loads(computed)["records"]
    assert 0 < n_saved < 400
    assert f"; {n_saved} of 400 records are saved; continue with" in err
    assert "Traceback" not in err
    assert not target.with_name("out.parquet.lock").exists()


def wait_until_it_waits(process: subprocess.Popen[str]) -> None:
    """Wait until a process sleeps with a handler for SIGUSR1, as protrna has while a signal can stop it."""

    def waits() -> bool:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        status = {name: words for name, _, words in (line.partition(":\t") for line in lines)}
        return status["State"][0] == "S" and bool(int(status["SigCgt"], 16) >> signal.SIGUSR1 - 1 & 1)

    wait_until(waits, process)


@pytest.mark.parametrize(
    ("number", "code", "begun", "words"),
    [
        (signal.SIGTERM, 75, b"", ["embed", "PIPE", "-o", "new.npy"]),
        (signal.SIGUSR1, 75, b"", ["embed", "PIPE", "-o", "new.npy", "--overwrite"]),
        (signal.SIGINT, 130, b"", ["embed", "PIPE", "-o", "new.npy"]),
        (signal.SIGINT, 130, b">a\nACG", ["embed", "PIPE", "-o", "new.npy"]),
        (signal.SIGTERM, 75, b">a\nACG", ["embed", "-", "-o", "new.npy"]),
        (signal.SIGTERM, 75, b">a\nACG", ["embed", "-", "-o", "new.npy", "--dry-run"]),
        (signal.SIGINT, 130, b"", ["embed", "PIPE", "-o", "new", "--dask", "local:1"]),
        (signal.SIGUSR1, 75, b"", ["verify", "out.npy", "PIPE"]),
    ],
    ids=str,
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see the handlers")
def test_a_signal_ends_a_run_that_waits_for_its_input(
    tmp_path: Path, number: int, code: int, begun: bytes, words: list[str]
) -> None:
    """Nobody writes to the pipe, or not to its end: nothing is left, and nothing is said to be saved."""
    pipe, spools = tmp_path / "PIPE", tmp_path / "spools"
    os.mkfifo(pipe)
    spools.mkdir()
    embed_fasta(SAMPLE, tmp_path / "out.npy", EmbedOptions(model=str(TOY)))
    before = sorted(tmp_path.iterdir())
    if words[0] == "embed":
        words = [*words, "--model", "demo", "-q"]
    with ExitStack() as stack:
        # A writer that also reads does not wait for the reader.
        writer = stack.enter_context(os.fdopen(os.open(pipe, os.O_RDWR), "wb")) if begun else None
        standard_input = stack.enter_context(pipe.open("rb")) if "-" in words else subprocess.DEVNULL
        process = stack.enter_context(
            subprocess.Popen(
                command(*words),
                cwd=tmp_path,
                env=os.environ | {"TMPDIR": str(spools), "PYTHONPATH": str(ROOT)},
                stdin=standard_input,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        if writer:
            writer.write(begun)
            writer.flush()
        wait_until_it_waits(process)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    again = f"run it again with: protrna {' '.join(words)}"
    assert (process.returncode, err) == (
        code,
        f"protrna: stopped by {signal.Signals(number).name}; {again}\n",
    )
    assert sorted(tmp_path.iterdir()) == before
    assert not list(spools.iterdir())


def test_a_library_cannot_make_another_error_of_a_stop() -> None:
    with SignalStop() as stop:
        with pytest.raises(TypeError), stop.abandoning():
            raise TypeError("without a stop")
        with pytest.raises(Interrupted, match="stopped by SIGINT"), stop.abandoning():
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except Exception as error:  # as tf.function does
                raise TypeError(f"binding inputs failed due to {error}") from error


def test_a_second_interrupt_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with SignalStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            stop.check()
    assert signal.getsignal(signal.SIGINT) is before
