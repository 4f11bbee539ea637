"""NP301 and NP302 where a name is produced somewhere, and not on every path, or on none, to where it is read."""

from __future__ import annotations

import pytest
from noetl.planner.checks import undefined_names as undefined_names
from noetl.planner.dataflow import solver

from tests.planner.findings import findings, found, hints, messages

READ = "{action: log, message: '{{ x }}'}"
SAVE = "{action: set, set: {x: 1}}"
OK = "{action: log, message: m}"
MAYBE = "{{ run.id }}"


def playbook(*steps: str, head: str = "") -> str:
    return f"{head}steps:\n" + "".join(f"- {one}\n" for one in steps)


def step(name: str, *targets: str, run: str = OK, more: str = "") -> str:
    rule = f", rule: [{{case: default, run: [{', '.join(targets)}]}}]" if targets else ""
    return f"{{name: {name}, run: [{run}]{more}{rule}}}"


def either(name: str, first: str, second: str, guard: str = MAYBE, run: str = OK) -> str:
    rule = f'[{{case: "{guard}", run: [{first}]}}, {{case: default, run: [{second}]}}]'
    return f"{{name: {name}, run: [{run}], rule: {rule}}}"


def judged(*steps: str, head: str = "") -> list[str]:
    """What is said of reads that may find nothing: the code, and the path."""
    told = []
    for diagnostic in found(playbook(*steps, head=head)):
        if diagnostic.code in ("NP301", "NP302"):
            _, _, path = diagnostic.message.partition(" on the path ")
            told.append(f"{diagnostic.code} {path}".strip())
    return told


class TestPaths:
    def test_one_of_two_branches(self) -> None:
        """The example of the language: a warning with the path, and none when the other branch saves it too."""
        text = playbook(
            either("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"), step("d", run=READ)
        )  # fmt: skip
        (diagnostic,) = (d for d in found(text) if d.severity != "note")
        assert (diagnostic.code, diagnostic.severity) == ("NP302", "warning")
        assert diagnostic.message == "`x` may have no value on the path a → c → d"
        assert findings(text) == [("NP302", "x")]
        assert [(label.span.line, label.text) for label in diagnostic.labels] == [(2, "this case is taken")]
        assert findings(text.replace(step("c", "d"), step("c", "d", run=SAVE))) == []

    def test_the_shortest_path(self) -> None:
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "e"),
            step("e", "d"),
            step("d", run=READ),
        )
        assert judged(*steps) == ["NP302 a → c → e → d"]
        assert judged(*steps[:2], either("c", "e", "d"), *steps[3:]) == ["NP302 a → c → d"]

    def test_no_path(self) -> None:
        text = playbook(step("a", "b", run=READ), step("b", run=SAVE))
        (diagnostic,) = (d for d in found(text) if d.code == "NP301")
        assert diagnostic.message == "no path that leads here has produced `x`"
        assert [(label.span.line, label.text) for label in diagnostic.labels] == [(3, "it is saved here")]
        assert judged(step("a", "b", "c"), step("b", run=SAVE), step("c", run=READ)) == ["NP301"]

    def test_the_nearest_name(self) -> None:
        text = playbook(
            step("a", "b", run="{action: set, set: {customer: 1}}"),
            step("b", "c", run="{action: log, message: '{{ customers }}'}"),
            step("c", run="{action: set, set: {customers: 1}}"),
        )
        assert hints(text, "NP301") == ["did you mean `customer`?"]

    def test_what_has_been_read_is_there(self) -> None:
        """Whoever comes behind the first reader has a value."""
        steps = (
            either("a", "b", "c"),
            step("b", "c", run=SAVE),
            step("c", "d", run=f"{READ}, {READ}"),
            step("d", run=READ),
        )
        assert judged(*steps) == ["NP302 a → c"]

    def test_the_order_of_the_text_does_not_matter(self) -> None:
        steps = [either("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"), step("d", run=READ)]
        assert judged(*reversed(steps), head="start: a\n") == judged(*steps) == ["NP302 a → c → d"]

    def test_round_and_round(self) -> None:
        cycle = (
            either("a", "a", "b", run=SAVE).replace("{name: a", "{name: a, max_visits: 3"),
            step("b", run=READ),
        )
        assert judged(*cycle) == []

    def test_the_first_round(self) -> None:
        text = playbook(
            step("a", "b", more=", max_visits: 3", run=READ), either("b", "a", "c", run=SAVE), step("c")
        )
        assert messages(text, "NP302") == ["`x` may have no value"]


