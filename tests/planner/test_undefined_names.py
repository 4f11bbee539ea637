"""NP301 and NP302: names that are assigned on some paths to a read, or on none; NP203 by impossible facts."""

from __future__ import annotations

import pytest

from noetl.planner.checks import undefined_names
from noetl.planner.dataflow import fact_encoding, transfer
from tests.planner.findings import diagnose, findings, hints, messages, playbook

READ = "{action: log, message: '{{ x }}'}"
SAVE = "{action: set, set: {x: 1}}"
OK = "{action: log, message: m}"
MAYBE = "{{ run.id }}"


def step(name: str, *targets: str, run: str = OK, more: str = "") -> str:
    rule = f", rule: [{{case: default, run: [{', '.join(targets)}]}}]" if targets else ""
    return f"{{name: {name}, run: [{run}]{more}{rule}}}"


def either(name: str, first: str, second: str, guard: str = MAYBE, run: str = OK) -> str:
    rule = f'[{{case: "{guard}", run: [{first}]}}, {{case: default, run: [{second}]}}]'
    return f"{{name: {name}, run: [{run}], rule: {rule}}}"


def undefined_reads(*steps: str, head: str = "") -> list[str]:
    """Return code and path of each finding about a read that is or may be undefined."""
    reads = []
    for diagnostic in diagnose(playbook(*steps, head=head)):
        if diagnostic.code in ("NP301", "NP302"):
            _, _, path = diagnostic.message.partition(" on the path ")
            reads.append(f"{diagnostic.code} {path}".strip())
    return reads


class TestWitnessPaths:
    def test_name_saved_on_one_of_two_paths_is_maybe_undefined(self) -> None:
        """A warning shows the path. It disappears when the other branch saves the name too."""
        text = playbook(
            either("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"), step("d", run=READ)
        )  # fmt: skip
        (diagnostic,) = (d for d in diagnose(text) if d.severity != "note")
        assert (diagnostic.code, diagnostic.severity) == ("NP302", "warning")
        assert diagnostic.message == "`x` may be undefined on the path a → c → d"
        assert findings(text) == [("NP302", "x")]
        assert [(label.span.line, label.text) for label in diagnostic.labels] == [(2, "this case is taken")]
        assert findings(text.replace(step("c", "d"), step("c", "d", run=SAVE))) == []

    def test_message_shows_the_shortest_path(self) -> None:
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "e"),
            step("e", "d"),
            step("d", run=READ),
        )
        assert undefined_reads(*steps) == ["NP302 a → c → e → d"]
        assert undefined_reads(*steps[:2], either("c", "e", "d"), *steps[3:]) == ["NP302 a → c → d"]

    def test_middle_of_a_long_path_is_left_out(self) -> None:
        chain = [step(f"s{number}", f"s{number + 1}") for number in range(1, 12)]
        steps = (
            either("a", "s1", "b"),
            *chain,
            step("s12", "c"),
            step("b", "c", run=SAVE),
            step("c", run=READ),
        )
        assert messages(playbook(*steps)) == [
            "`x` may be undefined on the path a → s1 → s2 → s3 → s4 → s5 → … → s8 → s9 → s10 → s11 → s12 → c"
        ]

    def test_name_saved_only_later_is_undefined(self) -> None:
        text = playbook(step("a", "b", run=READ), step("b", run=SAVE))
        (diagnostic,) = (d for d in diagnose(text) if d.code == "NP301")
        assert diagnostic.message == "no path to this step assigns `x`"
        assert [(label.span.line, label.text) for label in diagnostic.labels] == [(3, "it is saved here")]
        assert undefined_reads(step("a", "b", "c"), step("b", run=SAVE), step("c", run=READ)) == ["NP301"]

    def test_hint_names_the_closest_defined_name(self) -> None:
        text = playbook(
            step("a", "b", run="{action: set, set: {customer: 1}}"),
            step("b", "c", run="{action: log, message: '{{ customers }}'}"),
            step("c", run="{action: set, set: {customers: 1}}"),
        )
        assert hints(text, "NP301") == ["did you mean `customer`?"]

    def test_second_read_of_a_name_is_not_reported(self) -> None:
        """Steps after the first reader have a value, because the first reader fails without one."""
        steps = (
            either("a", "b", "c"),
            step("b", "c", run=SAVE),
            step("c", "d", run=f"{READ}, {READ}"),
            step("d", run=READ),
        )
        assert undefined_reads(*steps) == ["NP302 a → c"]

    def test_second_name_is_reported_if_the_step_may_have_saved_the_first(self) -> None:
        """Elsewhere each name is saved after the other one. That says nothing about this step."""
        maybe = "{action: shell, command: date, as: x, on_error: continue}"
        read = "{action: log, message: '{{ x if run.id else y }}'}"
        rule = "[{case: '{{ y }}', run: [b]}]"
        text = playbook(
            f"{{name: a, run: [{maybe}, {read}], rule: {rule}}}", step("b", run="{action: set, set: {y: 1}}")
        )
        assert [source for _, source in findings(text)] == ["x", "y"]

    def test_findings_do_not_depend_on_the_order_of_the_text(self) -> None:
        steps = [either("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"), step("d", run=READ)]
        assert (
            undefined_reads(*reversed(steps), head="start: a\n")
            == undefined_reads(*steps)
            == ["NP302 a → c → d"]
        )

    def test_name_saved_on_every_round_of_a_cycle_is_defined(self) -> None:
        cycle = (
            either("a", "a", "b", run=SAVE).replace("{name: a", "{name: a, max_visits: 3"),
            step("b", run=READ),
        )
        assert undefined_reads(*cycle) == []

    def test_name_saved_later_in_a_cycle_is_maybe_undefined(self) -> None:
        text = playbook(
            step("a", "b", more=", max_visits: 3", run=READ), either("b", "a", "c", run=SAVE), step("c")
        )
        assert messages(text, "NP302") == ["`x` may be undefined"]


