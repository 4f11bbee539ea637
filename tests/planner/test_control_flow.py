from __future__ import annotations

import pytest

from tests.planner.findings import OK, diagnose, findings, hints, messages


def steps(**rules: str) -> str:
    """A playbook of steps with these rules; without one a step has work."""
    lines = [f"- {{name: {name}, {rule or f'run: [{OK}]'}}}" for name, rule in rules.items()]
    return "steps:\n" + "\n".join(lines)


def to(*targets: str, case: str = "default") -> str:
    return f"rule: [{{case: {case}, run: [{', '.join(targets)}]}}]"


class TestUnreachable:
    def test_a_step_that_nothing_leads_to(self) -> None:
        assert findings(steps(a="", b="")) == [("NP201", "b")]

    def test_only_the_first_of_many(self) -> None:
        assert findings(steps(a="", b=to("c"), c=to("d"), d="")) == [("NP201", "b")]

    def test_a_circle_that_nothing_leads_to(self) -> None:
        text = steps(a="", b="max_visits: 2, " + to("c"), c=to("b"))
        assert [code for code, _ in findings(text)] == ["NP201", "NP201"]

    def test_the_start_is_another(self) -> None:
        assert findings("start: b\n" + steps(a="", b="")) == [("NP201", "a")]

    def test_neighbours_of_an_unknown_step_are_not_reported(self) -> None:
        assert findings(steps(a=to("notfiy"), notify=to("c"), c="")) == [("NP101", "notfiy")]
        assert findings(steps(a=to("zzz"), b="", c="")) == [("NP101", "zzz")]

    def test_what_is_unreachable_beside_a_slip(self) -> None:
        assert findings(steps(a=to("notfiy"), notify="", c="")) == [("NP101", "notfiy"), ("NP201", "c")]

    def test_the_last_step_is_reached(self) -> None:
        text = "finally: b\n" + steps(a="", b="")
        assert findings(text, "NP201", "NP207") == []


class TestCycles:
    @pytest.mark.parametrize(
        ("text", "cycle", "word"),
        [
            (steps(a=to("a", case="'{{ run.id }}'")), "a → a", "a"),
            (steps(a=to("b"), b=to("c"), c=to("b", case="'{{ run.id }}'")), "b → c → b", "b"),
            (steps(a=to("b"), b=to("c"), c=to("{step: a}", case="'{{ run.id }}'")), "a → b → c → a", "a"),
        ],
    )
    def test_a_cycle_without_a_bound(self, text: str, cycle: str, word: str) -> None:
        assert findings(text, "NP202") == [("NP202", word)]
        assert messages(text, "NP202") == [f"cycle {cycle} has no bound"]

    def test_a_bound_anywhere_on_the_cycle_will_do(self) -> None:
        text = steps(a=to("b"), b="max_visits: 3, " + to("c"), c=to("b", case="'{{ run.id }}'"))
        assert findings(text) == []

    def test_each_cycle_needs_a_bound(self) -> None:
        rule = "rule: [{case: '{{ run.id }}', run: [b]}, {case: '{{ not run.id }}', run: [c]}]"
        text = steps(a=rule, b="max_visits: 2, " + to("a"), c=to("a", case="'{{ run.id }}'"))
        assert messages(text, "NP202") == ["cycle a → c → a has no bound"]

    def test_a_bound_without_a_cycle(self) -> None:
        assert findings(steps(a=f"max_visits: 1, run: [{OK}]")) == []


