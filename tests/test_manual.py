"""Run the commands and the Python of the README and of the manual, and check what they list."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any

import pytest

from protrna_cli import manual
from tests.conftest import ROOT, Run
from tests.tools.cases import slow_except

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README": README} | {topic: manual.page(topic) for topic in manual.TOPICS}
ALL = "\n".join(PAGES.values())


def blocks(language: str, text: str = ALL) -> list[str]:
    """Find the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def block(language: str, words: str) -> str:
    """Return the only fenced block of a language that contains these words."""
    [found] = [each for each in blocks(language) if words in each]
    return found


def commands(text: str) -> list[str]:
    """List the `protrna` lines of the shell blocks of a page; what one installs before is left out."""
    lines = "".join(blocks("sh", text)).splitlines()
    assert all(line.startswith(("protrna ", "python3 -m venv ")) for line in lines)
    return [line[line.index("protrna ") :] for line in lines if "protrna " in line]


def expanded(word: str) -> list[str]:
    """Expand a word with `*` as a shell does."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder that has the sample data; the working directory."""
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(run: Run, page: str) -> None:
    """Do what a page shows."""
    text = PAGES[page]
    for line in commands(text):
        words = [each for word in shlex.split(line)[1:] for each in expanded(word)]
        outcome = run(*words)
        assert outcome.code == 0, (page, line, outcome.err)
    names: dict[str, Any] = {}
    for block in blocks("python", text):
        exec(block, names)
    if page == "reading":
        assert names["matrix"].shape == (46, 320)
        assert names["trna"].shape == (320,)
    if page == "python":
        assert names["vectors"].shape[1] == 320
        assert [each.shape for each in names["residues"]] == [(8, 320), (4, 320)]
        assert names["layers"][3].shape == names["layers"][-1].shape == (1, 320)
        assert list(names["every"]) == list(names["scores_by_layer"]) == list(range(7))
        assert 0 < names["scores_by_layer"][names["best"]] <= 1
        assert names["results"]["attentions"].shape == (2, 6, 20, 25, 25)
        assert names["summary"].n_records == 46
        assert names["scores"].mean() > 0.4  # of random weights; a guess is right one time in ten
        assert names["pipeline"].predict(["GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGA"]).shape == (1,)
        assert names["frame"]["embedding"].iloc[0].shape == (320,)
    if page == "README":
        assert names["vectors"].shape == (2, 320)


@pytest.mark.parametrize("page", slow_except(["shards"], ["outputs", "shards", "pytorch"]))
def test_a_page_runs_by_itself(folder: Path, run: Run, page: str) -> None:
    follow(run, page)