class TestFactsAfterFailures:
    def test_failed_step_has_not_saved_its_names(self) -> None:
        rule = "rule: [{case: error, run: [b]}, {case: default, run: [c]}]"
        steps = (f"{{name: a, run: [{SAVE}], {rule}}}", step("b", run=READ), step("c", run=READ))
        assert undefined_reads(*steps) == ["NP301"]

    def test_failure_and_success_that_lead_to_one_step(self) -> None:
        rule = "rule: [{case: error, run: [b]}, {case: default, run: [b]}]"
        assert undefined_reads(f"{{name: a, run: [{SAVE}], {rule}}}", step("b", run=READ)) == [
            "NP302 a (failed) → b"
        ]

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
    def test_guards_that_are_true_only_after_success(self, guard: str, expected: list[str]) -> None:
        steps = (f'{{name: a, run: [{SAVE}], rule: [{{case: "{guard}", run: [b]}}]}}', step("b", run=READ))
        assert undefined_reads(*steps) == expected

    def test_error_aware_guard_is_evaluated_after_a_failure(self) -> None:
        text = playbook(
            f'{{name: a, run: [{SAVE}], rule: [{{case: "{{{{ x > 1 and not error }}}}", run: []}}]}}'
        )
        assert messages(text, "NP302") == ["`x` may be undefined when `a` has failed"]

    def test_later_case_is_reached_only_if_earlier_guards_are_false(self) -> None:
        rule = '[{case: error, run: [b]}, {case: "{{ result.success or run.id }}", run: [c]}]'
        assert (
            undefined_reads(f"{{name: a, run: [{SAVE}], rule: {rule}}}", step("b"), step("c", run=READ)) == []
        )

    def test_tolerated_failure_saves_nothing(self) -> None:
        tolerated = "{action: shell, command: ls, as: x, on_error: continue}"
        assert undefined_reads(step("a", "b", run=tolerated), step("b", run=READ)) == ["NP302 a → b"]
        guarded = (
            f'{{name: a, run: [{tolerated}], rule: [{{case: "{{{{ not result.success }}}}", run: [b]}}]}}'
        )
        assert undefined_reads(guarded, step("b", run=READ)) == ["NP302 a → b"]

    def test_result_is_that_of_the_last_action(self) -> None:
        """A successful result means that entries whose failure is tolerated have succeeded too."""
        tolerated = "{action: shell, command: ls, as: x, on_error: continue}"
        rule = 'rule: [{case: "{{ not result.success }}", run: [c]}, {case: default, run: [b]}]'
        later_steps = (step("b", run=READ), step("c"))
        assert undefined_reads(f"{{name: a, run: [{OK}, {tolerated}], {rule}}}", *later_steps) == []
        assert undefined_reads(f"{{name: a, run: [{tolerated}, {OK}], {rule}}}", *later_steps) == [
            "NP302 a → b"
        ]
        assert (
            undefined_reads(f"{{name: a, parallel: true, run: [{tolerated}, {OK}], {rule}}}", *later_steps)
            == []
        )
        maybe = tolerated.replace("as: x", "as: x, if: '{{ run.id }}'")
        assert undefined_reads(f"{{name: a, run: [{maybe}], {rule}}}", *later_steps) == ["NP302 a → b"]
        said = (
            rule.replace("not result.success", "result.success").replace("[c]", "[d]").replace("[b]", "[c]")
        )
        assert (
            undefined_reads(f"{{name: a, run: [{tolerated}], {said}}}", step("d", run=READ), later_steps[1])
            == []
        )
        only_after_a_failure = f"{{name: a, run: [{tolerated}, {OK}], {rule.replace('[c]', '[d]')}}}"
        assert undefined_reads(only_after_a_failure, step("b"), step("d", run=READ)) == ["NP301"]

    def test_branch_may_end_by_a_failure_while_the_run_continues(self) -> None:
        fork = (step("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"), step("d", run=READ))
        assert undefined_reads(*fork, head="on_error: continue\n") == []
        fork = (fork[0], step("b", "d", run="{action: http, url: 'https://x.test', as: x}"), *fork[2:])
        assert undefined_reads(*fork) == []
        assert undefined_reads(*fork, head="on_error: continue\n") == ["NP302 a → c → d, where `b` fails"]

    def test_step_that_always_fails_has_no_successful_exit(self) -> None:
        fails = "{action: fail, message: no}"
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d", run=fails),
            step("d", run=READ),
        )
        assert undefined_reads(*steps) == []
        skipped = "{action: fail, message: no, if: '{{ run.id }}'}"
        assert undefined_reads(*steps[:2], step("c", "d", run=skipped), steps[3]) == ["NP302 a → c → d"]

    def test_refused_visit_keeps_what_earlier_visits_saved(self) -> None:
        """A refused visit keeps what earlier visits saved. A case that does not lead back handles it."""
        rule = "[{case: \"{{ error.type == 'MaxVisitsExceeded' }}\", run: [b]}, {case: default, run: [a]}]"
        text = f"{{name: a, max_visits: 2, run: [{SAVE}], rule: {rule}}}"
        assert undefined_reads(text, step("b", run=READ)) == []
        single_round = text.replace("case: default, run: [a]", "case: default, run: [c]")
        assert undefined_reads(single_round, step("c", "a"), step("b", run=READ)) == []
        other = single_round.replace("x: 1", "y: 1")
        assert undefined_reads(
            other, step("c", "a", run=f"{SAVE[:-1]}, if: '{MAYBE}'}}"), step("b", run=READ)
        ) == ["NP302 a (failed) → b"]


class TestGuardNarrowing:
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
    def test_true_guard_makes_names_defined(self, guard: str, expected: list[str]) -> None:
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d"),
            either("d", "e", "f", guard=guard),
            step("e", run="{action: log, message: '{{ x }} {{ steps.b.result }}'}"),
            step("f"),
        )
        assert [finding for finding in undefined_reads(*steps) if "steps" not in finding][:1] == expected[:1]

    def test_names_saved_together_imply_each_other(self) -> None:
        pair = "{action: set, set: {x: 1, y: 1}}"
        read = "{action: log, message: '{{ x }} {{ y }} {{ steps.b.result }}'}"
        steps = (either("a", "b", "c"), step("b", "d", run=pair), step("c", "d"))
        assert undefined_reads(*steps, step("d", run=read)) == ["NP302 a → c → d"]
        guarded = either("d", "e", "f", guard="{{ y is defined }}")
        assert undefined_reads(*steps, guarded, step("e", run=read), step("f")) == []
        later = "{action: log, message: '{{ x if y is defined else 0 }}'}, {action: set, set: {x: 1}}"
        separate = step("b", "d", run="{action: set, set: {y: 1}}, " + later)
        assert undefined_reads(separate, step("d", run=read.replace("{{ steps.b.result }}", ""))) == ["NP301"]

    def test_exhaustive_rule_has_no_exit_without_a_case(self) -> None:
        """One of two cases is always taken, because their guards cover all values."""
        save = "{action: set, set: {n: '{{ step.visit }}'}}"
        fork = (step("a", "b", "c", run=save), step("c", "d"), step("d", run=READ))
        rule = '[{case: "{{ n > 1 }}", run: [d]}, {case: "{{ n <= 1 }}", run: [d]}]'
        assert undefined_reads(*fork, f"{{name: b, run: [{SAVE}], rule: {rule}}}") == []
        left = rule.replace("<=", "<")
        assert undefined_reads(*fork, f"{{name: b, run: [{SAVE}], rule: {left}}}") == [
            "NP302 a → c → d, where `b` ends"
        ]

    def test_false_guard_of_an_earlier_case_makes_names_defined(self) -> None:
        rule = '[{case: "{{ x is undefined }}", run: [e]}, {case: default, run: [f]}]'
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d"),
            f"{{name: d, rule: {rule}}}",
            step("e"),
            step("f", run=READ),
        )
        assert undefined_reads(*steps) == []

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
    def test_conditional_reads_in_a_step(self, action: str, expected: int) -> None:
        steps = (either("a", "b", "c"), step("b", "c", run=SAVE), step("c", run=action))
        assert len(undefined_reads(*steps)) == expected


