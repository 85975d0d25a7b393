"""The command as users see it: arguments, exit codes, and what is printed on stderr."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from protrna_cli.text import version
from protrna_cli.weights.checkpoint import DEMO_NOTICE
from tests.conftest import GOLDEN, LIGHT, ROOT, SAMPLE, TOY, Run, on_a_terminal

HEAVY = {"tensorflow", "numpy", "h5py", "pyarrow", "Bio", "requests", "pooch"}
HEAVY |= {"bokeh", "matplotlib", "sklearn", "umap"}


def process(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m protrna_cli` in a process of its own."""
    command = [sys.executable, "-m", "protrna_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["embed", "--help"],
        ["info", "--help"],
        ["convert", "--help"],
        ["convert", "in.npy", "-o", "out.csv"],
        ["weights", "--help"],
        *(["weights", command, "--help"] for command in ("fetch", "verify", "path", "list")),
        ["weights", "fetch", "nonsense"],
        ["map", "--help"],
        ["map", "out.parquet", "-o", "map.gif"],
        ["embed"],
        ["embed", "in.fa"],
        ["embed", "in.fa", "-o", "out.parquet", "--pool", "median"],
        ["embed", "in.fa", "-o", "out.parquet", "--threads", "0"],
        ["embed", "in.fa", "-o", "out.csv"],
        ["embed", "in.fa", "-o", "out.npy", "--device", "tpu"],
        ["nonsense"],
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys; from protrna_cli.cli.main import run; code = run(sys.argv[1:]);"
        f"print(code, *sorted({HEAVY!r} & set(sys.modules)), file=sys.__stdout__)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=300)
    last = done.stdout.splitlines()[-1]
    assert last == ("0" if words[-1] in ("--help", "--version") else "2"), done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing.fa", "-o", "out.npy", "--model", "demo"], 66, "missing.fa: cannot be read"),
        ([SAMPLE, "-o", "out.npy", "--model", "missing.h5"], 69, "missing.h5: no such checkpoint"),
        ([SAMPLE, "-o", "out.npy", "--model", SAMPLE], 69, "not an HDF5 file"),
        ([SAMPLE, "-o", "out.npy", "--model", TOY, "--layer", "9"], 2, "layers 0 to 3, not 9"),
        ([SAMPLE, "-o", "out.npy", "--model", TOY, "--device", "tpu"], 2, "'tpu' is not a device"),
        (
            [SAMPLE, "-o", "out.npy", "--model", TOY, "--device", "gpu:7"],
            2,
            "there is no gpu:7: TensorFlow sees 0 GPUs",
        ),
        (
            [SAMPLE, "-o", "no/such one/out.npy", "--model", TOY],
            73,
            "no/such one/out.npy: cannot be created, as there is no folder no/such one; make it with "
            "mkdir -p 'no/such one', or choose another -o",
        ),
        ([SAMPLE, "-o", "out.xyz"], 2, "no format has the suffix '.xyz'"),
        (
            [GOLDEN / "sequences.fa", "-o", "out.npy", "--model", TOY],
            65,
            "record 4 (id 'seq3'), line 8, residue 17: '-'",
        ),
    ],
)
def test_errors_have_a_code_and_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("embed", *words)
    errors = [line for line in outcome.err.splitlines() if "note:" not in line]
    assert outcome.code == code
    assert len(errors) == 1
    assert errors[0].startswith("protrna: error: ")
    assert message in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed"], "INPUT is missing; see protrna embed --help"),
        (["map", "a.npy"], "--output is missing; see protrna map --help"),
        (
            ["embed", "a", "--pol", "max"],
            "there is no option --pol; do you mean --model or --pool?; see protrna",
        ),
        (["embed", "a", "-z"], "there is no option -z; see protrna embed --help"),
        (
            ["embed", "a", "--pool", "most"],
            "--pool takes mean, max or cls, not 'most'; see protrna embed --help",
        ),
        (["embed", "a", "-j", "0"], "--threads takes a whole number from 1 up, not '0'; see protrna embed"),
        (
            ["embed", "a", "--workers", "x"],
            "--workers takes auto or a whole number from 1 up, not 'x'; see",
        ),
        (["weights", "path", "x"], "NAME takes protrna, not 'x'; see protrna weights path --help"),
        (["convert", "a", "b", "-o", "c"], "got unexpected extra argument (b); see protrna convert --help"),
        (
            ["map", "a", "-o", "b.png", "--seed", "-1"],
            "--seed takes a whole number from 0 to 4294967295, not '-1'",
        ),
        (["embed", "a", "--max-length", "1e3"], "--max-length takes a whole number, not '1e3'; see protrna"),
        (["nonsense"], "no such command 'nonsense'; see protrna --help"),
    ],
)
def test_usage_errors_look_like_our_other_errors(run: Run, words: list[str], message: str) -> None:
    outcome = run(*words)
    assert (outcome.code, outcome.out, len(outcome.err.splitlines())) == (2, "", 1)
    assert outcome.err.startswith(f"protrna: error: {message}"), outcome.err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PRECISION", "half", "PROTRNA_PRECISION takes float32, bfloat16 or auto, not 'half'; see protrna"),
        ("DEVICE", "tpu", "'tpu' is not a device"),
        ("MODEL", "missing.h5", "missing.h5: no such checkpoint"),
    ],
)
def test_environment_variables_set_defaults(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    out = tmp_path / "out.npy"
    monkeypatch.setenv("PROTRNA_MODEL", str(TOY))
    monkeypatch.setenv(f"PROTRNA_{name}", value)
    words = ["embed", SAMPLE, "-o", out]
    outcome = run(*words)
    assert outcome.code in (2, 69)
    assert message in outcome.err
    good = {"PRECISION": "float32", "DEVICE": "cpu", "MODEL": TOY}[name]
    assert run(*words, f"--{name.lower()}", good, "--dry-run").code == 0, "the option comes first"
    assert f"[env var: PROTRNA_{name}; default:" in " ".join(run("embed", "--help").out.split())


def test_what_an_environment_variable_sets_is_recorded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTRNA_MODEL", str(TOY))
    monkeypatch.setenv("PROTRNA_PRECISION", "bfloat16")
    out = tmp_path / "out.npy"
    assert run("embed", SAMPLE, "-o", out).code == 0
    recorded = json.loads(run("info", "--json", out).out)
    assert recorded["provenance"]["precision"] == "bfloat16"
    monkeypatch.delenv("PROTRNA_PRECISION")
    assert run("embed", SAMPLE, "-o", tmp_path / "again.npy", "--reuse", out).code == 78


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version(run: Run, word: str) -> None:
    assert run(word).out == f"protrna, version {version()}\n"


def test_the_published_weights_are_found_where_they_are_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTRNA_HOME", str(tmp_path))
    (tmp_path / "ProtRNA_pretrained.h5").symlink_to(TOY)
    assert run("embed", SAMPLE, "-o", tmp_path / "out.npy").code == 0


@pytest.mark.parametrize("name", ["out.parquet", "out.npy", "out.h5"])
def test_an_output_that_exists_is_replaced_only_when_asked(run: Run, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.write_text("precious")
    outcome = run("embed", SAMPLE, "-o", out, "--model", TOY)
    assert outcome.code == 73
    assert "--overwrite" in outcome.err
    assert out.read_text() == "precious"
    assert run("embed", SAMPLE, "-o", out, "--model", TOY, "--overwrite").code == 0
    assert run("info", out).code == 0


@pytest.mark.slow
def test_stderr_has_only_our_lines(tmp_path: Path) -> None:
    done = process("embed", SAMPLE, "-o", tmp_path / "out.parquet", "--model", "demo")
    assert done.returncode == 0
    assert done.stdout == ""
    note, summary = done.stderr.splitlines()
    assert note == f"protrna: note: {DEMO_NOTICE}"
    assert summary.startswith("protrna: 46 records, 7,146 residues, 1 record longer than 510 in windows; ")


@pytest.mark.slow
def test_quiet_prints_nothing_and_verbose_shows_tensorflow_messages(tmp_path: Path) -> None:
    source = ROOT / "sample_data" / "readme.fa"
    words = ["embed", source, "--model", "demo", "--overwrite", "-o", tmp_path / "out.parquet"]
    assert process(*words, "-q").stderr == ""
    assert "absl::InitializeLog" in process(*words, "-v").stderr  # every processor makes this line


def test_a_terminal_shows_a_bar(tmp_path: Path, fasta: Callable[[str], Path]) -> None:
    """On a pseudo-terminal: records, a rate and the time left."""
    words = [
        "embed",
        fasta("".join(f">{i}\n{'A' * i}\n" for i in range(1, 47))),
        "-o",
        tmp_path / "out.npy",
        "--model",
        TOY,
    ]
    code, shown = on_a_terminal(*words, columns=80, first=LIGHT)
    assert code == 0
    assert "46/46 records" in shown
    assert "residues/s" in shown


def test_a_failed_run_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protrna_cli.model.transformer import ProtRNA

    def fail(*_: object, **how: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProtRNA, "_embed_batch", fail)
    assert run("embed", SAMPLE, "-o", tmp_path / "out.h5", "--model", TOY).code == 130
    assert not list(tmp_path.iterdir())


def shell(line: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a shell line in which `protrna` is this package; the words are $1, $2 and so on."""
    function = f'protrna() {{ "{sys.executable}" -m protrna_cli "$@"; }}'
    script = ["bash", "-c", f"{function}; {line}", "bash", *map(str, words)]
    return subprocess.run(script, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("module", ["tests.tools.light", pytest.param("protrna_cli", marks=pytest.mark.slow)])
def test_closed_standard_streams_do_no_harm(
    tmp_path: Path, fasta: Callable[[str], Path], module: str
) -> None:
    source, out = fasta(">a\nACGU\n>b\nGG\n"), tmp_path / "out.npy"
    line = f'"{sys.executable}" -m {module} embed "$1" -o "$2" --model "$3" <&- >&- 2>&-'
    assert shell(line, source, out, TOY).returncode == 0
    assert shell('protrna verify "$1" "$2"', out, source).returncode == 0


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ('protrna embed - -o "$2" --model "$3" <&-', 66, "<stdin>: standard input is closed"),
        ('protrna embed "$1" -o - --model "$3" >&-', 73, "standard output is closed; add > out.parquet"),
        ('protrna embed - -o - --model "$3" <&- >&-', 73, "standard output is closed"),
        ('protrna embed "$1" -o - --model "$3" >&- 2>&-', 73, None),
        ('protrna embed - -o "$2" --model "$3" <&- 2>&-', 66, None),
    ],
)
def test_a_closed_stream_that_is_needed_is_an_error(
    tmp_path: Path, line: str, code: int, words: str | None
) -> None:
    done = shell(line, SAMPLE, tmp_path / "out.npy", TOY)
    assert done.returncode == code
    assert not list(tmp_path.iterdir())
    if words:
        [message] = done.stderr.splitlines()
        assert message.startswith(f"protrna: error: {words}")


def test_a_closed_pipe_is_quiet_and_a_full_disk_is_an_error(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out.npy"
    assert run("embed", SAMPLE, "-o", out, "--model", TOY).code == 0
    done = shell('protrna info "$1" | true; echo "${PIPESTATUS[0]}"', out)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")
    done = shell('protrna info "$1" > /dev/full', out)
    assert done.returncode == 74
    assert done.stderr.strip() == "protrna: error: standard output: writing failed (No space left on device)"
