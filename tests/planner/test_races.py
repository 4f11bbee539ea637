from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from noetl.planner import lower
from noetl.planner.checks import races
from noetl.planner.dataflow import liveness
from noetl.planner.graph import concurrency
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import find_joins
from tests.planner.branch_model import TooManyStates
from tests.planner.causality_model import MAX_VISITS, CausalityModel
from tests.planner.findings import diagnose, findings, hints, messages, playbook
from tests.property_settings import examples
from tests.strategies import any_flows, mixed_modes


def step(name: str, *targets: str, saves: str = "", more: str = "") -> str:
    """Return a step that saves one name or none, and leads to all targets at once."""
    work = f"{{action: set, set: {{{saves}: 1}}}}" if saves else "{action: log, message: m}"
    rule = f", rule: [{{case: default, run: [{', '.join(targets)}]}}]" if targets else ""
    return f"{{name: {name}, run: [{work}]{more}{rule}}}"


def find_races(*steps: str, head: str = "") -> list[str]:
    """Return the names with races, each with the lines of its two definitions."""
    return [
        f"{d.message.split('`')[1]} {','.join(str(label.span.line) for label in d.labels)},{d.span.line}"
        for d in diagnose(playbook(*steps, head=head))
        if d.code == "NP303"
    ]


FORK = step("a", "b", "c")