class TestWorkOfSteps:
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
    def test_sequential_entries(self, run: str, expected: list[str]) -> None:
        assert undefined_reads(step("a", run=run), head=f"tasks: {{t: [{SAVE}]}}\n") == expected

    def test_parallel_entries_do_not_see_each_other(self) -> None:
        parallel = "{name: a, parallel: true, run: [%s, %s], rule: [{case: default, run: [b]}]}"
        assert undefined_reads(parallel % (SAVE, READ), step("b")) == ["NP301"]
        assert undefined_reads(parallel % (SAVE, OK), step("b", run=READ)) == []

    def test_reads_of_a_task_are_checked_at_its_calls(self) -> None:
        head = f"tasks: {{t: [u], u: [{READ}]}}\n"
        steps = (either("a", "b", "c"), step("b", "c", run=SAVE), step("c", run="{task: t}"))
        assert undefined_reads(*steps, head=head) == ["NP302 a → c"]
        assert findings(playbook(*steps, head=head), "NP302") == [("NP302", "x")]
        assert undefined_reads(step("a", run=f"{SAVE}, {{task: t}}"), head=head) == []

    def test_names_saved_in_a_loop_are_local_to_the_item(self) -> None:
        looped = "{name: a, loop: {items: [1]}, run: [%s, %s], rule: [{case: default, run: [b]}]}"
        assert undefined_reads(looped % (SAVE, READ), step("b")) == []
        assert undefined_reads(looped % (READ, SAVE), step("b")) == ["NP301"]
        assert undefined_reads(looped % (SAVE, OK), step("b", run=READ), head="input: {}\n") == ["NP301"]

    def test_item_reads_what_was_saved_before_the_loop(self) -> None:
        looped = f"{{name: b, loop: {{items: [1]}}, run: [{READ}, {SAVE}]}}"
        assert undefined_reads(step("a", "b", run=SAVE), looped) == []

    def test_repeat_condition_reads_what_a_round_saves(self) -> None:
        repeated = "{name: a, repeat: {until: '{{ x > 3 }}', max: 3}, run: [%s]}"
        assert undefined_reads(repeated % SAVE) == []
        assert undefined_reads(repeated % f"{READ}, {SAVE}") == ["NP302"]
        assert undefined_reads(
            "{name: a, repeat: {until: '{{ y }}', max: 3}, "
            "run: [{action: set, if: '{{ run.id }}', set: {y: 1}}]}"
        ) == ["NP302"]

    def test_work_of_a_case_reads_what_the_step_saved(self) -> None:
        rule = f"rule: [{{case: default, run: [{READ}]}}]"
        assert undefined_reads(f"{{name: a, run: [{SAVE}], {rule}}}") == []
        text = f"{{name: a, run: [{SAVE}], rule: [{{case: error, run: [{READ}]}}]}}"
        assert undefined_reads(text) == ["NP301"]


