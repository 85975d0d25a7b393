"""Damage outputs in every way that disks, networks and people do, and see that each damage is found.

    python -m tests.tools.corrupt --trials 1000 --seed 1

Every trial damages a copy of an output: bytes flipped, zeroed, cut off or added, vectors or ids exchanged,
values changed, a file of it removed. `protrna verify` must find it, unless the libraries themselves still
read the same content. No command may end in a traceback, or make another output of it with other content. A
resumed run must not take it for complete.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from protrna_cli import EmbedOptions, embed_fasta, read_embeddings
from protrna_cli.cli import main as cli
from protrna_cli.errors import ProtrnaError
from protrna_cli.output.files import possible_files, skipped_path
from protrna_cli.output.make import convert
from protrna_cli.plan.rules import Rules
from protrna_cli.run.verify import find_flaws
from tests.conftest import TOY
from tests.tools.formats import named
from tests.tools.kill import write_input

DAMAGED = {65, 66, 73, 78}
"""Exit codes of commands that refuse a damaged output."""

KINDS = [
    (format, layout, per_token)
    for format, layout in (("parquet", "flat"), ("npy", "flat"), ("h5", "flat"), ("h5", "packed"))
    for per_token in (False, True)
] + [("h5ad", "flat", False)]

RULES = Rules(on_invalid="skip", max_length=60)


def make(folder: Path, kind: tuple[str, str, bool], source: Path) -> Path:
    """Make an output of a kind; returns its path."""
    name, layout, per_token = kind
    format = named(name, layout)
    out = folder / f"{name}-{layout}-{'token' if per_token else 'pooled'}{format.suffixes[0]}"
    made = out.with_suffix(".parquet") if format.is_export else out
    options = EmbedOptions(model=str(TOY), h5_layout=layout, per_token=per_token, rules=RULES)
    embed_fasta(source, made, options)
    if format.is_export:
        convert(made, out, format)
        shutil.copy(f"{made}.skipped.tsv", f"{out}.skipped.tsv")
    return out


def make_original(folder: Path, beside: Path, kind: tuple[str, str, bool], source: Path) -> Original:
    """Make an output of a kind, and read it before it is damaged."""
    path = make(folder, kind, source)
    converted = beside / f"{path.name}.npy"
    convert(path, converted, named("npy"))
    return Original(path, content(path), content(converted), read_embeddings(path).ids)


def content(path: Path) -> Any:
    """Read all of an output with the libraries alone; raises whatever they raise on damaged bytes."""
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        table = file.read()
        metadata = {key: text for key, text in file.metadata.metadata.items() if key != b"ARROW:schema"}
        return metadata, table.schema, table.schema.metadata, table.to_pydict()
    if path.suffix == ".npy":
        with path.open("rb") as array:
            values = np.load(array).tobytes()
            rest = array.read()
        texts = [Path(f"{path}.{name}").read_text("utf-8") for name in ("index.tsv", "meta.json")]
        return values, rest, texts[0], json.loads(texts[1])
    # libhdf5 itself may crash or loop on damaged bytes: of an HDF5 file every byte counts.
    return path.read_bytes()


def flip(data: bytearray, rng: random.Random) -> None:
    """Flip some bits of one byte."""
    data[rng.randrange(len(data))] ^= rng.randint(1, 255)


def zero(data: bytearray, rng: random.Random) -> None:
    """Zero a stretch of bytes, as a lost block of a disk is."""
    start = rng.randrange(len(data))
    data[start : start + 400] = bytes(len(data[start : start + 400]))


def cut(data: bytearray, rng: random.Random) -> None:
    """Lose the end."""
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    """Add bytes somewhere."""
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 64))


def exchange(data: bytearray, rng: random.Random) -> None:
    """Exchange two stretches of the size of a vector."""
    size = min(160, len(data) // 2)
    one, other = sorted(rng.sample(range(0, len(data) - size), 2))
    data[one : one + size], data[other : other + size] = (
        data[other : other + size],
        data[one : one + size],
    )


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [flip, flip, zero, cut, insert, exchange]


def damage(path: Path, rng: random.Random) -> str:
    """Damage one file of an output, or remove it; returns what was done."""
    files = [*possible_files(path), skipped_path(path)]
    file = rng.choice([each for each in files if each.exists()])
    if file != path and rng.random() < 0.2:
        file.unlink()
        return f"removed {file.name}"
    act = rng.choice(DAMAGES)
    data = bytearray(file.read_bytes())
    act(data, rng)
    file.write_bytes(data)
    return f"{act.__name__} in {file.name}"


def run(*words: object) -> int:
    """Run a command in this process; a traceback of ours would raise here."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return cli.run([str(word) for word in words])


