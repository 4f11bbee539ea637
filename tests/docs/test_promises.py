"""Statements of `docs/reference/language.md` that no example on the page shows."""

from __future__ import annotations

from textwrap import dedent

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.interface import Store
from noetl.planner.compile import compile_playbook
from noetl.testing.run_harness import RunHarness
from tests.executor.finished_runs import run_to_end


def codes(text: str) -> list[str]:
    return [d.code for d in compile_playbook(f"name: x\n{text}", catalogue()).diagnostics]


def step(run: str, rule: str = "[]") -> str:
    return f"name: x\nsteps:\n  - name: a\n    run: {run}\n    rule: {rule}\n"


@pytest.mark.parametrize(
    "guard",
    [
        "error.type == 'Timeout'",
        "error.type != 'Timeout'",
        "not error.type",
        "error.details.body.code == 7",
        "result.error.details.body.code == 7",
    ],
)
def test_after_success_a_guard_that_reads_a_part_of_error_is_not_true(store: Store, guard: str) -> None:
    play = run_to_end(
        store, step("[{action: set, set: {done: true}}]", f'[{{case: "{{{{ {guard} }}}}", run: []}}]')
    )
    assert play.result == {"done": True}
    assert play.visit("a").case is None


def test_a_condition_of_a_retry_without_a_value_is_not_true(store: Store) -> None:
    retry = 'retry: {attempts: 3, delay: 1ms, if: "{{ error.status >= 500 }}"}'
    on_action = run_to_end(store, step(f"[{{action: shell, command: exit 3, {retry}}}]"))
    assert on_action.error_types == ["CommandFailed"]
    assert on_action.event_types("a").count("action.failed") == 1
    on_step = run_to_end(
        store, f"steps:\n  - name: a\n    {retry}\n    run: [{{action: shell, command: exit 3}}]"
    )
    assert on_step.error_types == ["CommandFailed"]
    assert on_step.visit("a").attempt == 1


def test_a_condition_of_a_retry_cannot_extend_it(store: Store) -> None:
    play = run_to_end(
        store, step('[{action: fail, message: x, retry: {attempts: 3, delay: 1ms, if: "{{ true }}"}}]')
    )
    assert play.event_types("a").count("action.started") == 1


def test_outputs_of_a_failed_attempt_are_discarded(store: Store) -> None:
    text = """
        variables: {count: 0}
        steps:
          - name: a
            retry: {attempts: 2, delay: 1s}
            run:
              - {action: set, set: {count: "{{ count + 1 }}"}}
              - {action: shell, command: exit 1}
            rule: [{case: error, run: [{action: set, set: {seen: "{{ count }}"}}]}]
        """
    assert run_to_end(store, text).result == {"seen": 0}


def test_outputs_of_a_forgiven_task_are_discarded(store: Store) -> None:
    text = """
        tasks: {half: [{action: set, set: {saved: true}}, {action: fail, message: x}]}
        steps:
        - name: a
          run: [{task: half, on_error: continue, as: outcome}, {action: set, set: {after: 1}}]
        """
    assert run_to_end(store, text).result == {"after": 1}


def test_a_failure_of_in_place_work_follows_the_policy(store: Store) -> None:
    rule = '[{case: "{{ error }}", run: []}, {case: default, run: [{action: fail, message: x, type: Late}]}]'
    play = run_to_end(store, step("[{action: set, set: {dropped: true}}]", rule) + "on_error: continue")
    assert play.error_types == ["Late"]
    assert play.result == {}


def test_a_second_guard_error_follows_the_policy(store: Store) -> None:
    rule = '[{case: "{{ 1 / 0 }}", run: []}, {case: "{{ error.type == 1 / 0 }}", run: []}]'
    assert run_to_end(store, step("[]", rule)).error_types == ["GuardError"]


def test_the_first_failure_of_parallel_items_is_reported(store: Store) -> None:
    fails = "{action: fail, message: x, type: First}, {action: fail, message: x, type: Second}"
    assert run_to_end(store, f"steps: [{{name: a, parallel: true, run: [{fails}]}}]").error_types == ["First"]


