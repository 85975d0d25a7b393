"""`protrna map`: colours, projections, coordinates, prints and messages; for the HTML page see test_page."""

import io
import itertools
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from protrna_cli.errors import InputError, UsageError
from protrna_cli.fasta.census import Census, CountedInput
from protrna_cli.map import METHODS
from protrna_cli.map.colouring import (
    COLOURS,
    MAX_FAMILIES,
    OTHER_COLOUR,
    Families,
    Picture,
    Scale,
    colour_by,
    point_size,
)
from protrna_cli.map.figure import draw, print_of
from protrna_cli.map.page import html
from protrna_cli.map.projection import ROUNDING, Projection, project
from protrna_cli.model.structure import ModelSize
from protrna_cli.output.rows import Block
from protrna_cli.plan.pieces import Row
from protrna_cli.run.options import EmbedOptions
from protrna_cli.run.outputs import Target
from protrna_cli.run.run import Run as Making
from protrna_cli.weights.checkpoint import Checkpoint
from tests.conftest import Outcome, Run
from tests.tools.cases import pairs_among, slow_except
from tests.tools.formats import named

WIDTH = 8


def rows_of(*headers: str) -> list[Row]:
    """Records with these headers; the i-th has 10 * i residues."""
    split = (header.partition(" ")[::2] for header in headers)
    return [
        Row(name, text, 10 * i, 10 * i, i % 2, 1, f"{i:032x}")
        for i, (name, text) in enumerate(split, start=1)
    ]


def write_vectors(
    path: Path, rows: list[Row], vectors: Any, layers: tuple[int, ...] = (6,), **changes: Any
) -> Path:
    """Write these rows as an output of protrna embed; every layer has the same vectors."""
    per_token = changes.get("per_token", False)
    given = {"model": "demo", "layers": layers, "dtype": str(vectors.dtype), "batch_tokens": 2048}
    options = EmbedOptions(**{**given, **changes})
    census = Census(n_records=len(rows), n_rows=len(rows), n_embedded=len(vectors))
    target = Target(path, named("h5", "packed"), per_token)
    made = Making(CountedInput([], options.rules, census), [target], Checkpoint(None), options)
    made.size = ModelSize(6, vectors.shape[1], 1)
    header = made.header(target, None)
    named(path.suffix[1:], "packed").write(path, header, [Block(rows, [vectors] * len(layers))])
    return path