class TestJoinContributions:
    def test_join_unites_the_names_of_all_branches_that_must_arrive(self) -> None:
        pair = "{action: log, message: '{{ x }} {{ y }}'}"
        assert (
            undefined_reads(
                step("a", "b", "c"),
                step("b", "d", run=SAVE),
                step("c", "d", run="{action: set, set: {y: 1}}"),
                step("d", run=pair),
            )
            == []
        )

    def test_branch_may_end_or_leave_before_the_join(self) -> None:
        ends = f'{{name: b, run: [{SAVE}], rule: [{{case: "{MAYBE}", run: [d]}}]}}'
        assert undefined_reads(step("a", "b", "c"), ends, step("c", "d"), step("d", run=READ)) == [
            "NP302 a → c → d, where `b` ends"
        ]
        goes = either("b", "d", "e", run=SAVE)
        assert undefined_reads(step("a", "b", "c"), goes, step("c", "d"), step("d", run=READ), step("e")) == [
            "NP302 a → c → d"
        ]

    def test_discriminator_has_only_the_names_of_the_first_branch(self) -> None:
        fork = (step("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"))
        assert undefined_reads(*fork, step("d", run=READ, more=", join: any")) == ["NP302 a → c → d"]
        assert undefined_reads(*fork, step("d", run=READ, more=", join: each")) == ["NP302 a → c → d"]

    def test_nested_joins(self) -> None:
        steps = (
            step("a", "b", "c"),
            step("b", "d", "e"),
            step("c", "g"),
            step("d", "f", run=SAVE),
            step("e", "f"),
            step("f", "g"),
            step("g", run=READ),
        )
        assert undefined_reads(*steps) == []

    def test_later_branch_reads_what_earlier_branches_saved(self) -> None:
        fork = (step("a", "b", "c"), step("b", run=SAVE), step("c", run=READ))
        assert undefined_reads(*fork) == ["NP301"]
        assert undefined_reads(*fork, head="mode: sequential\n") == []
        late = (step("a", "c", "b"), step("b", run=SAVE), step("c", run=READ))
        assert undefined_reads(*late, head="mode: sequential\n") == ["NP301"]
        maybe = (
            step("a", "b", "c"),
            step("b", run="{action: set, if: '{{ run.id }}', set: {x: 1}}"),
            step("c", run=READ),
        )
        assert [finding[:5] for finding in undefined_reads(*maybe, head="mode: sequential\n")] == ["NP302"]

    def test_join_goes_on_top_when_it_fires(self) -> None:
        """A join fires after the turn since which no branch can reach it, and runs before all other steps."""
        sequential = "mode: sequential\n"
        fork = (
            step("a", "b", "c", "d"),
            step("b", "j"),
            step("c", "j"),
            step("j", run=SAVE),
            step("d", run=READ),
        )
        assert undefined_reads(*fork, head=sequential) == []
        last = (step("a", "b", "d", "c"), *fork[1:])
        assert undefined_reads(*last, head=sequential) == ["NP302 a → d"]
        inner = (step("a", "b", "d"), step("b", "c", "e"), step("c", "j"), step("e", "j"), *fork[3:])
        assert undefined_reads(*inner, head=sequential) == []
        fork_and_join = (
            step("a", "b", "c", "d"),
            step("b", run=SAVE),
            step("c", "j"),
            step("d", "j"),
            step("j", run=READ),
        )
        assert undefined_reads(*fork_and_join, head=sequential) == []
        assert [
            finding[:5]
            for finding in undefined_reads(step("a", "c", "d", "b"), *fork_and_join[1:], head=sequential)
        ] == ["NP302"]

    def test_branch_arrives_at_a_join_on_its_turn(self) -> None:
        """A join that is a target waits for its turn, like any other target."""
        sequential = "mode: sequential\n"
        first, fork = step("a", "j", "b"), step("b", "d", "j")
        assert undefined_reads(first, fork, step("j", run=SAVE), step("d", run=READ), head=sequential) == [
            "NP302 a → b → d"
        ]
        assert undefined_reads(first, fork, step("j", run=READ), step("d", run=SAVE), head=sequential) == []
        later = (step("a", "b", "j"), fork, step("j", run=SAVE), step("d", run=READ))
        assert undefined_reads(*later, head=sequential) == ["NP301"]
        before = (step("a", "b", "d", "j"), step("b", "j"), step("j", run=READ), step("d", run=SAVE))
        assert undefined_reads(*before, head=sequential) == []

    def test_earlier_target_of_two_joins_runs_first(self) -> None:
        targets = (step("a", "b", "c"), step("b", "j", "k"), step("c", "j", "k"))
        save_first = (step("j", run=SAVE), step("k", run=READ))
        assert undefined_reads(*targets, *save_first, head="mode: sequential\n") == []
        read_first = (step("j", run=READ), step("k", run=SAVE))
        assert [
            finding[:5] for finding in undefined_reads(*targets, *read_first, head="mode: sequential\n")
        ] == ["NP302"]

    def test_witness_shows_an_earlier_branch_that_fails(self) -> None:
        """The witness is a path on which the earlier branch fails."""
        saves = "{action: shell, command: ls, as: x}"
        failing = f"{{name: b, run: [{saves}], rule: [{{case: error, run: [d]}}]}}"
        steps = (step("a", "b", "c"), failing, step("c", "d"), step("d", run=READ))
        assert undefined_reads(*steps, head="mode: sequential\n") == ["NP302 a → b (failed) → d"]
        chained = (step("a", "b", "d"), failing.replace("[d]", "[c]"), *steps[2:])
        assert undefined_reads(*chained, head="mode: sequential\n") == ["NP302 a → b (failed) → c → d"]

    def test_first_arrival_at_a_discriminator_continues(self) -> None:
        steps = (step("a", "j", "b"), step("b", "j", run=READ), step("j", more=", join: any", run=SAVE))
        assert undefined_reads(*steps, head="mode: sequential\n") == []
        assert undefined_reads(step("a", "b", "j"), *steps[1:], head="mode: sequential\n") == ["NP301"]

    def test_branch_arrives_at_a_discriminator_on_its_turn(self) -> None:
        """The order is a, b, j from b, c; the branch from a to j ends there."""
        steps = (step("a", "b", "j"), step("b", "j", "c"), step("c", run=READ))
        join = step("j", more=", join: any", run=SAVE)
        assert undefined_reads(*steps, join, head="mode: sequential\n") == []

    def test_join_named_first_may_run_last(self) -> None:
        steps = (step("a", "j", "b"), step("b", "j", run=READ), step("j", run=SAVE))
        assert undefined_reads(*steps, head="mode: sequential\n") == ["NP302 a → b"]


class TestStepResults:
    TEXT = "{action: log, message: '{{ steps.b.result }}'}"

    def test_step_visited_on_one_of_two_paths(self) -> None:
        text = playbook(either("a", "b", "c"), step("b", "c"), step("c", run=self.TEXT))
        assert messages(text, "NP302") == ["step `b` may be unvisited on the path a → c"]
        assert findings(text, "NP302") == [("NP302", "b")]

    def test_step_visited_on_no_path(self) -> None:
        text = playbook(step("a", "b", run=self.TEXT), step("b"))
        assert messages(text, "NP301") == ["no path to this step visits step `b`"]
        assert undefined_reads(step("b", run=self.TEXT)) == ["NP301"]

    def test_failed_step_was_visited(self) -> None:
        rule = "rule: [{case: error, run: [c]}, {case: default, run: [c]}]"
        read = "{action: log, message: '{{ steps.b.error }}'}"
        assert undefined_reads(f"{{name: b, run: [{OK}], {rule}}}", step("c", run=read)) == []

    @pytest.mark.parametrize("part", ["result", "error", "failures"])
    def test_parts_of_an_unvisited_step_are_undefined(self, part: str) -> None:
        read = f"{{action: log, message: '{{{{ steps.b.{part} }}}}'}}"
        assert undefined_reads(step("a", "b", run=read), step("b")) == ["NP301"]
        assert undefined_reads(either("a", "b", "c"), step("b", "c"), step("c", run=read)) == ["NP302 a → c"]
        assert undefined_reads(step("b", "c"), step("c", run=read)) == []

    def test_status_and_visits_are_always_defined(self) -> None:
        read = "{action: log, message: '{{ steps.b.status }} {{ steps.b.visits }}'}"
        assert undefined_reads(step("a", "b", run=read), step("b")) == []