class TestRacingBranches:
    def test_both_definitions_are_shown(self) -> None:
        text = playbook(FORK, step("b", saves="x"), step("c", saves="x"))
        (diagnostic,) = (d for d in diagnose(text) if d.code == "NP303")
        assert (diagnostic.severity, diagnostic.span.line) == ("error", 4)
        assert [(label.span.line, label.text) for label in diagnostic.labels] == [(3, "`b` saves it here")]
        assert findings(text, "NP303") == [("NP303", "x")]
        assert messages(text, "NP303") == ["`x` is saved by steps `b` and `c`, which may run in parallel"]

    @pytest.mark.parametrize(
        "steps",
        [
            pytest.param((FORK, step("b", saves="x"), step("c", "d"), step("d", saves="x")), id="further on"),
            pytest.param(
                (
                    step("a", "b", "c", "d"),
                    step("b", "e", saves="x"),
                    step("c", "e"),
                    step("d", saves="x"),
                    step("e"),
                ),
                id="next to a join",
            ),
            pytest.param(
                (
                    FORK,
                    step("b", "d"),
                    step("c", "e"),
                    step("d", "e", saves="x"),
                    step("e", "f", more=", join: any"),
                    step("f", saves="x"),
                ),
                id="too late",
            ),
            pytest.param(
                (
                    FORK,
                    "{name: b, rule: [{case: '{{ run.id }}', run: [d]}, {case: default, run: [e]}]}",
                    step("c", "d"),
                    step("d", saves="x"),
                    step("e", saves="x"),
                ),
                id="past a join",
            ),
            pytest.param(
                (
                    FORK,
                    step("b", saves="x"),
                    "{name: c, rule: [{case: default, run: [{action: log, message: m, as: x}]}]}",
                ),
                id="in place",
            ),
            pytest.param(
                (
                    FORK,
                    step("b", saves="x"),
                    "{name: c, run: [{action: log, message: m, loop: {items: [1]}, as: x}]}",
                ),
                id="the list of a loop",
            ),
        ],
    )
    def test_branches_that_race(self, steps: tuple[str, ...]) -> None:
        (name,) = {race.split()[0] for race in find_races(*steps)}
        assert name == "x"

    @pytest.mark.parametrize(
        "steps",
        [
            pytest.param(
                (FORK, step("b", "d", saves="x"), step("c", "d", saves="y"), step("d")), id="other names"
            ),
            pytest.param(
                (FORK, step("b", "d", saves="x"), step("c", "d"), step("d", saves="x")), id="at the join"
            ),
            pytest.param(
                (FORK, step("b", "d", saves="x"), step("c", "d"), step("d", "e"), step("e", saves="x")),
                id="behind it",
            ),
            pytest.param(
                (step("a", "b", "c", saves="x"), step("b", saves="x"), step("c")), id="before the fork"
            ),
            pytest.param(
                (FORK, step("b", "d", saves="x"), step("c"), step("d", saves="x")), id="one after another"
            ),
            pytest.param(
                (
                    "{name: a, rule: [{case: '{{ run.id }}', run: [b]}, {case: default, run: [c]}]}",
                    step("b", saves="x"),
                    step("c", saves="x"),
                ),
                id="exclusive cases",
            ),
            pytest.param(
                (
                    FORK,
                    step("b", "d"),
                    step("c", "d"),
                    step("d", "e", more=", join: any", saves="x"),
                    step("e", saves="x"),
                ),
                id="behind the first of them",
            ),
            pytest.param(
                (
                    FORK,
                    step("b", saves="x"),
                    "{name: c, loop: {items: [1]}, run: [{action: set, set: {x: 1}}]}",
                ),
                id="local to the item of a step's loop",
            ),
            pytest.param(
                (
                    FORK,
                    step("b", saves="x"),
                    "{name: c, run: [{action: set, set: {x: 1}, loop: {items: [1]}}]}",
                ),
                id="local to the item of an action's loop",
            ),
            pytest.param(
                (
                    step("a", "b", "c", more=", max_visits: 2", saves="x"),
                    step("b", "d"),
                    step("c", "d"),
                    step("d", "a"),
                ),
                id="in every round",
            ),
        ],
    )
    def test_branches_that_do_not_race(self, steps: tuple[str, ...]) -> None:
        assert find_races(*steps) == []

    @pytest.mark.parametrize(
        ("cases", "races"),
        [
            pytest.param(("q, z", "z"), [], id="the branch arrives, or goes elsewhere"),
            pytest.param(("q", ""), [], id="the branch arrives, or ends"),
            pytest.param(("m, z", "q"), ["v 4,5"], id="what follows elsewhere"),
            pytest.param(("m, q", "z"), ["v 4,5"], id="what another branch does"),
            pytest.param(("z", ""), ["v 3,4"], id="the branch cannot arrive"),
        ],
    )
    def test_join_follows_the_branches_that_it_waited_for(
        self, cases: tuple[str, str], races: list[str]
    ) -> None:
        """`q` writes after `p` where it waits for `p`, also if the branch then goes elsewhere."""
        first, second = cases
        save = "run: [{action: set, set: {v: 1}}]"
        rule = f"[{{case: '{{{{ run.id }}}}', run: [{first}]}}, {{case: default, run: [{second}]}}]"
        steps = (
            step("s", "p", "q"),
            f"{{name: p, {save}, rule: {rule}}}",
            step("q", "z", saves="v"),
            step("m", saves="v"),
            step("z"),
        )
        assert find_races(*steps) == races

    def test_each_definition_is_reported_once(self) -> None:
        assert find_races(step("a", "b", "c", "d"), *(step(name, saves="x") for name in "bcd")) == [
            "x 3,4",
            "x 3,5",
        ]

    def test_names_of_tasks_count_for_their_callers(self) -> None:
        tasks = "tasks: {t: [u], u: [{action: set, set: {x: 1}}]}\n"
        text = playbook(FORK, "{name: b, run: [t]}", "{name: c, run: [{task: u}]}", head=tasks)
        assert findings(text, "NP303") == [("NP303", "u")]
        assert find_races(FORK, "{name: b, run: [t]}", step("c", saves="x"), head=tasks) == ["x 4,5"]
        looped = "{name: c, run: [{task: u, loop: {items: [1]}}]}"
        assert find_races(FORK, "{name: b, run: [t]}", looped, head=tasks) == []

    def test_sequential_mode_has_no_races(self) -> None:
        steps = (FORK, step("b", saves="x"), step("c", saves="x"))
        assert find_races(*steps, head="mode: sequential\n") == []

    def test_races_are_not_reported_if_a_step_is_unknown(self) -> None:
        steps = (FORK, step("b", "nowhere", saves="x"), step("c", saves="x"))
        assert [code for code, _ in findings(playbook(*steps))] == ["NP101"]

    def test_unreachable_case_causes_no_race(self) -> None:
        guarded = "rule: [{case: '{{ x is defined }}', run: [c]}]"
        steps = (FORK, f"{{name: b, run: [{{action: set, set: {{y: 1}}}}], {guarded}}}")
        assert find_races(*steps, "{name: c, run: [{action: set, set: {x: 1, y: 1}}]}") == []


