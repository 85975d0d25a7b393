"""The page of `protrna map` in Chromium: hover, search, legend, and headers with scripts."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protrna_cli.map.colouring import COLOURS, OTHER_COLOUR, Picture, colour_by
from protrna_cli.map.page import html
from protrna_cli.map.projection import Projection
from protrna_cli.plan.pieces import Row
from tests.conftest import wait_until
from tests.tools.cases import slow_except

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="chromium or chromedriver is missing (apt-get install chromium chromium-driver)",
    ),
]

ATTACKS = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 2'>",
    "</script><script>window.ran = 3</script>",
    "$$\\href{javascript:window.ran=4}{x}$$",
    "\u2028'\"`${window.ran = 5}",
    "@id{safe}<b onmouseover='window.ran = 6'>x</b>",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window or a network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",  # WebGL without a graphics card
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def picture_of(headers: list[str], color_by: str, title: str = "out.parquet") -> Picture:
    """Records on a ring."""
    split = (header.partition(" ")[::2] for header in headers)
    rows = [Row(name, text, 70 + i, 70 + i, 0, 1) for i, (name, text) in enumerate(split)]
    turns = np.linspace(0, 2 * np.pi, len(rows), endpoint=False)
    ring = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    return Picture(title, title, title, rows, Projection(ring, ("a", "b")), colour_by(rows, color_by))


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Callable[[Picture], Any]:
    """Open a picture's page; returns the browser once everything is drawn."""

    def show(picture: Picture) -> Any:
        path = tmp_path / "map.html"
        path.write_text(html(picture), encoding="utf-8")
        browser.get(path.as_uri())
        wait_until(lambda: browser.execute_script("return window.Bokeh && Bokeh.documents[0]?.is_idle"))
        return browser

    return show


FIND = """
const doc = Bokeh.documents[0];
const all = (kind) => [...doc._all_models.values()].filter((model) => model.type === kind);
const plot = all("Figure")[0];
const source = all("ColumnDataSource")[0];
"""

TEXT = """
const texts = [];
const walk = (node) => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.childNodes)
        if (child.nodeType === 3) texts.push(child.data);
        else if (!['STYLE', 'SCRIPT'].includes(child.nodeName)) walk(child);
};
walk(document.body);
return texts.join(" ");
"""


def hover(browser: Any, index: int) -> str:
    """Put the pointer on a point of `picture_of`; returns the text of the page once it shows the record."""
    from selenium.webdriver import ActionChains

    x, y = browser.execute_script(
        FIND
        + """
        const plot_view = Bokeh.index.find_one(plot);
        const box = plot_view.canvas_view.el.getBoundingClientRect();
        const {x, y} = source.data;
        const frame = plot_view.frame;
        return [
            Math.round(box.x + frame.x_scale.compute(x[arguments[0]])),
            Math.round(box.y + frame.y_scale.compute(y[arguments[0]])),
        ];
        """,
        index,
    )
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(x - 3, y)
    actions.w3c_actions.pointer_action.move_to_location(x, y)
    actions.perform()

    def text() -> str:
        found: str = browser.execute_script(TEXT)
        return found if f"{70 + index} residues" in found else ""

    shown: str = wait_until(text)
    return shown


def search(browser: Any, words: str) -> None:
    """Type into the search box, replacing its text."""
    box = browser.execute_script(
        """
        const find = (node) => {
            if (node.localName === "input") return node;
            for (const child of [...(node.shadowRoot?.children ?? []), ...node.children]) {
                const found = find(child);
                if (found) return found;
            }
        };
        return find(document.body);
        """
    )
    browser.execute_script("arguments[0].value = ''; arguments[0].dispatchEvent(new Event('input'))", box)
    box.send_keys(words)


def selected(browser: Any) -> list[int]:
    """Records selected by the search."""
    indices: list[int] = browser.execute_script(FIND + "return [...source.selected.indices]")
    return indices