class TestDeadCases:
    @pytest.mark.parametrize(
        ("cases", "codes"),
        [
            (["default", "'{{ run.id }}'"], ["NP203"]),
            (["'{{ true }}'", "'{{ run.id }}'", "default"], ["NP203", "NP203"]),
            (["'{{True}}'", "default"], ["NP203"]),
            (["'{{ false }}'", "default"], ["NP203"]),
            (["default", "error"], []),
            (["default", "'{{ not result.success }}'"], []),
            (["error", "default"], []),
            (["'{{ run.id }}'", "default"], []),
            (["default", "default"], ["NP206"]),
            (["default", "'{{ run.id }}'", "default"], ["NP203", "NP206"]),
        ],
    )
    def test_cases(self, cases: list[str], codes: list[str]) -> None:
        rule = ", ".join(f"{{case: {case}, run: []}}" for case in cases)
        found = findings(steps(a=f"run: [{OK}], rule: [{rule}]"))
        assert sorted(code for code, _ in found) == codes
        assert {word for code, word in found if code == "NP203"} <= {"case"}

    @pytest.mark.parametrize(
        ("first", "second", "why"),
        [
            ("x > 3", "x > 5", "an earlier case is taken whenever this guard is true"),
            ("x > 'a'", "x > 5", "an earlier case is taken, or fails, whenever this guard is true"),
            ("x == 1 or x != 1", "x", "an earlier case is always taken"),
            ("x > 'a' or x <= 'a'", "x", "an earlier case is always taken, or fails"),
            ("x", "x > 5 and x < 5", "its guard is never true"),
        ],
    )
    def test_why(self, first: str, second: str, why: str) -> None:
        rule = f"""[{{case: "{{{{ {first} }}}}"}}, {{case: "{{{{ {second} }}}}"}}]"""
        text = steps(a=f"run: [{OK}], rule: {rule}")
        assert messages(text, "NP203") == [f"unreachable case: {why}"]


class TestRefusals:
    """A case for `MaxVisitsExceeded` where no visit can be one too many."""

    TEXT = """
        steps:
        - name: a
          max_visits: 2
          run: [{action: shell, command: ls}]
          rule: [{case: "{{ error.type == 'MaxVisitsExceeded' }}", run: [c]}, {case: error, run: []}, {case: default, run: [b]}]
        - {name: b, run: [{action: log, message: b}], rule: [{case: "{{ run.id }}", run: [a]}]}
        - {name: c, run: [{action: log, message: c}]}
    """

    def test_on_no_cycle(self) -> None:
        assert findings(self.TEXT) == []
        assert findings(self.TEXT.replace("run: [a]", "run: [c]")) == [("NP203", "case")]
        assert findings(self.TEXT.replace("max_visits: 2", "").replace("run: [a]", "run: [c]")) == [
            ("NP203", "case")
        ]

    def test_where_branches_enter_one_after_another(self) -> None:
        fork = "start: z\n" + self.TEXT.replace("run: [a]", "run: [c]").replace(
            "max_visits: 2", "max_visits: 2\n          join: each"
        )
        fork += "        - {name: z, rule: [{case: default, run: [y, a]}]}\n        - {name: y, rule: [{case: default, run: [a]}]}\n"
        assert "NP203" not in [code for code, _ in findings(fork)]

    @pytest.mark.parametrize("type", ["MaxVisitsExceeded", '"{{ run.id }}"'])
    def test_work_that_fails_so(self, type: str) -> None:
        text = self.TEXT.replace("run: [a]", "run: [c]")
        failing = text.replace(
            "command: ls}",
            f'command: ls}}, {{action: fail, if: "{{{{ run.id }}}}", message: odd, type: {type}}}',
        )
        assert findings(failing) == []
        assert findings(failing.replace(f"type: {type}", "type: Odd")) == [("NP203", "case")]

    def test_a_slip_elsewhere_comes_first(self) -> None:
        assert [code for code, _ in findings(self.TEXT.replace("run: [a]", "run: [aa]"))] == ["NP101"]


class TestEnds:
    @pytest.mark.parametrize(
        "text",
        [
            steps(a="max_visits: 5, " + to("a")),
            steps(a="max_visits: 5, " + to("b"), b=to("a", case="'{{ true }}'")),
            steps(
                a="max_visits: 5, " + to("b"),
                b="rule: [{case: '{{ run.id }}', run: [b]}, {case: default, run: [a]}], max_visits: 2",
            ),
        ],
    )
    def test_no_end_can_be_reached(self, text: str) -> None:
        assert "NP204" in [code for code, _ in findings(text)]

    @pytest.mark.parametrize(
        "text",
        [
            steps(a="max_visits: 5, " + to("a", case="'{{ run.id }}'")),
            steps(a="max_visits: 5, rule: [{case: '{{ run.id }}', run: []}, {case: default, run: [a]}]"),
            steps(a="max_visits: 5, rule: [{case: error, run: [b]}, {case: default, run: [a]}]", b=""),
        ],
    )
    def test_an_end_can_be_reached(self, text: str) -> None:
        assert findings(text) == []