class TestFactsAtTheEnd:
    def test_output_reads_what_every_run_saves(self) -> None:
        output = 'output: {x: "{{ x }}"}\n'
        assert undefined_reads(step("a", "b"), step("b", run=SAVE), head=output) == []
        assert undefined_reads(step("a", "b", "c"), step("b", run=SAVE), step("c"), head=output) == []
        assert undefined_reads(either("a", "b", "c"), step("b", run=SAVE), step("c"), head=output) == [
            "NP302 a → c"
        ]
        assert undefined_reads(f"{{name: a, rule: [{{case: default, run: [{SAVE}]}}]}}", head=output) == []

    def test_output_of_a_run_with_failed_branches(self) -> None:
        output = 'on_error: continue\noutput: {x: "{{ x }}"}\n'
        fallible = "{action: shell, command: ls, as: x}"
        assert undefined_reads(step("a", run=SAVE), head=output) == []
        assert messages(playbook(step("a", run=fallible), head=output), "NP302") == [
            "`x` may be undefined when `a` fails"
        ]
        assert (
            undefined_reads(step("a", run=fallible), head=output.removeprefix("on_error: continue\n")) == []
        )
        assert undefined_reads(step("a", "b"), step("b", run=fallible), head=output) == [
            "NP302 a → b (failed)"
        ]
        assert (
            undefined_reads(step("a", "b", "c"), step("b", run=SAVE), step("c", run=fallible), head=output)
            == []
        )
        assert undefined_reads(step("a", "b", "c"), step("b"), step("c", run=fallible), head=output) == [
            "NP302 a → b, where `c` fails"
        ]

    def test_an_unknown_finally_step_ends_the_check(self) -> None:
        head = 'finally: zz\noutput: {x: "{{ x }}"}\n'
        assert undefined_reads(step("a"), step("z", run=SAVE), head=head) == []

    def test_output_reads_what_the_finally_step_saves(self) -> None:
        output = 'finally: z\noutput: {x: "{{ x }}"}\n'
        fallible = "{action: shell, command: ls, as: x}"
        for run in (SAVE, fallible):
            assert undefined_reads(step("a"), step("z", run=run), head=output) == []
        assert (
            undefined_reads(
                step("a", run="{action: shell, command: ls}"), step("z", run=fallible), head=output
            )
            == []
        )
        continuing = f"on_error: continue\n{output}"
        assert undefined_reads(step("a"), step("z", run=fallible), head=continuing) == []
        assert (
            undefined_reads(
                step("a", run="{action: shell, command: ls}"), step("z", run=SAVE), head=continuing
            )
            == []
        )
        text = playbook(
            step("a", run="{action: shell, command: ls}"), step("z", run=fallible), head=continuing
        )
        expected = "`x` may be undefined in a run with failures: step `z` may fail too"
        assert messages(text, "NP302") == [expected]

    def test_finally_step_in_the_flow_is_checked_once(self) -> None:
        """Another error (NP207) says that the step cannot be part of the flow."""
        steps = (step("a", "f"), step("f", run=READ), step("b", run=SAVE))
        assert undefined_reads(*steps, head="finally: f\n") == ["NP301"]

    def test_finally_step_may_run_at_any_time(self) -> None:
        head = "finally: z\n"
        text = playbook(step("a", run=SAVE), step("z", run=READ), head=head)
        assert messages(text, "NP302") == ["`x` may be undefined: the run may end earlier"]
        for provided in ("{{ x | default(0) }}", "{{ x if run.status == 'succeeded' else 0 }}"):
            assert (
                undefined_reads(
                    step("a", run=SAVE), step("z", run=READ.replace("{{ x }}", provided)), head=head
                )
                == []
            )


def test_condition_of_the_retry_policy_of_a_playbook() -> None:
    head = 'retry: {attempts: 2, if: "{{ x }}"}\n'
    fallible = "{action: shell, command: ls}"
    text = playbook(step("a", "b", run=fallible), step("b", run=SAVE), head=head)
    assert messages(text, "NP302") == ["`x` may be undefined when `a` has failed"]
    assert undefined_reads(step("a", "b", run=SAVE), step("b", run=fallible), head=head) == []
    assert (
        undefined_reads(step("a", "b", run=fallible, more=", retry: 1"), step("b", run=SAVE), head=head) == []
    )
    assert findings("retry: {attempts: 2, if: error}\n" + playbook(step("a"))) == [("NP407", "error")]
    assert [code for code, _ in findings(playbook(step("a"), head=head.replace("x }", "x )")))] == ["NP401"]


def test_after_max_visits_only_cases_that_do_not_lead_back_are_taken() -> None:
    rule = "[{case: error, run: [b]}, {case: error, run: [c]}, {case: default, run: [b]}]"
    again = f"{{name: a, max_visits: 2, run: [{OK}], rule: {rule}}}"
    assert undefined_reads(
        again, step("b", "a"), step("c", run=READ), step("d", "c", run=SAVE), head="start: a\n"
    ) == ["NP301"]


