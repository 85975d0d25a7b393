"""Locks: one process at a time writes an output."""

import subprocess
import sys
from pathlib import Path

import pytest

from protrna_cli import embed_fasta
from protrna_cli.disk import locked, write_whole
from protrna_cli.errors import OutputUnwritable
from tests.tools.runs import OPTIONS


def test_two_processes_cannot_make_one_output(tmp_path: Path, source: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from protrna_cli.disk import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", script, target], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(OutputUnwritable, match=rf"process {other.pid} on .* is writing it"):
            embed_fasta(source, target, OPTIONS)
        other.kill()
    assert target.with_name("out.lock").exists()  # stale, so it is ignored
    embed_fasta(source, target, OPTIONS)
    assert not target.with_name("out.lock").exists()
    with locked(target), pytest.raises(OutputUnwritable), locked(target):
        pass


def test_a_lock_that_is_passed_on_quickly_is_never_lost(tmp_path: Path) -> None:
    """The holder removes the file while others open it, lock it and look whether it is still there."""
    script = (
        "import sys; from pathlib import Path; from protrna_cli.disk import locked\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(500):\n"
        "    with locked(path, wait=lambda holder: None):\n"
        "        path.write_text(str(int(path.read_text()) + 1))\n"
    )
    count = tmp_path / "count"
    count.write_text("0")
    words = [sys.executable, "-c", script, count]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        with process:
            _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert count.read_text() == "2000"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal; from pathlib import Path; from protrna_cli import disk\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)\n"
        "disk.write_whole(Path(sys.argv[1]), 'half')\n"
    )
    path = tmp_path / "x.json"
    subprocess.run([sys.executable, "-c", script, path], check=False)
    assert [left.suffix for left in tmp_path.iterdir()] == [".new"]
    write_whole(path, "whole")
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("x.json", "whole")]