class TestFailures:
    def test_what_a_failed_step_would_have_saved(self) -> None:
        rule = "rule: [{case: error, run: [b]}, {case: default, run: [c]}]"
        steps = (f"{{name: a, run: [{SAVE}], {rule}}}", step("b", run=READ), step("c", run=READ))
        assert judged(*steps) == ["NP301"]

    def test_where_both_lead_to_one_step(self) -> None:
        rule = "rule: [{case: error, run: [b]}, {case: default, run: [b]}]"
        assert judged(f"{{name: a, run: [{SAVE}], {rule}}}", step("b", run=READ)) == ["NP302 a (failed) → b"]

    @pytest.mark.parametrize(
        ("guard", "expected"),
        [
            ("{{ result.success }}", []),
            ("{{ result.success and x }}", []),
            ("{{ not error }}", []),
            ("{{ not error and x }}", []),
            ("{{ error is none }}", []),
            ("{{ result.error is none }}", []),
            ("{{ error }}", ["NP301"]),
            ("{{ error.type == 'Timeout' }}", ["NP301"]),
            ("{{ not result.success }}", ["NP301"]),
            ("{{ error or run.id }}", ["NP302 a (failed) → b"]),
            ("{{ run.id }}", []),
        ],
    )
    def test_which_edges_are_taken_after_success_only(self, guard: str, expected: list[str]) -> None:
        steps = (f'{{name: a, run: [{SAVE}], rule: [{{case: "{guard}", run: [b]}}]}}', step("b", run=READ))
        assert judged(*steps) == expected

    def test_a_guard_that_is_read_after_a_failure_too(self) -> None:
        text = playbook(
            f'{{name: a, run: [{SAVE}], rule: [{{case: "{{{{ x > 1 and not error }}}}", run: []}}]}}'
        )
        assert messages(text, "NP302") == ["`x` may have no value when `a` has failed"]

    def test_a_later_case_knows_what_the_earlier_ones_said(self) -> None:
        rule = '[{case: error, run: [b]}, {case: "{{ result.success or run.id }}", run: [c]}]'
        assert judged(f"{{name: a, run: [{SAVE}], rule: {rule}}}", step("b"), step("c", run=READ)) == []

    def test_a_forgiven_failure(self) -> None:
        forgiven = "{action: shell, command: ls, as: x, on_error: continue}"
        assert judged(step("a", "b", run=forgiven), step("b", run=READ)) == ["NP302 a → b"]
        guarded = (
            f'{{name: a, run: [{forgiven}], rule: [{{case: "{{{{ not result.success }}}}", run: [b]}}]}}'
        )
        assert judged(guarded, step("b", run=READ)) == ["NP302 a → b"]

    def test_the_result_is_that_of_the_last_action(self) -> None:
        """Where it is no failure that was forgiven, what that would have left out is there."""
        forgiven = "{action: shell, command: ls, as: x, on_error: continue}"
        rule = 'rule: [{case: "{{ not result.success }}", run: [c]}, {case: default, run: [b]}]'
        behind = (step("b", run=READ), step("c"))
        assert judged(f"{{name: a, run: [{OK}, {forgiven}], {rule}}}", *behind) == []
        assert judged(f"{{name: a, run: [{forgiven}, {OK}], {rule}}}", *behind) == ["NP302 a → b"]
        assert judged(f"{{name: a, parallel: true, run: [{forgiven}, {OK}], {rule}}}", *behind) == []
        maybe = forgiven.replace("as: x", "as: x, if: '{{ run.id }}'")
        assert judged(f"{{name: a, run: [{maybe}], {rule}}}", *behind) == ["NP302 a → b"]
        said = (
            rule.replace("not result.success", "result.success").replace("[c]", "[d]").replace("[b]", "[c]")
        )
        assert judged(f"{{name: a, run: [{forgiven}], {said}}}", step("d", run=READ), behind[1]) == []
        only_after_a_failure = f"{{name: a, run: [{forgiven}, {OK}], {rule.replace('[c]', '[d]')}}}"
        assert judged(only_after_a_failure, step("b"), step("d", run=READ)) == ["NP301"]

    def test_a_branch_that_may_end_in_a_failure(self) -> None:
        fork = (step("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"), step("d", run=READ))
        assert judged(*fork, head="on_error: continue\n") == []
        fork = (fork[0], step("b", "d", run="{action: http, url: 'https://x.test', as: x}"), *fork[2:])
        assert judged(*fork) == []
        assert judged(*fork, head="on_error: continue\n") == ["NP302 a → c → d, where `b` fails"]

    def test_what_always_fails_leads_nowhere(self) -> None:
        fails = "{action: fail, message: no}"
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d", run=fails),
            step("d", run=READ),
        )
        assert judged(*steps) == []
        skipped = "{action: fail, message: no, if: '{{ run.id }}'}"
        assert judged(*steps[:2], step("c", "d", run=skipped), steps[3]) == ["NP302 a → c → d"]

    def test_past_a_bound(self) -> None:
        """A visit that is refused has saved nothing, but those before it have; it is handled by a case that does not lead back."""
        rule = "[{case: \"{{ error.type == 'MaxVisitsExceeded' }}\", run: [b]}, {case: default, run: [a]}]"
        text = f"{{name: a, max_visits: 2, run: [{SAVE}], rule: {rule}}}"
        assert judged(text, step("b", run=READ)) == []
        once = text.replace("case: default, run: [a]", "case: default, run: [c]")
        assert judged(once, step("c", "a"), step("b", run=READ)) == []
        other = once.replace("x: 1", "y: 1")
        assert judged(other, step("c", "a", run=f"{SAVE[:-1]}, if: '{MAYBE}'}}"), step("b", run=READ)) == [
            "NP302 a (failed) → b"
        ]