class TestUnreachableCases:
    @pytest.mark.parametrize(
        ("guard", "reason"),
        [
            ("{{ x is defined }}", "no path to this step assigns `x`"),
            ("{{ run.id and x is defined }}", "no path to this step assigns `x`"),
            ("{{ steps.c.visits > 0 }}", "no path to this step visits step `c`"),
            ("{{ y is undefined }}", "every path to this step assigns `y`"),
            ("{{ steps.a.result is undefined }}", "every path to this step visits step `a`"),
            ("{{ v is undefined }}", "`v` always has a value"),
            ("{{ own is undefined }}", "its guard is never true"),
        ],
    )
    def test_guard_that_requires_impossible_facts(self, guard: str, reason: str) -> None:
        first = step("a", "b", run="{action: set, set: {y: 1}}")
        rule = f'[{{case: "{guard}", run: [c]}}, {{case: default, run: []}}]'
        guarded = f"{{name: b, run: [{{action: set, set: {{own: 1}}}}], rule: {rule}}}"
        text = playbook(first, guarded, step("c", run=SAVE), head="variables: {v: 1}\n")
        assert messages(text, "NP203") == [f"unreachable case: {reason}"]

    @pytest.mark.parametrize(
        "guard",
        [
            "{{ x is defined }}",
            "{{ x is undefined }}",
            "{{ x is defined or run.id }}",
            "{{ steps.b.visits > 0 }}",
        ],
    )
    def test_guard_that_may_be_true_is_not_reported(self, guard: str) -> None:
        steps = (
            either("a", "b", "c"),
            step("b", "c", run=SAVE),
            either("c", "d", "e", guard=guard),
            step("d"),
        )
        assert messages(playbook(*steps, step("e")), "NP203") == []

    def test_case_after_a_guard_that_is_true_by_the_work_of_the_step(self) -> None:
        rule = (
            '[{case: "{{ x is defined }}", run: []}, {case: "{{ run.id }}", run: []}, {case: error, run: []}]'
        )
        expected = ["unreachable case: an earlier case is always taken"]
        assert messages(playbook(f"{{name: a, run: [{SAVE}], rule: {rule}}}"), "NP203") == expected
        reads = f"{{name: a, run: [{READ}], rule: {rule}}}"
        assert findings(playbook(reads, head="input: {}\n")) == [("NP301", "x")]
        assert findings(
            playbook(reads.replace("[]}, {case: error", "[b]}, {case: error"), step("b", run=SAVE))
        ) == [("NP301", "x")]
        maybe = SAVE.replace("set,", "set, if: '{{ run.id }}',", 1)
        assert messages(playbook(f"{{name: a, run: [{maybe}], rule: {rule}}}"), "NP203") == []

    def test_variable_has_a_value_before_any_step_saves_it(self) -> None:
        """Facts that hold wherever a variable is saved again do not hold for its first value."""
        saves = "{action: set, set: {v: 1}}"
        last = f"{{name: c, run: [{{action: set, set: {{x: 1}}}}, {saves}]}}"
        steps = (either("a", "b", "c", guard="{{ v is defined }}"), step("b", "c", run=READ), last)
        assert undefined_reads(*steps, head="variables: {v: 0}\n") == ["NP301"]

    def test_guard_after_a_read_of_an_unknown_name(self) -> None:
        steps = (
            step("a", "b", run=READ),
            either("b", "c", "d", guard="{{ x is defined }}"),
            step("c"),
            step("d"),
        )
        text = playbook(*steps, head="input: {}\n")
        assert messages(text, "NP203") == ["unreachable case: nothing in the playbook assigns `x`"]

    def test_case_that_is_unreachable_only_because_of_a_mistake(self) -> None:
        """After the mistake is fixed, branches reach the case."""
        forked = either("a", "b", "d")
        guarded = either("d", "e", "f", guard="{{ x is defined }}")
        ends = (step("e"), step("f"))
        vain = step("b", "c", run="{action: log, message: '{{ y }}'}")
        text = playbook(forked, vain, step("c", "d", run=SAVE), guarded, *ends, head="input: {}\n")
        assert findings(text) == [("NP301", "y")]
        elsewhere = (either("a", "b", "d"), vain, step("c", run=SAVE), guarded, *ends)
        expected = ["unreachable case: no path to this step assigns `x`"]
        assert messages(playbook(*elsewhere, head="input: {}\n"), "NP203") == expected

    def test_labels_show_entries_that_may_be_skipped_or_fail(self) -> None:
        maybe = SAVE.replace("set,", "set, if: '{{ run.id }}',", 1)
        fallible = "{action: shell, command: ls, as: y, on_error: continue}"
        text = playbook(
            f"{{name: a, run: [{maybe}, {fallible}, {READ}, {{action: log, message: '{{{{ y }}}}'}}]}}"
        )
        labels = [
            [(label.span.line, label.text) for label in d.labels] for d in diagnose(text) if d.code == "NP302"
        ]
        assert labels == [
            [(2, "it is saved here, unless this is skipped")],
            [(2, "it is saved here, unless this fails")],
        ]

    def test_step_that_reads_an_undefined_name_does_not_assign_it(self) -> None:
        rule = "[{case: '{{ x is defined }}', run: []}, {case: default, run: [b]}]"
        steps = (f"{{name: a, max_visits: 2, run: [{READ}], rule: {rule}}}", step("b", "a"))
        assert findings(playbook(*steps, head="input: {}\n")) == [("NP301", "x")]

    def test_guard_that_tests_an_unknown_name(self) -> None:
        steps = (either("a", "b", "c", guard="{{ y is defined }}"), step("b"), step("c"))
        expected = ["unreachable case: nothing in the playbook assigns `y`"]
        assert messages(playbook(*steps, head="input: {}\n"), "NP203") == expected
        assert messages(playbook(*steps), "NP203") == []

    def test_case_that_is_taken_only_after_the_loss_of_a_worker(self) -> None:
        """A branch that ends by the loss of a worker saves nothing. Others continue if the run does."""
        forked = (step("a", "b", "c"), step("b", "d", run=SAVE), step("c", "d"))
        steps = (*forked, either("d", "e", "f", guard="{{ x is defined }}"), step("e"), step("f"))
        always = ["unreachable case: every path to this step assigns `x`"]
        assert messages(playbook(*steps), "NP203") == always
        assert messages(playbook(*steps, head="on_error: continue\n"), "NP203") == []

    def test_case_after_a_guard_that_is_always_true(self) -> None:
        text = playbook(
            either("a", "b", "c", guard="{{ v is defined }}"),
            step("b"),
            step("c"),
            head="variables: {v: 1}\n",
        )
        assert messages(text, "NP203") == ["unreachable case: `v` always has a value"]

    def test_undefined_name_is_reported_before_its_consequences(self) -> None:
        steps = (
            step("a", "b", run=READ),
            either("b", "c", "d", guard="{{ x is defined }}"),
            step("c", run=SAVE),
            step("d"),
        )
        assert [code for code, _ in findings(playbook(*steps))] == ["NP301"]

    def test_branches_of_an_unreachable_fork_do_not_race(self) -> None:
        fork = '[{case: "{{ x is defined }}", run: [b, c]}, {case: default, run: [b]}]'
        first = f"{{name: a, run: [{OK}], rule: {fork}}}"
        save = "{action: set, set: {y: 1}}"
        text = playbook(first, step("b", "d", run=save), step("c", run=save), step("d", run=SAVE))
        assert [code for code, _ in findings(text)] == ["NP203"]
        assert [code for code, _ in findings(text.replace("x is defined", "run.id"))] == ["NP303"]
        assert [code for code, _ in findings(text.replace("x is defined", "1 > 2"))] == ["NP203"]


INPUTS = (
    "input: {p: boolean, q: boolean, m: {type: string, enum: [a, b]}, "
    "n: integer, v: {type: string, default: null}}\n"
)


