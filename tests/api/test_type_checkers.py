"""What mypy and basedpyright refuse in a user's program, and what they let pass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

RIGHT = """
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

import protrna_cli
from protrna_cli import Embedder, EmbedOptions, LoadedModel, Rules, Shard, embed, embed_fasta, embed_iter
from protrna_cli import InputError, ProtrnaError, RunMismatch, load_model, read_embeddings


def pooled(model: LoadedModel, pool: Literal["mean", "max"]) -> npt.NDArray[np.float32]:
    return model.embed(["ACGU"], pool=pool, normalize=True)


model = load_model("demo", precision="auto", device="gpu:0", threads=2, verbose=True)
vectors, ids = embed({"a": "ACGU"}, "demo", on_invalid="skip", return_ids=True)
print(vectors.shape, ids[0].upper())
residues, ids = embed(["ACGU"], model, per_token=True, return_ids=True, gaps="remove", long="skip")
print(residues[0].shape, ids)
print(embed(["ACGU"], Path("x.h5"), dtype="float16", device="cpu", threads=1).shape)
for row in embed_iter(["ACGU"], model, chunk=4096, progress=True):
    print(row.id, row.vectors.dtype)
summary = embed_fasta("in.fa", "out.h5", model=model, layers=3, h5_layout="packed", progress=True)
embed_fasta(["a.fa", Path("b.fa")], Path("out"), format="npy", dtype="float16", shard=Shard(1, 8))
embed_fasta("in.fa", "out.npy", EmbedOptions(pool="max", rules=Rules(long="truncate", gaps="remove")))
print(summary.n_records, model.encode(["ACGU"], layers=(1, 3))[3].shape, model.size.width)
print(Embedder("demo", pool="max", normalize=True).fit_transform(["ACGU"]))
try:
    print(read_embeddings("out.h5", layer=3)["a"])
except (InputError, RunMismatch, protrna_cli.UsageError) as error:
    print(error.exit_code)
except ProtrnaError:
    raise
"""

SETTING = """
from protrna_cli import Embedder, EmbedOptions, Rules, embed, embed_fasta, embed_iter
from protrna_cli import load_model, read_embeddings
model = load_model("demo")
"""

WRONG = """
embed(["ACGU"], model, pool="avg")
embed(["ACGU"], model, precision="float16")
embed(["ACGU"], model, long="cut")
embed(["ACGU"], model, on_invalid="drop")
embed(["ACGU"], model, gaps="skip")
embed(["ACGU"], model, dtype="float64")
embed(["ACGU"], model, layers="3")
embed(["ACGU"], model, per_tokens=True)
embed(["ACGU"], model, device=0)
embed(["ACGU"], model, threads="2")
embed(["ACGU"], model, return_ids=1)
embed(["ACGU"], model, normalize="l2")
embed([1, 2], model)
embed(["ACGU"], 7)
embed(["ACGU"], model).append(1)
embed(["ACGU"], model, return_ids=True).shape
model.embed(["ACGU"], pool="avg")
model.embed(["ACGU"], model="demo")
embed_iter(["ACGU"], model, chunk="auto")
embed_iter(["ACGU"], model, pool="avg")
embed_fasta("in.fa", "out.h5", pool="avg")
embed_fasta("in.fa", "out.h5", format="csv")
embed_fasta("in.fa", "out.h5", h5_layout="wide")
embed_fasta("in.fa", "out.h5", shard="1/8")
embed_fasta("in.fa", "out.h5", overwrite="yes")
embed_fasta("in.fa", "out.h5", progress="bar")
embed_fasta("in.fa", "out.h5", modle="demo")
embed_fasta(7, "out.h5")
EmbedOptions(pool="avg")
EmbedOptions(dtype="float64")
Rules(long="cut")
Embedder("demo", pool="avg")
load_model("demo", precision="half")
load_model("demo", threads=2.5)
load_model(7)
read_embeddings("out.h5", layer="last")
model.alphabets
""".strip().splitlines()


def mypy(program: Path) -> set[int]:
    """Numbers of the lines that mypy refuses."""
    settings = "--config-file= --strict --ignore-missing-imports --follow-imports=silent"
    command = [sys.executable, "-m", "mypy", *settings.split(), "--cache-dir", program.parent, program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return {int(number) for number in re.findall(r"^\S+?:(\d+): error", done.stdout, re.MULTILINE)}


def basedpyright(program: Path) -> set[int]:
    """Numbers of the lines that basedpyright refuses, with the rules that pyright has by default."""
    pytest.importorskip("basedpyright", reason="needs basedpyright")
    settings = {
        "include": [str(program)],
        "typeCheckingMode": "standard",
        "extraPaths": [str(ROOT)],
        "pythonVersion": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    config = program.with_name("pyrightconfig.json")
    config.write_text(json.dumps(settings))
    command = [
        *(sys.executable, "-m", "basedpyright", "--project", config, "--pythonpath", sys.executable),
        *("--outputjson", "--level", "error"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in found}


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, basedpyright])
def test_a_right_program_passes_and_every_wrong_line_is_refused(
    tmp_path: Path, checker: Callable[[Path], set[int]]
) -> None:
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(RIGHT)
    assert checker(right) == set()
    wrong.write_text(SETTING + "\n".join(WRONG))
    first = len(SETTING.splitlines()) + 1
    refused = {line - first for line in checker(wrong)}
    assert [line for i, line in enumerate(WRONG) if i not in refused] == []
