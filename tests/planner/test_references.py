from __future__ import annotations

import pytest

from noetl.executor.model.triggers import LiveTrigger, describe_cause, new_firing
from noetl.planner.checks.references import RUN_TRIGGER_ATTRIBUTES
from tests.planner.findings import STEP, diagnose, findings, hints, messages

NOT_GIVEN = "input: {}\n"


def log(expression: str, more: str = "") -> str:
    return f"steps: [{{name: a, run: [{{action: log, message: '{{{{ {expression} }}}}'}}]{more}}}]"


class TestInferredInputs:
    def test_unknown_name_is_an_inferred_input(self) -> None:
        (diagnostic,) = diagnose(log("who"))
        assert (diagnostic.code, diagnostic.severity) == ("NP306", "note")
        assert findings(log("who"), "NP306") == [("NP306", "who")]

    def test_each_input_is_reported_once(self) -> None:
        assert findings(log("who ~ who.x ~ input.who ~ input.other"), "NP306") == [
            ("NP306", "who"),
            ("NP306", "other"),
        ]

    def test_likely_typing_error_is_a_warning(self) -> None:
        text = """
            variables: {customer: 1}
            steps: [{name: a, run: [{action: log, message: "{{ custmer }}"}]}]
        """
        (diagnostic,) = diagnose(text)
        assert (diagnostic.code, diagnostic.severity, diagnostic.hint) == (
            "NP306",
            "warning",
            "did you mean `customer`?",
        )

    @pytest.mark.parametrize(
        "text",
        [
            "variables: {who: 1}\n" + log("who"),
            "environment: {who: 1}\n" + log("who"),
            "steps: [{name: a, run: [{action: set, set: {who: 1}}, {action: log, message: '{{ who }}'}]}]",
            (
                "steps: [{name: a, run: [{action: log, message: m, as: who}, "
                "{action: log, message: '{{ who }}'}]}]"
            ),
            log("run.id ~ step.name ~ now() ~ uuid() ~ error ~ steps.a.status"),
            log("range(3) | list"),
        ],
    )
    def test_known_names_are_not_reported(self, text: str) -> None:
        assert diagnose(text) == []


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("text", "word"),
        [
            (NOT_GIVEN + log("who"), "who"),
            ("input: {x: any}\n" + log("input.who"), "who"),
            (log("environment.who"), "who"),
            (log("step.nmae"), "nmae"),
            (log("run.who"), "who"),
            (log("run.trigger.body"), "body"),
            (log("run.trigger and run.trigger.detail.id"), "detail"),
            (log("error.tpye"), "tpye"),
            (log("steps.a.reslut"), "reslut"),
            (log("item"), "item"),
            (log("loop.index"), "loop"),
            (log("loop.idnex", ", loop: {items: [1]}"), "idnex"),
            (log("loop.first ~ item ~ loop.previtem", ", loop: {items: [1]}"), "previtem"),
            (log("callback.url"), "callback"),
            (log("steps"), "steps"),
            (log("args.x"), "args"),
            (log("result"), "result"),
            (log("result.data"), "result"),
            (log("variables.x"), "variables"),
            ("environment: {a: 1, b: '{{ environment.a }}'}\n" + STEP, "environment"),
            ("environment: {a: '{{ b }}', b: 1}\n" + STEP, "b"),
            ("variables: {a: '{{ b }}', b: 1}\n" + STEP, "b"),
            ("environment: {a: '{{ steps.a.status }}'}\n" + STEP, "steps"),
            ("environment: {a: '{{ step.name }}'}\n" + STEP, "step"),
            (STEP + "output: {a: '{{ result }}'}", "result"),
            (STEP + "output: {a: '{{ step.visit }}'}", "step"),
            ("input: {}\n" + STEP + "output: {a: '{{ who }}'}", "who"),
        ],
    )
    def test_span_of_an_unknown_name(self, text: str, word: str) -> None:
        assert findings(text, "NP301") == [("NP301", word)]

    @pytest.mark.parametrize(
        "text",
        [
            NOT_GIVEN + log("who | default(1)"),
            NOT_GIVEN + log("who is defined"),
            "input: {x: any}\n" + log("input.who | default(1)"),
            "environment: {a: '{{ run.id }}', b: '{{ now() }}'}\n" + STEP,
            "environment: {a: 1}\nvariables: {b: '{{ a }}'}\n" + STEP,
            (
                "steps: [{name: a, run: [{action: log, message: m}], "
                "rule: [{case: '{{ result.data }}', run: []}]}]"
            ),
            STEP + "output: {a: '{{ steps.a.result }}'}",
            log("run.trigger ~ run.trigger.body | default(1) ~ (run.trigger.detail is defined)"),
            log("run.trigger.items() | list ~ run.trigger.scheduled_at[:10]"),
            log("loop.index0 ~ loop.last ~ loop.length ~ item.x", ", loop: {items: [1]}"),
            log("loop ~ (loop.previtem | default(1))", ", loop: {items: [1]}"),
            log("1 }}{% for x in [1] %}{{ loop.previtem }}{% endfor %}{{ 1"),
        ],
    )
    def test_names_that_may_be_undefined_are_not_reported(self, text: str) -> None:
        assert findings(text, "NP301") == []

    def test_hint_names_the_closest_input(self) -> None:
        assert hints("input: {user_id: any}\n" + log("usr_id"), "NP301") == ["did you mean `user_id`?"]
        assert hints("input: {user_id: any}\n" + log("input.usr_id"), "NP301") == ["did you mean `user_id`?"]

    def test_attributes_of_a_trigger_are_those_that_runs_have(self) -> None:
        trigger = LiveTrigger("default", "p", "t", "webhook", "1", "", 0.0)
        assert frozenset(describe_cause(trigger, new_firing(trigger, "", 0.0))) == RUN_TRIGGER_ATTRIBUTES

    def test_hint_about_the_trigger_of_a_run(self) -> None:
        assert hints(log("run.trigger.nmae"), "NP301") == ["did you mean `name`?"]
        (hint,) = hints(log("run.trigger.body"), "NP301")
        assert hint == "`run.trigger` has no data of the firing: pass it on with the `input` of the trigger"