class TestFactsAfterMaxVisitsExceeded:
    """A refused visit comes after an earlier visit, which has left the step by a cycle back to it."""

    POLL = (
        "{name: poll, max_visits: 3, run: [{action: shell, command: ls, as: x}], rule: ["
        "{case: \"{{ error.type == 'MaxVisitsExceeded' }}\", run: [late]}, "
        "{case: error, run: [FAILED]}, {case: '{{ x }}', run: [pause]}, {case: default, run: []}]}"
    )

    @pytest.mark.parametrize(
        ("failed", "expected"),
        [
            ("bad", []),
            ("pause", ["NP302 first → poll (failed) → late"]),
            ("late", ["NP302 first → poll (failed) → late"]),
        ],
    )
    def test_names_saved_on_every_cycle_are_assigned_after_refusal(
        self, failed: str, expected: list[str]
    ) -> None:
        poll = self.POLL.replace("FAILED", failed)
        steps = (step("first", "poll"), poll, step("pause", "poll"), step("late", run=READ), step("bad"))
        assert undefined_reads(*steps) == expected
        of_another = (
            *steps[:2],
            step("pause", "poll", run=SAVE.replace("x:", "w:")),
            step("late", run=READ.replace("x", "w")),
        )
        assert undefined_reads(*of_another, step("bad")) == ([] if failed != "late" else expected)

    def test_refusal_at_a_multi_merge_says_nothing_about_earlier_rounds(self) -> None:
        poll = self.POLL.replace("FAILED", "bad").replace("max_visits: 3", "max_visits: 3, join: each")
        steps = (
            step("first", "poll", "other"),
            step("other", "poll"),
            poll,
            step("pause", "poll"),
            step("bad"),
        )
        assert "NP302" in " ".join(undefined_reads(*steps, step("late", run=READ)))

    def test_failure_with_the_error_type_of_a_refusal(self) -> None:
        poll = self.POLL.replace("FAILED", "bad").replace(
            "[{", "[{action: fail, message: m, type: '{{ run.id }}', if: '{{ run.id }}'}, {", 1
        )
        steps = (step("first", "poll"), poll, step("pause", "poll"), step("late", run=READ), step("bad"))
        assert undefined_reads(*steps) == ["NP302 first → poll (failed) → late"]


class TestCorrelatedConditions:
    """A name saved under a condition that is constant in a run may be read under the same condition."""

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
    def test_name_saved_and_read_under_the_same_condition(self, saved: str, read: str) -> None:
        save = f'{{action: set, set: {{x: 1}}, if: "{{{{ {saved} }}}}"}}'
        reads = [
            f'{{action: log, message: "{{{{ x }}}}", if: "{{{{ {read} }}}}"}}',
            f'{{action: log, message: "{{{{ x if {read} else 0 }}}}"}}',
        ]
        for entry in reads:
            assert undefined_reads(step("a", "b", run=save), step("b", run=entry), head=INPUTS) == []
            assert undefined_reads(step("a", run=f"{save}, {entry}"), head=INPUTS) == []
            assert (
                undefined_reads(
                    step("a", "b", run=OK), step("b", run=entry), step("c", run=SAVE), head=INPUTS
                )[0]
                == "NP301"
            )
        guarded = f'{{name: b, run: [{OK}], rule: [{{case: "{{{{ {read} }}}}", run: [WORK]}}]}}'
        for work in (READ, "c"):
            steps = (step("a", "b", run=save), guarded.replace("WORK", work), step("c", run=READ))
            assert undefined_reads(*steps, head=INPUTS) == []

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
    def test_name_saved_and_read_under_different_conditions(self, saved: str, read: str) -> None:
        """A value that may change between two tests does not correlate them."""
        save = f'{{action: set, set: {{x: 1}}, if: "{{{{ {saved} }}}}"}}, {{action: set, set: {{w: 2}}}}'
        reads = f'{{action: log, message: "{{{{ x }}}}", if: "{{{{ {read} }}}}"}}'
        head = INPUTS + "variables: {w: 0}\n"
        assert undefined_reads(step("a", "b", run=save), step("b", run=reads), head=head) == ["NP302 a → b"]

    def test_same_choice_made_twice(self) -> None:
        """A choice that is made again later takes the same case."""
        steps = (
            either("a", "b", "c", "{{ m == 'a' }}"),
            step("b", "c", run=SAVE),
            either("c", "d", "e", "{{ m == 'a' }}"),
            step("d", run=READ),
            step("e"),
        )
        assert undefined_reads(*steps, head=INPUTS) == []
        swapped = (*steps[:2], either("c", "e", "d", "{{ m == 'a' }}"), *steps[3:])
        assert undefined_reads(*swapped, head=INPUTS) == ["NP302 a → c → d"]

    def test_name_saved_under_both_results_of_a_test(self) -> None:
        pair = [f'{{action: set, set: {{x: 1}}, if: "{{{{ {guard} }}}}"}}' for guard in ("p", "not p")]
        assert (
            undefined_reads(
                step("a", "b", run=pair[0]), step("b", "c", run=pair[1]), step("c", run=READ), head=INPUTS
            )
            == []
        )
        assert undefined_reads(step("a", run=f"{pair[0]}, {pair[1]}, {READ}"), head=INPUTS) == []
        assert undefined_reads(step("a", run=f"{pair[0]}, {pair[0]}, {READ}"), head=INPUTS) == ["NP302"]

    def test_test_of_a_name_that_is_saved_once(self) -> None:
        set_k = "{action: set, set: {k: '{{ run.id }}'}}"
        save, read = (
            f'{{action: {action}, if: "{{{{ k == 1 }}}}"}}'
            for action in ("set, set: {x: 1}", "log, message: '{{ x }}'")
        )
        assert undefined_reads(step("a", "b", run=f"{set_k}, {save}"), step("b", run=read)) == []
        again = step("b", run=f"{set_k}, {read}")
        assert undefined_reads(step("a", "b", run=f"{set_k}, {save}"), again) == ["NP302 a → b"]

    def test_task_called_under_a_condition(self) -> None:
        save = '{action: set, set: {x: 1}, if: "{{ p }}"}'
        head = f"{INPUTS}tasks: {{t: [{READ}]}}\n"
        assert (
            undefined_reads(step("a", "b", run=save), step("b", run='{task: t, if: "{{ p }}"}'), head=head)
            == []
        )
        assert undefined_reads(
            step("a", "b", run=save), step("b", run='{task: t, if: "{{ q }}"}'), head=head
        ) == ["NP302 a → b"]

    def test_task_does_not_use_facts_of_its_caller(self) -> None:
        """An assigned `k` implies a condition for `x`, but the task requires `x` itself."""
        saves = """{action: set, set: {k: 1}}, {action: set, set: {x: 1}, if: "{{ m == 'a' }}"}"""
        head = f"{INPUTS}tasks: {{t: [{READ[:-1]}, if: '{{{{ k == 1 }}}}'}}]}}\n"
        calls = either("b", "c", "d", "{{ m != 'a' }}", run="t")
        steps = (step("a", "b", run=saves), calls, step("c", run="{action: set, set: {k: 2}}"), step("d"))
        assert undefined_reads(*steps, head=head) == ["NP302 a → b"]