class TestGuards:
    @pytest.mark.parametrize(
        ("guard", "expected"),
        [
            ("{{ x is defined }}", []),
            ("{{ x is defined and x > 1 }}", []),
            ("{{ not x is undefined }}", []),
            ("{{ steps.b.visits > 0 }}", []),
            ("{{ steps.b.status == 'succeeded' }}", []),
            ("{{ steps.b.status != 'pending' }}", []),
            ("{{ x is defined or run.id }}", ["NP302 a → c → d → e"]),
        ],
    )
    def test_what_they_imply(self, guard: str, expected: list[str]) -> None:
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d"),
            either("d", "e", "f", guard=guard),
            step("e", run="{action: log, message: '{{ x }} {{ steps.b.result }}'}"),
            step("f"),
        )
        assert [told for told in judged(*steps) if "steps" not in told][:1] == expected[:1]

    def test_what_is_saved_together_is_there_together(self) -> None:
        both = "{action: set, set: {x: 1, y: 1}}"
        read = "{action: log, message: '{{ x }} {{ y }} {{ steps.b.result }}'}"
        steps = (either("a", "b", "c"), step("b", "d", run=both), step("c", "d"))
        assert judged(*steps, step("d", run=read)) == ["NP302 a → c → d"]
        asked = either("d", "e", "f", guard="{{ y is defined }}")
        assert judged(*steps, asked, step("e", run=read), step("f")) == []
        later = "{action: log, message: '{{ x if y is defined else 0 }}'}, {action: set, set: {x: 1}}"
        apart = step("b", "d", run="{action: set, set: {y: 1}}, " + later)
        assert judged(apart, step("d", run=read.replace("{{ steps.b.result }}", ""))) == ["NP301"]

    def test_what_is_decided_elsewhere(self) -> None:
        """Which cases can be taken is known from their guards: here one of the two always is."""
        fork = (step("a", "b", "c", run="{action: set, set: {n: 1}}"), step("c", "d"), step("d", run=READ))
        rule = '[{case: "{{ n > 1 }}", run: [d]}, {case: "{{ n <= 1 }}", run: [d]}]'
        assert judged(*fork, f"{{name: b, run: [{SAVE}], rule: {rule}}}") == []
        left = rule.replace("<=", "<")
        assert judged(*fork, f"{{name: b, run: [{SAVE}], rule: {left}}}") == [
            "NP302 a → c → d, where `b` ends"
        ]

    def test_the_contrary_in_an_earlier_case(self) -> None:
        rule = '[{case: "{{ x is undefined }}", run: [e]}, {case: default, run: [f]}]'
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d"),
            f"{{name: d, rule: {rule}}}",
            step("e"),
            step("f", run=READ),
        )
        assert judged(*steps) == []

    @pytest.mark.parametrize(
        ("action", "expected"),
        [
            ("{action: log, message: '{{ x | default(1) }}'}", 0),
            ("{action: log, message: '{{ x is defined }}'}", 0),
            ("{action: log, message: '{{ x if x is defined else 0 }}'}", 0),
            ("{action: log, message: '{{ x }}', if: '{{ x is defined }}'}", 0),
            ("{action: log, message: '{{ x }}', if: '{{ steps.b.visits > 0 }}'}", 0),
            ("{action: log, message: '{{ x }}', if: false}", 0),
            ("{action: log, message: '{{ x }}', if: '{{ false }}'}", 0),
            ("{action: log, message: '{{ x }}', if: '{{ run.id }}'}", 1),
            ("{action: log, message: '{{ x.y | default(1) }}'}", 1),
            ("{action: log, message: m, retry: {attempts: 2, if: '{{ x }}'}}", 1),
            ("{action: log, message: m, loop: {items: '{{ x }}'}}", 1),
            ("{action: log, message: '{{ x }}', loop: {items: [1], as: x}}", 0),
            ("{action: log, message: '{% for x in [1] %}{{ x }}{% endfor %}'}", 0),
            ("{action: fail, message: m, if: '{{ x is undefined }}'}, {action: log, message: '{{ x }}'}", 0),
            ("{action: log, message: '{{ x }}', on_error: continue}, {action: log, message: '{{ x }}'}", 1),
        ],
    )
    def test_in_a_step(self, action: str, expected: int) -> None:
        steps = (either("a", "b", "c"), step("b", "c", run=SAVE), step("c", run=action))
        assert len(judged(*steps)) == expected


class TestWork:
    @pytest.mark.parametrize(
        ("run", "expected"),
        [
            (f"{SAVE}, {READ}", []),
            (f"{READ}, {SAVE}", ["NP301"]),
            ("{action: set, set: {x: 1, y: '{{ x }}'}}", ["NP301"]),
            ("{action: set, if: '{{ run.id }}', set: {x: 1}}, " + READ, ["NP302"]),
            ("{action: set, if: true, set: {x: 1}}, " + READ, []),
            ("{action: set, if: false, set: {x: 1}}, " + READ, ["NP301"]),
            ("{action: log, message: m, as: x, loop: {items: [1]}}, " + READ, []),
            ("{action: shell, command: ls, as: x, on_error: continue}, " + READ, ["NP302"]),
            ("{task: t}, " + READ, []),
            ("{task: t, if: '{{ run.id }}'}, " + READ, ["NP302"]),
            ("{task: t, loop: {items: [1]}}, " + READ, ["NP301"]),
            ("{task: t, as: y}, {action: log, message: '{{ y }}'}", []),
        ],
    )
    def test_one_after_another(self, run: str, expected: list[str]) -> None:
        assert judged(step("a", run=run), head=f"tasks: {{t: [{SAVE}]}}\n") == expected

    def test_together(self) -> None:
        parallel = "{name: a, parallel: true, run: [%s, %s], rule: [{case: default, run: [b]}]}"
        assert judged(parallel % (SAVE, READ), step("b")) == ["NP301"]
        assert judged(parallel % (SAVE, OK), step("b", run=READ)) == []

    def test_what_a_task_reads_is_looked_up_where_it_is_called(self) -> None:
        head = f"tasks: {{t: [u], u: [{READ}]}}\n"
        steps = (either("a", "b", "c"), step("b", "c", run=SAVE), step("c", run="{task: t}"))
        assert judged(*steps, head=head) == ["NP302 a → c"]
        assert findings(playbook(*steps, head=head), "NP302") == [("NP302", "x")]
        assert judged(step("a", run=f"{SAVE}, {{task: t}}"), head=head) == []

    def test_in_a_loop_each_item_has_its_own(self) -> None:
        looped = "{name: a, loop: {items: [1]}, run: [%s, %s], rule: [{case: default, run: [b]}]}"
        assert judged(looped % (SAVE, READ), step("b")) == []
        assert judged(looped % (READ, SAVE), step("b")) == ["NP301"]
        assert judged(looped % (SAVE, OK), step("b", run=READ), head="input: {}\n") == ["NP301"]

    def test_an_item_sees_what_was_there_before_the_loop(self) -> None:
        looped = f"{{name: b, loop: {{items: [1]}}, run: [{READ}, {SAVE}]}}"
        assert judged(step("a", "b", run=SAVE), looped) == []

    def test_rounds(self) -> None:
        repeated = "{name: a, repeat: {until: '{{ x > 3 }}', max: 3}, run: [%s]}"
        assert judged(repeated % SAVE) == []
        assert judged(repeated % f"{READ}, {SAVE}") == ["NP302"]
        assert judged(
            "{name: a, repeat: {until: '{{ y }}', max: 3}, run: [{action: set, if: '{{ run.id }}', set: {y: 1}}]}"
        ) == ["NP302"]

    def test_in_place(self) -> None:
        rule = f"rule: [{{case: default, run: [{READ}]}}]"
        assert judged(f"{{name: a, run: [{SAVE}], {rule}}}") == []
        text = f"{{name: a, run: [{SAVE}], rule: [{{case: error, run: [{READ}]}}]}}"
        assert judged(text) == ["NP301"]


