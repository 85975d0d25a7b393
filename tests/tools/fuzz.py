"""Fuzz the FASTA reader: any bytes must give records or one of our errors, never a traceback or a hang.

    python -m tests.tools.fuzz --inputs 1000000 --seed 1

Seeds are valid and odd FASTA files, plain and compressed; each round mutates one and reads it with random
rules. A failing input is saved in the current folder.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import random
import signal
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa

from protrna_cli.errors import InputError, InputUnreadable
from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.records import Record
from protrna_cli.fasta.sources import open_sources
from protrna_cli.plan.rules import GAPS, LONG, ON_INVALID, Rules
from protrna_cli.plan.shard import WHOLE

HANG_SECONDS = 20

_TEXTS = [
    b">a one\nACGU\nTTNN\n>b\nacgu\n",
    b"\xef\xbb\xbf>a\r\nAC GU\r\n\r\n>b|x/y%z \xc3\xbc\r\nRYSWKMBDHVNXI",
    b">p\nMKTAYIAKQRQISFVKSHFSRQ\n>g\nAC-GU..AC~\n>\nA\n>e\n>f\nA*1\n",
    b"\n\n>long\n" + b"ACGU" * 400 + b"\n>t\tx\nA\tC\x0bG\n",
    b"@q\nACGU\n+\nIIII\n",
]
_FRAGMENTS = [
    b">",
    b"\n",
    b"\r",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"-",
    b"*",
    b"N",
    b"\x1f\x8b",
    b"BZh9",
    b"\xc3",
    b" ",
]


def seeds() -> list[bytes]:
    """Make the seeds: each text plain, in every compression, and as two compressed copies in one file."""
    packers = [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda text: pa.compress(text, codec="zstd", asbytes=True),
    ]
    packed = [pack(text) for text in _TEXTS for pack in packers]
    return [*_TEXTS, *packed, *(each + each for each in packed)]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, insert, repeat or remove some bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(0, 6)):
        at = rng.randint(0, len(out))
        match rng.randint(0, 4):
            case 0:
                out[at:at] = rng.choice(_FRAGMENTS)
            case 1:
                out[at : at + 1] = rng.randbytes(1)
            case 2:
                del out[at : at + rng.randint(1, 20)]
            case 3:
                out[at:at] = out[at : at + rng.randint(1, 60)]
            case 4:
                del out[at if rng.random() < 0.2 else len(out) :]
    return bytes(out)


def random_rules(rng: random.Random) -> Rules:
    """Choose any valid rules."""
    longest, long = rng.choice([2, 3, 17, 510]), rng.choice(LONG)
    overlap = rng.randint(1, longest - 1) if long == "window" else None
    return Rules(rng.choice(ON_INVALID), rng.choice(GAPS), long, longest, overlap)


def check(path: Path, rules: Rules) -> str:
    """Read a file twice, as a run does; returns `records` or the name of the error.

    Raises
    ------
    AssertionError
        The two passes do not agree, or an error is not a single line that names the file.
    """
    try:
        with open_sources([path]) as sources:
            counted = take_census(sources, rules)
            census, items = counted.census, list(counted.records(WHOLE, 1))
    except (InputError, InputUnreadable) as error:
        message = str(error)
        assert message.isprintable() or "\n" not in message, message
        assert str(path) in message, message
        return type(error).__name__
    records = [item for item in items if isinstance(item, Record)]
    assert (len(records), len(items) - len(records)) == (census.n_records, census.n_skipped)
    assert sum(record.length for record in records) == census.n_residues
    assert all(record.sequence and set(record.sequence) <= set("acgux") for record in records)
    return "records"


def fuzz(inputs: int, seed: int) -> Counter[str]:
    """Read so many inputs; returns how often each outcome occurred."""
    rng = random.Random(seed)
    corpus = seeds()
    outcomes: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, _hang)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.fa"
        for _ in range(inputs):
            data, rules = mutated(rng.choice(corpus), rng), random_rules(rng)
            path.write_bytes(data)
            signal.alarm(HANG_SECONDS)
            try:
                outcomes[check(path, rules)] += 1
            except BaseException:
                Path(f"fuzz-{seed}.failed").write_bytes(data)
                print(rules)
                raise
            finally:
                signal.alarm(0)
    return outcomes


def _hang(*_: object) -> None:
    raise TimeoutError(f"no result in {HANG_SECONDS} s")


def main() -> None:
    """Fuzz the FASTA reader."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.fuzz", description=main.__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes = fuzz(arguments.inputs, arguments.seed)
    print(f"{sum(outcomes.values()):,} inputs:", ", ".join(f"{n:,} {what}" for what, n in outcomes.items()))


if __name__ == "__main__":
    main()