class TestRacingVisits:
    def test_multi_merge_races_with_itself(self) -> None:
        text = playbook(FORK, step("b", "d"), step("c", "d"), step("d", more=", join: each", saves="x"))
        assert findings(text, "NP303") == [("NP303", "x")]
        assert messages(text, "NP303") == ["`x` is saved by several visits of `d`, which may run in parallel"]
        assert hints(text, "NP303") == [races.SAVE_AFTER_JOIN]
        (label,) = next(d for d in diagnose(text) if d.code == "NP303").labels
        assert (label.span.line, label.text) == (5, "this step runs for each branch")

    def test_multi_merge_with_one_branch_does_not_race(self) -> None:
        assert find_races(step("a", "d"), step("d", more=", join: each", saves="x")) == []

    def test_late_branch_races_with_the_next_round(self) -> None:
        text = playbook(
            "{name: a, max_visits: 2, rule: [{case: error, run: []}, {case: default, run: [b, c]}]}",
            step("b", "d"),
            step("c", "d", saves="x"),
            step("d", "a", more=", join: any"),
        )
        assert messages(text, "NP303") == ["`x` is saved by several visits of `c`, which may run in parallel"]
        assert hints(text, "NP303") == [races.WAIT_FOR_ALL]

    @pytest.mark.parametrize(
        ("bound", "cases", "races"),
        [
            pytest.param(1, "", 0, id="there is no second round"),
            pytest.param(1, "{case: error, run: []}, ", 0, id="the refusal ends the branch"),
            pytest.param(1, "{case: error, run: [a]}, ", 0, id="the refusal does not lead back"),
            pytest.param(1, "{case: error, run: [b]}, ", 1, id="the refusal leads on"),
            pytest.param(2, "", 1, id="there is one"),
        ],
    )
    def test_branch_of_the_previous_round(self, bound: int, cases: str, races: int) -> None:
        first = f"{{name: a, max_visits: {bound}, rule: [{cases}{{case: default, run: [b, a]}}]}}"
        assert len(find_races(first, step("b", more=", join: each", saves="x"))) == races

    def test_unreachable_step_has_no_second_round(self) -> None:
        unreachable = "{name: d, max_visits: 1, rule: [{case: error, run: [d]}]}"
        assert find_races(FORK, step("b", saves="x"), step("c", saves="x"), unreachable) == ["x 3,4"]

    @pytest.mark.parametrize(("bound", "races"), [(1, []), (2, ["x 5,5", "y 6,6"])])
    def test_step_with_one_visit_lets_one_branch_through(self, bound: int, races: list[str]) -> None:
        multi_merge = ", join: each"
        gate = step("d", "e", more=f"{multi_merge}, max_visits: {bound}", saves="x")
        assert (
            find_races(FORK, step("b", "d"), step("c", "d"), gate, step("e", more=multi_merge, saves="y"))
            == races
        )


class TestRacingItems:
    def test_parallel_items_of_a_step(self) -> None:
        text = playbook(
            "{name: a, parallel: true, run: [{action: set, set: {x: 1}}, {action: log, message: m, as: x}]}"
        )
        assert messages(text, "NP303") == ["`x` is saved by two items that run in parallel"]
        (diagnostic,) = (d for d in diagnose(text) if d.code == "NP303")
        assert [(label.span.column, label.text) for label in diagnostic.labels] == [
            (55, "the first item is here")
        ]

    def test_parallel_items_of_a_task(self) -> None:
        save = "{action: set, set: {x: 1}}"
        head = f"tasks: [{{name: t, parallel: true, run: [{save}, {save}]}}]\n"
        assert find_races("{name: a, run: [t]}", head=head) == ["x 1,1"]

    def test_sequential_items_do_not_race(self) -> None:
        assert find_races("{name: a, run: [{action: set, set: {x: 1}}, {action: set, set: {x: 2}}]}") == []

    def test_names_saved_in_a_loop_do_not_race(self) -> None:
        items = "run: [{action: set, set: {x: 1}}, {action: set, set: {x: 2}}]"
        assert find_races(f"{{name: a, parallel: true, loop: {{items: [1]}}, {items}}}") == []


