"""Locks: one process at a time writes an output."""

import subprocess
import sys
from pathlib import Path

import pytest

from protrna_cli import embed_fasta
from protrna_cli.disk import locked
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