def blobs(per_family: int, families: int, width: int = WIDTH) -> tuple[list[Row], Any]:
    """Records of families with embeddings far apart."""
    rng = np.random.default_rng(5)
    centres = np.repeat(20 * rng.standard_normal((families, width)), per_family, axis=0)
    rows = rows_of(*(f"r{i} family=F{i // per_family}" for i in range(per_family * families)))
    return rows, (centres + rng.standard_normal(centres.shape)).astype(np.float32)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Three families of eight records."""
    return write_vectors(tmp_path / "out.parquet", *blobs(8, 3))


# Colours


def test_a_column_comes_first_then_a_file_then_a_regular_expression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = rows_of("a family=x", "b family=y", "c")
    Path("length").write_text("a\tfrom the file\n")
    Path("family").write_text("id\tfamily\na\tA\nc\tC\n")
    scale = colour_by(rows, "length")
    assert isinstance(scale, Scale)
    assert scale.values.tolist() == [10, 20, 30]
    assert colour_by(rows, "./length") == Families("length", ["from the file", None, None])
    assert colour_by(rows, "family") == Families("family", ["A", None, "C"])
    assert colour_by(rows, "description").names == ["family=x", "family=y", None]  # type: ignore[union-attr]
    assert colour_by(rows, r"family=(\S+)").names == ["x", "y", None]  # type: ignore[union-attr]
    assert colour_by(rows, r"^[ab]\b").names == ["a", "b", None]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("lenght", "not a column .id, description, length.*, a file or FILE:COLUMN, .* matches no record"),
        ("missing.tsv", "a file or FILE:COLUMN"),
        ("family=(", r"not a valid regular expression \(missing \), unterminated subpattern"),
        ("(x)?", "matches no record"),
    ],
)
def test_a_colouring_without_any_family_is_an_error(wanted: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        colour_by(rows_of("a", "b"), wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a A\n", "line 1: 'a A' has no tab"),
        ("a\tA\n\na\tB\n", "line 3: id 'a' has the value 'A' on an earlier line; give it one"),
        ("a,A\nb\n", "line 2: 'b' has no comma; a table has lines id<TAB>value, or is CSV"),
        ('a,"' + "A" * 200_000, "line 1: field larger than field limit"),
        ("id\tfamily\nz\tA\n", "none of the ids in the output"),
        ("a\t\n", "none of the ids in the output"),
        ("a\t\udcff\n", "not UTF-8"),
    ],
)
def test_a_wrong_table_of_families_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "families.tsv"
    table.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        colour_by(rows_of("a", "b"), str(table))


def test_a_table_as_spreadsheets_write_it_is_read(tmp_path: Path) -> None:
    table = tmp_path / "families.tsv"
    table.write_bytes(b"\xef\xbb\xbfa\tA\tmore\r\n\r\nb\tB \r\na\tA\r\n")
    assert colour_by(rows_of("b", "a"), str(table)) == Families("families.tsv", ["B", "A"])


def test_a_column_of_a_table_is_chosen_by_its_name_or_number(tmp_path: Path) -> None:
    quoted = tmp_path / "s:cores.csv"
    quoted.write_text(',id,"clan, as in Rfam",score\n0,a,"x, ""y""",0.5\n1,b,z,NA\n2,elsewhere,z,7\n')
    rows = rows_of("a", "b", "c")
    clan, score = "clan, as in Rfam", "score"
    assert colour_by(rows, f"{quoted}:{clan}") == Families(clan, ['x, "y"', "z", None])
    scale = colour_by(rows, f"{quoted}:{score}")
    assert isinstance(scale, Scale)
    assert (scale.title, scale.labels()) == (score, ["0.5", "", ""])
    plain = tmp_path / "plain.tsv"
    plain.write_text('a\t"\t1\nb\t-\t2\n')
    assert colour_by(rows, f"{plain}:2") == Families("2", ['"', "-", None])
    assert colour_by(rows, f"{plain}:3") == Families("3", ["1", "2", None])
    with pytest.raises(
        InputError, match=r"no column 'skore', but 4 columns: '', 'id', 'clan, as in Rfam', 's"
    ):
        colour_by(rows, f"{quoted}:skore")
    with pytest.raises(InputError, match="no column '4', but 3 columns"):
        colour_by(rows, f"{plain}:4")


NUMBERS = [f"{i / 7:.3f}" for i in range(30)]


@pytest.mark.parametrize(
    ("texts", "is_scale"),
    [
        (NUMBERS, True),
        ([*NUMBERS, "NA", "nan", "-"], True),
        (["0.25", "1e-3", "-2."], True),
        ([str(i) for i in range(21)], True),
        ([str(i) for i in range(20)], False),  # clusters
        ([*NUMBERS, "high"], False),
        ([f"{i:03}" for i in range(30)], False),  # names
        ([*NUMBERS, "inf"], False),
        ([*NUMBERS, "1_000"], False),
        ([*NUMBERS, "1e999"], False),
        (["NA", "-"], False),
    ],
)
def test_numbers_are_a_scale_wherever_they_come_from(
    tmp_path: Path, texts: list[str], is_scale: bool
) -> None:
    rows = rows_of(*(f"r{i} v={text}" for i, text in enumerate(texts)))
    table = tmp_path / "table.tsv"
    table.write_text("id\tv\n" + "".join(f"r{i}\t{text}\n" for i, text in enumerate(texts)))
    for wanted in (str(table), f"{table}:v", r"v=(\S+)"):
        colouring = colour_by(rows, wanted)
        assert isinstance(colouring, Scale) == is_scale
        if isinstance(colouring, Scale):
            expected = [np.nan if text in ("NA", "nan", "-") else float(text) for text in texts]
            assert np.array_equal(colouring.values, expected, equal_nan=True)
            assert len(colouring.notes()) == bool(np.isnan(expected).any())


@given(st.lists(st.none() | st.text(min_size=1, max_size=3) | st.integers(0, 30).map(str), min_size=1))
def test_every_record_is_in_one_group_and_groups_look_different(names: list[str | None]) -> None:
    groups = Families("", names).groups()
    assert sorted(i for group in groups for i in group.members.tolist()) == list(range(len(names)))
    assert len({(group.colour, group.marker) for group in groups}) == len(groups)
    coloured = [group for group in groups if group.colour != OTHER_COLOUR]
    assert len(coloured) == min(MAX_FAMILIES, len({*names} - {None}))
    for group in coloured:
        assert len({names[i] for i in group.members}) == 1
    sizes = [group.members.size for group in coloured]
    assert sizes == sorted(sizes, reverse=True)
    assert [group.colour for group in groups[len(coloured) :]] in ([], [OTHER_COLOUR])