def console_errors(browser: Any) -> list[str]:
    """Errors in the console, including requests to the network."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


HEADERS = [f"{family}_{i} number {i} family={family}" for family in ("tRNA", "5S", "snRNA") for i in range(4)]


def test_hovering_over_a_point_shows_its_record(show: Callable[[Picture], Any]) -> None:
    browser = show(picture_of(HEADERS, r"family=(\S+)"))
    before = browser.execute_script(TEXT)
    assert "out.parquet" in before
    assert "number 5" not in before
    text = hover(browser, 5)
    for words in ("5S_1", "75 residues", r"family=(\S+):", "number 1 family=5S"):
        assert words in text
    assert re.search(re.escape(r"family=(\S+):") + " +5S ", text)
    assert console_errors(browser) == []


def test_hovering_shows_the_number_that_a_scale_is_of(show: Callable[[Picture], Any], tmp_path: Path) -> None:
    name = "<i>@id{0} $x &amp;"
    table = tmp_path / "scores.tsv"
    table.write_text(f"id\t{name}\n" + "".join(f"{h.split()[0]}\t{i / 7}\n" for i, h in enumerate(HEADERS)))
    browser = show(picture_of(HEADERS, f"{table}:{name}"))
    text = hover(browser, 5)
    assert f"{name}:" in text and "0.714286" in text
    assert console_errors(browser) == []


def test_the_search_counts_matches_and_zooms_to_them(show: Callable[[Picture], Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = show(picture_of(HEADERS, r"family=(\S+)"))
    search(browser, "trna_")
    wait_until(lambda: selected(browser) == [0, 1, 2, 3])
    assert "4 records" in browser.execute_script(TEXT)
    search(browser, "5s_2" + Keys.ENTER)
    wait_until(lambda: selected(browser) == [6])
    assert "1 record" in browser.execute_script(TEXT)
    ranges = FIND + "return [plot.x_range.start, plot.x_range.end, source.data.x[6], plot.inner_width]"
    start, end, x, _ = wait_until(
        lambda: (found := browser.execute_script(ranges)) and found[1] - found[0] < 0.5 and found
    )
    assert (start + end) / 2 == pytest.approx(x, abs=1e-6)
    search(browser, "nothing like it")
    wait_until(lambda: selected(browser) == [])
    assert "0 records" in browser.execute_script(TEXT)


def test_a_click_in_the_legend_hides_a_family_and_a_search_shows_it(show: Callable[[Picture], Any]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser = show(picture_of(HEADERS, r"family=(\S+)"))
    visible = FIND + "return plot.renderers.map((each) => each.visible)"
    assert browser.execute_script(visible) == [True] * 3
    item = browser.execute_script(
        """
        const find = (node) => {
            if (node.nodeType === 3 && node.data.startsWith("snRNA (4)")) return node.parentElement;
            const children = [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes];
            for (const child of children) { const found = find(child); if (found) return found; }
        };
        return find(document.body);
        """
    )
    assert item
    ActionChains(browser).click(item).perform()
    wait_until(lambda: browser.execute_script(visible).count(False) == 1)
    search(browser, "snRNA_0" + Keys.ENTER)
    wait_until(lambda: all(browser.execute_script(visible)))


@pytest.mark.parametrize("color_by", slow_except(["description"], ["length", "id", "description"]))
def test_headers_are_text_and_never_run(show: Callable[[Picture], Any], color_by: str) -> None:
    ids = [attack.replace(" ", "") for attack in ATTACKS]
    browser = show(
        picture_of([f"{a} {b}" for a, b in zip(ids, ATTACKS, strict=True)], color_by, "".join(ATTACKS))
    )
    for index, attack in enumerate(ATTACKS):
        text = hover(browser, index)
        assert attack in text.split(" residues")[-1], "it is shown as plain text"
    assert browser.execute_script("return window.ran === undefined")
    assert console_errors(browser) == []


NEAR = """
const near = all("ColumnDataSource").find((each) => "fill" in each.data);
const painted = all("ColumnDataSource").find((each) => "image" in each.data).data.image[0];
const pixels = new Uint8Array(painted.buffer);
"""


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw more than ten records as density, and at most five one by one."""
    monkeypatch.setattr("protrna_cli.map.page.MANY_POINTS", 10)
    monkeypatch.setattr("protrna_cli.map.page.MOST_SYMBOLS", 5)


def colours_of_pixels(browser: Any) -> set[tuple[int, ...]]:
    """Colours, without their opacity, in the image of the density."""
    pixels = np.array(browser.execute_script(FIND + NEAR + "return [...pixels]"), np.uint8).reshape(-1, 4)
    return {tuple(colour) for colour in np.unique(pixels[pixels[:, 3] > 0, :3], axis=0).tolist()}


