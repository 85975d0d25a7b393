"""The manual's jobs on a real Slurm: signalled, requeued, killed, resumed, and merged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from protrna_cli import EmbedOptions, embed_fasta
from protrna_cli.run.verify import find_flaws
from tests.conftest import ROOT, install_command
from tests.test_manual import block
from tests.tools.kill import content

TOOLS = ("slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "munged")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: Debian's slurm-wlm and munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start Slurm"),
]


@pytest.fixture(autouse=True)
def only_on_request(request: pytest.FixtureRequest) -> None:
    if "slurm" not in request.config.option.markexpr:
        pytest.skip("takes minutes; run with -m slurm")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a running cluster, with the manual's scripts and a `protrna` that uses the demo model."""
    cluster = tmp_path / "slurm"
    cluster.mkdir()
    script = ROOT / "tests" / "slurm" / "one_node.sh"
    try:
        subprocess.run([script, "start", cluster], check=True, stdin=subprocess.DEVNULL, timeout=300)
        monkeypatch.setenv("SLURM_CONF", str(cluster / "slurm.conf"))
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.chdir(work)
        install_command(tmp_path / "bin", monkeypatch, "--model", "demo")
        for name in ("gpu", "embed", "merge"):
            (work / f"{name}.sbatch").write_text(block("bash", f"#SBATCH --job-name={name}\n"))
        yield work
    finally:
        subprocess.run([script, "stop", cluster], check=True, timeout=300)


def slurm(*words: object) -> str:
    return subprocess.run(
        list(map(str, words)), check=True, capture_output=True, text=True, timeout=120
    ).stdout


def submitted(script: str, **variables: str) -> list[str]:
    """Run lines of the manual; returns the ids of the jobs that they submit."""
    script += '\necho "Submitted batch job $job"\n'
    done = subprocess.run(
        ["bash", "-e", "-c", script], capture_output=True, text=True, env=os.environ | variables, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return re.findall(r"Submitted batch job (\d+)", done.stdout)


def job_state(job: str) -> dict[str, str]:
    """Fields of a job, or of a task of an array, from scontrol."""
    return dict(re.findall(r"(\w+)=(\S+)", slurm("scontrol", "show", "job", job)))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 500) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what + slurm("squeue")
        time.sleep(0.5)


def embedding(task: int) -> int | None:
    """Id of the process that embeds the shard of a task, once it has embedded something."""
    vectors = Path(f"out.{task}-of-4.parquet.partial/vectors.npy")
    if not vectors.exists() or vectors.stat().st_size < 1000:
        return None
    return int(Path(f"out.{task}-of-4.parquet.lock").read_text().split()[1])


def test_an_array_survives_a_signal_and_a_kill(folder: Path) -> None:
    rng = np.random.default_rng(3)
    lengths = rng.integers(20, 500, 320)
    source = Path("input.fa")
    source.write_text(
        "".join(f">r{i} d\n{''.join(rng.choice(list('ACGU'), n))}\n" for i, n in enumerate(lengths))
    )

    merge, job = submitted(block("bash", "sbatch --parsable"))
    wait_until(lambda: bool(embedding(1)), "task 1 embeds")
    log = Path(f"embed.{job}_1.log")
    # scancel retries for a minute if the task that it signalled ends at once.
    with subprocess.Popen(["scancel", "--batch", "--signal=USR1", f"{job}_1"]) as signalled:
        wait_until(lambda: "stopped by SIGUSR1" in log.read_text(), "task 1 is stopped")
        signalled.kill()
    journal = Path("out.1-of-4.parquet.partial/journal").read_text()
    assert json.loads(journal.splitlines()[-1])["batches"] >= 1
    wait_until(lambda: bool(embedding(3)), "task 3 embeds")
    killed = embedding(3)
    assert killed
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: job_state(f"{job}_3")["JobState"] == "FAILED", "task 3 fails")
    for task in (1, 2, 4):
        wait_until(lambda task=task: job_state(f"{job}_{task}")["JobState"] == "COMPLETED", f"task {task}")
    wait_until(lambda: job_state(merge)["JobState"] == "CANCELLED", "merge is cancelled")
    assert [job_state(f"{job}_{task}")["Restarts"] for task in (1, 2, 3, 4)] == ["1", "0", "0", "0"]
    assert job_state(f"{job}_3")["ExitCode"] == "137:0"
    assert log.read_text().count("stopped by SIGUSR1") == 1
    assert "out.1-of-4.parquet" in log.read_text().splitlines()[-1]
    assert not Path("out.parquet").exists()

    merge, _ = submitted(block("bash", "scontrol requeue ${job}_3"), job=job)
    wait_until(lambda: job_state(merge)["JobState"] == "COMPLETED", "merge")
    assert job_state(f"{job}_3")["Restarts"] == "1"
    assert "320 rows: out.parquet" in Path(f"merge.{merge}.log").read_text()

    assert find_flaws(Path("out.parquet"), [source]) == []
    embed_fasta(source, "alone.parquet", EmbedOptions(model="demo"))
    for name in ("out.parquet", "alone.parquet"):
        Path(f"{name}.skipped.tsv").touch()
    merged, alone = content(Path("out.parquet")), content(Path("alone.parquet"))
    for each in (merged, alone):
        del each.header.provenance["distinct"]  # a shard counts its own sequences
    assert merged.header == alone.header
    assert merged.rows == alone.rows
    values = [np.frombuffer(each.values[0], "<f4") for each in (merged, alone)]
    np.testing.assert_allclose(*values, rtol=0, atol=1e-5)


