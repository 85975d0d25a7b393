"""Sequence with structure, as RNAfold and others write it: named as such, and never read as residues."""

import gzip
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from protrna_cli.errors import InputError
from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.records import Record
from protrna_cli.fasta.sources import open_sources
from protrna_cli.plan.rules import DEFAULT_RULES, GAPS, ON_INVALID, Rules
from protrna_cli.plan.shard import WHOLE
from tests.conftest import TOY, Run

SEQUENCES = {"hairpin": "GGGGAAAACCCCUUUGGGGUUUUCCCC", "tail": "ACGUACGU", "knot": "CCCAAGGGAAUUCC"}

RNAFOLD = """\
>hairpin
GGGGAAAACCCCUUUGGGGUUUUCCCC
((((....))))...((((....)))) (-10.30)
((((....))))...{(((....)))} [-10.53]
((((....))))...((((....)))) {-10.30 d=1.73}
((((....))))...((((....)))) {-10.30 MEA=26.20}
 frequency of mfe structure in ensemble 0.691057; ensemble diversity 2.83
>tail
ACGUACGU
........ (  0.00)
........ [ -0.04]
........ {  0.00 d=0.20}
........ {  0.00 MEA=7.90}
 frequency of mfe structure in ensemble 0.935034; ensemble diversity 0.40
>knot
CCCAAGGGAAUUCC
(((..[[)))..]]
"""
"""The output of `RNAfold -p --MEA`, and a pseudoknot in dot-bracket notation."""

Fasta = Callable[..., Path]


def read(path: Path, rules: Rules = DEFAULT_RULES) -> list[Record]:
    with open_sources([path]) as sources:
        return [item for item in take_census(sources, rules).records(WHOLE, 1) if isinstance(item, Record)]


@pytest.mark.parametrize("on_invalid", ON_INVALID)
@pytest.mark.parametrize("gaps", GAPS)
def test_structure_is_an_error_under_every_rule(fasta: Fasta, on_invalid: str, gaps: str) -> None:
    path = fasta(RNAFOLD)
    with pytest.raises(InputError) as error:
        read(path, Rules(on_invalid, gaps))
    message = str(error.value)
    assert message.startswith(f"{path}: record 1 (id 'hairpin'), line 3: looks like dot-bracket structure")
    assert "--on-invalid" not in message
    assert "--gaps" not in message


@pytest.mark.parametrize(
    "structure",
    [
        "((((....))))...((((....))))",
        "((((....))))...\n((((....))))",  # wrapped
        "........................... (  0.00)",
        "((((....))))...((((....)))) [-10.30]",
        "<<<<____>>>>,,,<<<<____>>>>",  # WUSS
        "(((..[[[..)))..]]]",
        "(((AAA..)))..aaa",
        "((((....&....))))",
        "...((((...))))",
    ],
)
@pytest.mark.parametrize("on_invalid", ON_INVALID)
def test_dialects_of_structure(fasta: Fasta, structure: str, on_invalid: str) -> None:
    path = fasta(f">a\nACGU\n>b\nGGGGAAAA\nCCCC\n\n{structure}\n")
    with pytest.raises(InputError, match=r"record 2 \(id 'b'\), line \d+: looks like dot-bracket structure"):
        read(path, Rules(on_invalid, gaps="unknown"))


@pytest.mark.parametrize("letters", ["AC(m6A)GU", "A[C]G", "AC-----GU", "A..CG..U", "{U}", "A<>C"])
def test_other_signs_are_not_structure(fasta: Fasta, letters: str) -> None:
    path = fasta(f">a\n{letters}\n")
    assert len(read(path, Rules(on_invalid="unknown", gaps="remove"))) == 1
    with pytest.raises(InputError, match="is not an RNA or DNA letter"):
        read(path)


@pytest.mark.parametrize("name", ["in.fa", "with space.fa", "in.fa.gz"])
def test_the_remedy_leaves_the_sequences(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = RNAFOLD.encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    outcome = run("embed", name, "-o", "out.npy", "--model", TOY)
    assert outcome.code == 65
    command = outcome.err.strip().partition("for example with: ")[2]
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)
    found = {record.id: record.sequence for record in read(Path("sequences.fa"))}
    assert found == {name: sequence.lower() for name, sequence in SEQUENCES.items()}
    assert run("embed", "sequences.fa", "-o", "out.npy", "--model", TOY).code == 0
