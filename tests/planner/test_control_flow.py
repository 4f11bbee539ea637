from __future__ import annotations

import pytest

from tests.planner.findings import OK, diagnose, findings, hints, messages


def playbook_of(**rules: str) -> str:
    """Return a playbook of steps with these rules. A step without a rule has work."""
    lines = [f"- {{name: {name}, {rule or f'run: [{OK}]'}}}" for name, rule in rules.items()]
    return "steps:\n" + "\n".join(lines)


def leads_to(*targets: str, case: str = "default") -> str:
    return f"rule: [{{case: {case}, run: [{', '.join(targets)}]}}]"


class TestUnreachableSteps:
    def test_a_step_without_incoming_edge(self) -> None:
        assert findings(playbook_of(a="", b="")) == [("NP201", "b")]

    def test_only_the_first_of_several_unreachable_steps_is_reported(self) -> None:
        assert findings(playbook_of(a="", b=leads_to("c"), c=leads_to("d"), d="")) == [("NP201", "b")]

    def test_an_unreachable_cycle(self) -> None:
        text = playbook_of(a="", b="max_visits: 2, " + leads_to("c"), c=leads_to("b"))
        assert [code for code, _ in findings(text)] == ["NP201", "NP201"]

    def test_a_step_before_the_start(self) -> None:
        assert findings("start: b\n" + playbook_of(a="", b="")) == [("NP201", "a")]

    def test_neighbours_of_an_unknown_step_are_not_reported(self) -> None:
        assert findings(playbook_of(a=leads_to("notfiy"), notify=leads_to("c"), c="")) == [
            ("NP101", "notfiy")
        ]
        assert findings(playbook_of(a=leads_to("zzz"), b="", c="")) == [("NP101", "zzz")]

    def test_no_step_is_unreachable_if_the_start_is_unknown(self) -> None:
        assert findings("start: zzz\n" + playbook_of(a="", b="")) == [("NP101", "zzz")]

    def test_an_unreachable_step_next_to_an_unknown_step(self) -> None:
        assert findings(playbook_of(a=leads_to("notfiy"), notify="", c="")) == [
            ("NP101", "notfiy"),
            ("NP201", "c"),
        ]

    def test_the_finally_step_is_reachable(self) -> None:
        text = "finally: b\n" + playbook_of(a="", b="")
        assert findings(text, "NP201", "NP207") == []


class TestUnboundedCycles:
    @pytest.mark.parametrize(
        ("text", "cycle", "word"),
        [
            (playbook_of(a=leads_to("a", case="'{{ run.id }}'")), "a → a", "a"),
            (
                playbook_of(a=leads_to("b"), b=leads_to("c"), c=leads_to("b", case="'{{ run.id }}'")),
                "b → c → b",
                "b",
            ),
            (
                playbook_of(a=leads_to("b"), b=leads_to("c"), c=leads_to("{step: a}", case="'{{ run.id }}'")),
                "a → b → c → a",
                "a",
            ),
        ],
    )
    def test_a_cycle_without_a_bound(self, text: str, cycle: str, word: str) -> None:
        assert findings(text, "NP202") == [("NP202", word)]
        assert messages(text, "NP202") == [f"cycle {cycle} has no bound"]

    def test_a_bound_on_any_step_of_the_cycle_is_enough(self) -> None:
        text = playbook_of(
            a=leads_to("b"), b="max_visits: 3, " + leads_to("c"), c=leads_to("b", case="'{{ run.id }}'")
        )
        assert findings(text) == []

    def test_each_cycle_needs_a_bound(self) -> None:
        rule = "rule: [{case: '{{ run.id }}', run: [b]}, {case: '{{ not run.id }}', run: [c]}]"
        text = playbook_of(
            a=rule, b="max_visits: 2, " + leads_to("a"), c=leads_to("a", case="'{{ run.id }}'")
        )
        assert messages(text, "NP202") == ["cycle a → c → a has no bound"]

    def test_a_bound_without_a_cycle(self) -> None:
        assert findings(playbook_of(a=f"max_visits: 1, run: [{OK}]")) == []


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
    def test_dead_cases_are_reported(self, cases: list[str], codes: list[str]) -> None:
        rule = ", ".join(f"{{case: {case}, run: []}}" for case in cases)
        found = findings(playbook_of(a=f"run: [{OK}], rule: [{rule}]"))
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
    def test_message_explains_why_a_case_is_dead(self, first: str, second: str, why: str) -> None:
        rule = f"""[{{case: "{{{{ {first} }}}}"}}, {{case: "{{{{ {second} }}}}"}}]"""
        text = playbook_of(a=f"run: [{OK}], rule: {rule}")
        assert messages(text, "NP203") == [f"unreachable case: {why}"]

    def test_message_if_several_cases_cover_a_case_together(self) -> None:
        guards = ("x == 'a'", "x == 'b'", "x in ['a', 'b']")
        rule = ", ".join(f'{{case: "{{{{ {guard} }}}}"}}' for guard in guards)
        text = playbook_of(a=f"run: [{OK}], rule: [{rule}]")
        assert messages(text, "NP203") == ["unreachable case: earlier cases cover all values"]