def test_a_saved_name_shadows_a_variable(store: Store) -> None:
    text = """
        input: {c: {default: input}}
        environment: {d: environment}
        variables: {a: variable, b: variable}
        steps:
          - name: a
            run:
              - {action: set, set: {a: saved}}
              - {action: set, set: {found: ["{{ a }}", "{{ b }}", "{{ c }}", "{{ d }}"]}}
        output: {found: "{{ found }}"}
        """
    assert run_to_end(store, text).result == {"found": ["saved", "variable", "input", "environment"]}


def test_a_name_means_one_thing() -> None:
    step = "steps: [{name: a, run: [{action: set, set: {x: 1}}]}]"
    assert codes(f"variables: {{x: 0}}\n{step}") == []
    for section in ("input: {x: any}", "environment: {x: 1}"):
        assert codes(f"{section}\n{step}") == ["NP305"]
    assert codes(
        "input: {x: any}\nenvironment: {x: 1}\nsteps: [{name: a, run: [{action: log, message: m}]}]"
    ) == ["NP305"]


@pytest.mark.parametrize("declared", ["", "input: {x: integer}\n"])
def test_other_inputs_are_rejected(store: Store, declared: str) -> None:
    text = f'{declared}steps: [{{name: a, run: [{{action: log, message: "{{{{ x }}}}"}}]}}]'
    with pytest.raises(RejectedError, match="unknown input `y`"):
        RunHarness(store, text, {"x": 1, "y": 2})


def test_other_inputs_are_accepted_if_the_whole_input_is_read(store: Store) -> None:
    text = 'steps: [{name: a, run: [{action: set, set: {all: "{{ input }}"}}]}]'
    assert run_to_end(store, text, y=2).result == {"all": {"y": 2}}


@pytest.mark.parametrize(
    "sections",
    [
        'environment: {a: 1, b: "{{ environment.a }}"}',
        'environment: {a: 1, b: "{{ a }}"}',
        'variables: {a: 1, b: "{{ a }}"}',
        'environment: {b: "{{ v }}"}\nvariables: {v: 1}',
    ],
)
def test_entries_of_one_section_do_not_see_each_other(sections: str) -> None:
    assert codes(f"{sections}\nsteps: [{{name: a, run: [{{action: log, message: x}}]}}]") == ["NP301"]


def test_a_variable_is_read_by_its_own_name() -> None:
    text = 'variables: {v: 1}\nsteps: [{name: a, run: [{action: log, message: "{{ variables.v }}"}]}]'
    assert codes(text) == ["NP301"]


def test_an_entry_of_the_output_without_a_value_is_null(store: Store) -> None:
    play = run_to_end(
        store,
        'steps: [{name: a, run: [{action: set, if: "{{ run.id is none }}", set: {v: 1}}]}]\n'
        'output: {v: "{{ v }}", w: 2}',
    )
    assert play.status is RunStatus.COMPLETED_WITH_ERRORS
    assert play.result == {"v": None, "w": 2}
    assert play.error_types == ["UndefinedName"]


def test_a_step_that_was_not_visited_is_pending(store: Store) -> None:
    text = """
        steps:
          - name: a
            run:
            - action: set
              set:
                own: "{{ steps.a.status }}"
                b: "{{ steps['b b'] }}"
                known: "{{ steps.a.error is defined }}"
            rule: [{case: "{{ own == 'never' }}", run: [b b]}]
          - name: b b
            run: [{action: log, message: x}]
        """
    assert run_to_end(store, text).result == {
        "own": "pending",
        "b": {"status": "pending", "visits": 0},
        "known": False,
    }


@pytest.mark.parametrize("number", ["1e400", "9" * 5000, "0x" + "f" * 2000])
def test_a_number_that_json_cannot_hold_is_an_error(number: str) -> None:
    assert codes(step(f'[{{action: log, message: "{{{{ {number} }}}}"}}]').removeprefix("name: x\n")) == [
        "NP405"
    ]


def test_a_secret_must_be_a_whole_value(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_SECRET_KEY", "correct-horse")
    text = """
        tasks:
          show: [{action: set, set: {seen: "{{ args.key }}", known: "{{ args.key == 'correct-horse' }}"}}]
        steps: [{name: a, run: [{task: show, with: {key: "%s{{ secrets.KEY }}"}}]}]
        """
    assert run_to_end(store, text % "").result == {"seen": "***", "known": False}
    assert codes(dedent(text % "Bearer ")) == ["NP406"]