def parts_of(colours: Iterable[str]) -> set[tuple[int, ...]]:
    """Red, green and blue of each colour."""
    return {tuple(int(each[i : i + 2], 16) for i in (1, 3, 5)) for each in colours}


@pytest.mark.usefixtures("many")
def test_many_records_are_an_image_until_few_are_in_view(show: Callable[[Picture], Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = show(picture_of(HEADERS, r"family=(\S+)"))
    shown = FIND + NEAR + "return [pixels.some((each) => each > 0), near.data.id]"
    wait_until(lambda: browser.execute_script(shown) == [True, []])
    assert colours_of_pixels(browser) == parts_of(COLOURS[:3])
    search(browser, "5s_")
    wait_until(lambda: browser.execute_script(shown) == [True, ["5S_0", "5S_1", "5S_2", "5S_3"]])
    search(browser, "5s_2" + Keys.ENTER)
    wait_until(lambda: browser.execute_script(shown)[1] == ["5S_2"])
    search(browser, "")
    wait_until(lambda: browser.execute_script(shown) == [False, ["5S_2"]])
    assert "number 2 family=5S" in hover(browser, 6)
    browser.execute_script(FIND + "plot.reset.emit()")
    wait_until(lambda: browser.execute_script(shown) == [True, []])
    assert console_errors(browser) == []


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_a_family_that_is_hidden_is_not_in_the_image(show: Callable[[Picture], Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = show(picture_of(HEADERS, r"family=(\S+)"))
    wait_until(lambda: colours_of_pixels(browser) == parts_of(COLOURS[:3]))
    browser.execute_script(FIND + "all('Legend')[0].items[1].renderers[0].visible = false")
    wait_until(lambda: colours_of_pixels(browser) == parts_of(COLOURS[:3:2]))
    search(browser, HEADERS[8].split()[0] + Keys.ENTER)
    wait_until(lambda: browser.execute_script(FIND + "return all('Legend')[0].items[1].renderers[0].visible"))


@pytest.mark.slow
@pytest.mark.usefixtures("many")
def test_the_image_has_the_colours_of_a_scale_and_grey_for_what_has_no_value(
    show: Callable[[Picture], Any], tmp_path: Path
) -> None:
    from bokeh.palettes import Viridis256

    table = tmp_path / "scores.tsv"
    table.write_text("".join(f"{h.split()[0]}\t{i / 10}\n" for i, h in enumerate(HEADERS[:11])))
    browser = show(picture_of(HEADERS, str(table)))
    wanted = [Viridis256[min(255, int(256 * (i / 10)))] for i in range(11)] + [OTHER_COLOUR]
    wait_until(lambda: colours_of_pixels(browser) == parts_of(wanted))


@pytest.mark.slow
def test_a_hundred_thousand_points_can_be_moved(show: Callable[[Picture], Any]) -> None:
    """Pan in ten steps and draw each; `-s` prints the time per step, without a graphics card."""
    browser = show(picture_of([f"r{i} family={i % 30}" for i in range(100_000)], r"family=(\d+)"))
    seconds, moved = browser.execute_async_script(
        FIND
        + """
        const done = arguments[arguments.length - 1];
        const frame = () => new Promise(requestAnimationFrame);
        (async () => {
            plot.x_range.have_updated_interactively = true;  // as a pan by hand does
            const [began, start] = [performance.now(), plot.x_range.start];
            for (let step = 0; step < 10; step++) {
                plot.x_range.setv({start: plot.x_range.start + 0.02, end: plot.x_range.end + 0.02});
                await frame();
            }
            await frame();
            done([(performance.now() - began) / 10000, plot.x_range.start - start]);
        })();
        """
    )
    print(f"{1000 * seconds:.0f} ms per step")
    assert moved == pytest.approx(0.2)


def test_the_legend_has_full_colours_even_if_the_points_let_others_show_through(
    show: Callable[[Picture], Any],
) -> None:
    browser = show(picture_of([f"r{i} family={i % 3}" for i in range(9000)], r"family=(\d)"))
    image = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
    legend = image[:, browser.execute_script(FIND + "return plot.inner_width") + 50 :]
    for colour in COLOURS[:3]:
        assert (legend == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).sum() > 20
