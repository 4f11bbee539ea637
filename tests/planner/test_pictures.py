"""Pictures: charts, their layout by the real dot, and the SVG, PNG and HTML that show them."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations

import pytest

from noetl.api import graphviz, pictures
from noetl.api.pictures import LayoutRequest, PictureError, lay_out, to_png
from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.diagnostic import Diagnostic, Span
from noetl.planner.draw import folding
from noetl.planner.draw import jumps as jumps_module
from noetl.planner.draw.advances import FONTS, fit_text, text_width
from noetl.planner.draw.chart import Chart, NodeKind, make_chart
from noetl.planner.draw.colours import DARK, LIGHT
from noetl.planner.draw.folding import fold_branches, fold_groups
from noetl.planner.draw.outline import step_notes
from noetl.planner.draw.page import write_page
from noetl.planner.draw.run_graph import describe_run_graph
from noetl.planner.draw.run_marks import DrawnLoop, DrawnRun, JoinWait, RunMarks, mark_run
from noetl.planner.draw.svg import PictureOptions, write_svg
from noetl.planner.plan import Action, Case, Join, Loop, Plan, Retry, Step
from tests.planner.test_draw import case, chain_plan, forked_plan, plan_of

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert(1)</script> \x1b[31mred \u202egnp.exe שלום & "quoted" ]]>'


def rich_plan() -> Plan:
    """Return a plan with every mark: all joins, ends, a loop, a call, retries and a step that runs last."""
    return plan_of(
        Step(
            "load",
            (Action("http", {"url": "https://x.test"}, retry=Retry(attempts=3)),),
            cases=(
                case("error", "broken", aware=True),
                case("result.data", "left", "right"),
                Case(None, work=(Action("log", {}),)),
            ),
        ),
        Step(
            "left", loop=Loop("{{ files }}", concurrency=8, forgiving=True), cases=(case("default", "all"),)
        ),
        Step("right", on_error="continue", cases=(case("default", "all", "any", "each"),)),
        Step("all", (Action("workflow", {"playbook": "close"}),), join=Join("load")),
        Step("any", join=Join("right", "any")),
        Step("each", runs_per_branch=True),
        Step("broken", (Action("fail", {"message": "x"}),)),
        Step("last", is_finally_step=True),
    )


def forks_plan(number: int) -> Plan:
    """Return forks of two branches with a join, each after the one before it, with a choice between them."""
    steps = []
    for index in range(number):
        names = {end: f"{end}{index}" for end in ("fork", "a", "b", "join", "choose")}
        following = f"fork{index + 1}" if index + 1 < number else names["fork"]
        steps += [
            Step(names["fork"], cases=(case("default", names["a"], names["b"]),)),
            Step(names["a"], cases=(case("default", names["join"]),), regions=(names["join"],)),
            Step(names["b"], cases=(case("default", names["join"]),), regions=(names["join"],)),
            Step(names["join"], join=Join(names["fork"]), cases=(case("default", names["choose"]),)),
            Step(names["choose"], cases=(case("x", following), case("default"))),
        ]
    return plan_of(*steps)


def picture_of(plan: Plan, run: DrawnRun | None = None, request: LayoutRequest | None = None) -> str:
    marks = None if run is None else mark_run(plan, run)
    request = request or LayoutRequest(has_states=run is not None)
    return write_svg(lay_out(plan, catalogue(), request), marks)


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def classes_of(svg: str, tag: str) -> list[str]:
    return [element.get("class") or "" for element in ET.fromstring(svg).iter(f"{SVG}{tag}")]


def read_advances(font: bytes) -> dict[int, int]:
    """Return the advances of a TrueType font by code point, in thousandths."""
    count = struct.unpack(">H", font[4:6])[0]
    tables = {}
    for index in range(count):
        tag, _, offset, _ = struct.unpack(">4sIII", font[12 + 16 * index : 28 + 16 * index])
        tables[tag.decode()] = offset
    units = struct.unpack(">H", font[tables["head"] + 18 : tables["head"] + 20])[0]
    metrics = struct.unpack(">H", font[tables["hhea"] + 34 : tables["hhea"] + 36])[0]
    advances = [
        struct.unpack(">H", font[tables["hmtx"] + 4 * min(i, metrics - 1) :][:2])[0] for i in range(2000)
    ]
    return {code: round(advances[glyph] * 1000 / units) for code, glyph in read_glyphs(font, tables["cmap"])}


def read_glyphs(font: bytes, cmap: int) -> Iterator[tuple[int, int]]:
    """Yield the code points of a font with their glyphs, from its table of format 4."""
    start = cmap + struct.unpack(">I", font[cmap + 8 : cmap + 12])[0]
    assert struct.unpack(">H", font[start : start + 2])[0] == 4
    segments = struct.unpack(">H", font[start + 6 : start + 8])[0] // 2
    ends, starts, deltas, offsets = (
        struct.unpack(f">{segments}H", font[begin : begin + 2 * segments])
        for begin in (start + 14 + shift + 2 * segments * part for part, shift in enumerate((0, 2, 2, 2)))
    )
    for index in range(segments):
        for code in range(starts[index], min(ends[index], 0xFFFE) + 1):
            glyph = code
            if offsets[index]:
                table = start + 16 + 6 * segments + 2 * index + offsets[index]
                place = table + 2 * (code - starts[index])
                glyph = struct.unpack(">H", font[place : place + 2])[0]
            yield code, (glyph + deltas[index]) & 0xFFFF


@pytest.mark.parametrize(("weight", "bold"), [(400, False), (600, True)])
def test_widths_are_those_of_the_fonts(weight: int, bold: bool) -> None:
    advances = read_advances((FONTS / f"inter-{weight}.ttf").read_bytes())
    assert len(advances) > 500
    assert {code: round(text_width(chr(code), 1000, bold=bold)) for code in advances} == advances


def test_text_without_a_width_is_estimated_and_fits() -> None:
    assert text_width("日本", 10) == 20
    assert text_width("e\u0301", 10) == text_width("e", 10)
    assert text_width("\u0e01", 10) > 0
    assert fit_text("short", 100, 12) == "short"
    assert text_width(fit_text("x" * 500, 100, 12), 12) <= 100


def test_the_picture_shows_all_notes_of_the_steps() -> None:
    svg = picture_of(rich_plan())
    texts = texts_of(svg)
    for words in (
        "up to 3 attempts",
        "continues after failed items",
        "on_error: continue",
        "workflow close",
        "finally, in every ending",
        "join: all",
        "example",
        "8 steps, 7 edges, 2 forks, 2 joins",
        "case for errors",
        "waits for all",
        "continues with the first",
        "runs for each",
        "calls a playbook",
        "end with a failure",
    ):
        assert words in texts, words
    assert any("8 at the same time" in text for text in texts)
    assert [text for text in texts if text in "123"] == ["1", "2", "3", "1"]  # the cases, and the legend


def test_ends_differ_in_shape() -> None:
    chart = make_chart(rich_plan(), catalogue())
    ends = {node.title: node.end for node in chart.nodes if node.end and node.title}
    assert ends == {
        "all": NodeKind.GOOD_END,
        "any": NodeKind.GOOD_END,
        "each": NodeKind.GOOD_END,
        "broken": NodeKind.FAILURE_END,
        "last": NodeKind.GOOD_END,
    }
    svg = picture_of(rich_plan())
    broken = re.search(r'<g id="n-2".*?</g>\n?</g>|<title>broken</title>.*', svg)
    assert broken is not None
    boxes = [element for element in ET.fromstring(svg).iter(f"{SVG}path") if element.get("class") == "box"]
    assert len(boxes) == 1  # the cut corners
    assert (
        make_chart(plan_of(Step("a", (Action("gone", {}),))), catalogue()).nodes[1].end is NodeKind.GOOD_END
    )


def large_plan() -> Plan:
    """Return a plan of more than a hundred steps, with leaves of all kinds, labels and far arrows."""
    names = [f"s{index}" for index in range(110)]
    steps = []
    for index, name in enumerate(names[:-1]):
        following = names[index + 1]
        cases = [
            (case("default", following),),
            (case("result.long_name_of_a_value > 100", following), case("error", "report", aware=True)),
            (case("a_condition", names[min(index + 3, 109)]), case("another_condition", following)),
            (
                case("error", work=(Action("log", {}),)),
                case("x", names[index // 2]),
                case("default", following),
            ),
            (case("default", following, names[min(index + 2, 109)]),),
            (case("y"), case("default", following, names[min(index + 30, 109)])),
        ][index % 6]
        steps.append(Step(name, (Action("log", {}),), cases=cases, cyclic=index % 4 == 0))
    return plan_of(*steps, Step(names[-1]), Step("report", (Action("fail", {"message": "x"}),)))


@pytest.mark.parametrize("plan", [rich_plan(), large_plan()], ids=["small", "large"])
@pytest.mark.parametrize("has_states", [False, True])
def test_every_label_has_its_length_and_none_collide(plan: Plan, has_states: bool) -> None:
    layout = lay_out(plan, catalogue(), LayoutRequest(has_states=has_states))
    svg = write_svg(layout)
    for element in ET.fromstring(svg).iter(f"{SVG}text"):
        if element.get("class") != "number":
            assert float(element.get("textLength") or 0) > 0
    boxes = [
        (x, y, x + node.width, y + node.height)
        for node, (x, y) in zip(layout.chart.nodes, layout.corners, strict=True)
    ]
    for edge, path in zip(layout.chart.edges, layout.paths, strict=True):
        if path.label is not None:
            x, y = path.label
            boxes.append((x - edge.label_width / 2, y - 6, x + edge.label_width / 2, y + 6))
    assert len(boxes) == len(layout.chart.nodes) + sum(edge.label_width > 0 for edge in layout.chart.edges)
    for left, right in combinations(boxes, 2):
        is_clear = left[2] <= right[0] or right[2] <= left[0] or left[3] <= right[1] or right[3] <= left[1]
        assert is_clear, (left, right)


@pytest.mark.parametrize("plan", [rich_plan(), large_plan()], ids=["small", "large"])
def test_each_edge_runs_between_its_nodes(plan: Plan) -> None:
    layout = lay_out(plan, catalogue())
    places = {
        node.key: (x, y, x + node.width, y + node.height)
        for node, (x, y) in zip(layout.chart.nodes, layout.corners, strict=True)
    }
    for edge, path in zip(layout.chart.edges, layout.paths, strict=True):
        assert path.marks is not None or len(path.points) % 3 == 1
        for (x, y), key in ((path.points[0], edge.source), (path.tip, edge.target)):
            left, top, right, bottom = places[key]
            assert left - 1 <= x <= right + 1, edge
            assert top - 1 <= y <= bottom + 1, edge


def test_leaves_of_a_large_picture_are_at_the_right_of_their_steps() -> None:
    layout = lay_out(large_plan(), catalogue())
    places = {
        node.key: (node, corner) for node, corner in zip(layout.chart.nodes, layout.corners, strict=True)
    }
    kinds = set()
    for edge, path in zip(layout.chart.edges, layout.paths, strict=True):
        (source, corner), (target, (x, y)) = places[edge.source], places[edge.target]
        if target.kind in (NodeKind.STEP, NodeKind.FORK):
            assert not edge.leads_back
            continue
        kinds.add(target.kind)
        assert round(x - corner[0] - source.width, 1) >= 28
        assert path.tip == (x, round(y + target.height / 2, 1))
    assert kinds == {NodeKind.JUMP, NodeKind.GOOD_END, NodeKind.WORK}


def test_a_chain_is_cut_at_arrows_with_labels() -> None:
    names = [f"s{index}" for index in range(120)]
    steps = [
        Step(name, cases=(case("x"), case("default", *names[index + 1 : index + 2])))
        for index, name in enumerate(names)
    ]
    layout = lay_out(plan_of(*steps), catalogue())
    cut = [(edge, path) for edge, path in zip(layout.chart.edges, layout.paths, strict=True) if path.marks]
    assert len(cut) >= 3
    assert layout.height < 4 * layout.width
    for edge, path in cut:
        assert (edge.label, path.label is not None) == ("default", True)
    # Steps of a column are below each other.
    lefts = {
        x
        for node, (x, _) in zip(layout.chart.nodes, layout.corners, strict=True)
        if node.kind is NodeKind.STEP
    }
    assert len(lefts) == len(cut) + 1
    assert texts_of(write_svg(layout)).count("default") == len(names)


def test_the_picture_of_a_run_has_states_and_taken_edges() -> None:
    run = DrawnRun(
        {"load": "succeeded", "left": "running", "meet": "pending", "right": "failed"},
        {("load", 0): 2},
        {"load": 2, "left": 1, "right": 1},
        "running",
        "5a14a9fa",
    )
    svg = picture_of(forked_plan(), run)
    texts = texts_of(svg)
    assert "running · run 5a14a9fa" in texts
    assert "succeeded, 2 visits" in texts
    assert texts.count("2\u00d7") == 3  # to the fork, and from it to two steps
    assert {"may run", "will not run", "failed"} <= set(texts)
    nodes = {
        element.get("id"): element.get("class")
        for element in ET.fromstring(svg).iter(f"{SVG}g")
        if element.get("id")
    }
    assert nodes["n-1"] == "node succeeded"
    assert nodes["n-4"] == "node may"
    assert nodes["n-6"] == "node never"
    edges = classes_of(svg, "path")
    assert edges.count("edge taken") == 5  # also from the start, and in the legend
    assert "edge never" in edges


def test_after_the_end_of_a_run_nothing_may_run() -> None:
    run = DrawnRun({"load": "failed"}, {}, {"load": 1}, "failed", "x")
    marks = mark_run(forked_plan(), run)
    assert set(marks.states.values()) == {"failed", "never"}
    alive = mark_run(forked_plan(), DrawnRun({"left": "pending"}, {}, {"left": 1}, "running"))
    assert alive.states["left"] == "pending"
    assert alive.states["report"] == "may"  # `meet` leads back to `load`
    nothing = mark_run(forked_plan(), DrawnRun({}))
    assert nothing.states["lonely"] == "never"
    assert nothing.states["meet"] == "may"


def test_names_cannot_be_markup_anywhere() -> None:
    plan = plan_of(
        Step(HOSTILE, (Action("log", {}),), cases=(case(f"x == '{HOSTILE}'", HOSTILE), case("default"))),
        name=HOSTILE,
    )
    layout = lay_out(plan, catalogue())
    svg = write_svg(layout)
    page = write_page(layout, None, f"name: {HOSTILE}\n", (finding(HOSTILE),))
    for text in (svg, page):
        assert "<script" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    ET.fromstring(svg)
    assert any("<script>" in text for text in texts_of(svg))


def finding(message: str) -> Diagnostic:
    return Diagnostic("NP006", message, Span(1, 1, 1, 2), hint=message)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_one_file_that_loads_nothing() -> None:
    plan = forked_plan()
    page = write_page(lay_out(plan, catalogue()), None, "name: example\nsteps: []\n", (finding("odd"),))
    parser = Tags()
    parser.feed(page)
    tags = [tag for tag, _ in parser.tags]
    assert "script" not in tags
    for _, attributes in parser.tags:
        assert not {"src", "style", "onload", "onclick"} & set(attributes)
        link = attributes.get("href")
        assert link is None or link.startswith("#L")
    (policy,) = [a["content"] for _, a in parser.tags if a.get("http-equiv") == "Content-Security-Policy"]
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(styles) == 1
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    assert policy == (f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'")
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]
    assert '<li id="L1" class="error">' in page
    assert "Findings: 1" in page


def test_steps_of_the_page_are_links_to_their_lines() -> None:
    plan = plan_of(Step("a", line=7))
    assert '<a href="#L7">' in write_page(lay_out(plan, catalogue()), None, "")
    assert "<a " not in write_svg(lay_out(plan, catalogue()))


def test_png_is_drawn_with_the_fonts_of_the_package() -> None:
    layout = lay_out(rich_plan(), catalogue())
    content = to_png(layout)
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > layout.width
    assert height > layout.height
    silent = tuple(
        replace(node, title="", lines=()) if node.kind is NodeKind.STEP else node
        for node in layout.chart.nodes
    )
    assert len(to_png(replace(layout, chart=replace(layout.chart, nodes=silent)))) < len(content) * 0.8


def test_a_large_plan_is_folded() -> None:
    plan = forks_plan(50)
    groups = fold_groups(plan)
    assert len(plan.steps) == 250
    assert [len(group) for group in groups] == [4] * 50
    layout = lay_out(plan, catalogue())
    assert layout.chart.folded == 200
    titles = [node.title for node in layout.chart.nodes if node.kind is NodeKind.GROUP]
    assert titles == ["4 steps"] * 50
    assert "folded steps" in texts_of(write_svg(layout))
    unfolded = lay_out(chain_plan(folding.FOLD_FROM), catalogue(), LayoutRequest(unfolded=True))
    assert sum(node.kind is NodeKind.STEP for node in unfolded.chart.nodes) == folding.FOLD_FROM


def test_a_chain_is_one_node_with_its_worst_state() -> None:
    plan = chain_plan(300)
    (group,) = fold_groups(plan)
    assert len(group) == 300
    states = dict.fromkeys(plan.steps, "succeeded") | {"step 7": "failed", "step 8": "failed"}
    svg = picture_of(plan, DrawnRun(states, {}, {}, "failed", "x"))
    assert "2 failed" in texts_of(svg)
    assert "300 steps" in texts_of(svg)
    assert lay_out(chain_plan(folding.FOLD_FROM - 1), catalogue()).chart.folded == 0


def test_arrows_to_a_handler_of_many_steps_end_at_its_name() -> None:
    names = [f"s{index}" for index in range(60)]
    steps = [
        Step(
            name,
            cases=(
                case("result.success", *names[index + 1 : index + 2], aware=True),
                case("error", "report", aware=True),
            ),
        )
        for index, name in enumerate(names)
    ]
    plan = plan_of(*steps, Step("report"))
    layout = lay_out(plan, catalogue())
    assert texts_of(write_svg(layout)).count("2 error → report") == 59
    assert sum(edge.target == "s61" for edge in layout.chart.edges) == 1
    few = make_chart(plan_of(*steps[50:], Step("report")), catalogue()).nodes
    assert sum(node.kind is NodeKind.JUMP for node in few) == 9


def test_a_handler_to_which_the_last_step_leads_twice_keeps_its_arrows() -> None:
    """A step without an arrow would stand at the top of the picture."""
    names = [f"s{index}" for index in range(12)]
    steps = [
        Step(name, cases=(case("a", *names[index + 1 : index + 2] or ["end"]), case("default", "end")))
        for index, name in enumerate(names)
    ]
    chart = make_chart(plan_of(*steps, Step("end")), catalogue())
    (end,) = (node.key for node in chart.nodes if node.title == "end")
    (last,) = (node.key for node in chart.nodes if node.title == "s11")
    assert {edge.source for edge in chart.edges if edge.target == end} == {last}


@pytest.mark.parametrize("kind", ["case", "fork"])
def test_the_longest_arrows_of_a_dense_picture_end_at_names(kind: str) -> None:
    def dense(steps: int) -> Chart:
        """Return a chain whose steps also lead to the sixth step after them, and half the chain further."""
        parts = []
        for index in range(steps):
            near, far = (
                [f"s{index + distance}"] if index + distance < steps else [] for distance in (6, steps // 2)
            )
            cases = [case("a", *near, *far)] if kind == "fork" else [case("a", *near), case("b", *far)]
            parts.append(
                Step(f"s{index}", cases=(*cases, case("default", *[f"s{index + 1}"][: index + 1 < steps])))
            )
        return make_chart(plan_of(*parts), catalogue())

    assert not any(node.kind is NodeKind.JUMP for node in dense(30).nodes)
    chart = dense(90)
    jumps = {node.key: node.lines[0] for node in chart.nodes if node.kind is NodeKind.JUMP}
    guard = "" if kind == "fork" else "2 b "
    assert sorted(jumps.values()) == sorted(f"{guard}→ s{index}" for index in range(45, 90))
    (edge,) = [edge for edge in chart.edges if jumps.get(edge.target, "").endswith("→ s70")]
    assert [(step, target) for step, _, target in edge.routes] == [("s25", "s70")]
    assert sum(node.kind is NodeKind.JUMP for node in dense(jumps_module.LARGE).nodes) == 50 + 94


@pytest.mark.parametrize(("branches", "jumps"), [(50, 0), (jumps_module.LARGE, jumps_module.LARGE - 2)])
def test_arrows_for_errors_to_a_join_of_a_large_picture_end_at_its_name(branches: int, jumps: int) -> None:
    names = [f"b{index}" for index in range(branches)]
    targets = ["join", *["report"] * (branches - 1)]
    steps = [
        Step(name, cases=(case("error", target, aware=True), case("default", "join")))
        for name, target in zip(names, targets, strict=True)
    ]
    fork = Step("fork", cases=(case("default", *names),))
    joins = (Step(name, join=Join("fork", "any")) for name in ("join", "report"))
    chart = make_chart(plan_of(fork, *steps, *joins), catalogue())
    assert sum(node.kind is NodeKind.JUMP for node in chart.nodes) == jumps
    (key,) = (node.key for node in chart.nodes if node.title == "join")
    assert sum(edge.target == key for edge in chart.edges) == branches + 1


def test_cases_for_errors_do_not_break_a_chain() -> None:
    names = [f"s{index}" for index in range(250)]
    steps = [
        Step(
            name,
            cases=(
                case("result.success", *names[index + 1 : index + 2], aware=True),
                case("error", "report", aware=True),
            ),
        )
        for index, name in enumerate(names)
    ]
    plan = plan_of(*steps, Step("report"))
    (group,) = fold_groups(plan)
    assert len(group) == 250
    chart = make_chart(plan, catalogue(), (group,))
    assert [(edge.source, edge.target) for edge in chart.edges] == [("start", "g0"), ("g0", "s251")]


def test_a_picture_that_resvg_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> bytes:
        raise ValueError("odd")

    monkeypatch.setattr("resvg_py.svg_to_bytes", refuse)
    with pytest.raises(PictureError, match="resvg cannot draw the picture: odd"):
        to_png(lay_out(forked_plan(), catalogue()))


def test_a_small_group_with_a_failure_is_open() -> None:
    plan = forks_plan(50)
    assert len(fold_groups(plan, ["a7"])) == 49
    assert len(fold_groups(chain_plan(300), ["step 7"])) == 1


def wide_plan(number: int, *more: Step, length: int = 1) -> Plan:
    """Return a fork of branches that are chains of the same length, and further steps of its fork."""
    names = [f"b{index}" for index in range(number)]
    chains = [[f"{name}.{place}" for place in range(length)] + ["meet"] for name in names]
    steps = [
        Step(name, cases=(case("default", following),))
        for chain in chains
        for name, following in itertools.pairwise(chain)
    ]
    targets = [chain[0] for chain in chains] + [step.name for step in more]
    meet = Step("meet", join=Join("fork"))
    return plan_of(Step("fork", cases=(case("default", *targets),)), *steps, *more, meet)


def test_alike_branches_of_a_wide_fork_are_folded() -> None:
    plan = wide_plan(100, length=2)
    layout = lay_out(plan, catalogue(), LayoutRequest(has_states=True))
    titles = [node.title for node in layout.chart.nodes if node.kind is NodeKind.GROUP]
    assert titles == ["30 steps"] * 2 + ["28 steps"] * 5
    assert layout.width < 1500
    opened = lay_out(plan, catalogue(), LayoutRequest(opened=("b3.1",)))
    assert opened.chart.folded == 170
    assert lay_out(plan, catalogue(), LayoutRequest(unfolded=True)).chart.folded == 0
    assert lay_out(wide_plan(folding.MAX_BRANCHES), catalogue()).chart.folded == 0
    assert [len(group) for group in fold_groups(wide_plan(500))] == [22] * 17 + [21] * 6


def test_branches_that_differ_are_not_folded() -> None:
    unlike = (
        Step("two", cases=(case("x", "meet"), case("default", "side"))),
        Step("side", cases=(case("default", "meet"),)),
        Step(
            "handled", cases=(case("error", "side", aware=True), case("result.success", "meet", aware=True))
        ),
        Step("again", cases=(case("default", "again"),)),
    )
    (first, second) = fold_branches(wide_plan(20, *unlike))
    assert (first, second) == (
        tuple(f"b{index}.0" for index in range(10)),
        tuple(f"b{index}.0" for index in range(10, 20)),
    )
    assert fold_branches(wide_plan(20), ["b1.0"]) == (second,)


def test_a_group_that_a_person_opens_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = forks_plan(50)
    assert len(fold_groups(plan, [], ["a7", "a9", "unknown"])) == 48
    monkeypatch.setattr(pictures, "OPENED_SECONDS", 60.0)
    layout = lay_out(plan, catalogue(), LayoutRequest(opened=("a7",)))
    assert layout.chart.folded == 196
    assert lay_out(chain_plan(300), catalogue(), LayoutRequest(opened=("step 7",))).chart.folded == 0
    monkeypatch.setattr(pictures, "OPENED_SECONDS", 0.0)
    assert lay_out(plan, catalogue(), LayoutRequest(opened=("a7",))).chart.folded == 200


def test_a_picture_that_takes_too_long_stays_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "UNFOLDED_SECONDS", 0.0)
    assert lay_out(chain_plan(100), catalogue()).chart.folded == 100


def test_a_picture_that_always_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "UNFOLDED_SECONDS", -1.0)
    monkeypatch.setattr(graphviz, "MAX_SECONDS", 0.0)
    with pytest.raises(graphviz.GraphvizTimeoutError, match="takes more than 0 s"):
        lay_out(chain_plan(100), catalogue())


def test_dot_ends_with_a_rendering_that_is_closed() -> None:
    edges = (f"{source} -> {target}" for source in range(100) for target in range(source))
    rendering = graphviz.Rendering(f"digraph {{ {'; '.join(edges)} }}", "json0")
    rendering.close()
    with pytest.raises(graphviz.GraphvizTimeoutError, match="takes too long"):
        rendering.finish()


def test_a_text_that_dot_cannot_read_is_an_error() -> None:
    with pytest.raises(graphviz.GraphvizError, match="cannot draw the plan; it ended with 1"):
        graphviz.render("digraph {", "json0")


def test_a_plan_that_is_too_large_when_folded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PICTURE_SIZE", 100)
    with pytest.raises(PictureError, match="at most 100 are drawn"):
        lay_out(forks_plan(50), catalogue())


def test_a_tall_picture_continues_in_the_next_column() -> None:
    layout = lay_out(chain_plan(40), catalogue())
    assert layout.height <= 2.6 * layout.width
    marked = [path for path in layout.paths if path.marks is not None]
    assert [path.number for path in marked] == list(range(1, len(marked) + 1))
    assert marked
    boxes = [
        (x, y, x + node.width, y + node.height)
        for node, (x, y) in zip(layout.chart.nodes, layout.corners, strict=True)
    ]
    for left, right in combinations(boxes, 2):
        assert left[2] <= right[0] or right[2] <= left[0] or left[3] <= right[1] or right[3] <= left[1]
    for x, y, end, bottom in boxes:
        assert 0 <= x <= end <= layout.width
        assert 0 <= y <= bottom <= layout.height
    texts = texts_of(write_svg(layout))
    assert texts.count("1") == 2
    assert lay_out(chain_plan(5), catalogue()).paths[0].marks is None


def test_a_tall_picture_without_a_place_to_cut_is_not_cut() -> None:
    names = [f"s{index}" for index in range(40)]
    steps = [
        Step(
            name,
            cases=(case("x", *names[index + 1 : index + 2]), case("default", *names[index + 2 : index + 3])),
        )
        for index, name in enumerate(names)
    ]
    layout = lay_out(plan_of(Step("first", cases=(case("default", "s0"),)), *steps), catalogue())
    assert layout.height > 2.5 * layout.width
    assert all(path.marks is None for path in layout.paths)


def test_the_layout_as_json_has_coordinates_of_all_nodes_and_edges() -> None:
    layout = lay_out(rich_plan(), catalogue())
    data = layout.to_json()
    assert {name for node in data["nodes"] for name in node["steps"]} == set(rich_plan().steps)
    assert all(node["x"] >= 0 and node["y"] >= 0 for node in data["nodes"])
    assert all(len(edge["points"]) >= 5 for edge in data["edges"])
    assert len(data["edges"]) == len(layout.chart.edges)


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_and_edges_stand_out(tokens: dict[str, str]) -> None:
    for ink in ("ink", "ink2", "ink3"):
        for ground in ("bg", "sunk", "hover"):
            assert contrast(tokens[ink], tokens[ground]) >= 4.5
    for ink in ("bad", "pause", "accent"):
        assert contrast(tokens[ink], tokens[f"{ink}-tint"]) >= 4.5
    assert contrast(tokens["edge"], tokens["sunk"]) >= 3


def test_a_picture_for_png_has_no_rules_for_viewers() -> None:
    layout = lay_out(forked_plan(), catalogue())
    assert "@media (prefers-color-scheme:dark)" in write_svg(layout)
    assert "@media" not in write_svg(layout, None, PictureOptions(adapts=False))


def test_marks_of_an_unknown_state_are_drawn() -> None:
    marks = RunMarks({"load": "new-state"}, DrawnRun({}))
    assert marks.state_of(["load"]) == "never"
    ET.fromstring(write_svg(lay_out(forked_plan(), catalogue(), LayoutRequest(has_states=True)), marks))


@pytest.mark.parametrize("status", ["succeeded", "completed_with_errors", "failed", "cancelled", "timed_out"])
def test_nothing_may_run_after_an_end(status: str) -> None:
    plan = chain_plan(3)
    first = plan.header.start
    marks = mark_run(plan, DrawnRun({first: "succeeded"}, visits={first: 1}, status=status))
    assert [marks.state_of([name]) for name in plan.steps if name != first] == ["never"] * 2


@pytest.mark.parametrize("status", ["queued", "running", "waiting", "paused"])
def test_later_steps_of_an_open_run_may_run(status: str) -> None:
    plan = chain_plan(3)
    first = plan.header.start
    marks = mark_run(plan, DrawnRun({first: "succeeded"}, visits={first: 1}, status=status))
    assert [marks.state_of([name]) for name in plan.steps if name != first] == ["may"] * 2


def test_the_last_step_of_an_open_run_may_run() -> None:
    plan = plan_of(Step("a"), Step("tidy"))
    plan = replace(plan, header=replace(plan.header, finally_step="tidy"))
    marks = mark_run(plan, DrawnRun({"a": "running"}, visits={"a": 1}, status="running"))
    assert marks.state_of(["tidy"]) == "may"


def test_notes_of_a_loop_around_an_action() -> None:
    action = Action("log", {}, loop=Loop("{{ rows }}", "row", forgiving=True))
    notes = list(step_notes(Step("a", run=(action,))))
    assert notes == ["loop", "continues after failed items"]
    action = Action("log", {}, loop=Loop("{{ rows }}", "row", concurrency=4))
    assert list(step_notes(Step("a", run=(action,)))) == ["loop", "4 at the same time"]


@pytest.mark.parametrize(
    ("loop", "words", "lengths"),
    [
        (DrawnLoop(0, 0, 4), "0 of 4", []),
        (DrawnLoop(3, 1, 4), "1 failed, 3 of 4", [0.5, 0.25]),
        (DrawnLoop(4, 4, 4), "4 failed, 4 of 4", [1.0]),
        (DrawnLoop(0, 0, 0), "0 of 0", []),
        (DrawnLoop(10_000, 4_512, 10_000), "4,512 failed, 10,000 of 10,000", [0.5488, 0.4512]),
    ],
)
def test_the_rim_of_a_loop_is_its_progress(loop: DrawnLoop, words: str, lengths: list[float]) -> None:
    plan = plan_of(Step("each", loop=Loop("{{ rows }}", "row")))
    marks = mark_run(plan, DrawnRun({"each": "running"}, visits={"each": 1}, loops={"each": loop}))
    layout = lay_out(plan, catalogue(), LayoutRequest(has_states=True))
    picture = write_svg(layout, marks)
    assert words in texts_of(picture)
    drawn = describe_run_graph(layout, marks)["graph"]
    node = next(node for node in drawn["nodes"] if node["steps"] == ["each"])
    assert node["items"] == {"done": loop.done, "failed": loop.failed, "total": loop.total}
    rim = re.findall(r'<rect class="fill-(?:ok|bad)" [^>]*width="([\d.]+)" height="3"/>', picture)
    inner = node["width"] - 8
    assert [float(length) / inner for length in rim] == pytest.approx(lengths, abs=0.001)


def gathering_plan() -> Plan:
    return plan_of(
        Step("start", cases=(case("default", "left", "right"),)),
        Step("left", cases=(case("x", "meet"), case("default", "other"))),
        Step("right", cases=(case("default", "meet"),)),
        Step("meet", join=Join("start")),
        Step("other"),
    )


def test_a_join_says_how_many_branches_have_arrived() -> None:
    run = DrawnRun(
        {"start": "succeeded", "left": "waiting", "right": "succeeded"},
        {("start", 0): 1, ("right", 0): 1},
        {"start": 1, "left": 1, "right": 1},
        "running",
        last_visits={"start": 0, "left": 1, "right": 2},
        last_taken={("start", 0): 0, ("right", 0): 2},
    )
    marks = mark_run(gathering_plan(), run)
    assert marks.joins == {"meet": JoinWait(("right",), ("left",))}
    assert marks.words_of(["meet"]) == "waits, 1 of 2 here"
    layout = lay_out(gathering_plan(), catalogue(), LayoutRequest(has_states=True))
    assert "waits, 1 of 2 here" in texts_of(write_svg(layout, marks))
    drawing = describe_run_graph(layout, marks)
    assert drawing["joins"] == {"meet": {"arrived": ["right"], "missing": ["left"]}}
    assert drawing["reachable"] == {"meet": "may", "other": "may"}
    states = {
        node["steps"][0]: (node["state"], node["words"])
        for node in drawing["graph"]["nodes"]
        if node["state"] is not None
    }
    assert states["left"] == ("waiting", "waiting")
    assert states["meet"] == ("may", "waits, 1 of 2 here")
    edges = {
        (edge["source"], edge["target"]): (edge["mark"], edge["taken"]) for edge in drawing["graph"]["edges"]
    }
    assert {mark for mark, _ in edges.values()} == {"taken", "may"}
    assert all((mark == "taken") == (taken > 0) for mark, taken in edges.values())


def test_a_join_waits_for_nothing_after_the_end_of_its_run() -> None:
    run = DrawnRun(
        {"start": "succeeded", "right": "succeeded", "left": "failed"},
        status="failed",
        last_visits={"start": 0, "left": 1, "right": 2},
        last_taken={("start", 0): 0, ("right", 0): 2},
    )
    marks = mark_run(gathering_plan(), run)
    assert (marks.joins, marks.states["meet"]) == ({}, "never")