class TestJoins:
    def test_all_that_certainly_arrive_bring_what_they_have(self) -> None:
        both = "{action: log, message: '{{ x }} {{ y }}'}"
        assert (
            judged(
                step("a", "b", "c"),
                step("b", "d", run=SAVE),
                step("c", "d", run="{action: set, set: {y: 1}}"),
                step("d", run=both),
            )
            == []
        )

    def test_a_branch_may_end_or_go_elsewhere(self) -> None:
        ends = f'{{name: b, run: [{SAVE}], rule: [{{case: "{MAYBE}", run: [d]}}]}}'
        assert judged(step("a", "b", "c"), ends, step("c", "d"), step("d", run=READ)) == [
            "NP302 a → c → d, where `b` ends"
        ]
        goes = either("b", "d", "e", run=SAVE)
        assert judged(step("a", "b", "c"), goes, step("c", "d"), step("d", run=READ), step("e")) == [
            "NP302 a → c → d"
        ]

    def test_the_first_that_comes(self) -> None:
        fork = (step("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"))
        assert judged(*fork, step("d", run=READ, more=", join: any")) == ["NP302 a → c → d"]
        assert judged(*fork, step("d", run=READ, more=", join: each")) == ["NP302 a → c → d"]

    def test_nested(self) -> None:
        steps = (
            step("a", "b", "c"),
            step("b", "d", "e"),
            step("c", "g"),
            step("d", "f", run=SAVE),
            step("e", "f"),
            step("f", "g"),
            step("g", run=READ),
        )
        assert judged(*steps) == []

    def test_one_after_another(self) -> None:
        fork = (step("a", "b", "c"), step("b", run=SAVE), step("c", run=READ))
        assert judged(*fork) == ["NP301"]
        assert judged(*fork, head="mode: sequential\n") == []
        late = (step("a", "c", "b"), step("b", run=SAVE), step("c", run=READ))
        assert judged(*late, head="mode: sequential\n") == ["NP301"]
        maybe = (
            step("a", "b", "c"),
            step("b", run="{action: set, if: '{{ run.id }}', set: {x: 1}}"),
            step("c", run=READ),
        )
        assert [told[:5] for told in judged(*maybe, head="mode: sequential\n")] == ["NP302"]

    def test_a_join_goes_before_what_waits(self) -> None:
        """It fires when the last branch has come that can, and goes before those that were forked off earlier."""
        turns = "mode: sequential\n"
        fork = (
            step("a", "b", "c", "d"),
            step("b", "j"),
            step("c", "j"),
            step("j", run=SAVE),
            step("d", run=READ),
        )
        assert judged(*fork, head=turns) == []
        last = (step("a", "b", "d", "c"), *fork[1:])
        assert judged(*last, head=turns) == ["NP302 a → d"]
        inner = (step("a", "b", "d"), step("b", "c", "e"), step("c", "j"), step("e", "j"), *fork[3:])
        assert judged(*inner, head=turns) == []
        at_once = (step("a", "b", "j"), step("b", "d", "j"), *fork[3:])
        assert judged(*at_once, head=turns) == []
        beside = (
            step("a", "b", "c", "d"),
            step("b", run=SAVE),
            step("c", "j"),
            step("d", "j"),
            step("j", run=READ),
        )
        assert judged(*beside, head=turns) == []
        assert [told[:5] for told in judged(step("a", "c", "d", "b"), *beside[1:], head=turns)] == ["NP302"]

    def test_a_branch_that_ends_leaves_what_it_saved(self) -> None:
        """The path that is shown is one on which it fails."""
        saves = "{action: shell, command: ls, as: x}"
        failing = f"{{name: b, run: [{saves}], rule: [{{case: error, run: [d]}}]}}"
        steps = (step("a", "b", "c"), failing, step("c", "d"), step("d", run=READ))
        assert judged(*steps, head="mode: sequential\n") == ["NP302 a → b (failed) → d"]
        through = (step("a", "b", "d"), failing.replace("[d]", "[c]"), *steps[2:])
        assert judged(*through, head="mode: sequential\n") == ["NP302 a → b (failed) → c → d"]

    def test_the_first_arrival_goes_at_once(self) -> None:
        steps = (step("a", "j", "b"), step("b", "j", run=READ), step("j", more=", join: any", run=SAVE))
        assert judged(*steps, head="mode: sequential\n") == []
        assert judged(step("a", "b", "j"), *steps[1:], head="mode: sequential\n") == ["NP301"]

    def test_a_join_that_is_named_first_may_go_last(self) -> None:
        steps = (step("a", "j", "b"), step("b", "j", run=READ), step("j", run=SAVE))
        assert judged(*steps, head="mode: sequential\n") == ["NP302 a → b"]


class TestSteps:
    TEXT = "{action: log, message: '{{ steps.b.result }}'}"

    def test_a_step_that_was_not_visited(self) -> None:
        text = playbook(either("a", "b", "c"), step("b", "c"), step("c", run=self.TEXT))
        assert messages(text, "NP302") == ["step `b` may not have been visited on the path a → c"]
        assert findings(text, "NP302") == [("NP302", "b")]

    def test_a_step_that_cannot_have_been(self) -> None:
        text = playbook(step("a", "b", run=self.TEXT), step("b"))
        assert messages(text, "NP301") == ["no path that leads here has visited step `b`"]
        assert judged(step("b", run=self.TEXT)) == ["NP301"]

    def test_a_failed_step_was_visited(self) -> None:
        rule = "rule: [{case: error, run: [c]}, {case: default, run: [c]}]"
        read = "{action: log, message: '{{ steps.b.error }}'}"
        assert judged(f"{{name: b, run: [{OK}], {rule}}}", step("c", run=read)) == []

    def test_status_and_visits_always_have_a_value(self) -> None:
        read = "{action: log, message: '{{ steps.b.status }} {{ steps.b.visits }}'}"
        assert judged(step("a", "b", run=read), step("b")) == []


