"""The site: every page of the manual and every public name, with nothing lost, and no broken link."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

import protrna_cli
from protrna_cli import manual
from tests.conftest import ROOT

CONFIG = ROOT / ".github" / "mkdocs.yml"
if not CONFIG.exists():
    pytest.skip("the source distribution has no .github", allow_module_level=True)


class Text(HTMLParser):
    """Collects the text of a page, without white space and the links beside headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside_link = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.inside_link = "headerlink" in (dict(attributes).get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside_link = False

    def handle_data(self, text: str) -> None:
        if not self.inside_link:
            self.found += text.split()

    def __str__(self) -> str:
        return "".join(self.found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("material", reason='needs pip install ".[site]"')
    pytest.importorskip("mkdocstrings", reason='needs pip install ".[site]"')
    from tests.tools import site

    folder = tmp_path_factory.mktemp("site")
    site.build(folder)
    return folder


def article(folder: Path, page: str) -> str:
    """The part of a page that is its own."""
    [found] = re.findall(r"<article.*?</article>", (folder / page / "index.html").read_text(), re.DOTALL)
    return str(found)


def test_the_menu_has_every_topic_in_the_order_of_the_manual() -> None:
    text = CONFIG.read_text(encoding="utf-8")
    files = [name for group in yaml.safe_load(text)["nav"] for name in next(iter(group.values()))]
    added = ("reference.md", "changelog.md")
    assert [name.removesuffix(".md") for name in files if name.endswith(".md") and name not in added] == list(
        manual.TOPICS
    )


def test_read_the_docs_builds_the_same_site() -> None:
    settings = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text(encoding="utf-8"))
    assert settings["mkdocs"] == {"configuration": ".github/mkdocs.yml", "fail_on_warning": True}
    [package] = settings["python"]["install"]
    for extra in package["extra_requirements"]:
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_page_says_what_the_manual_says(folder: Path) -> None:
    """Compared with the parser of CommonMark that `protrna help` uses, tables included."""
    markdown = MarkdownIt("commonmark").enable("table")
    for topic in manual.TOPICS:
        shown = str(Text(article(folder, topic)))
        assert str(Text(markdown.render(manual.page(topic)))) == shown, topic


@pytest.mark.slow
def test_the_reference_has_every_public_name(folder: Path) -> None:
    page = article(folder, "reference")
    for name in protrna_cli.__all__:
        assert name == "__version__" or f'id="protrna_cli.{name}"' in page, name
    shown = re.findall(r"max_length\((.*?),default:", str(Text(page)))
    assert shown
    assert set(shown) == {"int"}, "as declared, not as the parameter beside it"


@pytest.mark.slow
def test_a_reader_asks_no_other_server(folder: Path) -> None:
    pages = list(folder.rglob("*.html"))
    assert len(pages) > len(manual.TOPICS)
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"([^\"]+)", page.read_text())
        assert not [address for address in loaded if address.startswith(("http", "//"))], page


@pytest.mark.slow
def test_a_broken_link_is_an_error(tmp_path: Path, folder: Path) -> None:
    for name in (".github/mkdocs.yml", "tests/tools/site.py", "pyproject.toml", "README.md", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("sample_data", "protrna_cli"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "protrna_cli" / "manual" / "start.md").open("a") as page:
        page.write("\n[gone](nowhere.md)\n")
    command = [sys.executable, "tests/tools/site.py", "out"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Where a server of this process has the site."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.slow
def test_the_index_of_the_search_has_every_page(folder: Path) -> None:
    entries = json.loads((folder / "search" / "search_index.json").read_text())["docs"]
    pages = {entry["location"].partition("/")[0] for entry in entries}
    assert pages >= {*manual.TOPICS, "reference", "changelog"}


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="chromium or chromedriver is missing (apt-get install chromium chromium-driver)",
)
def test_the_search_finds_an_option(address: str) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    no_network = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", no_network):
        options.add_argument(word)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    found = "return [...document.querySelectorAll('.md-search-result__link')].map((link) => link.pathname)"
    try:
        driver.get(address)
        driver.execute_script("document.querySelector('[data-md-toggle=search]').click()")
        driver.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("batch-tokens")
        WebDriverWait(driver, 60).until(
            lambda _: {"/options/", "/speed/"} <= set(driver.execute_script(found))
        )
    finally:
        driver.quit()