class TestSucceededSteps:
    """Templates that are evaluated only if a step has succeeded."""

    @pytest.mark.parametrize(
        ("run", "expected"),
        [
            (SAVE, []),
            ("{task: t}", []),
            ("t", []),
            ("outer", []),
            (SAVE[:-1] + ", on_error: continue}", ["NP302 o → b"]),
            (SAVE[:-1] + f", if: '{MAYBE}'}}", ["NP302 o → b"]),
            (f"{{task: t, if: '{MAYBE}'}}", ["NP302 o → b"]),
        ],
    )
    def test_name_that_a_succeeded_step_always_saves(self, run: str, expected: list[str]) -> None:
        read = READ[:-1] + """, if: "{{ steps.a.status == 'succeeded' }}"}"""
        steps = (either("o", "a", "b"), either("a", "b", "b", "error", run=run), step("b", run=read))
        head = f"tasks: {{t: [{SAVE}], outer: [t]}}\n"
        assert undefined_reads(*steps, head=head) == expected


class TestAlternativeNames:
    """Templates that read one of two names where the other one is undefined."""

    @pytest.mark.parametrize(
        "text",
        [
            "x if x is defined else y",
            "x | default(y)",
            "x | default(y | default(z))",
            "y if x is not defined else x",
        ],
    )
    def test_one_of_two_names_is_always_defined(self, text: str) -> None:
        read = f"{{action: log, message: '{{{{ {text} }}}}'}}"
        other = SAVE.replace("x:", "y:")
        steps = [
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d", run=other),
            step("d", run=read),
        ]
        assert undefined_reads(*steps, step("e", run=SAVE.replace("x:", "z:"))) == []
        steps[2] = step("c", "d", run=f"{other[:-1]}, if: '{MAYBE}'}}")
        expected = undefined_reads(*steps, step("e", run=SAVE.replace("x:", "z:")))
        assert expected == ["NP301" if "z" in text else "NP302 a → c → d"]

    def test_part_of_a_default_must_be_defined(self) -> None:
        read = "{action: log, message: '{{ x | default(y.z) }}'}"
        other = SAVE.replace("x:", "y:")
        steps = (
            either("a", "b", "c"),
            step("b", "d", run=SAVE),
            step("c", "d", run=other),
            step("d", run=read),
        )
        assert undefined_reads(*steps) == ["NP302 a → b → d"]

    def test_action_that_runs_if_another_one_saved_nothing(self) -> None:
        fallible = "{action: shell, command: ls, as: x, on_error: continue}"
        other = '{action: set, set: {y: 1}, if: "{{ x is not defined }}"}'
        read = "{action: log, message: '{{ x if x is defined else y }}'}"
        assert undefined_reads(step("a", "b", run=f"{fallible}, {other}"), step("b", run=read)) == []


def test_given_names_are_always_defined() -> None:
    head = "input: {a: any}\nenvironment: {b: 1}\nvariables: {x: 1}\n"
    read = "{action: log, message: '{{ a }} {{ b }} {{ x }} {{ input.a }}'}"
    assert undefined_reads(step("s", "t", run=read), step("t", run=SAVE), head=head) == []


def test_nothing_is_reported_if_a_step_is_unknown() -> None:
    steps = (either("a", "b", "nowhere"), step("b", "c", run=SAVE), step("c", run=READ))
    assert [code for code, _ in findings(playbook(*steps))] == ["NP101"]


def test_step_that_reads_its_own_result() -> None:
    text = playbook(f'{{name: a, run: [{OK}], rule: [{{case: "{{{{ steps.a.result }}}}", run: []}}]}}')
    assert hints(text, "NP301") == ["in the `rule` of a step, read its own result as `result`"]


def test_guard_refuted_only_by_an_undefined_read_is_not_reported() -> None:
    guard = '[{case: "{{ run.id and x is not defined }}", run: []}, {case: default, run: []}]'
    for read, expected in ((READ, ["NP302"]), ("{action: log, message: '{{ x | default(1) }}'}", [])):
        text = playbook(
            step("a", "b", run=f"{SAVE[:-1]}, if: '{MAYBE}'}}"), f"{{name: b, run: [{read}], rule: {guard}}}"
        )
        assert [code for code, _ in findings(text)] == expected
    text = playbook(step("a", "b", run=SAVE), f"{{name: b, run: [{READ}], rule: {guard}}}")
    assert [code for code, _ in findings(text)] == ["NP203"]


def test_path_of_a_message_avoids_the_step_that_saves_the_name() -> None:
    """A branch of `a` arrives at `s` with the name, although another one continues behind a `join: any`."""
    rule = f"[{{case: '{MAYBE}', run: [s, t]}}]"
    text = playbook(
        step("f", "a", "s"),
        f"{{name: a, run: [{SAVE}], rule: {rule}}}",
        step("s", "t"),
        f"{{name: t, join: any, run: [{READ}]}}",
    )
    assert [message for message in messages(text) if "on the path" in message] == [
        "`x` may be undefined on the path f → s → t, where `a` ends"
    ]


def test_search_for_a_path_past_the_evaluation_limit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    text = playbook(
        step("f", "a", "b"),
        either("a", "c", "j"),
        step("c", "j", run=SAVE),
        step("b", "j"),
        step("j", run=READ),
    )
    seen = set()
    for limit in range(100):
        monkeypatch.setattr(transfer, "MAX_EVALUATIONS", limit)
        seen.add(tuple(messages(text)))
    assert seen == {(), ("`x` may be undefined",), ("`x` may be undefined on the path f → a → j",)}


def test_choices_are_not_correlated_past_the_clause_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = "{{ m == 'a' }}"
    steps = (
        either("a", "b", "c", choose),
        step("b", "c", run=SAVE),
        either("c", "d", "e", choose),
        step("d", run=READ),
        step("e"),
    )
    assert undefined_reads(*steps, head=INPUTS) == []
    monkeypatch.setattr(fact_encoding, "MAX_CORRELATED_CLAUSES", 0)
    assert undefined_reads(*steps, head=INPUTS) == ["NP302 a → c → d"]


def test_nothing_is_reported_past_the_evaluation_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (either("a", "b", "c"), step("b", "c", run=SAVE), step("c", run=READ))
    monkeypatch.setattr(transfer, "MAX_EVALUATIONS", 2)
    assert undefined_reads(*steps) == []


def test_findings_past_the_witness_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undefined_names, "MAX_WITNESSES", 2)
    names = [f"x{index}" for index in range(5)]
    saves = ", ".join(f"{{action: set, if: '{MAYBE}', set: {{{name}: 1}}}}" for name in names)
    reads = ", ".join(f"{{action: log, message: '{{{{ {name} }}}}'}}" for name in names)
    diagnostics = diagnose(playbook(step("a", "b", run=saves), step("b", run=reads)))
    assert [d.code for d in diagnostics].count("NP302") == 2
    assert diagnostics[-1].message == "3 more findings are not shown"