class TestRunaways:
    def test_a_round_that_leaves_a_branch_behind(self) -> None:
        text = steps(a="max_visits: 3, " + to("b"), b=to("a", "c"), c="")
        assert findings(text, "NP205") == [("NP205", "b")]
        expected = "cycle b → a → b may start its next round before the branch at `c` has ended"
        assert messages(text, "NP205") == [expected]
        assert hints(text, "NP205") == [
            "lead all branches of the fork to one step, and start the next round from there"
        ]
        (runaway,) = (diagnostic for diagnostic in diagnose(text) if diagnostic.code == "NP205")
        (label,) = runaway.labels
        assert (runaway.span.line, label.span.line, label.text) == (2, 3, "the branches separate here")

    def test_joins_that_wait_for_each_other(self) -> None:
        text = steps(
            a=to("b", "c"),
            b="max_visits: 2, " + to("c", case="'{{ run.id }}'"),
            c=to("b", case="'{{ run.id }}'"),
        )
        assert findings(text) == [("NP205", "b")]
        assert messages(text) == ["joins `b`, `c` wait for each other on the cycle b → c → b"]

    def test_the_first_comes_back_to_a_step_that_did_not_wait(self) -> None:
        again = to("b", case="'{{ run.id }}'")
        text = steps(a=to("b", "c"), b=to("d"), c=to("d"), d=f"join: any, max_visits: 2, {again}")
        assert findings(text) == [("NP205", "any")]
        assert messages(text) == [
            (
                "cycle d → b → d may start its next round while branches that `join: any` at `d` did not wait for "
                "are on the way to `d`"
            )
        ]

    def test_the_first_begins_a_round_before_another_step_has_them_all(self) -> None:
        again = to("a", case="'{{ run.id }}'")
        text = steps(
            a="max_visits: 2, " + to("b", "c", "d"),
            b=to("e"), c=to("e"), d=to("f"), e=to("f"), f=f"join: any, {again}",
        )  # fmt: skip
        assert findings(text) == [("NP205", "any")]
        assert messages(text) == [
            (
                "cycle f → a → d → f may start its next round while branches that `join: any` at `f` did not wait for "
                "are on the way to `e`"
            )
        ]

    def test_races_on_a_cycle_where_branches_go_one_after_another(self) -> None:
        again = to("a", case="'{{ run.id }}'")
        text = steps(a="max_visits: 2, " + to("b", "c"), b=to("d"), c=to("d"), d=f"join: any, {again}")
        assert findings(text) == []
        assert findings("mode: sequential\n" + text) == [("NP205", "any")]
        once = steps(a=to("b", "c"), b=to("d"), c=to("d"), d=f"join: any, run: [{OK}]")
        assert findings("mode: sequential\n" + once) == []

    def test_one_more_branch_in_every_round(self) -> None:
        rule = "rule: [{case: '{{ run.id }}', run: [a, b]}, {case: default, run: [b]}]"
        text = steps(a=f"max_visits: 2, {rule}", b=f"run: [{OK}], join: MODE")
        assert findings(text.replace("MODE", "all")) == [("NP205", "a")]
        assert findings(text.replace("MODE", "each")) == []

    def test_a_cycle_around_a_join(self) -> None:
        text = steps(
            a="max_visits: 2, " + to("b", "c"), b=to("d"), c=to("d"), d=to("a", case="'{{ run.id }}'")
        )
        assert findings(text) == []


class TestFinally:
    def test_the_last_step_may_not_be_part_of_the_flow(self) -> None:
        assert findings("finally: b\n" + steps(a=to("b"), b=""), "NP207") == [("NP207", "b")]
        assert findings("finally: a\n" + steps(a=""), "NP207") == [("NP207", "a")]