class TestRefusedVisits:
    """A case for `MaxVisitsExceeded` where no visit can be one too many."""

    TEXT = """
        steps:
        - name: a
          max_visits: 2
          run: [{action: shell, command: ls}]
          rule:
          - {case: "{{ error.type == 'MaxVisitsExceeded' }}", run: [c]}
          - {case: error, run: []}
          - {case: default, run: [b]}
        - {name: b, run: [{action: log, message: b}], rule: [{case: "{{ run.id }}", run: [a]}]}
        - {name: c, run: [{action: log, message: c}]}
    """

    def test_a_step_without_cycle_is_never_refused(self) -> None:
        assert findings(self.TEXT) == []
        assert findings(self.TEXT.replace("run: [a]", "run: [c]")) == [("NP203", "case")]
        assert findings(self.TEXT.replace("max_visits: 2", "").replace("run: [a]", "run: [c]")) == [
            ("NP203", "case")
        ]

    def test_a_multi_merge_may_be_refused(self) -> None:
        fork = "start: z\n" + self.TEXT.replace("run: [a]", "run: [c]").replace(
            "max_visits: 2", "max_visits: 2\n          join: each"
        )
        fork += "        - {name: z, rule: [{case: default, run: [y, a]}]}\n"
        fork += "        - {name: y, rule: [{case: default, run: [a]}]}\n"
        assert "NP203" not in [code for code, _ in findings(fork)]

    @pytest.mark.parametrize("type", ["MaxVisitsExceeded", '"{{ run.id }}"'])
    def test_work_may_fail_with_the_same_type(self, type: str) -> None:
        text = self.TEXT.replace("run: [a]", "run: [c]")
        failing = text.replace(
            "command: ls}",
            f'command: ls}}, {{action: fail, if: "{{{{ run.id }}}}", message: odd, type: {type}}}',
        )
        assert findings(failing) == []
        assert findings(failing.replace(f"type: {type}", "type: Odd")) == [("NP203", "case")]

    def test_other_errors_suppress_the_finding(self) -> None:
        assert [code for code, _ in findings(self.TEXT.replace("run: [a]", "run: [aa]"))] == ["NP101"]


class TestReachableEnds:
    @pytest.mark.parametrize(
        "text",
        [
            playbook_of(a="max_visits: 5, " + leads_to("a")),
            playbook_of(a="max_visits: 5, " + leads_to("b"), b=leads_to("a", case="'{{ true }}'")),
            playbook_of(
                a="max_visits: 5, " + leads_to("b"),
                b="rule: [{case: '{{ run.id }}', run: [b]}, {case: default, run: [a]}], max_visits: 2",
            ),
        ],
    )
    def test_no_end_can_be_reached(self, text: str) -> None:
        assert "NP204" in [code for code, _ in findings(text)]

    @pytest.mark.parametrize(
        "text",
        [
            playbook_of(a="max_visits: 5, " + leads_to("a", case="'{{ run.id }}'")),
            playbook_of(
                a="max_visits: 5, rule: [{case: '{{ run.id }}', run: []}, {case: default, run: [a]}]"
            ),
            playbook_of(a="max_visits: 5, rule: [{case: error, run: [b]}, {case: default, run: [a]}]", b=""),
        ],
    )
    def test_an_end_can_be_reached(self, text: str) -> None:
        assert findings(text) == []


