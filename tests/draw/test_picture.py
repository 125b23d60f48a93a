import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from muster.draw.picture import draw_picture, save_picture
from muster.draw.render import figure, svg
from muster.draw.sheet import Box, Label, Sheet, Stroke
from muster.errors import InvalidRequest, MachineTrouble
from muster.spec.forecast import LinkForecast, TrainForecast
from tests.draw.plans import Drawn, at_home, hexgen, hops, measured, ring_of_eight, thousand, worldwide

SVG = "{http://www.w3.org/2000/svg}"
CASES = {
    "8 machines": ring_of_eight,
    "58 devices": hexgen,
    "64 machines": worldwide,
    "64 machines, all regions joined": lambda: worldwide(shift=1),
    "1,000 machines": thousand,
    "2 machines": at_home,
    "measured links": measured,
    "5 machines, 3 regions": lambda: at_home(tuple("abcde"), ("x", "x", "y", "z", "x")),
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return CASES[request.param]()


@pytest.fixture(scope="module")
def sheet(drawn: Drawn) -> Sheet:
    return draw_picture(*drawn.parts)


def words(drawing: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(drawing).iter(f"{SVG}text")]


def test_no_two_texts_overlap_and_none_leaves_the_canvas(sheet: Sheet) -> None:
    """As matplotlib measures them, not the code that placed them."""
    page = figure(sheet)
    page.set_dpi(72)
    renderer = FigureCanvasAgg(page).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in page.axes[0].texts]
    assert len(boxes) > 10
    for text, box in boxes:
        assert 0 <= box.x0 <= box.x1 <= sheet.width, text
        assert 0 <= box.y0 <= box.y1 <= sheet.height, text
    boxes.sort(key=lambda pair: pair[1].x0)
    for index, (text, box) in enumerate(boxes):
        for other_text, other in boxes[index + 1 :]:
            if other.x0 >= box.x1 - 0.5:
                break
            assert other.y0 >= box.y1 - 1 or other.y1 <= box.y0 + 1, f"{text!r} and {other_text!r} overlap"


def test_no_wire_runs_through_a_text_or_leaves_the_canvas(sheet: Sheet) -> None:
    """Where one passes below a text, a box in between covers it."""
    marks = list(enumerate(sheet.marks))
    wires = [(order, mark) for order, mark in marks if isinstance(mark, Stroke) and mark.name.startswith("links-")]
    texts = [(order, mark) for order, mark in marks if isinstance(mark, Label)]
    boxes = [(order, mark) for order, mark in marks if isinstance(mark, Box) and mark.fill]
    for below, wire in wires:
        assert all(0 <= x <= sheet.width and 0 <= y <= sheet.height for x, y in wire.points)
        for above, text in texts:
            if any(crosses(a, b, text) for a, b in pairwise(wire.points)):
                assert any(below < order < above and covers(box, text) for order, box in boxes), text.text


def test_no_two_wires_share_a_stretch(sheet: Sheet) -> None:
    wires = [mark for mark in sheet.marks if isinstance(mark, Stroke) and mark.name.startswith("links-")]
    pieces = [(number, *piece) for number, wire in enumerate(wires) for piece in pairwise(wire.points)]
    upright = [(number, a[0], *sorted((a[1], b[1]))) for number, a, b in pieces if a[0] == b[0]]
    level = [(number, a[1], *sorted((a[0], b[0]))) for number, a, b in pieces if a[1] == b[1]]
    for same_way in (upright, level):
        for index, (number, at, low, high) in enumerate(same_way):
            for other, other_at, other_low, other_high in same_way[index + 1 :]:
                if number != other and abs(at - other_at) < 2:
                    assert other_high <= low + 0.1 or other_low >= high - 0.1, wires[number].name


def crosses(a: tuple[float, float], b: tuple[float, float], text: Label) -> bool:
    """Pieces of wires are level or upright."""
    left, top, right, bottom = text.box
    (x0, x1), (y0, y1) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    return x1 > left and x0 < right and y1 > top + 1 and y0 < bottom - 1


def covers(box: Box, text: Label) -> bool:
    left, _, right, _ = text.box
    return box.x <= left + 0.1 and box.x + box.width >= right - 0.1 and box.y <= text.y <= box.y + box.height


@pytest.mark.parametrize("case", ["8 machines", "58 devices", "64 machines", "2 machines"])
def test_every_machine_is_on_the_map_once_with_each_of_its_layer_ranges(case: str) -> None:
    plan, pool, shape, forecast, _ = CASES[case]().parts
    said = words(svg(draw_picture(plan, pool, shape, forecast)))
    at_work = [stage for pipeline in plan.pipelines for stage in pipeline.stages]
    for node in pool.nodes:
        assert said.count(node.name) == (2 if node.name == node.region else 1), node.name
    ranges = sorted(f"{stage.first}–{stage.last - 1}" for stage in at_work)
    assert sorted(found[0] for text in said if (found := re.findall(r"layers (\S+)", text))) == ranges
    on_islands = [stage for stage in at_work if len(stage.devices) > 1]
    assert len([text for text in said if " dev " in text]) == len(on_islands)


@pytest.mark.parametrize("forecast", [True, False])
def test_the_links_drawn_are_the_links_used(drawn: Drawn, forecast: bool) -> None:
    sheet = draw_picture(drawn.plan, drawn.pool, drawn.shape, drawn.forecast if forecast else None)
    groups = ElementTree.fromstring(svg(sheet)).iter(f"{SVG}g")
    found = [int(name[1]) for group in groups if (name := re.match(r"links-(\d+)-", group.get("id", "")))]
    assert sum(found) == len(hops(drawn.plan))