def test_the_first_hour(folder: Path) -> None:
    """The node only pretends to have a GPU, and the script says so instead of computing on the CPU."""
    Path("input.fa").write_text(">a\n" + "ACGU" * 20 + "\n")
    told = subprocess.run(
        ["bash", "-e", "-c", block("bash", "srun ")], capture_output=True, text=True, timeout=300, check=True
    ).stdout
    assert re.search(r"^time .* to .*, as fast as a short trial$", told, re.MULTILINE)
    job = slurm("sbatch", "--parsable", "gpu.sbatch").strip()
    wait_until(lambda: job_state(job)["JobState"] == "FAILED", "gpu.sbatch fails")
    assert job_state(job)["ExitCode"] == "2:0"
    assert "there is no gpu: TensorFlow sees 0 GPUs" in Path(f"gpu.{job}.log").read_text()
    assert not list(Path().glob("out*"))


def test_the_variant_for_gpus_gets_one_gpu_per_task(folder: Path) -> None:
    """The node only pretends to have GPUs; Slurm still gives each task one of them."""
    script = Path("embed.sbatch").read_text()
    assert "\n##SBATCH --gres=gpu:1" in script
    directives, _ = script.replace("\n##SBATCH", "\n#SBATCH").split("\nprotrna embed")
    Path("gpu.sbatch").write_text(directives + '\necho "$SLURM_GPUS_ON_NODE GPU of $SLURM_ARRAY_TASK_ID"\n')
    job = slurm("sbatch", "--parsable", "gpu.sbatch").strip()
    for task in range(1, 5):
        wait_until(lambda task=task: job_state(f"{job}_{task}")["JobState"] == "COMPLETED", f"task {task}")
        assert Path(f"embed.{job}_{task}.log").read_text() == f"1 GPU of {task}\n"


@pytest.mark.parametrize(
    ("indices", "shards"),
    [
        ("0-3", "1/4 2/4 3/4 4/4"),
        ("1-7:3", "1/3 2/3 3/3"),
        ("1,3,5", "1/3 2/3 3/3"),
        ("1,2,4", "- - -"),
        ("3", "-"),
    ],
)
def test_every_task_finds_its_shard(folder: Path, indices: str, shards: str) -> None:
    script = (
        "import os; from protrna_cli.plan.shard import resolve_shard\n"
        "from protrna_cli.errors import UsageError\n"
        "try: print(resolve_shard('auto', os.environ))\n"
        "except UsageError: print('-')\n"
    )
    Path("shard.py").write_text(script)
    wrapped = f"{sys.executable} shard.py"
    job = slurm("sbatch", "--parsable", f"--array={indices}", "--output=%a.txt", "--wrap", wrapped).strip()
    count = len(shards.split())
    wait_until(lambda: "PENDING" not in slurm("squeue", "-j", job, "-h", "-r", "-o", "%T"), "all start")
    wait_until(lambda: not slurm("squeue", "-j", job, "-h"), "all end")
    outputs = sorted(Path().glob("*.txt"), key=lambda path: int(path.stem))
    assert len(outputs) == count
    assert " ".join(path.read_text().strip() for path in outputs) == shards
