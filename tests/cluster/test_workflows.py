"""The manual's scripts and workflows, run as printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from protrna_cli.run.verify import find_flaws
from tests.conftest import SAMPLE, TOY, install_command
from tests.test_manual import block, blocks

SNAKEMAKE = Path(sys.executable).with_name("snakemake")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `input.fa`; `protrna` uses the toy checkpoint, and starts without TensorFlow."""
    install_command(tmp_path / "bin", monkeypatch, "--model", TOY, module="tests.tools.light")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copyfile(SAMPLE, work / "input.fa")
    return work


def bash(script: str) -> str:
    """Run a script, which must succeed and print nothing on stdout; returns its stderr."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_every_script_is_valid_bash() -> None:
    assert len(blocks("bash")) > 20
    for script in blocks("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_pipeline_gives_a_complete_parquet_file(work: Path) -> None:
    subprocess.run(["gzip", "input.fa"], check=True)
    err = bash(block("bash", "-o - >"))
    summary, verdict = err.splitlines()
    assert summary.startswith("protrna: 46 records, 7,146 residues")
    assert verdict == "protrna: out.parquet: complete"
    ids = [line.split()[0][1:] for line in SAMPLE.read_text().splitlines() if line[0] == ">"]
    assert pq.read_table("out.parquet")["id"].to_pylist() == ids


@pytest.mark.slow
def test_one_process_per_gpu(work: Path) -> None:
    """The processes run on the CPU; everything else is as printed."""
    device = "--device gpu:$((i - 1))"
    script = block("bash", device)
    bash(script.replace(device, "--device cpu --threads 1"))
    assert find_flaws(Path("out.parquet"), ["input.fa"]) == []


@pytest.mark.workflows
@pytest.mark.skipif(not SNAKEMAKE.exists(), reason="needs Snakemake: pip install snakemake")
def test_snakemake_runs_its_workflow(work: Path) -> None:
    Path("Snakefile").write_text(block("snakemake", "rule embed"))
    command = [SNAKEMAKE, "--cores", "2"]
    planned = subprocess.run([*command, "-n"], capture_output=True, text=True, timeout=500)
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"embed +4\nmerge +1\n", planned.stdout)
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert find_flaws(Path("out.parquet"), ["input.fa"]) == []


def filled(script: str, **values: object) -> str:
    """Fill in the variables of a script as Nextflow does."""
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(values[match[1].replace(".", "_")]), script)


@pytest.mark.slow
def test_the_scripts_of_the_nextflow_workflow_run(work: Path) -> None:
    """Nextflow is not on PyPI; its scripts are run as Nextflow runs them, each in its own folder."""
    workflow = block("groovy", "process EMBED")
    embed, merge = re.findall(r'"""\n(.*?)"""', workflow, re.DOTALL)
    [count] = re.findall(r"^params.n = (\d+)$", workflow, re.MULTILINE)
    [glob] = re.findall(r'^    path "(out\.\*.*)"$', workflow, re.MULTILINE)
    parts = []
    for i in range(1, int(count) + 1):
        task = work / f"task{i}"
        task.mkdir()
        values = {"fasta": work / "input.fa", "i": i, "params_n": count, "task_cpus": 1}
        bash(f"cd {task}\n" + filled(embed, **values))
        parts += task.glob(glob)
    assert len(parts) == int(count)
    bash(filled(merge, parts=" ".join(map(str, parts))))
    assert find_flaws(work / "out.parquet", ["input.fa"]) == []