class TestEnds:
    def test_what_every_run_has_at_its_end(self) -> None:
        output = 'output: {x: "{{ x }}"}\n'
        assert judged(step("a", "b"), step("b", run=SAVE), head=output) == []
        assert judged(step("a", "b", "c"), step("b", run=SAVE), step("c"), head=output) == []
        assert judged(either("a", "b", "c"), step("b", run=SAVE), step("c"), head=output) == ["NP302 a → c"]
        assert judged(f"{{name: a, rule: [{{case: default, run: [{SAVE}]}}]}}", head=output) == []

    def test_what_runs_have_in_which_branches_have_failed(self) -> None:
        output = 'on_error: continue\noutput: {x: "{{ x }}"}\n'
        ask = "{action: shell, command: ls, as: x}"
        assert judged(step("a", run=SAVE), head=output) == []
        assert messages(playbook(step("a", run=ask), head=output), "NP302") == [
            "`x` may have no value when `a` fails"
        ]
        assert judged(step("a", run=ask), head=output.removeprefix("on_error: continue\n")) == []
        assert judged(step("a", "b"), step("b", run=ask), head=output) == ["NP302 a → b (failed)"]
        assert judged(step("a", "b", "c"), step("b", run=SAVE), step("c", run=ask), head=output) == []
        assert judged(step("a", "b", "c"), step("b"), step("c", run=ask), head=output) == [
            "NP302 a → b, where `c` fails"
        ]

    def test_what_the_step_that_runs_last_has_saved(self) -> None:
        output = 'finally: z\noutput: {x: "{{ x }}"}\n'
        ask = "{action: shell, command: ls, as: x}"
        for run in (SAVE, ask):
            assert judged(step("a"), step("z", run=run), head=output) == []
        assert judged(step("a", run="{action: shell, command: ls}"), step("z", run=ask), head=output) == []
        forgiving = f"on_error: continue\n{output}"
        assert judged(step("a"), step("z", run=ask), head=forgiving) == []
        assert (
            judged(step("a", run="{action: shell, command: ls}"), step("z", run=SAVE), head=forgiving) == []
        )
        text = playbook(step("a", run="{action: shell, command: ls}"), step("z", run=ask), head=forgiving)
        told = "`x` may have no value in a run with failures: step `z` may fail too"
        assert messages(text, "NP302") == [told]

    def test_the_step_that_runs_last_may_run_at_any_time(self) -> None:
        head = "finally: z\n"
        text = playbook(step("a", run=SAVE), step("z", run=READ), head=head)
        assert messages(text, "NP302") == ["`x` may have no value: the run may end before"]
        for provided in ("{{ x | default(0) }}", "{{ x if run.status == 'succeeded' else 0 }}"):
            assert (
                judged(step("a", run=SAVE), step("z", run=READ.replace("{{ x }}", provided)), head=head) == []
            )


def test_the_condition_of_the_retry_of_the_playbook() -> None:
    head = 'retry: {attempts: 2, if: "{{ x }}"}\n'
    ask = "{action: shell, command: ls}"
    text = playbook(step("a", "b", run=ask), step("b", run=SAVE), head=head)
    assert messages(text, "NP302") == ["`x` may have no value when `a` has failed"]
    assert judged(step("a", "b", run=SAVE), step("b", run=ask), head=head) == []
    assert judged(step("a", "b", run=ask, more=", retry: 1"), step("b", run=SAVE), head=head) == []
    assert findings("retry: {attempts: 2, if: error}\n" + playbook(step("a"))) == [("NP407", "error")]
    assert [code for code, _ in findings(playbook(step("a"), head=head.replace("x }", "x )")))] == ["NP401"]


def test_past_its_bound_a_step_goes_on_by_a_case_that_does_not_lead_back() -> None:
    again = f"{{name: a, max_visits: 2, run: [{OK}], rule: [{{case: error, run: [b]}}, {{case: error, run: [c]}}, {{case: default, run: [b]}}]}}"
    assert judged(
        again, step("b", "a"), step("c", run=READ), step("d", "c", run=SAVE), head="start: a\n"
    ) == ["NP301"]


