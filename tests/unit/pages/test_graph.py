"""The drawing of a pipeline: what it shows, and that nothing in it lies over something else."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment, PackageLoader, StrictUndefined

from app.catalog import load
from app.catalog.model import Output, Pipeline, Source, Step
from app.pages.graph import MOST_STEPS, Drawing, cut, draw
from app.pages.graph_layers import crossings, layer_numbers, layered
from app.pages.graph_places import apart
from tests.properties.graphs import Graph, graphs

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (ROOT, ROOT / "tests", ROOT / "tests" / "prompt_lab")
CATALOG = load(
    [folder / "agents" for folder in FOLDERS], [folder / "pipelines" for folder in FOLDERS]
)
Point = tuple[int, float]
SVG = "{http://www.w3.org/2000/svg}"


def step(id: str, *after: str, **more: object) -> Step:
    return Step(id, id, agent="a", depends_on=frozenset(after), **more)  # type: ignore[arg-type]


def pipeline(*steps: Step, outputs: tuple[Output, ...] = ()) -> Pipeline:
    return Pipeline("p", steps, outputs, "thread")


def drawn(what: Pipeline) -> Drawing:
    drawing = draw(what)
    assert drawing is not None
    return drawing


def svg(what: Pipeline, name: str = "p") -> ElementTree.Element:
    pages = Environment(
        loader=PackageLoader("app.pages"), autoescape=True, undefined=StrictUndefined
    )
    text = pages.get_template("graph.svg").render(drawing=drawn(what), name=name)
    # Inside of a page, HTML gives it this namespace.
    return ElementTree.fromstring(text.replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


def check(what: Pipeline) -> None:
    drawing = drawn(what)
    boxes = {box.id: box for box in drawing.boxes}
    assert boxes.keys() == {step.id for step in what.steps}
    for box in drawing.boxes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= drawing.width
        assert box.y + box.height <= drawing.height
    for one, other in combinations(drawing.boxes, 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        assert beside or one.y + one.height <= other.y or other.y + other.height <= one.y
    for one in what.steps:
        for source in one.depends_on:
            assert boxes[source].x + boxes[source].width < boxes[one.id].x, "arrows go to the right"
            assert is_connected(drawing, source, one.id)


def is_connected(drawing: Drawing, source: str, target: str) -> bool:
    """Whether one can follow lines from the right side of a box to the head at another one."""
    boxes = {box.id: box for box in drawing.boxes}
    start, end = boxes[source], boxes[target]
    follows: dict[Point, list[Point]] = {}
    for first, last in map(ends, drawing.paths):
        follows.setdefault(first, []).append(last)
    reached, open_ends = set(), [(round(start.x + start.width), round(start.centre, 1))]
    while open_ends:
        point = open_ends.pop()
        if point not in reached:
            reached.add(point)
            open_ends += follows.get(point, [])
    return (round(end.x - 7), round(end.centre, 1)) in reached


def ends(path: str) -> tuple[Point, Point]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    start = (round(numbers[0]), numbers[1])
    if "h" in path:
        return start, (round(numbers[0] + numbers[2]), numbers[1])
    return start, (round(numbers[-2]), numbers[-1])


@pytest.mark.parametrize("id", sorted(CATALOG.pipelines))
def test_every_pipeline_of_the_repository_is_drawn(id: str) -> None:
    check(CATALOG.pipelines[id])
    names = [text.text for text in svg(CATALOG.pipelines[id]).iter(f"{SVG}text")]
    assert {step.id for step in CATALOG.pipelines[id].steps} <= set(names)


@settings(deadline=None, max_examples=25)
@given(graphs())
def test_any_graph_is_drawn_without_overlaps_and_with_all_its_arrows(graph: Graph) -> None:
    check(graph.pipeline)


ODD = {
    "one step": [step("a")],
    "two that do not touch": [step("a"), step("b")],
    "a long chain": [step("s0"), *(step(f"s{n}", f"s{n - 1}") for n in range(1, 60))],
    "a wide layer": [step("a"), *(step(f"s{n}", "a") for n in range(80))],
    "all depend on all": [step(f"s{n}", *(f"s{before}" for before in range(n))) for n in range(25)],
    "an edge past many layers": [
        *(step(f"s{n}", *([f"s{n - 1}"] if n else [])) for n in range(20)),
        step("end", "s0", "s19"),
    ],
    "two full layers": [
        *(step(f"a{n}") for n in range(12)),
        *(step(f"b{n}", *(f"a{m}" for m in range(12))) for n in range(12)),
    ],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_graphs_are_drawn(name: str) -> None:
    check(pipeline(*ODD[name]))
    svg(pipeline(*ODD[name]))


def test_a_graph_that_nobody_could_read_is_not_drawn() -> None:
    chain = [step("s0"), *(step(f"s{n}", f"s{n - 1}") for n in range(1, MOST_STEPS + 1))]
    assert draw(pipeline(*chain[:-1])) is not None
    assert draw(pipeline(*chain)) is None
    long = [
        step("s0"),
        *(step(f"s{n}", f"s{n - 1}", *([f"s{n - 20}"] if n > 20 else [])) for n in range(1, 100)),
    ]
    assert draw(pipeline(*long)) is None
    dense = [step(f"s{n}", *(f"s{before}" for before in range(n))) for n in range(60)]
    assert draw(pipeline(*dense)) is None


def test_the_drawing_is_the_same_each_time() -> None:
    what = CATALOG.pipelines["review_report"]
    assert draw(what) == draw(what)


def test_lines_that_need_not_cross_do_not_cross() -> None:
    steps = [step("a"), step("b"), step("c"), step("x", "c"), step("y", "b"), step("z", "a")]
    graph = layered({step.id: step.depends_on for step in steps})
    assert crossings(graph.layers, graph.edges) == 0


def test_crossings_are_counted_as_by_hand() -> None:
    graph = layered({"a": (), "b": (), "x": ("a", "b"), "y": ("a", "b")})
    assert crossings(graph.layers, graph.edges) == 1


def test_a_step_is_in_the_column_of_its_earliest_start() -> None:
    assert layer_numbers({"a": (), "b": ("a",), "c": ("a", "b"), "d": ()}) == {
        "a": 0,
        "b": 1,
        "c": 2,
        "d": 0,
    }


def test_what_is_special_about_a_step_is_written_in_its_box() -> None:
    special = step(
        "many",
        "first",
        when="found",
        retries=2,
        required=False,
        batch_mode=True,
        max_workers=8,
        input_mapping={"item": Source("list")},
    )
    what = pipeline(
        step("first"),
        special,
        step("last", "many", retries=1),
        Step("joined", "text", "batch_aggregator", aggregation={"strategy": "concat"}),
        outputs=(Output("last", "The end"), Output("many")),
    )
    lines = {box.id: [line.text for line in box.lines] for box in drawn(what).boxes}
    assert lines["many"] == [
        "many",
        "a",
        "batch over list, 8 at once",
        "only if found",
        "2 retries",
        "optional: may fail",
        "result: many",
    ]
    assert lines["last"] == ["last", "a", "1 retry", "result: The end"]
    assert lines["joined"] == ["joined", "combines a list: concat"]


def test_a_condition_and_a_batch_show_in_the_form_of_the_box() -> None:
    what = pipeline(
        step("plain"), step("if", when="found"), step("many", batch_mode=True, concurrent=False)
    )
    groups = {group[0].text: group for group in svg(what).iter(f"{SVG}g")}
    classes = {text.splitlines()[0]: group.get("class") for text, group in groups.items()}
    assert classes == {
        "plain": "graph-step",
        "if": "graph-step is-conditional",
        "many": "graph-step is-batch",
    }
    sheets = [group for group in groups.values() if len(group.findall(f"{SVG}rect")) == 2]
    assert len(sheets) == 1


def test_the_picture_is_also_told_in_words() -> None:
    what = svg(CATALOG.pipelines["customer_service_flow"], "Customer service")
    assert what.get("role") == "img"
    assert what.find(f"{SVG}title").text == "The steps of Customer service"  # type: ignore[union-attr]
    assert what.find(f"{SVG}desc").text == (  # type: ignore[union-attr]
        "First side by side: classify; extract, optional: may fail. "
        "Then: answer after classify and extract."
    )


def test_text_from_files_stays_text() -> None:
    evil = "</text><script>alert(1)</script>"
    what = svg(pipeline(step("a", when=evil)), evil)
    assert not list(what.iter(f"{SVG}script"))
    assert any(text.text == cut(f"only if {evil}", 32) for text in what.iter(f"{SVG}text"))


def test_no_style_stands_in_the_drawing_since_pages_forbid_it() -> None:
    for element in svg(CATALOG.pipelines["review_report"]).iter():
        assert "style" not in element.attrib
        assert element.tag != f"{SVG}style"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        ("a" * 10, "a" * 10),
        ("a" * 11, "a" * 9 + "…"),
        ("评价晨报客户", "评价晨报…"),
    ],
)
def test_a_long_text_is_cut_by_its_width(text: str, shown: str) -> None:
    assert cut(text, 10) == shown


@given(
    st.lists(
        st.tuples(st.floats(-1000, 1000), st.floats(1, 100), st.floats(0.5, 5)),
        min_size=1,
        max_size=12,
    )
)
def test_positions_keep_their_order_and_distance(rows: list[tuple[float, float, float]]) -> None:
    wanted, distances, weights = zip(*rows, strict=True)
    found = apart(wanted, distances[1:], weights)
    for (one, other), distance in zip(pairwise(found), distances[1:], strict=True):
        assert other - one >= distance - 1e-6


def test_positions_that_fit_are_kept() -> None:
    assert apart([0.0, 50.0, 200.0], [40.0, 40.0], [1.0, 1.0, 1.0]) == [0.0, 50.0, 200.0]
    assert apart([10.0, 10.0], [40.0], [1.0, 1.0]) == [-10.0, 30.0]