def test_the_colours_are_distinguishable_with_colour_blindness() -> None:
    """ΔE*ab is above 10 in the simulation of Machado, Oliveira and Fernandes (2009), at full severity."""
    deficient = {
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
        "tritanopia": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ],
    }
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in [*COLOURS, OTHER_COLOUR]])
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for kind, matrix in deficient.items():
        x, y, z = (np.clip(linear @ np.transpose(matrix), 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]).T ** (1 / 3)
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
        for a, b in itertools.combinations(range(len(lab)), 2):
            assert np.linalg.norm(lab[a] - lab[b]) > 10, (kind, a, b)


def test_a_wide_scale_is_logarithmic_and_has_round_numbers() -> None:
    assert not Scale("", np.array([10.0, 99.0])).logarithmic
    assert not Scale("", np.array([0.0, 99.0])).logarithmic
    wide = Scale("", np.array([40.0, 2100.0]))
    assert wide.logarithmic
    assert wide.ticks == [50, 100, 200, 500, 1000, 2000]
    fractions = Scale("", np.array([0.01, 9.9]))
    assert not fractions.logarithmic
    tiny = Scale("", np.array([3e-12, 1.0, np.nan]))
    assert tiny.logarithmic
    assert 3 < len(tiny.ticks) < 15
    assert all(3e-12 <= tick <= 1 and f"{tick:e}".startswith("1.000000e") for tick in tiny.ticks)


# Projections


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_principal_components_are_those_of_the_covariance(shape: tuple[int, int]) -> None:
    """Compare with the eigenvectors of NumPy's covariance in float64."""
    vectors = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    found = project(vectors, "pca", seed=0)
    values, axes = np.linalg.eigh(np.cov(vectors.astype(float).T))
    expected = (vectors - vectors.mean(axis=0)) @ axes[:, [-1, -2]]
    assert np.allclose(np.abs(found.points), np.abs(expected), atol=1e-4)
    assert found.points.dtype == np.float32
    shares = [f"PC {i} ({values[-i] / values.sum():.1%} of the variance)" for i in (1, 2)]
    assert list(found.axes) == shares


@pytest.mark.parametrize("method", slow_except(["pca", "tsne"], METHODS))
def test_families_stay_together_and_a_seed_is_reproducible(method: str) -> None:
    _, vectors = blobs(8, 3)
    points = project(vectors, method, seed=1).points
    assert points.shape == (24, 2)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.where(np.eye(24), np.inf, 0)
    assert np.array_equal(distances.argmin(axis=1) // 8, np.arange(24) // 8)
    assert np.array_equal(points, project(vectors, method, seed=1).points)
    if method == "umap":
        assert not np.array_equal(points, project(vectors, method, seed=2).points)


@pytest.mark.parametrize("method", slow_except(["pca", "tsne"], METHODS))
def test_the_smallest_map_has_three_records(method: str) -> None:
    points = project(np.eye(3, 5, dtype=np.float32), method, seed=0).points
    assert np.isfinite(points).all()
    with pytest.raises(InputError, match="all 4 embeddings are equal"):
        project(np.ones((4, 5), np.float32), method, seed=0)


@st.composite
def nasty_vectors(draw: st.DrawFn) -> Any:
    """Vectors of any size, many of them equal, nearly equal, or unequal by many powers of ten."""
    number = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0, -3.0])
    width = draw(st.integers(1, 6))
    few = draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=1, max_size=6))
    exact = np.array(draw(st.lists(st.sampled_from(few), min_size=3, max_size=40)))
    noise = np.random.default_rng(draw(st.integers(0, 9))).standard_normal(exact.shape)
    limit = np.finfo(np.float32).max
    noisy = exact * (1 + draw(st.sampled_from([0, 1e-7, 1e-4, 1])) * noise)
    return np.clip(noisy, -limit, limit).astype(np.float32)