class TestCasesThatAreNeverTaken:
    @pytest.mark.parametrize(
        ("guard", "reason"),
        [
            ("{{ x is defined }}", "no path that leads here has produced `x`"),
            ("{{ run.id and x is defined }}", "no path that leads here has produced `x`"),
            ("{{ steps.c.visits > 0 }}", "no path that leads here has visited step `c`"),
            ("{{ y is undefined }}", "every path that leads here has produced `y`"),
            ("{{ steps.a.result is undefined }}", "every path that leads here has visited step `a`"),
            ("{{ v is undefined }}", "`v` always has a value"),
            ("{{ own is undefined }}", "its guard is never true"),
        ],
    )
    def test_a_guard_that_asks_for_what_cannot_be(self, guard: str, reason: str) -> None:
        first = step("a", "b", run="{action: set, set: {y: 1}}")
        rule = f'[{{case: "{guard}", run: [c]}}, {{case: default, run: []}}]'
        asking = f"{{name: b, run: [{{action: set, set: {{own: 1}}}}], rule: {rule}}}"
        text = playbook(first, asking, step("c", run=SAVE), head="variables: {v: 1}\n")
        assert messages(text, "NP203") == [f"the case can never be taken: {reason}"]

    @pytest.mark.parametrize(
        "guard",
        [
            "{{ x is defined }}",
            "{{ x is undefined }}",
            "{{ x is defined or run.id }}",
            "{{ steps.b.visits > 0 }}",
        ],
    )
    def test_a_guard_that_may_be_true(self, guard: str) -> None:
        either_way = (
            either("a", "b", "c"),
            step("b", "c", run=SAVE),
            either("c", "d", "e", guard=guard),
            step("d"),
        )
        assert messages(playbook(*either_way, step("e")), "NP203") == []

    def test_the_case_behind_a_guard_that_asks_for_what_the_step_itself_has_made(self) -> None:
        rule = (
            '[{case: "{{ x is defined }}", run: []}, {case: "{{ run.id }}", run: []}, {case: error, run: []}]'
        )
        told = ["the case can never be taken: a case before it is always taken"]
        assert messages(playbook(f"{{name: a, run: [{SAVE}], rule: {rule}}}"), "NP203") == told
        reads = f"{{name: a, run: [{READ}], rule: {rule}}}"
        assert findings(playbook(reads, head="input: {}\n")) == [("NP301", "x")]
        assert findings(
            playbook(reads.replace("[]}, {case: error", "[b]}, {case: error"), step("b", run=SAVE))
        ) == [("NP301", "x")]
        maybe = SAVE.replace("set,", "set, if: '{{ run.id }}',", 1)
        assert messages(playbook(f"{{name: a, run: [{maybe}], rule: {rule}}}"), "NP203") == []

    def test_a_variable_is_there_before_anything_is_produced(self) -> None:
        """What is certain wherever it is saved anew tells nothing of where it has its first value."""
        saves = "{action: set, set: {v: 1}}"
        last = f"{{name: c, run: [{{action: set, set: {{x: 1}}}}, {saves}]}}"
        steps = (either("a", "b", "c", guard="{{ v is defined }}"), step("b", "c", run=READ), last)
        assert judged(*steps, head="variables: {v: 0}\n") == ["NP301"]

    def test_a_guard_behind_a_reader_of_what_nothing_produces(self) -> None:
        steps = (
            step("a", "b", run=READ),
            either("b", "c", "d", guard="{{ x is defined }}"),
            step("c"),
            step("d"),
        )
        text = playbook(*steps, head="input: {}\n")
        assert messages(text, "NP203") == [
            "the case can never be taken: nothing in the playbook produces `x`"
        ]

    def test_a_guard_that_asks_for_what_is_made_behind_a_mistake(self) -> None:
        """Once that is mended, branches come by with it."""
        forked = either("a", "b", "d")
        asking = either("d", "e", "f", guard="{{ x is defined }}")
        ends = (step("e"), step("f"))
        vain = step("b", "c", run="{action: log, message: '{{ y }}'}")
        text = playbook(forked, vain, step("c", "d", run=SAVE), asking, *ends, head="input: {}\n")
        assert findings(text) == [("NP301", "y")]
        elsewhere = (either("a", "b", "d"), vain, step("c", run=SAVE), asking, *ends)
        told = ["the case can never be taken: no path that leads here has produced `x`"]
        assert messages(playbook(*elsewhere, head="input: {}\n"), "NP203") == told

    def test_where_the_step_itself_may_not_save_it(self) -> None:
        maybe = SAVE.replace("set,", "set, if: '{{ run.id }}',", 1)
        asked = "{action: shell, command: ls, as: y, on_error: continue}"
        text = playbook(
            f"{{name: a, run: [{maybe}, {asked}, {READ}, {{action: log, message: '{{{{ y }}}}'}}]}}"
        )
        labels = [
            [(label.span.line, label.text) for label in d.labels] for d in found(text) if d.code == "NP302"
        ]
        assert labels == [
            [(2, "it is saved here, if this is done")],
            [(2, "it is saved here, if this succeeds")],
        ]

    def test_what_a_step_reads_in_vain_it_does_not_produce(self) -> None:
        rule = "[{case: '{{ x is defined }}', run: []}, {case: default, run: [b]}]"
        steps = (f"{{name: a, max_visits: 2, run: [{READ}], rule: {rule}}}", step("b", "a"))
        assert findings(playbook(*steps, head="input: {}\n")) == [("NP301", "x")]

    def test_a_guard_that_asks_for_what_nothing_produces(self) -> None:
        steps = (either("a", "b", "c", guard="{{ y is defined }}"), step("b"), step("c"))
        told = ["the case can never be taken: nothing in the playbook produces `y`"]
        assert messages(playbook(*steps, head="input: {}\n"), "NP203") == told
        assert messages(playbook(*steps), "NP203") == []

    def test_what_is_not_there_when_a_worker_was_lost(self) -> None:
        """A branch that ends by the loss of a worker saves nothing, and others go on without it if the run does."""
        forked = (step("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"))
        steps = (*forked, either("d", "e", "f", guard="{{ x is defined }}"), step("e"), step("f"))
        always = ["the case can never be taken: every path that leads here has produced `x`"]
        assert messages(playbook(*steps), "NP203") == always
        assert messages(playbook(*steps, head="on_error: continue\n"), "NP203") == []

    def test_the_case_behind_a_guard_that_is_always_true(self) -> None:
        text = playbook(
            either("a", "b", "c", guard="{{ v is defined }}"),
            step("b"),
            step("c"),
            head="variables: {v: 1}\n",
        )
        assert messages(text, "NP203") == ["the case can never be taken: `v` always has a value"]

    def test_what_is_lacking_comes_first(self) -> None:
        steps = (
            step("a", "b", run=READ),
            either("b", "c", "d", guard="{{ x is defined }}"),
            step("c", run=SAVE),
            step("d"),
        )
        assert [code for code, _ in findings(playbook(*steps))] == ["NP301"]

    def test_branches_that_are_never_forked_off_do_not_race(self) -> None:
        fork = '[{case: "{{ x is defined }}", run: [b, c]}, {case: default, run: [b]}]'
        first = f"{{name: a, run: [{OK}], rule: {fork}}}"
        save = "{action: set, set: {y: 1}}"
        text = playbook(first, step("b", "d", run=save), step("c", run=save), step("d", run=SAVE))
        assert [code for code, _ in findings(text)] == ["NP203"]
        assert [code for code, _ in findings(text.replace("x is defined", "run.id"))] == ["NP303"]
        assert [code for code, _ in findings(text.replace("x is defined", "1 > 2"))] == ["NP203"]


INPUTS = "input: {p: boolean, q: boolean, m: {type: string, enum: [a, b]}, n: integer, v: {type: string, default: null}}\n"