@pytest.fixture
def equal_batches_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the vectors of a batch that ran before: nearly all pages embed the same sample."""
    from protrna_cli.model.transformer import ProtRNA

    embed, ran = ProtRNA._embed_batch, {}

    def embedded(model: Any, tokens: Any, weights: Any, *what: Any, **how: Any) -> Any:
        key = (id(model._weights), tokens.tobytes(), weights.tobytes(), tokens.shape, str(what))
        if key not in ran:
            ran[key] = embed(model, tokens, weights, *what, **how), model._weights  # which keep their id
        return ran[key][0]

    monkeypatch.setattr(ProtRNA, "_embed_batch", embedded)


@pytest.mark.slow(seconds=60)
@pytest.mark.usefixtures("small_trials", "equal_batches_run_once")
def test_a_reader_follows_all_pages_in_one_folder(folder: Path, run: Run) -> None:
    """In the order of the table. No page needs or replaces a file of another, so each runs by itself too."""
    for page in PAGES:
        shown = "\n".join(commands(PAGES[page]) + blocks("python", PAGES[page]))
        before = {path.name for path in folder.iterdir()} - {"sample_data"}
        assert not before & set(re.findall(r"[\w.-]+", shown)), page
        follow(run, page)
    made = [path.name for path in folder.iterdir() if path.name != "sample_data"]
    assert len(made) > 40
    if (ROOT / ".git").exists():  # not in the source distribution
        found = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True)
        assert sorted(found.stdout.splitlines()) == sorted(made)


def test_no_two_examples_write_the_same_file() -> None:
    """Nobody who follows the pages in one folder is told that a file exists."""
    written = [
        words[i + 1]
        for page in PAGES.values()
        for words in map(shlex.split, commands(page))
        if not {"--shard", "--overwrite"} & set(words)
        for i in range(len(words))
        if words[i] in ("-o", "--per-token-output")
    ]
    assert len(written) > 20
    assert sorted(set(written)) == sorted(written)


def test_every_block_is_of_a_language_that_a_test_runs() -> None:
    languages = set(re.findall(r"^```(.+)$", ALL, re.MULTILINE))
    assert languages == {
        "sh",
        "bash",
        "python",
        "python consumers",
        "python neighbours",
        "python pytorch",
        "snakemake",
        "groovy",
        "yaml",
    }


ODD_IDS = ["007", "NA", "1e5", "null", "nan", "True", "0x1F", "1_000", "-", "None", "2024-01-01"]


def test_the_lines_that_read_an_index_keep_every_id(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.fa").write_text("".join(f">{name}\nACGU\n" for name in ODD_IDS))
    for name, kind in (("reading.npy", []), ("residues.npy", ["--per-token"])):
        assert run("embed", "in.fa", "-o", name, "--model", "demo", *kind).code == 0
    lines = block("python", "read_csv").splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(line for line in lines if line.startswith(("import pandas", "text ="))), names)
    first, second = (line for line in lines if line.startswith("index = "))
    exec(first, names)
    assert names["index"]["id"].tolist() == ODD_IDS
    assert names["index"]["description"].tolist() == [""] * len(ODD_IDS)
    exec(second, names)
    assert names["index"].index.tolist() == ODD_IDS


def test_the_manual_lists_every_option_and_no_other(run: Run) -> None:
    table = PAGES["options"].split("## Options that are refused together")[0]
    documented = set(re.findall(r"^\| (?:`-\w`, )*`(--[a-z0-9-]+)", table, re.MULTILINE))
    shown = set(re.findall(r"^  (?:-\w, )*(--[a-z0-9-]+)", run("embed", "--help").out, re.MULTILINE))
    assert documented == shown - {"--help"}


def test_the_manual_lists_the_exit_codes() -> None:
    from protrna_cli import errors

    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.ProtrnaError
    ]
    for kind in kinds:
        assert re.search(rf"\b{kind.exit_code}\b", PAGES["exit-codes"]), kind


def test_the_lighter_installation_lists_every_dependency() -> None:
    words = shlex.split(block("bash", "--no-deps").replace("\\\n", "").splitlines()[0])
    required = [each for each in requires("protrna-cli") or [] if "extra ==" not in each]
    assert sorted(words[2:]) == sorted(each.replace("tensorflow>", "tensorflow-cpu>") for each in required)


def test_the_metadata_for_nf_core_are_those_of_the_package(run: Run) -> None:
    yaml = pytest.importorskip("yaml")
    [(name, tool)] = yaml.safe_load(block("yaml", "protrna_embed"))["tools"][0].items()
    about = metadata("protrna-cli")
    assert tool["licence"] == [about["License-Expression"]]
    assert about["Summary"].startswith(tool["description"])
    assert f"doi: {tool['doi']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert tool["homepage"] == f"https://doi.org/{tool['doi']}"
    outcome = run("--version")
    assert (outcome.code, outcome.out.split()) == (0, [f"{name},", "version", about["Version"]])


def test_the_repository_has_one_address() -> None:
    """That of `[project.urls]`, so that whoever publishes it edits one text."""
    metadata_of_the_project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [address] = re.findall(r'^Source = "(https://.+)"', metadata_of_the_project, re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r'^repository-code: "(.+)"', citation, re.MULTILINE) == [address]
    assert re.findall(r"`git clone (\S+?)`", README) == [address]
    assert re.findall(r"The code lives at <(.+?)>", README) == [address]


def test_the_front_page_is_short_and_names_every_topic() -> None:
    assert len(README.splitlines()) <= 200
    assert re.findall(r"^\| \[([a-z-]+)\]", README, re.MULTILINE) == list(manual.TOPICS)
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("topic", manual.TOPICS)
def test_links_and_topics_of_a_page_exist(topic: str) -> None:
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", PAGES[topic]):
        assert (ROOT / "protrna_cli" / "manual" / link).exists(), link
    for named in re.findall(r"`protrna help ([a-z-]+)`", PAGES[topic]):
        assert named in manual.TOPICS


@pytest.mark.parametrize("page", PAGES)
def test_prose_is_wrapped(page: str) -> None:
    """At 120 characters, as the code; tables and code are not."""
    prose = re.sub(r"^```.*?^```|^    .*?$|^\|.*?$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 120] == []


def test_every_page_of_the_folder_is_a_topic() -> None:
    folder = ROOT / "protrna_cli" / "manual"
    assert sorted(path.stem for path in folder.glob("*.md")) == sorted(manual.TOPICS)