def difference(vectors: Any) -> float:
    """Largest distance of a vector from the first one, relative to the length of the longest."""
    exact = vectors.astype(float)
    distances = np.sqrt(((exact - exact[0]) ** 2).sum(axis=1))
    return float(distances.max() / (np.sqrt((exact**2).sum(axis=1)).max() or 1))


@given(nasty_vectors())
@example(np.ones((500, 320), np.float32))
@example(np.array([[0], [1e-42], [2e-42]], np.float32))
def test_principal_components_draw_any_vectors_or_say_why_not(vectors: Any) -> None:
    try:
        found = project(vectors, "pca", 0)
    except InputError as error:
        alike, large = "equal within rounding" in str(error), "no finite points" in str(error)
        assert alike != large
        assert difference(vectors) < 1.001 * ROUNDING if alike else np.abs(vectors).max() > 1e37
        return
    assert difference(vectors) > 0.999 * ROUNDING
    assert found.points.shape == (len(vectors), 2)
    assert not any("nan" in name for name in found.axes)
    drawn, exact = (each.astype(float) for each in (found.points, vectors))
    lengths, real = (np.sqrt(((each - each[0]) ** 2).sum(axis=1)) for each in (drawn, exact))
    assert (lengths <= 1.001 * real + 1e-5 * np.abs(exact).max()).all(), "nothing is drawn farther than it is"


@pytest.mark.parametrize("method", ["tsne", pytest.param("umap", marks=pytest.mark.slow)])
@settings(max_examples=25)
@given(vectors=nasty_vectors())
@example(vectors=np.array([[0, 0], [0, 1], [0, 2], [0, -0.0]], np.float32))
def test_neighbours_are_drawn_for_any_vectors_or_the_message_says_why_not(method: str, vectors: Any) -> None:
    try:
        points = project(vectors, method, 0).points
    except InputError as error:
        assert re.search("equal within rounding|only 2 different ones|no finite points", str(error))
    else:
        assert np.isfinite(points).all()
        _, first, places = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
        assert np.array_equal(points, points[first[places]]), "equal vectors are one point"