def test_who_exchanges_gradients_is_joined_even_where_the_forecast_names_only_hops() -> None:
    """Eight pipelines, each in a region of its own: every two regions exchange gradients."""
    plan, pool, shape, forecast, _ = worldwide().parts
    at_home_each = tuple(
        replace(
            pipeline,
            stages=tuple(
                replace(stage, node=other.stages[i].node)
                for stage, other in zip(pipeline.stages, plan.pipelines, strict=True)
            ),
        )
        for i, pipeline in enumerate(plan.pipelines)
    )
    plan = replace(plan, pipelines=at_home_each)
    inside = tuple(LinkForecast(*pair, 1e6, 0.1) for pipeline in at_home_each for pair in pairwise(pipeline.nodes()))
    assert isinstance(forecast, TrainForecast)
    sheet = draw_picture(plan, pool, shape, replace(forecast, stages=(), links=inside))
    said = [text.text for text in sheet.texts()]
    assert len([text for text in said if text.startswith("8 links")]) == 28
    assert "gradients only" in said


def test_standbys_and_machines_left_out_are_named_apart() -> None:
    said = words(svg(draw_picture(*hexgen().parts)))
    assert said[said.index("standing by") + 1] == "fourth-2"
    assert said[said.index("not used") + 1] == "second-2"


def test_the_title_names_model_pool_and_the_figures_of_the_forecast() -> None:
    said = words(svg(draw_picture(*ring_of_eight().parts)))
    assert said[0] == "Serving llama-3-70b on deserve-8xl4"
    assert said[1].startswith("1,071 tokens/s · first token after 3.21 s")
    assert any("slowest" in text for text in said)


@pytest.mark.parametrize("case", CASES)
def test_without_forecast_and_bars_there_is_still_a_map(case: str) -> None:
    plan, pool, shape, _, _ = CASES[case]().parts
    said = words(svg(draw_picture(plan, pool, shape)))
    assert "Timeline" not in said
    assert "load not known" in said
    assert pool.nodes[0].name in said or len(pool.nodes) == 1000


def test_a_thousand_machines_become_regions_with_counts() -> None:
    sheet = draw_picture(*thousand().parts)
    said = [text.text for text in sheet.texts()]
    assert said.count("96 machines at work") == 10
    assert len(said) < 200
    assert sheet.width < 1600


@pytest.mark.parametrize("suffix", ["svg", "png", "html"])
def test_the_same_plan_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    save_picture(first, *hexgen().parts)
    save_picture(second, *hexgen().parts)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["plan.pdf", "plan", "plan.svg.gz", ".svg"])
def test_another_suffix_is_refused_with_the_three_that_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"\.svg, \.png or \.html") as refused:
        save_picture(tmp_path / name, *at_home().parts)
    assert refused.value.parameter == "picture"
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    save_picture(tmp_path / "PLAN.PNG", *at_home().parts)
    assert (tmp_path / "PLAN.PNG").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_is_the_machines_trouble(tmp_path: Path) -> None:
    with pytest.raises(MachineTrouble, match="choose another file"):
        save_picture(tmp_path / "missing" / "plan.svg", *at_home().parts)


def test_a_plan_of_another_pool_is_refused() -> None:
    drawn = at_home()
    with pytest.raises(InvalidRequest, match="not in the pool"):
        draw_picture(drawn.plan, replace(drawn.pool, nodes=drawn.pool.nodes[:1]), drawn.shape)


class Page(HTMLParser):
    """Tags, and whatever could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")
        ]


def test_a_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    save_picture(tmp_path / "plan.html", *hexgen().parts)
    text = (tmp_path / "plan.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(target.startswith("#") for target in page.fetched)
    assert {"svg", "table", "style"} <= set(page.tags)
    assert not {"script", "link", "iframe", "img", "base"} & set(page.tags)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert "prefers-color-scheme: dark" in text
    assert "!DOCTYPE svg" not in text


HOSTILE = (
    "<script>alert(1)</script>",
    "a\"b' onload=x & $\\frac{1}{2}$ -> c",
    "два\x00\n\u202e机器\U0001f600",
    "\ud800x",
)


@pytest.mark.parametrize("suffix", ["svg", "png", "html"])
def test_names_are_text_whatever_they_look_like(tmp_path: Path, suffix: str) -> None:
    drawn = at_home(HOSTILE, ("<b>", "", "]]>", "--> <!--"))
    plan, pool = replace(drawn.plan, explanation="<i>why</i>"), replace(drawn.pool, name="<script>")
    path = tmp_path / f"plan.{suffix}"
    save_picture(path, plan, pool, *drawn.parts[2:])
    if suffix == "svg":
        assert "<script>" in words(path.read_text(encoding="utf-8"))[0]
    if suffix == "html":
        page = Page(path.read_text(encoding="utf-8"))
        assert not {"script", "b", "i"} & set(page.tags)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in path.read_text(encoding="utf-8")


def test_a_name_between_dollars_is_not_read_as_a_formula() -> None:
    assert words(svg(draw_picture(*at_home(("$x^2$", "b")).parts))).count("$x^2$") == 2


def test_long_names_are_shortened_in_the_middle() -> None:
    name = "workstation-of-the-third-floor-in-building-seven.example.org"
    said = [text.text for text in draw_picture(*at_home((name, "b" * 300)).parts).texts()]
    short = [text.split("…") for text in said if "…" in text]
    assert all(len(start) + len(end) < 40 for start, end in short)
    assert any(start and end and name.startswith(start) and name.endswith(end) for start, end in short)