class TestOverlappingCycles:
    def test_a_fork_with_one_branch_that_leads_back(self) -> None:
        text = playbook_of(a="max_visits: 3, " + leads_to("b"), b=leads_to("a", "c"), c="")
        assert findings(text, "NP205") == [("NP205", "c")]
        expected = "cycle b → a → b may start its next round before the branch at `c` has ended"
        assert messages(text, "NP205") == [expected]
        (hint,) = hints(text, "NP205")
        assert hint is not None
        assert hint.startswith(
            "lead all branches of the fork to one step, and start the next round from there"
        )
        assert hint.endswith("; or set `join: each` on `c`")
        (overlapping,) = (diagnostic for diagnostic in diagnose(text) if diagnostic.code == "NP205")
        assert overlapping.span.line == 3
        assert [(label.span.line, label.text) for label in overlapping.labels] == [
            (3, "the branches separate here"),
            (2, "the next round starts here"),
        ]

    def test_a_guarded_exit_of_one_branch(self) -> None:
        """A step that only a guard leads to is judged like a target of the fork outside the cycle."""
        again = leads_to("a", case="'{{ run.id }}'")
        rule = "rule: [{case: error, run: [e]}, {case: default, run: [d]}]"
        text = playbook_of(
            a="max_visits: 3, " + leads_to("b", "c"),
            b=f"run: [{OK}], {rule}",
            c=leads_to("d"),
            d=again,
            e="MODE",
        )
        assert findings(text.replace("MODE", f"run: [{OK}]")) == [("NP205", "e")]
        assert messages(text.replace("MODE", f"run: [{OK}]"), "NP205") == [
            "cycle a → c → d → a may start its next round before the branch at `e` has ended"
        ]
        assert findings(text.replace("MODE", f"join: each, run: [{OK}]")) == []

    def test_an_exit_by_the_second_of_two_cases_with_one_target(self) -> None:
        """The first leads out alone and is legal; the second one forks."""
        rule = "rule: [{case: '{{ run.id }}', run: [b]}, {case: default, run: [a, b]}]"
        text = playbook_of(a=f"max_visits: 3, {rule}", b="")
        (overlapping,) = (diagnostic for diagnostic in diagnose(text) if diagnostic.code == "NP205")
        second = text.splitlines()[overlapping.span.line - 1].rindex("b") + 1
        assert overlapping.span.column == second

    def test_joins_that_wait_for_each_other(self) -> None:
        text = playbook_of(
            a=leads_to("b", "c"),
            b="max_visits: 2, " + leads_to("c", case="'{{ run.id }}'"),
            c=leads_to("b", case="'{{ run.id }}'"),
        )
        assert findings(text) == [("NP205", "b")]
        assert messages(text) == ["joins `b`, `c` wait for each other on the cycle b → c → b"]

    def test_a_discriminator_that_leads_into_its_region(self) -> None:
        again = leads_to("b", case="'{{ run.id }}'")
        text = playbook_of(
            a=leads_to("b", "c"), b=leads_to("d"), c=leads_to("d"), d=f"join: any, max_visits: 2, {again}"
        )
        assert findings(text) == [("NP205", "any")]
        assert messages(text) == [
            (
                "cycle d → b → d may start its next round while branches that `join: any` at `d` "
                "did not wait for are on the way to `d`"
            )
        ]

    def test_a_discriminator_before_another_join(self) -> None:
        again = leads_to("a", case="'{{ run.id }}'")
        text = playbook_of(
            a="max_visits: 2, " + leads_to("b", "c", "d"),
            b=leads_to("e"), c=leads_to("e"), d=leads_to("f"), e=leads_to("f"), f=f"join: any, {again}",
        )  # fmt: skip
        assert findings(text) == [("NP205", "any")]
        assert messages(text) == [
            (
                "cycle f → a → d → f may start its next round while branches that `join: any` at `f` "
                "did not wait for are on the way to `e`"
            )
        ]

    def test_a_discriminator_on_a_cycle_in_sequential_mode(self) -> None:
        again = leads_to("a", case="'{{ run.id }}'")
        text = playbook_of(
            a="max_visits: 2, " + leads_to("b", "c"),
            b=leads_to("d"),
            c=leads_to("d"),
            d=f"join: any, {again}",
        )
        assert findings(text) == []
        assert findings("mode: sequential\n" + text) == [("NP205", "any")]
        acyclic = playbook_of(
            a=leads_to("b", "c"), b=leads_to("d"), c=leads_to("d"), d=f"join: any, run: [{OK}]"
        )
        assert findings("mode: sequential\n" + acyclic) == []

    def test_a_fork_to_a_multi_merge_in_every_round(self) -> None:
        rule = "rule: [{case: '{{ run.id }}', run: [a, b]}, {case: default, run: [b]}]"
        text = playbook_of(a=f"max_visits: 2, {rule}", b=f"run: [{OK}], join: MODE")
        assert findings(text.replace("MODE", "all")) == [("NP205", "b")]
        assert findings(text.replace("MODE", "each")) == []

    def test_a_cycle_around_a_join(self) -> None:
        text = playbook_of(
            a="max_visits: 2, " + leads_to("b", "c"),
            b=leads_to("d"),
            c=leads_to("d"),
            d=leads_to("a", case="'{{ run.id }}'"),
        )
        assert findings(text) == []


class TestFinallyStep:
    def test_the_finally_step_cannot_be_part_of_the_flow(self) -> None:
        assert findings("finally: b\n" + playbook_of(a=leads_to("b"), b=""), "NP207") == [("NP207", "b")]
        assert findings("finally: a\n" + playbook_of(a=""), "NP207") == [("NP207", "a")]

    def test_cases_of_the_finally_step_have_work_only(self) -> None:
        rule = f"run: [{OK}], rule: [{{case: error, run: [{OK}]}}, {{case: default, run: []}}]"
        assert findings("finally: b\n" + playbook_of(a="", b=rule)) == []
        assert findings("finally: b\n" + playbook_of(a="", b=leads_to("a")), "NP207") == [("NP207", "case")]
