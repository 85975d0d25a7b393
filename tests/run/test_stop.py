"""Signals: work is committed, and the message shows how to continue."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from protrna_cli.errors import Stopped
from protrna_cli.output.paths import partial_path
from tests.tools.runs import command


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)],
    ids=str,
)
def test_signals_commit_and_show_how_to_continue(tmp_path: Path, number: int, code: int) -> None:
    """A real process is stopped while it computes; its message has the command that continues the run."""
    rng = np.random.default_rng(1)
    source = tmp_path / "in.fa"
    source.write_text("".join(f">r{i}\n{''.join(rng.choice(list('ACGU'), 400))}\n" for i in range(400)))
    target = tmp_path / "out.parquet"
    words = ["embed", source, "-o", target, "--model", "demo", "--threads", "1"]
    with subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True) as process:
        journal = partial_path(target) / "journal"
        while not journal.exists() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(2)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert f"stopped by {signal.Signals(number).name}" in err
    assert f"continue with: protrna embed {source} -o {target} --model demo --threads 1 --resume" in err
    assert not target.exists()
    assert journal.read_text().count("\n") == 2  # the key, and what was computed
    assert "Traceback" not in err
    assert not target.with_name("out.parquet.lock").exists()


def test_a_second_interrupt_ends_at_once() -> None:
    from protrna_cli.run.stop import SignalStop

    before = signal.getsignal(signal.SIGINT)
    with SignalStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            stop.check()
    assert signal.getsignal(signal.SIGINT) is before