class TestRefusals:
    """A step that was visited too often was visited before, and was left by a way that leads back to it."""

    POLL = (
        "{name: poll, max_visits: 3, run: [{action: shell, command: ls, as: x}], rule: ["
        "{case: \"{{ error.type == 'MaxVisitsExceeded' }}\", run: [late]}, "
        "{case: error, run: [FAILED]}, {case: '{{ x }}', run: [pause]}, {case: default, run: []}]}"
    )

    @pytest.mark.parametrize(
        ("failed", "told"),
        [
            ("bad", []),
            ("pause", ["NP302 first → poll (failed) → late"]),
            ("late", ["NP302 first → poll (failed) → late"]),
        ],
    )
    def test_what_every_way_back_has_saved(self, failed: str, told: list[str]) -> None:
        poll = self.POLL.replace("FAILED", failed)
        steps = (step("first", "poll"), poll, step("pause", "poll"), step("late", run=READ), step("bad"))
        assert judged(*steps) == told
        of_another = (
            *steps[:2],
            step("pause", "poll", run=SAVE.replace("x:", "w:")),
            step("late", run=READ.replace("x", "w")),
        )
        assert judged(*of_another, step("bad")) == ([] if failed != "late" else told)

    def test_a_refusal_of_which_it_is_not_known_how_often_branches_have_come(self) -> None:
        poll = self.POLL.replace("FAILED", "bad").replace("max_visits: 3", "max_visits: 3, join: each")
        steps = (
            step("first", "poll", "other"),
            step("other", "poll"),
            poll,
            step("pause", "poll"),
            step("bad"),
        )
        assert "NP302" in " ".join(judged(*steps, step("late", run=READ)))

    def test_a_failure_that_may_be_called_so(self) -> None:
        poll = self.POLL.replace("FAILED", "bad").replace(
            "[{", "[{action: fail, message: m, type: '{{ run.id }}', if: '{{ run.id }}'}, {", 1
        )
        steps = (step("first", "poll"), poll, step("pause", "poll"), step("late", run=READ), step("bad"))
        assert judged(*steps) == ["NP302 first → poll (failed) → late"]


class TestConditions:
    """What is saved under a condition that never changes in a run may be read under the same one."""

    @pytest.mark.parametrize(
        ("saved", "read"),
        [
            ("p", "p"),
            ("p", "input.p"),
            ("p", "p and q"),
            ("not p", "not p"),
            ("m == 'a'", "m == 'a'"),
            ("m == 'a'", "'a' == m"),
            ("m != 'a'", "m == 'b'"),
            ("n > 3", "3 < n"),
            ("n <= 3", "not n > 3"),
            ("v is none", "v is none"),
            ("m in ['a', 'c']", "m in ['a', 'c']"),
            ("p or q", "q"),
        ],
    )
    def test_the_same_one(self, saved: str, read: str) -> None:
        save = f'{{action: set, set: {{x: 1}}, if: "{{{{ {saved} }}}}"}}'
        reads = [
            f'{{action: log, message: "{{{{ x }}}}", if: "{{{{ {read} }}}}"}}',
            f'{{action: log, message: "{{{{ x if {read} else 0 }}}}"}}',
        ]
        for one in reads:
            assert judged(step("a", "b", run=save), step("b", run=one), head=INPUTS) == []
            assert judged(step("a", run=f"{save}, {one}"), head=INPUTS) == []
            assert (
                judged(step("a", "b", run=OK), step("b", run=one), step("c", run=SAVE), head=INPUTS)[0]
                == "NP301"
            )
        guarded = f'{{name: b, run: [{OK}], rule: [{{case: "{{{{ {read} }}}}", run: [WORK]}}]}}'
        for work in (READ, "c"):
            steps = (step("a", "b", run=save), guarded.replace("WORK", work), step("c", run=READ))
            assert judged(*steps, head=INPUTS) == []

    @pytest.mark.parametrize(
        ("saved", "read"),
        [
            ("p", "q"),
            ("p", "not p"),
            ("p and q", "p"),
            ("m == 'a'", "m == 'b'"),
            ("n > 3", "n >= 3"),
            ("n > 3", "n > 2"),
            ("v == 'a'", "v != 'b'"),
            ("'a' in m", "m in 'a'"),
            ("w", "w"),
            ("step.visit == 1", "step.visit == 1"),
        ],
    )
    def test_another_one(self, saved: str, read: str) -> None:
        """A value that may be another one by then is another one, too."""
        save = f'{{action: set, set: {{x: 1}}, if: "{{{{ {saved} }}}}"}}, {{action: set, set: {{w: 2}}}}'
        reads = f'{{action: log, message: "{{{{ x }}}}", if: "{{{{ {read} }}}}"}}'
        head = INPUTS + "variables: {w: 0}\n"
        assert judged(step("a", "b", run=save), step("b", run=reads), head=head) == ["NP302 a → b"]

    def test_by_another_path(self) -> None:
        """The example of a choice that is made again further on."""
        steps = (
            either("a", "b", "c", "{{ m == 'a' }}"),
            step("b", "c", run=SAVE),
            either("c", "d", "e", "{{ m == 'a' }}"),
            step("d", run=READ),
            step("e"),
        )
        assert judged(*steps, head=INPUTS) == []
        swapped = (*steps[:2], either("c", "e", "d", "{{ m == 'a' }}"), *steps[3:])
        assert judged(*swapped, head=INPUTS) == ["NP302 a → c → d"]

    def test_what_only_one_run_in_two_saves(self) -> None:
        both = [f'{{action: set, set: {{x: 1}}, if: "{{{{ {guard} }}}}"}}' for guard in ("p", "not p")]
        assert (
            judged(step("a", "b", run=both[0]), step("b", "c", run=both[1]), step("c", run=READ), head=INPUTS)
            == []
        )
        assert judged(step("a", run=f"{both[0]}, {both[1]}, {READ}"), head=INPUTS) == []
        assert judged(step("a", run=f"{both[0]}, {both[0]}, {READ}"), head=INPUTS) == ["NP302"]

    def test_a_name_that_is_saved_once_never_changes(self) -> None:
        ask = "{action: set, set: {k: '{{ run.id }}'}}"
        save, read = (
            f'{{action: {one}, if: "{{{{ k == 1 }}}}"}}'
            for one in ("set, set: {x: 1}", "log, message: '{{ x }}'")
        )
        assert judged(step("a", "b", run=f"{ask}, {save}"), step("b", run=read)) == []
        again = step("b", run=f"{ask}, {read}")
        assert judged(step("a", "b", run=f"{ask}, {save}"), again) == ["NP302 a → b"]

    def test_a_task_that_is_called_under_a_condition(self) -> None:
        save = '{action: set, set: {x: 1}, if: "{{ p }}"}'
        head = f"{INPUTS}tasks: {{t: [{READ}]}}\n"
        assert judged(step("a", "b", run=save), step("b", run='{task: t, if: "{{ p }}"}'), head=head) == []
        assert judged(step("a", "b", run=save), step("b", run='{task: t, if: "{{ q }}"}'), head=head) == [
            "NP302 a → b"
        ]

    def test_a_task_whose_caller_knows_more(self) -> None:
        """That `k` is there says under which condition `x` is; the task asks for all of `x` nevertheless."""
        saves = """{action: set, set: {k: 1}}, {action: set, set: {x: 1}, if: "{{ m == 'a' }}"}"""
        head = f"{INPUTS}tasks: {{t: [{READ[:-1]}, if: '{{{{ k == 1 }}}}'}}]}}\n"
        calls = either("b", "c", "d", "{{ m != 'a' }}", run="t")
        steps = (step("a", "b", run=saves), calls, step("c", run="{action: set, set: {k: 2}}"), step("d"))
        assert judged(*steps, head=head) == ["NP302 a → b"]


