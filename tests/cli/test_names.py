"""File names that are not UTF-8: they are only bytes, and every command takes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SAMPLE, TOY, Run

ODD = os.fsdecode(b"\xff")
SHOWN = "\ufffd"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with inputs; its name and theirs are not UTF-8."""
    folder = tmp_path / f"here{ODD}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"this file system has UTF-8 names only ({error})")
    for source in (SAMPLE, TOY, ROOT / "sample_data" / "regions.bed"):
        (folder / f"in{ODD}{source.suffix}").write_bytes(source.read_bytes())
    monkeypatch.chdir(folder)
    return folder


def done(run: Run, *words: str, code: int = 0) -> str:
    """Run a command on names in which `*` is not UTF-8; its messages can be printed. Returns its output."""
    outcome = run(*(word.replace("*", ODD) for word in words))
    assert outcome.code == code, outcome.err
    assert outcome.err.replace("\n", "").isprintable()
    assert all(line.startswith("protrna: ") for line in outcome.err.splitlines())
    assert SHOWN in outcome.err or not code
    return outcome.out


EMBED = ("embed", "in*.fa", "--model", "in*.h5")


@pytest.mark.parametrize("suffix", ["npy", "parquet", "h5"])
def test_every_command_takes_them(run: Run, suffix: str) -> None:
    out = f"out*.{suffix}"
    done(run, *EMBED, "-o", out, "--regions", "in*.bed", "--per-token-output", "residues*.h5")
    done(run, "verify", out, "in*.fa", "--regions", "in*.bed")
    for made in ("npy", "parquet", "h5", "h5ad", "npz", "tsv"):
        done(run, "convert", out, "-o", f"from-{suffix}*.{made}")
    done(run, *EMBED, "-o", f"part*.{suffix}", "--shard", "1/2")
    done(run, *EMBED, "-o", f"part*.{suffix}", "--shard", "2/2")
    parts = [f"part*.{i}-of-2.{suffix}" for i in (1, 2)]
    done(run, "merge", *parts, "-o", f"merged*.{suffix}")
    done(run, *EMBED, "-o", f"merged*.{suffix}", "--resume")
    shown = json.loads(done(run, "info", out, "--json"))
    assert SHOWN in done(run, "info", out)
    assert shown["file"] == f"out{SHOWN}.{suffix}"
    assert shown["provenance"]["model"]["name"] == f"in{SHOWN}.h5"
    assert shown["provenance"]["inputs"][0]["name"] == f"in{SHOWN}.fa"
    assert shown["provenance"]["rules"]["regions"]["name"] == f"in{SHOWN}.bed"


def test_a_map_shows_them(run: Run) -> None:
    pytest.importorskip("bokeh")
    done(run, *EMBED, "-o", "out*.npy")
    Path(f"families{ODD}.tsv").write_text("tRNA_Phe_yeast\ttRNA\n")
    done(run, "map", "out*.npy", "-o", "map*.html", "--method", "pca", "--color-by", "families*.tsv")
    assert f"out{SHOWN}.npy" in Path(f"map{ODD}.html").read_text()
    done(run, "map", "out*.npy", "-o", "map*.png", "--method", "pca", "--color-by", "families*.tsv")


def test_the_list_of_skipped_records(run: Run) -> None:
    Path(f"bad{ODD}.fa").write_text(">a\nAC*\n>b\nACGU\n")
    done(run, "embed", "bad*.fa", "-o", "out*.npy", "--model", "in*.h5", "--on-invalid", "skip")
    assert f"bad{SHOWN}.fa\t1\ta\t" in Path(f"out{ODD}.npy.skipped.tsv").read_text()
    done(run, "embed", "bad*.fa", "-o", "out.npy", "--model", "in*.h5", code=65)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["embed", "gone*", "-o", "out.npy", "--model", "in*.h5"], 66),
        ([*EMBED, "-o", "out.npy", "--regions", "gone*"], 66),
        (["embed", "in*.fa", "-o", "out.npy", "--model", "gone*"], 69),
        (["embed", "in*.fa", "-o", "out.npy", "--model", "in*.fa"], 69),
        ([*EMBED, "-o", "gone*/out.npy"], 73),
        ([*EMBED, "-o", "out*.xyz"], 2),
        (["verify", "gone*", "in*.fa"], 66),
        (["merge", "gone*", "-o", "out.npy"], 66),
        (["convert", "gone*", "-o", "out.npy"], 66),
        (["info", "gone*"], 66),
        (["info", "in*.fa"], 65),
        (["weights", "verify", "in*.fa"], 69),
        (["weights", "fetch", "--from", "in*.fa", "--to", "new*"], 69),
    ],
)
def test_messages_show_them(run: Run, words: list[str], code: int) -> None:
    done(run, *words, code=code)


def test_a_path_is_printed_as_it_is(folder: Path) -> None:
    """Standard output takes only UTF-8 in most locales; `cp "$(protrna weights path)"` needs the bytes."""
    (folder / "ProtRNA_pretrained.h5").write_bytes(TOY.read_bytes())
    words = [sys.executable, "-m", "protrna_cli", "weights", "path", "--weights-dir", folder]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(ROOT)}
    made = subprocess.run(words, env=strict, stdout=subprocess.PIPE, check=True, timeout=300)
    assert made.stdout == os.fsencode(folder) + b"/ProtRNA_pretrained.h5\n"
