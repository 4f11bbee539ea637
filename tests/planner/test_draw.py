"""Pictures of plans made by hand, so that they do not depend on how a plan is compiled."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.draw import dot, mermaid, text
from noetl.planner.draw.outline import make_outline, may_match_no_case
from noetl.planner.plan import (
    MAX_COUNTED_VISITS,
    Action,
    Case,
    Header,
    Join,
    Loop,
    Plan,
    Repeat,
    Retry,
    Step,
    TaskCall,
)

NASTY = 'a "b" <i>&amp;</i> \\n |{x}| `y` %% ; -->'


def case(guard: str, *targets: str, work: tuple[Action, ...] = (), aware: bool = False) -> Case:
    return Case(None if guard == "default" else f"{{{{ {guard} }}}}", aware, targets, work)


def plan_of(*steps: Step, name: str = "example") -> Plan:
    return Plan(Header(name, steps[0].name), {step.name: step for step in steps}, {})


def forked_plan() -> Plan:
    """Return a plan with a fork, a join, a cycle, an error path, in-place work and an unreachable step."""
    return plan_of(
        Step(
            "load",
            (Action("http", {"url": "https://x.test"}),),
            cases=(case("result.success", "left", "right", aware=True), case("error", "report", aware=True)),
        ),
        Step("meet", (Action("log", {}),), join=Join("load"), cases=(case("again", "load"),), max_visits=3),
        Step("left", (TaskCall("sum", {}),), cases=(case("default", "meet"),), regions=("meet",)),
        Step("right", cases=(case("default", "meet"),), regions=("meet",)),
        Step("report", (Action("fail", {}),), cases=(case("default", work=(Action("log", {}),)),)),
        Step("lonely", cases=(case("default", "meet"),)),
    )


def chain_plan(length: int) -> Plan:
    names = [f"step {number}" for number in range(length)]
    following = zip(names, [*names[1:], None], strict=True)
    return plan_of(
        *(
            Step(name, (Action("log", {}),), cases=(case("default", after),) if after else ())
            for name, after in following
        )
    )


def test_text_lists_steps_in_the_order_of_the_flow() -> None:
    assert text.draw(forked_plan(), catalogue()) == (
        "example: 6 steps, 7 edges, 1 fork, 1 join\n"
        "1  load     http GET  (start)\n"
        "   ├─ result.success ⇉ left, right\n"
        "   └─ error          → report\n"
        "2    left   task sum                          → meet\n"
        "3    right                                    → meet\n"
        "4  meet     log  (join: all since load, at most 3 visits)\n"
        "   ├─ again     → ↺ load\n"
        "   └─ otherwise ■\n"
        "5  report   fail                              ▪ log ■\n"
        "6  lonely   (unreachable)                     → meet\n"
    )


@pytest.mark.parametrize(
    ("visits", "words"),
    [
        (1, "at most 1 visit"),
        (1234, "at most 1,234 visits"),
        (MAX_COUNTED_VISITS, "1,000,000,000,000,000 visits or more"),
    ],
)
def test_text_shows_the_visit_bound(visits: int, words: str) -> None:
    plan = chain_plan(2)
    plan = replace(plan, header=replace(plan.header, statistics={"most_visits": visits}))
    assert text.draw(plan, catalogue()).splitlines()[0] == f"example: 2 steps, 1 edge, {words}"


def test_all_formats_show_how_branches_join() -> None:
    plan = plan_of(
        Step("a", cases=(case("x", "b", "c"), case("default", "c", "d"))),
        Step("b", join=Join("a", "any"), cases=(case("default", "d"),)),
        Step("c", runs_per_branch=True, cases=(case("default", "d"),)),
        Step("d", join=Join(None), cases=(case("x", "e"), case("y", "e"))),
        Step("e"),
    )
    notes = dict(re.findall(r"^\d +(\w).*\((.*)\)", text.draw(plan, catalogue()), re.MULTILINE))
    assert notes == {
        "a": "start",
        "b": "join: any since a",
        "c": "join: each",
        "d": "join: all since the start",
        "e": "no join needed",
    }
    alone = plan_of(Step("a", cases=(case("x", "b"), case("default", "b"))), Step("b"))
    assert "join" not in text.draw(alone, catalogue())
    for drawn, label in (
        (mermaid.draw(plan, catalogue()), "<b>{}</b><br/>join#58; {}"),
        (dot.draw(plan, catalogue()), "{}\\njoin: {}"),
    ):
        for step, mode in (("b", "any"), ("c", "each"), ("d", "all")):
            assert f'"{label.format(step, mode)}"' in drawn


def test_text_shows_the_state_of_each_step() -> None:
    lines = text.draw(
        forked_plan(), catalogue(), {"load": "succeeded", "left": "running", "report": "failed"}
    ).splitlines()
    assert [line[3] for line in lines if re.match(r"\d", line)] == list("✓▶··✗·")


def test_text_stays_short_for_long_playbooks() -> None:
    lines = text.draw(chain_plan(200), catalogue()).splitlines()
    assert len(lines) == 201
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("draw", [text.draw, mermaid.draw, dot.draw])
def test_drawing_is_deterministic_and_linear(draw: object) -> None:
    assert callable(draw)
    assert draw(forked_plan(), catalogue()) == draw(forked_plan(), catalogue())
    assert len(draw(chain_plan(4000), catalogue())) < 3 * len(draw(chain_plan(2000), catalogue()))


def test_outline_keeps_branches_together_and_finds_back_edges() -> None:
    shape = make_outline(forked_plan(), catalogue())
    assert shape.order == ("load", "left", "right", "meet", "report", "lonely")
    assert shape.unreachable == {"lonely"}
    assert shape.leads_back("meet", "load")
    assert not shape.leads_back("load", "left")
    assert not shape.leads_back("lonely", "meet")


def test_a_step_may_match_no_case_unless_its_guards_are_exhaustive() -> None:
    assert may_match_no_case(Step("a", cases=(case("x", "b"),)))
    assert may_match_no_case(Step("a", cases=(case("error", "b", aware=True),)))
    assert not may_match_no_case(Step("a", cases=(case("default", "b"),)))
    assert not may_match_no_case(Step("a", cases=(case("result.success", "b"), case("error", "c"))))


def test_work_is_summarised_in_a_few_words() -> None:
    work = (
        Action("http", {"method": "POST", "url": "x"}),
        Action("file", {"write": "x", "content": "y"}),
        Action("set", {"set": {"a": 1, "b": 2}}),
        TaskCall("sum", {}),
    )
    summarise_run = make_outline(forked_plan(), catalogue()).summarise_run
    assert summarise_run(work) == "http POST, file write, set a, b, task sum"
    assert summarise_run(work, limit=28) == "http POST, file write +2"
    assert summarise_run(work[:2], parallel=True) == "http POST & file write"


def test_mermaid_marks_forks_joins_ends_errors_and_states() -> None:
    drawn = mermaid.draw(forked_plan(), catalogue(), {"load": "running"})
    for line in (
        "  start(( )) --> s1",
        '  s1["<b>load</b><br/>http GET"]',
        '  s1 -->|"result.success"| f1_1[ ]:::bar',
        "  f1_1 --> s2",
        '  s1 -.->|"error"| s5',
        "  s2 --> j4",
        "  j4[ ]:::bar --> s4",
        '  s5 --> w5_1(["log"]):::work',
        "  w5_1 --> e5_1((( )))",
        '  s4 -->|"otherwise"| e4((( )))',
        "  class s1 running",
    ):
        assert line in drawn.splitlines()


def test_all_formats_show_cases_that_end_the_branch() -> None:
    cases = (case("result.data > 3"), Case("{% if result.data %}true{% endif %}"), case("default", "b"))
    plan = plan_of(
        Step("a", (Action("log", {}),), cases=cases, retry=Retry(attempts=3)), Step("b", (Action("log", {}),))
    )
    drawn = text.draw(plan, catalogue())
    assert "3 attempts" in drawn
    assert [line.split(maxsplit=1)[1] for line in drawn.splitlines()[2:5]] == [
        "result.data > 3                     ■",
        "{% if result.data %}true{% endif %} ■",
        "default                             → b",
    ]
    drawn = mermaid.draw(plan, catalogue())
    assert '  s1 -->|"result.data #62; 3"| e1_1((( )))' in drawn.splitlines()
    drawn = dot.draw(plan, catalogue())
    assert re.search(r"^  e1_1 \[.*\]$", drawn, re.MULTILINE)
    assert '  s1 -> e1_1 [label=" result.data > 3 ", class="case-1"]' in drawn.splitlines()


def test_mermaid_escapes_names() -> None:
    plan = plan_of(Step(NASTY, (Action("log", {}),), cases=(case('x == "|"', NASTY),)))
    drawn = mermaid.draw(plan, catalogue())
    label = re.search(r"<b>(.*)</b>", drawn)
    assert label is not None
    assert not set('"<>&|`{}%;') - {";"} & set(label[1])
    assert re.sub(r"#(\d+);", lambda entity: chr(int(entity[1])), label[1]) == NASTY


def test_dot_gives_steps_ids_and_classes() -> None:
    drawn = dot.draw(forked_plan(), catalogue(), {"left": "succeeded"})
    assert '  s1 [id="n-1", class="pending", label="load\\nhttp GET"' in drawn
    assert '  s2 [id="n-2", class="succeeded"' in drawn
    assert 'style=dashed, color="#cf222e"' in drawn
    assert "  j4 -> s4" in drawn


@pytest.mark.parametrize(
    "plan", [forked_plan(), chain_plan(200), plan_of(Step(NASTY), name=NASTY)], ids=["forked", "200", "nasty"]
)
def test_graphviz_draws_every_step(plan: Plan) -> None:
    program = shutil.which("graphviz-pure", path=sysconfig.get_path("scripts"))
    assert program is not None
    drawn = subprocess.run(
        [program, "-Tsvg"], input=dot.draw(plan, catalogue()).encode(), capture_output=True, check=True
    )
    groups = ET.fromstring(drawn.stdout).iter("{http://www.w3.org/2000/svg}g")
    texts = {
        group.get("id"): "".join(group.itertext())
        for group in groups
        if (group.get("id") or "").startswith("n-")
    }
    assert len(texts) == len(plan.steps)
    for number, name in enumerate(make_outline(plan, catalogue()).order, 1):
        assert name in texts[f"n-{number}"].replace("\xa0", " ")


def test_control_characters_are_not_drawn() -> None:
    plan = plan_of(Step("a\x1b[31m", cases=(case("x\n == '\x1b'", "a\x1b[31m"),)))
    for drawn in (text.draw(plan, catalogue()), mermaid.draw(plan, catalogue()), dot.draw(plan, catalogue())):
        assert "\x1b" not in drawn


def test_all_formats_show_loops_and_repetitions() -> None:
    plan = plan_of(
        Step("a", loop=Loop("{{ range(9) | list }}", batch=3), cases=(case("default", "b"),)),
        Step("b", repeat=Repeat("{{ result.success }}", 1.0, 4)),
        Step("last", is_finally_step=True),
    )
    for drawn in (text.draw(plan, catalogue()), mermaid.draw(plan, catalogue()), dot.draw(plan, catalogue())):
        for words in ("for range", "3 at a time", "up to 4 rounds", "finally"):
            assert words in drawn
        assert "unreachable" not in drawn


def test_an_action_of_an_uninstalled_package_is_drawn_by_its_type() -> None:
    plan = plan_of(Step("a", (Action("gone", {"value": 1}),)))
    for drawn in (text.draw(plan, catalogue()), mermaid.draw(plan, catalogue()), dot.draw(plan, catalogue())):
        assert "gone" in drawn