class TestTaskArguments:
    TEXT = """
        tasks:
        - {name: t, run: [{action: log, message: "{{ args.x }}", level: "{{ args.y | default('info') }}"}]}
        steps:
        - name: a
          run:
          - {task: t, with: {x: 1}}
          - {task: t, with: {xx: 1}}
          - t
    """

    def test_missing_argument(self) -> None:
        (message,) = messages(self.TEXT, "NP301")
        assert message.startswith("missing argument `x` for task `t` on line 8")
        assert findings(self.TEXT, "NP301") == [("NP301", "x")]

    def test_message_names_five_lines(self) -> None:
        (message,) = messages(
            self.TEXT.replace("- t\n", "- {task: t}\n" + 6 * "          - {task: t}\n"), "NP301"
        )
        assert message == "missing argument `x` for task `t` on line 8, 9, 10, 11, 12 and 3 more"

    def test_argument_given_by_all_calls(self) -> None:
        text = self.TEXT.replace("{xx: 1}", "{x: 2}").replace("- t\n", "- {task: t, with: {x: 3}}\n")
        assert findings(text) == []


def test_inferred_inputs_do_not_depend_on_the_order_of_steps() -> None:
    first = (
        "{name: a, run: [{action: log, message: '{{ who }} {{ x | default(0) }}'}], "
        "rule: [{case: default, run: [b]}]}"
    )
    second = "{name: b, run: [{action: set, set: {x: 1}}]}"
    texts = [f"start: a\nsteps: [{steps[0]}, {steps[1]}]" for steps in ((first, second), (second, first))]
    assert findings(texts[0], "NP301", "NP306") == findings(texts[1], "NP301", "NP306") == [("NP306", "who")]


class TestErrorReads:
    """`error` is none except where a failure is handled."""

    PLAYBOOK = """
    finally: last
    tasks:
      after_failure: [inner]
      inner: [{action: log, message: "HANDLED"}]
      other: [{action: log, message: "UNHANDLED"}]
    steps:
    - name: a
      retry: {attempts: 2, if: "{{ error.retryable }}"}
      run:
      - {action: shell, command: ls, retry: {attempts: 2, if: "{{ error.retryable }}"}}
      - {action: log, message: "UNHANDLED"}
      rule:
      - {case: "{{ error.type == 'Timeout' }}", run: [after_failure, {action: log, message: "HANDLED"}]}
      - {case: "{{ result.error }}", run: [{action: log, message: "HANDLED"}]}
      - {case: "{{ run.id }}", run: [{action: log, message: "UNHANDLED"}]}
      - {case: default, run: [b]}
    - {name: b, run: [other]}
    - {name: last, run: [{action: log, message: "UNHANDLED"}]}
    output: {x: "UNHANDLED"}
    """

    @pytest.mark.parametrize(
        "text", ["{{ error.message }}", "it: {{ error.type }}", "{{ error.details or 1 }}"]
    )
    def test_part_of_an_error_where_nothing_has_failed(self, text: str) -> None:
        handled = self.PLAYBOOK.replace("HANDLED", text).replace("UN" + text, "x")
        assert findings(handled, "NP301") == []
        unhandled = self.PLAYBOOK.replace("UNHANDLED", text).replace("HANDLED", "x")
        assert findings(unhandled, "NP301") == [("NP301", "error")] * 5

    @pytest.mark.parametrize(
        "text",
        [
            "{{ error }}",
            "{{ error.message if error else 'none' }}",
            "{{ error and error.message }}",
            "{{ error is none or error.message }}",
            "{{ error.message | default('none') }}",
            "{{ error.message is defined }}",
        ],
    )
    def test_part_of_an_error_that_is_tested_first(self, text: str) -> None:
        assert findings(self.PLAYBOOK.replace("UNHANDLED", text).replace("HANDLED", text), "NP301") == []

    def test_action_that_runs_only_after_an_error(self) -> None:
        text = "steps: [{name: a, run: [{action: log, if: '{{ error }}', message: '{{ error.message }}'}]}]"
        assert findings(text, "NP301") == []