class TestExclusiveBranches:
    """Branches with guards that test the same constant value and cannot both be true."""

    HEAD = "input: {p: boolean, m: {type: string, enum: [a, b, c]}}\n"
    READ = step("e").replace("message: m", "message: '{{ x | default(0) }}'")

    @pytest.mark.parametrize(
        ("first", "second", "has_race"),
        [
            ("p", "not p", False),
            ("m == 'a'", "m == 'b'", False),
            ("m == 'a'", "input.m != 'a'", False),
            ("m == 'a'", "m == 'a'", True),
            ("p", "m == 'a'", True),
            ("m != 'a'", "m != 'b'", True),
            ("w", "not w", True),
        ],
    )
    def test_exclusive_conditions_of_steps_and_items(self, first: str, second: str, has_race: bool) -> None:
        head = f"{self.HEAD}variables: {{w: true}}\n"
        guarded = [
            f"{{name: {name}, run: [{{action: set, set: {{{saved}: 1}}}}], "
            f'rule: [{{case: "{{{{ {guard} }}}}", run: [{target}]}}]}}'
            for name, guard, target, saved in (("b", first, "d", "w"), ("c", second, "f", "k"))
        ]
        races_found = find_races(
            FORK, *guarded, step("d", "e", saves="x"), self.READ, step("f", "e", saves="x"), head=head
        )
        assert [name for name, _ in map(str.split, races_found) if name == "x"] == (["x"] if has_race else [])
        items = ", ".join(
            f'{{action: set, set: {{x: 1}}, if: "{{{{ {guard} }}}}"}}' for guard in (first, second)
        )
        parallel = f"{{name: a, parallel: true, run: [{items}], rule: [{{case: default, run: [e]}}]}}"
        saved = step("z", "a", saves="w")
        assert bool(find_races(saved, parallel, self.READ, head=head)) is has_race

    def test_third_item_races_with_both(self) -> None:
        items = [f'{{action: set, set: {{x: 1}}, if: "{{{{ {guard} }}}}"}}' for guard in ("p", "not p")]
        parallel = f"{{name: a, parallel: true, run: [{', '.join(items)}, {{action: set, set: {{x: 2}}}}], "
        assert find_races(f"{parallel}rule: [{{case: default, run: [e]}}]}}", self.READ, head=self.HEAD) == [
            "x 3,3"
        ]


def test_races_past_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(races, "MAX_RACES", 3)
    branches = [step(f"b{index}", saves="x") for index in range(9)]
    diagnostics = diagnose(playbook(step("a", *(f"b{index}" for index in range(9))), *branches))
    assert [d.code for d in diagnostics].count("NP303") == 3
    assert (diagnostics[-1].code, diagnostics[-1].message) == ("NP902", "5 more findings are not shown")


def test_races_of_one_step_past_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(races, "MAX_RACES", 1)
    merge = step("d", more=", join: each", saves="x: 1, y: 1, z")
    diagnostics = diagnose(playbook(FORK, step("b", "d"), step("c", "d"), merge))
    assert [d.code for d in diagnostics].count("NP303") == 1
    assert diagnostics[-1].message == "2 more findings are not shown"


def test_too_many_live_names_are_reported_instead_of_races(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (liveness, lower, races):
        monkeypatch.setattr(module, "MAX_LIVE_NAMES", 1)
    text = playbook(FORK, step("b", saves="x"), step("c", saves="x"))
    assert [code for code, _ in findings(text)] == ["NP701"]


def test_races_are_not_reported_past_the_concurrency_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (FORK, step("b", saves="x"), step("c", saves="x"))
    monkeypatch.setattr(concurrency, "MAX_MOVES", 1)
    assert find_races(*steps) == []


def find_racing_steps(cfg: ControlFlowGraph, modes: Mapping[str, str]) -> set[frozenset[str]]:
    """Return the pairs of steps for which NP303 is reported if they share a name; also a step and itself."""
    order = list(cfg.targets)
    lines = []
    for name in order:
        saved = ", ".join(f"{'_'.join(sorted((name, other)))}: 1" for other in order if other != name)
        rule = ", ".join(
            f"{{case: '{{{{ run.id == {index} }}}}', run: [{', '.join(targets)}]}}"
            for index, targets in enumerate(cfg.targets[name])
        )
        more = f", join: {modes[name]}" if name in modes else ""
        more += f", max_visits: {MAX_VISITS}" if cfg.is_cyclic(name) else ""
        lines.append(
            f"{{name: {name}, run: [{{action: set, set: {{own_{name}: 1, {saved}}}}}], rule: [{rule}]{more}}}"
        )
    pairs = set()
    for diagnostic in diagnose(playbook(*lines)):
        assert diagnostic.severity != "error" or diagnostic.code == "NP303", diagnostic
        if diagnostic.code == "NP303":
            words = diagnostic.message.split("`")[1::2]
            pairs.add(frozenset(words[1:]))
    return pairs


@examples(1)
@given(drawn=st.data())
def test_races_are_the_pairs_that_nothing_orders(drawn: st.DataObject) -> None:
    """NP303 is exact on acyclic playbooks, and misses no pair on cyclic ones."""
    cfg = drawn.draw(any_flows())
    assume(len(cfg.reachable) == len(cfg.targets) <= 7)
    modes = drawn.draw(mixed_modes(cfg))
    joins = find_joins(cfg, modes)
    assume(not joins.overlapping_cycles)
    try:
        unordered = CausalityModel(cfg, joins).explore()
    except TooManyStates:
        reject()
    racing = find_racing_steps(cfg, modes)
    if any(map(cfg.is_cyclic, cfg.targets)):
        assert unordered <= racing
    else:
        assert unordered == racing