@pytest.mark.parametrize("size", [1e-30, 1, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_what_differs_only_by_rounding_is_not_drawn(method: str, size: float) -> None:
    """The message says so before the projection, whatever the length of the vectors."""
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((2, 320))
    noise = 1e-7 * rng.standard_normal((200, 320))

    def drawn(vectors: Any) -> Any:
        return project((size * vectors).astype(np.float32), method, 0).points

    with pytest.raises(
        InputError, match="all 200 embeddings are equal within rounding; draw an output whose"
    ):
        drawn(one + noise)
    pairs = np.where(np.arange(200)[:, None] % 2, one, other) + noise
    all_but_one = np.where(np.arange(200)[:, None], one, other) + noise
    for vectors in (pairs, all_but_one):
        if method == "pca":
            assert np.isfinite(drawn(vectors)).all()
        else:
            with pytest.raises(InputError, match=r"only 2 different ones within .*: use --method pca"):
                drawn(vectors)


def test_one_dimension_is_a_line() -> None:
    found = project(np.array([[1.0], [2.0], [4.0]], np.float32), "pca", 0)
    assert found.axes == ("PC 1 (100.0% of the variance)", "PC 2 (0.0% of the variance)")
    assert np.ptp(found.points, axis=0) == pytest.approx([3, 0])


# Prints


@pytest.mark.parametrize("columns", ["length", r"family=(\S+)"])
def test_the_png_is_large_and_reproducible(columns: str) -> None:
    rows, vectors = blobs(5, 25)
    picture = Picture(
        "a$b$_c", "sub$x$", "no\nte", rows, project(vectors, "pca", 0), colour_by(rows, columns)
    )
    first = print_of(picture, ".png")
    assert first == print_of(picture, ".png")
    image = Image.open(io.BytesIO(first))
    assert image.size == (2126, 1476) or image.size == (2125, 1476)
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("count", [60, 6000])
@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_svg_and_pdf_are_reproducible_and_keep_text(suffix: str, count: int) -> None:
    """Many points are one image: 6,000 shapes would take more than the bytes allowed here."""
    rows = rows_of(*(f"r{i} family=F{i % 3}<&" for i in range(count)))
    points = np.random.default_rng(0).standard_normal((count, 2)).astype(np.float32)
    projection = Projection(points, ("one", "two"))
    picture = Picture("a$b$_<c>", "below", "", rows, projection, colour_by(rows, r"family=(\S+)"))
    first = print_of(picture, suffix)
    assert first == print_of(picture, suffix)
    assert len(first) < 500_000
    if suffix == ".pdf":
        assert first.startswith(b"%PDF")
        assert b"/CreationDate" not in first
        return
    root = ElementTree.fromstring(first)
    assert float((root.get("width") or "").removesuffix("pt")) == pytest.approx(180 / 25.4 * 72, abs=0.01)
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a$b$_<c>", "below", f"F0<& ({count // 3:,})", "one"} <= {*texts}
    images = [*root.iter("{http://www.w3.org/2000/svg}image")]
    assert len(images) == (count == 6000)


LONG = "Small nucleolar RNAs of the box C/D type, and their kin in archaea"


TITLES = ["out.parquet", "x" * 200, "W" * 150, "out of the " * 15]
LOOKS = list(itertools.product(["length", "id"], TITLES, [1e-7, 1, 1e6]))


@pytest.mark.parametrize(("color_by", "title", "size"), slow_except(pairs_among(LOOKS), LOOKS))
def test_nothing_in_the_png_is_printed_over_anything_else(color_by: str, title: str, size: float) -> None:
    """Heading, legend or colour bar, and axes with their exponents, such as 1e6, have places of their own."""
    rows = rows_of(*(f"{i}_{LONG.replace(' ', '_')}" for i in range(25)))
    points = (size * np.random.default_rng(0).standard_normal((25, 2))).astype(np.float32)
    projection = Projection(points, ("PC 1", "PC 2"), metric=True)
    notice = "model demo: synthetic weights, the embeddings have no biological meaning"
    figure = draw(Picture(title, LONG * 2, notice, rows, projection, colour_by(rows, color_by)))
    figure.draw_without_rendering()
    heading = [text.get_window_extent() for text in figure.texts]
    (body,) = figure.subfigs
    boxes = [each.get_tightbbox() for each in [*body.axes, *body.legends]]
    for above, below in itertools.pairwise(heading):
        assert above.y0 > below.y1
    for box in boxes:
        assert heading[-1].y0 > box.y1
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0
    for box in [*heading, *boxes]:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("color_by", ["length", r"family=(\S+)"])
def test_many_points_are_small_and_let_those_below_show_through(color_by: str) -> None:
    counts = [3, 46, 1000, 5000, 20_000]
    drawn = []
    for count in counts:
        rows = rows_of(*(f"r{i} family={i % 3}" for i in range(count)))
        points = Projection(np.zeros((count, 2), np.float32), ("", ""))
        picture = Picture("", "", "", rows, points, colour_by(rows, color_by))
        looks = {
            (float(each.get_sizes()[0]), float(each.get_facecolors()[0, 3]))
            for each in draw(picture).subfigs[0].axes[0].collections
        }
        assert len(looks) == 1
        drawn += looks
        glyphs = [
            each["attributes"]["glyph"]["attributes"]
            for each in models(html(picture))
            if each["name"] == "GlyphRenderer"
        ]
        assert {(each["size"]["value"], each["fill_alpha"]["field"]) for each in glyphs} == {
            (point_size(count), "opacity")
        }
    sizes, opacities = zip(*drawn, strict=True)
    assert list(sizes) == sorted(sizes, reverse=True)
    assert sizes[0] > 10 * sizes[-1]
    assert list(opacities) == sorted(opacities, reverse=True)
    assert (opacities[1], opacities[-1]) == (1, 0.5)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([76] * 4, [76]), ([0] * 4, [0]), ([1, 10**6], [1, 10, 1000, 10**6]), ([0, 10**6], [0, 200_000, 10**6])],
)
def test_a_scale_has_its_name_and_whole_numbers(values: list[int], ticks: list[int]) -> None:
    rows = [Row(f"r{i}", "", value, value, 0, 1, f"{i:032x}") for i, value in enumerate(values * 2)]
    points = np.random.default_rng(0).standard_normal((len(rows), 2)).astype(np.float32)
    picture = Picture("", "", "", rows, Projection(points, ("", "")), colour_by(rows, "length"))
    figure = draw(picture)
    figure.draw_without_rendering()
    bar = figure.subfigs[0].axes[1]
    assert bar.get_ylabel() == "length"
    low, high = bar.get_ylim()
    shown = [
        label.get_text()
        for place, label in zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)
        if low <= place <= high
    ]
    assert {f"{tick:,}" for tick in ticks} <= {*shown}
    assert len({*shown}) == len(shown), "no number is shown twice"
    (page,) = [each for each in models(html(picture)) if each["name"] == "ColorBar"]
    assert page["attributes"]["title"] == "length"


def test_the_png_shows_any_name() -> None:
    """Names that matplotlib would parse as a formula, omit, or has no glyph for."""
    names = ["$x$", "_hidden", "日本", "$\\frac{", "<b>", "x" * 999]
    rows = rows_of(*names)
    points = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    picture = Picture("日本_$", "", "", rows, Projection(points, ("$a", "b")), colour_by(rows, "id"))
    image = np.asarray(Image.open(io.BytesIO(print_of(picture, ".png"))).convert("RGB"))
    for colour in COLOURS[:6]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        columns = np.flatnonzero((image == wanted).all(axis=2).any(axis=0))
        assert columns.max() - columns.min() > 100, f"{colour} is in the legend and among the points"


def models(page: str) -> Iterator[dict[str, Any]]:
    """Iterate over the parts that a page is made of, as Bokeh describes them."""
    (text,) = re.findall(r'<script type="application/json".*?>(.*?)</script>', page, re.DOTALL)
    todo: list[Any] = [json.loads(text)]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            if each.get("type") == "object":
                yield each
            todo += each.values()
        elif isinstance(each, list):
            todo += each


# The command


class Addresses(HTMLParser):
    """Collects the addresses that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href", "data")]


def test_the_command_makes_a_page_that_needs_no_network(run: Run, output: Path, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    outcome = run("map", output, "-o", page, "--method", "pca", "--color-by", r"family=(\S+)")
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""
    made = "24 records · layer 6 · mean of residues · PCA · model demo · colour: family=(\\S+)"
    assert outcome.err == f"protrna: projecting 24 records with PCA\nprotrna: {made}: {page}\n"
    parser = Addresses()
    parser.feed(page.read_text("utf-8"))
    assert parser.found == []
    assert "synthetic weights" in page.read_text("utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"out.parquet", "map.html"}


def drawn_at(path: Path) -> Any:
    """Points of a page."""
    (source,) = [each for each in models(path.read_text("utf-8")) if each["name"] == "ColumnDataSource"]
    columns = dict(source["attributes"]["data"]["entries"])
    return [columns[axis] for axis in ("x", "y")]


def test_coordinates_are_kept_and_drawn_again(
    run: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tmp_path / "points.tsv"
    words = ["map", output, "--method", "tsne", "--coordinates", points]
    first = run(*words, "-o", tmp_path / "a.html")
    assert first.err.startswith("protrna: projecting 24 records with t-SNE; this may take a minute\n")
    _, names, *lines = points.read_text().splitlines()
    assert names == "id\tx\ty"
    assert [line.split("\t")[0] for line in lines] == [f"r{i}" for i in range(24)]
    numbers = np.array([line.split("\t")[1:] for line in lines], np.float32)
    _, vectors = blobs(8, 3)
    assert np.array_equal(numbers, project(vectors, "tsne", 0).points)

    def fail(*_: object) -> None:
        raise AssertionError("projected again")

    monkeypatch.setattr("protrna_cli.map.drawing.project", fail)
    kept = points.read_bytes()
    again = run(*words, "-o", tmp_path / "b.html", "--color-by", r"family=(\S+)", "--title", "Three families")
    assert (again.code, len(again.err.splitlines())) == (0, 1), again.err
    assert "<title>Three families</title>" in (tmp_path / "b.html").read_text("utf-8")
    assert drawn_at(tmp_path / "a.html") == drawn_at(tmp_path / "b.html")
    assert points.read_bytes() == kept
    converted = tmp_path / "out.npy"
    assert run("convert", output, "-o", converted).code == 0
    words[1] = converted
    assert run(*words, "-o", tmp_path / "c.html").code == 0, "another format has the same vectors"


def test_coordinates_of_anything_else_are_refused(run: Run, output: Path, tmp_path: Path) -> None:
    points, target = tmp_path / "points.tsv", tmp_path / "map.png"
    words = ["map", output, "-o", target, "--coordinates", points]
    assert run(*words, "--method", "pca").code == 0
    target.unlink()
    other = write_vectors(tmp_path / "other.parquet", *blobs(8, 3), precision="bfloat16")
    text = points.read_text()
    for changed, more, code, message in [
        (
            text,
            ["--method", "tsne"],
            78,
            "made from method pca, not tsne; remove it to make it again, or choose",
        ),
        (text, ["--method", "pca", "--seed", 3], 0, ""),
        (
            text.replace("\nr23", "\nr23\t1"),
            ["--method", "pca"],
            65,
            "or damaged; remove it, or choose another",
        ),
        (text[:-9], ["--method", "pca"], 65, "points.tsv: not made by protrna map --coordinates, or damaged"),
        (text.replace("r5\t", "r5\tnan"), ["--method", "pca"], 65, "or damaged"),
        ("id\tx\ty\n", ["--method", "pca"], 65, "or damaged"),
        ("", ["--method", "pca"], 65, "or damaged"),
    ]:
        points.write_text(changed)
        outcome = run(*words, *more)
        assert (outcome.code, message in outcome.err) == (code, True), outcome.err
        assert points.read_text() == changed
        target.unlink(missing_ok=True)
    points.write_text(text)
    words[1] = other
    outcome = run(*words, "--method", "pca")
    assert (outcome.code, "points.tsv: made from another output" in outcome.err) == (78, True)
    for path in (target, output):
        outcome = run("map", output, "-o", target, "--coordinates", path, "--method", "pca")
        assert (outcome.code, "would replace" in outcome.err) == (2, True), outcome.err
    assert not target.exists()


def test_notes_are_printed_unless_quiet(run: Run, tmp_path: Path) -> None:
    rows, vectors = blobs(2, 42)
    output = write_vectors(tmp_path / "out.npy", [*rows[:-2], *rows_of("a", "b")], vectors)
    words = ["map", output, "-o", tmp_path / "map.png", "--method", "pca", "--color-by", r"family=(\S+)"]
    _, grey, largest, _ = run(*words).err.splitlines()
    assert grey == "protrna: note: 2 of 84 records have no family; they are grey"
    assert largest == "protrna: note: 41 families: the 40 largest have a colour, the rest are grey"
    assert run(*words, "--overwrite", "-q").err == ""


@pytest.mark.parametrize(
    ("count", "families", "noted"), [(2000, 9, False), (3000, 8, False), (3000, 9, True)]
)
def test_symbols_that_are_too_small_are_said_to_be(count: int, families: int, noted: bool) -> None:
    rows = rows_of(*(f"r{i} family={i % families}x" for i in range(count)))
    projection = Projection(np.zeros((count, 2), np.float32), ("", ""))
    picture = Picture("", "", "", rows, projection, colour_by(rows, r"family=(\S+)"))
    assert ["too small to tell symbols apart" in note for note in picture.notes] == [True] * noted


def test_libraries_say_nothing(
    run: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What matplotlib warns of, such as its layout or its folder, is for -v."""

    def warn(_: Picture, suffix: str) -> bytes:
        warnings.warn("the layout has collapsed", UserWarning, stacklevel=1)
        return b""

    monkeypatch.setattr("protrna_cli.map.figure.print_of", warn)
    words = ["map", output, "-o", tmp_path / "map.png", "--method", "pca", "--overwrite"]
    assert run(*words, "-q") == Outcome(0, "", "")
    assert len(run(*words).err.splitlines()) == 2
    with pytest.warns(UserWarning, match="collapsed"):
        run(*words, "-v")
    monkeypatch.setenv("MPLCONFIGDIR", str(output / "none"))
    command = [sys.executable, "-m", "protrna_cli", *map(str, words), "-q"]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_message_about_the_vectors_names_the_file(run: Run, tmp_path: Path) -> None:
    rows, vectors = blobs(4, 2)
    output = write_vectors(tmp_path / "out.npy", rows, np.ones_like(vectors))
    outcome = run("map", output, "-o", tmp_path / "map.png")
    message = f"{output}: all 8 embeddings are equal within rounding; draw an output whose records differ"
    assert (outcome.code, outcome.err.splitlines()[1:]) == (65, [f"protrna: error: {message}"])
    assert not (tmp_path / "map.png").exists()


def test_one_layer_of_several_is_chosen(run: Run, tmp_path: Path) -> None:
    output = write_vectors(tmp_path / "out.h5", *blobs(4, 2), layers=(2, 5))
    words = ["map", output, "-o", tmp_path / "map.png", "--method", "pca"]
    outcome = run(*words)
    assert (outcome.code, "has layers 2, 5; choose one with --layer" in outcome.err) == (2, True)
    outcome = run(*words, "--layer", "6")
    assert outcome.code == 2
    assert "has no layer 6, only 2, 5; choose one of these with --layer" in outcome.err
    assert "layer 5 ·" in run(*words, "--layer", "-2").err


def test_what_cannot_be_a_map_is_an_error(run: Run, output: Path, tmp_path: Path) -> None:
    rows, vectors = blobs(4, 2)
    nan = vectors.copy()
    nan[5, 3] = np.nan
    residues = np.repeat(vectors[:1], 10, axis=0)
    made = {
        "per token": write_vectors(tmp_path / "residues.npy", rows[:1], residues, per_token=True),
        "two": write_vectors(tmp_path / "two.npy", rows[:2], vectors[:2]),
        "nan": write_vectors(tmp_path / "nan.npy", rows, nan),
        "text": tmp_path / "text.npy",
        "missing": tmp_path / "missing.npy",
    }
    made["text"].write_text("hello")
    target = tmp_path / "map.html"
    for key, code, message in [
        (
            "per token",
            65,
            "has one vector per residue, but a map needs one per record; make it without --per-token",
        ),
        ("two", 65, "has 2 records, but a map needs 3 or more; draw a larger output"),
        ("nan", 70, "row 6 (id 'r5'): its embedding is not finite"),
        ("text", 65, "neither Parquet, HDF5 nor NumPy"),
        ("missing", 66, "cannot be read"),
    ]:
        outcome = run("map", made[key], "-o", target)
        assert (outcome.code, len(outcome.err.splitlines())) == (code, 1), outcome.err
        assert message in outcome.err
    assert run("map", output, "-o", tmp_path / "map.gif").code == 2
    assert run("map", output, "-o", tmp_path / "no" / "map.png").code == 73
    assert not list(tmp_path.glob("map*"))


def test_what_exists_is_replaced_only_when_asked(run: Run, output: Path, tmp_path: Path) -> None:
    target = tmp_path / "map.png"
    target.write_text("precious")
    outcome = run("map", output, "-o", target, "--method", "pca")
    assert (outcome.code, "--overwrite" in outcome.err) == (73, True)
    assert target.read_text() == "precious"
    assert run("map", output, "-o", target, "--method", "pca", "--overwrite").code == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_full_disk_leaves_the_old_picture(
    run: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "map.png"
    target.write_text("precious")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = run("map", output, "-o", target, "--method", "pca", "--overwrite")
    assert (outcome.code, "No space left" in outcome.err) == (74, True)
    assert target.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"out.parquet", "map.png"}


@pytest.mark.parametrize(
    ("library", "words"),
    [("umap", ["-o", "map.png"]), ("bokeh", ["-o", "map.html"]), ("matplotlib", ["-o", "map.png"])],
)
def test_a_missing_extra_is_named(
    run: Run, output: Path, monkeypatch: pytest.MonkeyPatch, library: str, words: list[str]
) -> None:
    from importlib import util

    def find_spec(name: str) -> object:
        return None if name == library else object()

    monkeypatch.setattr("protrna_cli.map.drawing.find_spec", find_spec)
    outcome = run("map", output, *words)
    assert outcome.code == 69
    assert (
        f'protrna map needs {library}, which is not installed; run: pip install "protrna-cli[plot]" '
        '(from a clone pip install ".[plot]")' in outcome.err
    )
    assert util.find_spec(library), "the tests themselves need it"


@pytest.mark.slow(seconds=20)
def test_umap_runs_without_tensorflow_or_warnings(output: Path, tmp_path: Path) -> None:
    """In a new process, where it is compiled: its package would load TensorFlow and warn."""
    script = (
        "import json, sys; from protrna_cli.cli.main import run; code = run(sys.argv[1:]);"
        "print(json.dumps([code, 'tensorflow' in sys.modules]), file=sys.__stdout__)"
    )
    words = ["map", output, "-o", tmp_path / "map.html"]
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert json.loads(done.stdout) == [0, False], done.stderr
    assert len(done.stderr.splitlines()) == 2