class Original(NamedTuple):
    """An output before it was damaged: path, content and ids, and the content of its conversion to NumPy."""

    path: Path
    content: Any
    converted: Any
    ids: list[str]


def check(path: Path, original: Original, source: Path, resume: list[object] | None) -> str:
    """See what every command makes of a damaged output; returns `harmless` or `found`.

    Raises
    ------
    AssertionError
        The damage was not found.
    """
    try:
        harmless = content(path) == original.content
    except Exception:  # whatever a library raises
        harmless = False
    verified = run("verify", path, source)
    if harmless:  # or the list of skipped records is damaged, in whatever column
        assert verified in {0, *DAMAGED}
    else:
        assert verified in DAMAGED, "verify did not find it"
        assert find_flaws_or_error(path, source)
    for words in (
        ["info", path, "--all"],
        ["info", path, "--json"],
        ["convert", path, "-o", path.with_name("again.npy"), "--overwrite"],
        ["merge", path, "-o", path.with_name("merged.npy"), "--overwrite"],
        ["map", path, "-o", path.with_name("map.png"), "--method", "pca", "--overwrite"],
    ):
        code = run(*words)
        assert code in {0, 2, *DAMAGED, 70}, (words, code)
        if code == 0 and words[0] in ("convert", "merge"):
            assert content(Path(str(words[3])))[:3] == original.converted[:3], f"{words[0]} changed it"
    _check_python(path, original, harmless)
    if resume and not harmless:
        assert run(*resume) in DAMAGED, "--resume took it for complete"
        _check_reuse(path, source, resume)
    listed = skipped_path(path), skipped_path(original.path)
    if harmless and not (listed[0].exists() and listed[0].read_bytes() == listed[1].read_bytes()):
        return "in the list of skipped records"
    return "harmless" if harmless else "found"


def _check_python(path: Path, original: Original, harmless: bool) -> None:
    """See that Python is given the rows that were written, and with `check` the vectors."""
    try:
        found = read_embeddings(path)
        assert found.ids == original.ids, "read_embeddings changed ids"
        found.check()
    except ProtrnaError:
        return
    expected = original.path.with_name(path.name)
    assert harmless or not expected.exists() or content(path)[0] == original.content[0], "check passed it"


def _check_reuse(path: Path, source: Path, resume: list[object]) -> None:
    """See that no vector is taken from a damaged output, except where nothing but its list is damaged."""
    words = [word for word in resume if word != "--resume"]
    out = path.with_name(f"reusing{path.suffix}")
    words[words.index("-o") + 1] = out
    code = run(*words, "--reuse", path, "--overwrite")
    assert code in {0, *DAMAGED}, code
    if code == 0:
        assert run("verify", out, source) == 0, "--reuse copied damage"


def find_flaws_or_error(path: Path, source: Path) -> bool:
    """Whether Python, too, is told of the damage."""
    try:
        return bool(find_flaws(path, [source]))
    except ProtrnaError:
        return True


def resume_words(kind: tuple[str, str, bool], path: Path, source: Path) -> list[object] | None:
    """Words of the command that made an output, with --resume."""
    name, layout, per_token = kind
    if name == "h5ad":
        return None
    words: list[object] = ["embed", source, "-o", path, "--model", TOY, "--on-invalid", "skip"]
    words += ["--max-length", "60", "--resume", "-q"]
    words += ["--h5-layout", layout] if name == "h5" else []
    return [*words, "--per-token"] if per_token else words


def campaign(trials: int, seed: int) -> Counter[str]:
    """Damage outputs of every kind; returns how often what was the outcome."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in.fa"
        write_input(source)
        originals = Path(name) / "originals"
        originals.mkdir()
        made = {kind: make_original(originals, Path(name), kind, source) for kind in KINDS}
        for trial in range(trials):
            kind = KINDS[trial % len(KINDS)]
            folder = Path(name) / "damaged"
            shutil.copytree(originals, folder)
            path = folder / made[kind].path.name
            what = damage(path, rng)
            try:
                outcomes[check(path, made[kind], source, resume_words(kind, path, source))] += 1
            except BaseException:
                print(f"trial {trial} of seed {seed}: {kind}: {what}")
                raise
            shutil.rmtree(folder)
    return outcomes


def main() -> None:
    """Damage outputs as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.corrupt", description=main.__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes = campaign(arguments.trials, arguments.seed)
    print(f"{sum(outcomes.values()):,} damages:", ", ".join(f"{n:,} {what}" for what, n in outcomes.items()))


if __name__ == "__main__":
    main()