class TestAlternatives:
    """Of two names that branches save, one is read where the other one is not there."""

    @pytest.mark.parametrize(
        "text",
        [
            "x if x is defined else y",
            "x | default(y)",
            "x | default(y | default(z))",
            "y if x is not defined else x",
        ],
    )
    def test_one_of_them_is_there(self, text: str) -> None:
        read = f"{{action: log, message: '{{{{ {text} }}}}'}}"
        other = SAVE.replace("x:", "y:")
        steps = [
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d", run=other),
            step("d", run=read),
        ]
        assert judged(*steps, step("e", run=SAVE.replace("x:", "z:"))) == []
        steps[2] = step("c", "d", run=f"{other[:-1]}, if: '{MAYBE}'}}")
        told = judged(*steps, step("e", run=SAVE.replace("x:", "z:")))
        assert told == ["NP301" if "z" in text else "NP302 a → c → d"]

    def test_one_that_is_looked_into_must_be_there(self) -> None:
        read = "{action: log, message: '{{ x | default(y.z) }}'}"
        other = SAVE.replace("x:", "y:")
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d", run=other),
            step("d", run=read),
        )
        assert judged(*steps) == ["NP302 a → b → d"]

    def test_an_action_that_is_done_where_another_one_has_saved_nothing(self) -> None:
        ask = "{action: shell, command: ls, as: x, on_error: continue}"
        other = '{action: set, set: {y: 1}, if: "{{ x is not defined }}"}'
        read = "{action: log, message: '{{ x if x is defined else y }}'}"
        assert judged(step("a", "b", run=f"{ask}, {other}"), step("b", run=read)) == []


def test_names_that_are_given_are_always_there() -> None:
    head = "input: {a: any}\nenvironment: {b: 1}\nvariables: {x: 1}\n"
    read = "{action: log, message: '{{ a }} {{ b }} {{ x }} {{ input.a }}'}"
    assert judged(step("s", "t", run=read), step("t", run=SAVE), head=head) == []


def test_a_mistake_elsewhere_comes_first() -> None:
    steps = (either("a", "b", "nowhere"), step("b", "c", run=SAVE), step("c", run=READ))
    assert [code for code, _ in findings(playbook(*steps))] == ["NP101"]


def test_a_step_that_asks_for_its_own_result() -> None:
    text = playbook(f'{{name: a, run: [{OK}], rule: [{{case: "{{{{ steps.a.result }}}}", run: []}}]}}')
    assert hints(text, "NP301") == ["what a step itself has done is in `result`, in its rule"]


def test_a_guard_that_only_a_read_in_vain_refutes_is_not_said_to_be_dead() -> None:
    guard = '[{case: "{{ run.id and x is not defined }}", run: []}, {case: default, run: []}]'
    for read, told in ((READ, ["NP302"]), ("{action: log, message: '{{ x | default(1) }}'}", [])):
        text = playbook(
            step("a", "b", run=f"{SAVE[:-1]}, if: '{MAYBE}'}}"), f"{{name: b, run: [{read}], rule: {guard}}}"
        )
        assert [code for code, _ in findings(text)] == told
    text = playbook(step("a", "b", run=SAVE), f"{{name: b, run: [{READ}], rule: {guard}}}")
    assert [code for code, _ in findings(text)] == ["NP203"]


def test_where_there_are_too_many_ways_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (either("a", "b", "c"), step("b", "c", run=SAVE), step("c", run=READ))
    monkeypatch.setattr(solver, "MAX_LOOKS", 2)
    assert judged(*steps) == []


def test_of_many_paths_the_first_are_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undefined_names, "MAX_PATHS", 2)
    names = [f"x{at}" for at in range(5)]
    saves = ", ".join(f"{{action: set, if: '{MAYBE}', set: {{{name}: 1}}}}" for name in names)
    reads = ", ".join(f"{{action: log, message: '{{{{ {name} }}}}'}}" for name in names)
    diagnostics = found(playbook(step("a", "b", run=saves), step("b", run=reads)))
    assert [d.code for d in diagnostics].count("NP302") == 2
    assert diagnostics[-1].message == "3 more findings are not shown"
