"""Playbooks from their text to their result, executed visit by visit on a SQLite store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import summarize
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import LEASE_SECONDS, FakeClock, RunHarness
from tests.executor.finished_runs import result, run_to_end

FAIL = "{action: fail, message: no}"
OK = "{action: log, message: ok}"
FLAKY = """{action: shell, command: "echo x >> tries; test $(wc -l < tries) -ge 3"}"""
"""An action that fails twice and then succeeds. Each attempt appends a line."""


class TestRuleExecution:
    TEXT = """
        input: {n: any}
        steps:
        - name: a
          rule:
          - {case: "{{ input.n == 1 }}", run: [one]}
          - {case: "{{ input.n is number and input.n > 1 }}", run: [one, two]}
          - {case: "{{ input.n }}", run: []}
          - {case: default, run: [{action: set, set: {placed: "{{ input.n }}"}}]}
        - {name: one, run: [{action: set, set: {first: true}}]}
        - {name: two, run: [{action: set, set: {second: true}}]}
    """

    @pytest.mark.parametrize(
        ("n", "names", "steps"),
        [
            (1, {"first": True}, ["a", "one"]),
            (2, {"first": True, "second": True}, ["a", "one", "two"]),
            ("False", {}, ["a"]),
            ("", {"placed": ""}, ["a"]),
            (False, {"placed": False}, ["a"]),
            (0, {"placed": 0}, ["a"]),
            ([], {"placed": []}, ["a"]),
            ([0], {}, ["a"]),
        ],
    )
    def test_the_first_true_guard_is_taken(
        self, store: SqliteStore, n: Any, names: Any, steps: list[str]
    ) -> None:
        harness = run_to_end(store, self.TEXT, n=n)
        assert (harness.result, list(harness.visit_counts)) == (names, steps)

    def test_no_case_ends_the_branch(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: "{{ false or none }}", run: [b]}]}
            - {name: b, run: [{action: log, message: ok}]}
        """
        harness = run_to_end(store, text)
        assert (harness.status, harness.visit_counts) == ("succeeded", {"a": 1})

    def test_there_is_no_implicit_next_step(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, run: [{action: log, message: ok}]}
            - {name: b, run: [{action: log, message: ok}]}
        """
        assert run_to_end(store, text).visit_counts == {"a": 1}

    def test_start_names_the_first_step(self, store: SqliteStore) -> None:
        text = """
            start: b
            steps:
            - {name: a, run: [{action: log, message: ok}]}
            - {name: b, run: [], rule: [{case: default, run: [a]}]}
        """
        assert list(run_to_end(store, text).visit_counts) == ["b", "a"]

    def test_in_place_work_reads_the_step_and_saves_names(self, store: SqliteStore) -> None:
        text = """
            tasks: {note: [{action: set, set: {noted: "{{ args.of }} {{ x }}"}}]}
            steps:
            - name: a
              run: [{action: set, set: {x: 1}, as: whole}]
              rule:
              - case: "{{ result.success }}"
                run:
                - {task: note, with: {of: "{{ result.data.x }}"}}
                - {action: set, set: {x: 2}}
        """
        assert result(store, text) == {"x": 2, "whole": {"x": 1}, "noted": "1 1"}

    def test_the_result_of_a_step_is_not_that_of_in_place_work(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: "{{ not error }}", run: [b]}]}
            - name: b
              run: []
              rule: [{case: default, run: [{action: set, set: {y: "{{ steps.a.result }}"}}]}]
            output: {y: "{{ y }}", a: "{{ steps.a.result }}", b: "{{ steps.b.result }}"}
        """
        assert result(store, text) == {"y": {"x": 1}, "a": {"x": 1}, "b": None}

    @pytest.mark.parametrize(
        ("run", "expected"),
        [
            ("[]", [True, None, None, False]),
            ("[{action: set, set: {x: 1}}]", [True, {"x": 1}, "set", False]),
            (
                "[{action: set, set: {x: 1}}, {action: set, set: {x: 2}, if: false}]",
                [True, None, "set", True],
            ),
            ("[{action: fail, message: no, on_error: continue}]", [False, None, "fail", False]),
            (
                "[{action: fail, message: no, on_error: continue}, {action: set, set: {}}]",
                [True, {}, "set", False],
            ),
        ],
    )
    def test_result_is_that_of_the_last_item(self, store: SqliteStore, run: str, expected: list[Any]) -> None:
        text = f"""
            steps:
            - name: a
              run: {run}
              rule:
              - case: default
                run: [{{action: set, set: {{r: "{{{{ result }}}}", e: "{{{{ error }}}}"}}}}]
        """
        found = result(store, text)
        assert [found["r"][key] for key in ("success", "data", "action", "skipped")] == expected
        assert (found["r"]["error"] is None) is expected[0]
        assert found["e"] is None


class TestNameVisibility:
    def test_names_of_set_do_not_see_each_other(self, store: SqliteStore) -> None:
        text = """
            variables: {a: 1, b: 2}
            steps: [{name: s, run: [{action: set, set: {a: "{{ b }}", b: "{{ a }}", c: "{{ a + b }}"}}]}]
        """
        assert result(store, text) == {"a": 2, "b": 1, "c": 3}

    def test_values_keep_their_types(self, store: SqliteStore) -> None:
        text = """
            input: {v: any}
            steps:
            - name: s
              run:
              - action: set
                set: {same: "{{ input.v }}", text: "is {{ input.v }}", inner: {deep: [" {{ input.v }} "]}}
        """
        for value in (None, True, 1, 1.5, "x", [1, "2"], {"k": [None]}):
            found = result(store, text, v=value)
            assert found == {"same": value, "text": f"is {value}", "inner": {"deep": [value]}}

    def test_names_resolve_to_saved_names_variables_and_inputs(self, store: SqliteStore) -> None:
        text = """
            input: {i: {type: integer, default: 1}, w: {type: string, default: world}}
            environment: {e: "hello {{ input.w }}", f: "{{ w }}"}
            variables: {v: "{{ e }}!", t: [1]}
            steps:
            - {name: a, run: [{action: set, set: {t: "{{ t + [i] }}"}}], rule: [{case: default, run: [b]}]}
            - name: b
              run: [{action: set, set: {s: ["{{ i }}", "{{ e }}", "{{ f }}", "{{ v }}", "{{ t }}"]}}]
        """
        assert result(store, text)["s"] == [1, "hello world", "world", "hello world!", [1, 1]]
        assert result(store, text, i=5, w="you")["s"] == [5, "hello you", "you", "hello you!", [1, 5]]

    def test_a_branch_sees_names_of_its_own_history(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, run: [{action: set, set: {x: a}}], rule: [{case: default, run: [b, c]}]}
            - {name: b, run: [{action: set, set: {x: b}}], rule: [{case: default, run: [b2]}]}
            - {name: b2, run: [{action: set, set: {in_b: "{{ x }}"}}], rule: [{case: default, run: [d]}]}
            - {name: c, run: [{action: log, message: ""}], rule: [{case: default, run: [c2]}]}
            - {name: c2, run: [{action: set, set: {in_c: "{{ x }}"}}], rule: [{case: default, run: [c3]}]}
            - {name: c3, run: [], rule: [{case: default, run: [d]}]}
            - {name: d, run: [{action: set, set: {in_d: "{{ x }}", both: ["{{ in_b }}", "{{ in_c }}"]}}]}
        """
        found = result(store, text)
        assert found == {"x": "b", "in_b": "b", "in_c": "a", "in_d": "b", "both": ["b", "a"]}

    def test_steps_show_the_history_of_their_branch(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [b, c]}]}
            - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
            - {name: c, run: [{action: fail, message: no}], rule: [{case: error, run: [d]}]}
            - name: d
              run:
              - action: set
                set:
                  b: "{{ steps.b }}"
                  c: ["{{ steps.c.status }}", "{{ steps.c.error.message }}", "{{ steps.c.result }}"]
                  e: "{{ steps['Not Yet'].status }} {{ steps['Not Yet'].visits }}"
                  own: "{{ steps.d.status }}"
              rule: [{case: "{{ false or none }}", run: [Not Yet]}]
            - {name: Not Yet, run: [{action: log, message: ok}]}
        """
        found = result(store, text)
        outcome: dict[str, Any] = {"result": {"x": 1}, "error": None, "failures": []}
        assert found["b"] == {"status": "succeeded", "visits": 1, **outcome}
        assert found["c"] == ["failed", "no", None]
        assert (found["e"], found["own"]) == ("pending 0", "pending")

    def test_an_unvisited_step_has_no_result(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: first, rule: [{case: "{{ run.id is none }}", run: [b]}, {case: default, run: [a]}]}
            - name: a
              run: [{action: set, set: {x: "{{ steps.b.result is defined }}"}}]
              rule: [{case: "{{ steps.b.result }}", run: []}, {case: error, run: []}]
            - {name: b, run: [{action: log, message: ok}], rule: [{case: default, run: [a]}]}
        """
        harness = run_to_end(store, text)
        assert harness.visit("a").saved == {}
        error = harness.visit("a").error
        assert error is not None
        assert error["type"] == "GuardError"

    def test_a_step_reads_its_own_attributes(self, store: SqliteStore) -> None:
        text = """
            version: "7"
            steps:
            - name: a
              max_visits: 2
              run: [{action: set, set: {k: "{{ step }}", r: "{{ run }}"}}]
              rule: [{case: "{{ step.visit == 1 }}", run: [a]}]
        """
        harness = run_to_end(store, text)
        step, run = harness.result["k"], harness.result["r"]
        assert (step["name"], step["visit"], step["attempt"]) == ("a", 2, 1)
        assert run == {
            "id": harness.id,
            "started_at": "1970-01-12T13:46:40.000000Z",
            "playbook": "play",
            "version": "7",
            "trigger": None,
        }

    def test_a_name_without_a_value_fails_the_step(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: "{{ run.id is none }}", run: [b]}, {case: default, run: [c]}]}
            - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [c]}]}
            - {name: c, run: [{action: set, set: {y: "{{ x }}"}}]}
        """
        harness = run_to_end(store, text)
        assert (harness.status, harness.error_types) == ("failed", ["UndefinedName"])
        assert harness.run.error is not None
        assert harness.run.error["message"] == "`set.y`: `x` is undefined"

    def test_inferred_inputs_are_required(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run: [{action: set, set: {y: "{{ x + input.z }}", d: "{{ w | default(3) }}"}}]
        """
        assert result(store, text, x=1, z=2) == {"y": 3, "d": 3}
        with pytest.raises(RejectedError, match="missing input `z`"):
            run_to_end(store, text, x=1)


class TestTaskExecution:
    def test_a_task_reads_its_args(self, store: SqliteStore) -> None:
        text = """
            tasks:
            - name: add
              run:
              - {action: set, set: {sum: "{{ args.a + args.b }}"}}
              - {action: set, set: {twice: "{{ sum * 2 }}"}}
            - {name: outer, run: [{task: add, with: {a: "{{ args.n }}", b: "{{ n }}"}, as: inner}]}
            variables: {n: 10}
            steps: [{name: s, run: [{task: outer, with: {n: 1}, as: out}]}]
        """
        assert result(store, text) == {"sum": 11, "twice": 22, "inner": {"twice": 22}, "out": {"twice": 22}}

    def test_a_task_may_be_skipped(self, store: SqliteStore) -> None:
        text = """
            tasks: {t: [{action: set, set: {x: 1}}]}
            steps: [{name: s, run: [{task: t, if: "{{ 1 > 2 }}", as: y}, {task: t, if: true, as: z}]}]
        """
        assert result(store, text) == {"x": 1, "z": {"x": 1}}

    def test_a_task_may_run_in_parallel(self, store: SqliteStore) -> None:
        text = """
            tasks: {t: {parallel: true, run: [{action: set, set: {x: 1}}, {action: set, set: {y: 2}}]}}
            steps: [{name: s, run: [{task: t, as: z}]}]
        """
        assert result(store, text) == {"x": 1, "y": 2, "z": [{"x": 1}, {"y": 2}]}

    def test_a_task_that_fails_may_be_forgiven(self, store: SqliteStore) -> None:
        text = """
            tasks: {t: [{action: set, set: {x: 1}}, {action: fail, message: no}]}
            steps: [{name: s, run: [{task: t, as: y, on_error: continue}, {action: set, set: {z: 1}}]}]
        """
        assert result(store, text) == {"z": 1}


class TestParallelExecution:
    def test_items_do_not_see_each_other(self, store: SqliteStore) -> None:
        text = """
            variables: {x: 0, y: 0}
            steps:
            - name: s
              parallel: true
              run: [{action: set, set: {x: "{{ y + 1 }}"}}, {action: set, set: {y: "{{ x + 2 }}"}}]
              rule: [{case: default, run: [{action: set, set: {data: "{{ result.data }}"}}]}]
        """
        assert result(store, text) == {"x": 1, "y": 2, "data": [{"x": 1}, {"y": 2}]}

    def test_one_parallel_item_gives_a_list(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              parallel: true
              run: [{action: set, set: {x: 1}}]
              rule: [{case: default, run: [{action: set, set: {all: "{{ result.data }}"}}]}]
        """
        assert run_to_end(store, text).result == {"x": 1, "all": [{"x": 1}]}

    def test_one_failure_fails_parallel_work(self, store: SqliteStore) -> None:
        text = f"steps: [{{name: s, parallel: true, run: [{{action: set, set: {{x: 1}}}}, {FAIL}]}}]"
        harness = run_to_end(store, text)
        assert (harness.status, harness.error_types, harness.visit("s").saved) == ("failed", ["Failed"], {})

    def test_a_forgiven_failure_does_not_fail_parallel_work(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: s
              parallel: true
              run: [{action: fail, message: no, on_error: continue}, {action: set, set: {x: 1}}]
              rule:
              - {case: default, run: [{action: set, set: {r: ["{{ result.success }}", "{{ result.data }}"]}}]}
        """
        assert result(store, text) == {"x": 1, "r": [False, [None, {"x": 1}]]}


class TestJoinExecution:
    def test_a_join_is_visited_once(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, rule: [{case: default, run: [b, c, d]}]}
            - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
            - {name: c, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [e]}]}
            - {name: d, run: [{action: set, set: {z: 3}}], rule: [{case: "{{ z == 4 }}", run: [e]}]}
            - {name: e, run: [{action: set, set: {sum: "{{ x + y }}"}}]}
        """
        harness = run_to_end(store, text)
        assert (harness.result, harness.visit_counts) == (
            {"x": 1, "y": 2, "z": 3, "sum": 3},
            {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1},
        )

    def test_a_join_on_a_cycle_fires_each_round(self, store: SqliteStore) -> None:
        text = """
            variables: {rounds: []}
            steps:
            - {name: a, max_visits: 5, rule: [{case: default, run: [b, c]}]}
            - {name: b, run: [], rule: [{case: default, run: [d]}]}
            - {name: c, run: [], rule: [{case: default, run: [d]}]}
            - name: d
              run: [{action: set, set: {rounds: "{{ rounds + [step.visit] }}"}}]
              rule: [{case: "{{ step.visit < 3 }}", run: [a]}, {case: default, run: [e]}]
            - {name: e, run: [{action: set, set: {seen: "{{ steps.a.visits }}"}}]}
        """
        harness = run_to_end(store, text)
        assert harness.result == {"rounds": [1, 2, 3], "seen": 3}
        assert harness.visit_counts == {"a": 3, "b": 3, "c": 3, "d": 3, "e": 1}


class TestCycleExecution:
    TEXT = """
        variables: {n: 0}
        steps:
        - name: a
          max_visits: 3
          run: [{action: set, set: {n: "{{ n + 1 }}"}}]
          rule: %s
        - {name: b, run: [{action: set, set: {end: "{{ steps.a.error.type }} {{ n }}"}}]}
    """

    def test_a_visit_past_max_visits_fails(self, store: SqliteStore) -> None:
        harness = run_to_end(
            store, self.TEXT % '[{case: "{{ n > 0 }}", run: [a]}, {case: "{{ n < 0 }}", run: [b]}]'
        )
        assert (harness.status, harness.error_types, harness.visit_counts) == (
            "failed",
            ["MaxVisitsExceeded"],
            {"a": 4},
        )

    def test_a_case_can_handle_max_visits_exceeded(self, store: SqliteStore) -> None:
        harness = run_to_end(store, self.TEXT % '[{case: error, run: [b]}, {case: "{{ n > 0 }}", run: [a]}]')
        assert (harness.status, harness.result) == ("succeeded", {"n": 3, "end": "MaxVisitsExceeded 3"})

    def test_no_case_that_leads_back_handles_max_visits_exceeded(self, store: SqliteStore) -> None:
        rule = '[{case: "{{ error or n > 0 }}", run: [a]}, {case: error, run: [b]}]'
        harness = run_to_end(store, self.TEXT % rule)
        assert (harness.status, harness.visit_counts) == ("succeeded", {"a": 4, "b": 1})

    def test_a_refused_visit_does_no_work(self, store: SqliteStore) -> None:
        harness = run_to_end(store, self.TEXT % '[{case: error, run: []}, {case: "{{ n > 0 }}", run: [a]}]')
        assert harness.result == {"n": 3}
        assert harness.event_types("a").count("action.started") == 3


class TestStepFailures:
    def test_abort_parks_what_was_ready(self, store: SqliteStore) -> None:
        text = f"""
            steps:
            - {{name: a, rule: [{{case: default, run: [b, c]}}]}}
            - {{name: b, run: [{FAIL}]}}
            - {{name: c, run: [{OK}]}}
        """
        harness = run_to_end(store, text)
        assert (harness.status, harness.result, harness.error_types) == ("failed", None, ["Failed"])
        assert [(v.step, v.status.value) for v in harness.visits] == [
            ("a", "succeeded"),
            ("b", "failed"),
            ("c", "parked"),
        ]
        assert harness.event_types()[-1] == "workflow.failed"

    @pytest.mark.parametrize("where", ["playbook", "step"])
    def test_continue_ends_the_branch_only(self, store: SqliteStore, where: str) -> None:
        option = "on_error: continue, " if where == "step" else ""
        text = f"""
            on_error: {"continue" if where == "playbook" else "abort"}
            steps:
            - {{name: a, rule: [{{case: default, run: [b, c]}}]}}
            - {{name: b, {option}run: [{FAIL}], rule: [{{case: default, run: [d]}}]}}
            - {{name: c, run: [{{action: set, set: {{x: 1}}}}], rule: [{{case: default, run: [d]}}]}}
            - {{name: d, run: [{{action: set, set: {{y: "{{{{ x }}}}"}}}}]}}
        """
        harness = run_to_end(store, text)
        assert (harness.status, harness.error_types, harness.result) == (
            "completed_with_errors",
            ["Failed"],
            {"x": 1, "y": 1},
        )
        assert harness.run.error is not None
        assert harness.event_types()[-1] == "workflow.completed"

    def test_a_step_may_abort_in_a_playbook_that_continues(self, store: SqliteStore) -> None:
        text = f"on_error: continue\nsteps: [{{name: a, on_error: abort, run: [{FAIL}]}}]"
        assert run_to_end(store, text).status is RunStatus.FAILED

    def test_a_failure_of_an_action_may_be_forgiven(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run:
              - {action: fail, message: no, as: x, on_error: continue}
              - {action: set, set: {y: "{{ x is defined }}"}}
              rule: [{case: error, run: []}, {case: default, run: [b]}]
            - {name: b, run: [{action: log, message: ok}]}
        """
        harness = run_to_end(store, text)
        assert (harness.status, harness.result, harness.visit_counts) == (
            "succeeded",
            {"y": False},
            {"a": 1, "b": 1},
        )
        assert "action.failed" in harness.event_types("a")

    @pytest.mark.parametrize("forgiven", [False, True])
    def test_a_forgiven_failure_of_the_last_action_is_the_result(
        self, store: SqliteStore, forgiven: bool
    ) -> None:
        may = ", on_error: continue" if forgiven else ""
        text = f"""
            steps:
            - name: a
              retry: {{attempts: 2, delay: 0}}
              run: [{{action: shell, command: "exit 1"{may}}}]
              rule: [{{case: error, run: [b]}}, {{case: default, run: [c]}}]
            - {{name: b, run: [{OK}]}}
            - {{name: c, run: [{OK}]}}
        """
        harness = run_to_end(store, text)
        assert harness.visit_counts == ({"a": 1, "c": 1} if forgiven else {"a": 1, "b": 1})
        assert harness.visit("a").attempt == (1 if forgiven else 2)

    def test_failed_in_place_work_follows_on_error(self, store: SqliteStore) -> None:
        text = f"""
            steps:
            - name: a
              run: [{{action: set, set: {{x: 1}}}}]
              rule:
              - {{case: "{{{{ x }}}}", run: [{{action: set, set: {{y: 1}}}}, {FAIL}]}}
              - {{case: error, run: [b]}}
            - {{name: b, run: [{OK}]}}
        """
        harness = run_to_end(store, text)
        assert (harness.status, harness.error_types, harness.visit_counts) == ("failed", ["Failed"], {"a": 1})
        (saved,) = store.runs.visits_with_outputs(harness.id)
        assert saved.saved == {}

    def test_a_failure_of_in_place_work_may_be_forgiven(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              rule: [{case: default, run: [{action: fail, message: no, on_error: continue}]}]
        """
        assert run_to_end(store, text).status is RunStatus.SUCCEEDED

    def test_data_that_is_too_large_fails_the_step(self, store: SqliteStore) -> None:
        store.context.limits = PayloadLimits(payload_bytes=1000)
        text = """
            steps:
            - name: a
              run: [{action: set, set: {x: "{{ 'x' * 2000 }}"}}]
              rule: [{case: error, run: [b]}, {case: default, run: []}]
            - {name: b, run: [{action: set, set: {e: "{{ steps.a.error.type }}"}}]}
        """
        harness = run_to_end(store, text)
        assert (harness.status, harness.result) == ("succeeded", {"e": "PayloadTooLarge"})

    def test_a_failure_whose_handling_is_too_large_fails_the_step(self, store: SqliteStore) -> None:
        """A case that handles too large data with too large data does not repeat forever."""
        store.context.limits = PayloadLimits(payload_bytes=1000)
        big = "{action: set, set: {x: \"{{ 'x' * 2000 }}\"}}"
        harness = run_to_end(
            store, f"steps: [{{name: a, run: [{big}], rule: [{{case: error, run: [{big}]}}]}}]"
        )
        assert (harness.status, harness.error_types, harness.visit_counts) == (
            "failed",
            ["PayloadTooLarge"],
            {"a": 1},
        )

    def test_in_place_work_with_too_large_data_fails(self, store: SqliteStore) -> None:
        store.context.limits = PayloadLimits(payload_bytes=1000)
        big = "{action: set, set: {x: \"{{ 'x' * 2000 }}\"}}"
        rule = f"[{{case: '{{{{ not error }}}}', run: [{big}]}}, {{case: error, run: []}}]"
        harness = run_to_end(store, f"steps: [{{name: a, rule: {rule}}}]")
        assert (harness.status, harness.error_types) == ("failed", ["PayloadTooLarge"])
        assert [type for type in harness.event_types("a") if type[:4] == "step"] == [
            "step.started",
            "step.failed",
        ]


class TestStepRetries:
    def test_a_step_is_retried_until_it_succeeds(self, store: SqliteStore, tmp_path: Path) -> None:
        text = f"""
            steps:
            - name: a
              retry: {{attempts: 3, delay: 10s, jitter: false}}
              run: [{{action: set, set: {{tried: "{{{{ step.attempt }}}}"}}}}, {FLAKY}]
        """
        harness = RunHarness(store, text, folder=tmp_path)
        start = harness.clock()
        harness.finish()
        assert (harness.status, harness.result, harness.visit_counts) == ("succeeded", {"tried": 3}, {"a": 1})
        assert harness.clock() - start == 10 + 20
        assert (tmp_path / "tries").read_text() == "x\n" * 3
        types = harness.event_types("a")
        assert (types.count("step.started"), types.count("step.retrying"), types[-1]) == (
            3,
            2,
            "step.completed",
        )

    def test_an_action_is_retried_until_it_succeeds(self, store: SqliteStore, tmp_path: Path) -> None:
        action = FLAKY.replace("{action", "{retry: {attempts: 3, delay: 0}, action")
        harness = RunHarness(store, f"steps: [{{name: a, run: [{action}]}}]", folder=tmp_path).finish()
        assert (harness.status, harness.visit("a").attempt) == ("succeeded", 1)
        types = harness.event_types("a")
        assert (types.count("action.started"), types.count("action.retrying")) == (3, 2)

    def test_the_playbook_sets_a_default_retry(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = RunHarness(
            store, f"retry: 3\nsteps: [{{name: a, run: [{FLAKY}]}}]", folder=tmp_path
        ).finish()
        assert (harness.status, harness.visit("a").attempt) == ("succeeded", 3)

    def test_the_default_retry_condition_reads_saved_names(self, store: SqliteStore, tmp_path: Path) -> None:
        text = f"""
            retry: {{attempts: 3, delay: 0, if: "{{{{ may and error.type == wanted }}}}"}}
            variables: {{wanted: Odd, may: true}}
            steps:
            - name: a
              run: [{{action: set, set: {{wanted: CommandFailed}}}}]
              rule: [{{case: default, run: [b]}}]
            - {{name: b, run: [{FLAKY}]}}
        """
        harness = RunHarness(store, text, folder=tmp_path).finish()
        assert (harness.status, harness.visit("b").attempt) == ("succeeded", 3)

    def test_the_last_failed_attempt_fails_the_step(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = RunHarness(
            store, f"steps: [{{name: a, retry: 2, run: [{FLAKY}]}}]", folder=tmp_path
        ).finish()
        assert (harness.status, harness.error_types, harness.visit("a").attempt) == (
            "failed",
            ["CommandFailed"],
            2,
        )

    @pytest.mark.parametrize(
        ("condition", "attempts"), [("{{ false }}", 1), ("{{ error.type == 'CommandFailed' }}", 3)]
    )
    def test_a_retry_condition_decides_about_the_retry(
        self, store: SqliteStore, tmp_path: Path, condition: str, attempts: int
    ) -> None:
        for owner in ("step", "action"):
            retry = f'retry: {{attempts: 3, delay: 0, if: "{condition}"}}'
            action = FLAKY.replace("-ge 3", "-ge 9").replace(
                "{action", f"{{{retry}, action" if owner == "action" else "{action"
            )
            step = f"{retry}, " if owner == "step" else ""
            (tmp_path / owner).mkdir()
            harness = RunHarness(
                store, f"steps: [{{name: a, {step}run: [{action}]}}]", folder=tmp_path / owner
            ).finish()
            assert harness.status is RunStatus.FAILED
            assert len((tmp_path / owner / "tries").read_text().split()) == attempts

    def test_a_failure_that_is_not_retryable_is_not_retried(self, store: SqliteStore) -> None:
        harness = run_to_end(store, "steps: [{name: a, retry: 5, run: [{action: fail, message: no}]}]")
        assert harness.visit("a").attempt == 1

    def test_names_saved_by_a_failed_attempt_are_dropped(self, store: SqliteStore, tmp_path: Path) -> None:
        text = f"""
            steps:
            - name: a
              retry: {{attempts: 3, delay: 0}}
              run:
              - {{action: set, set: {{x: 1}}, if: "{{{{ step.attempt == 1 }}}}"}}
              - {{action: set, set: {{y: "{{{{ x is defined }}}}"}}}}
              - {FLAKY}
        """
        assert RunHarness(store, text, folder=tmp_path).finish().result == {"y": False}

    def test_a_run_is_waiting_before_a_retry(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = RunHarness(
            store, f"steps: [{{name: a, retry: 3, run: [{FLAKY}]}}]", folder=tmp_path, clock=FakeClock(4e9)
        )
        harness.execute_next()
        assert harness.status is RunStatus.WAITING
        assert harness.store.runs.find(RunFilter(statuses=(RunStatus.WAITING,)))[0] == [
            summarize(harness.run)
        ]
        assert harness.finish().status is RunStatus.SUCCEEDED


class TestIdempotencyKeys:
    TEXT = """
        tasks: {t: [{action: set, set: {inner: "{{ step.idempotency_key }}"}}]}
        steps:
        - name: a
          max_visits: 2
          retry: {attempts: 3, delay: 0}
          run:
          - {action: set, set: {one: "{{ step.idempotency_key }}", id: "{{ uuid() }}", at: "{{ now() }}"}}
          - {action: set, set: {two: "{{ step.idempotency_key }}"}}
          - t
          - action: shell
            command: >-
              echo {{ one }},{{ two }},{{ inner }},{{ id }},{{ at }} >> seen;
              test $(wc -l < seen) -ge 3
          rule: [{case: "{{ step.visit == 1 }}", run: [a]}]
    """

    def test_idempotency_keys_are_the_same_in_every_attempt(self, store: SqliteStore, tmp_path: Path) -> None:
        RunHarness(store, self.TEXT, folder=tmp_path).finish()
        RunHarness(store, self.TEXT, folder=tmp_path).finish()
        seen = [line.split(",") for line in (tmp_path / "seen").read_text().split()]
        keys = [tuple(line[:3]) for line in seen]
        assert keys[0] == keys[1] == keys[2]
        different = {keys[2], keys[3], *keys[4:]}
        assert len({key for keys in different for key in keys}) == 3 * len(different) == 12

    def test_uuid_and_now_are_repeatable_within_an_attempt(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = RunHarness(store, self.TEXT, folder=tmp_path)
        lost = harness.claim("lost")
        assert lost is not None
        dead_store: Any = _CommittingDeadStore(store)
        crashed = replace(harness.executor("lost"), store=dead_store)
        with pytest.raises(_WorkerDeath):
            crashed.execute(lost)
        harness.clock.advance(LEASE_SECONDS)
        assert harness.execute_next()
        harness.clock.advance(100)
        harness.execute_next()
        seen = [line.split(",") for line in (tmp_path / "seen").read_text().split()]
        assert seen[0] == seen[1]
        assert seen[2][:3] == seen[0][:3]
        assert seen[2][3] != seen[0][3]
        assert seen[2][4] > seen[0][4] == "1970-01-12T13:46:40+00:00"

    def test_every_uuid_is_different(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run:
              - {action: set, set: {x: "{{ uuid() }}", y: ["{{ uuid() }}", "{{ uuid() }} {{ uuid() }}"]}}
              - {action: set, set: {z: "{{ uuid() }}"}}
              rule: [{case: default, run: [{action: set, set: {w: "{{ uuid() }}"}}]}]
        """
        found = result(store, text)
        uuids = [found["x"], found["y"][0], *found["y"][1].split(), found["z"], found["w"]]
        assert len(set(uuids)) == 6


class _WorkerDeath(Exception):
    pass


class _CommittingDeadStore:
    """A store whose commit raises and writes nothing, as in a crash."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def commit(self, *_: Any) -> None:
        raise _WorkerDeath

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        return type(self)(value) if name == "queue" else value


class TestTimeouts:
    def test_an_action_times_out(self, store: SqliteStore) -> None:
        harness = run_to_end(
            store, 'steps: [{name: a, run: [{action: shell, command: "sleep 60", timeout: 20ms}]}]'
        )
        assert (harness.status, harness.error_types) == ("failed", ["Timeout"])

    def test_in_place_work_may_handle_the_timeout_of_its_step(self, store: SqliteStore) -> None:
        """In-place work that handles a timeout has its own time limit."""
        text = """
            steps:
            - name: a
              timeout: 50ms
              run: [{action: shell, command: "sleep 60"}]
              rule: [{case: "{{ error.type == 'Timeout' }}", run: [{action: set, set: {late: true}}]}]
        """
        assert result(store, text) == {"late": True}

    def test_in_place_work_times_out(self, store: SqliteStore) -> None:
        text = """
            steps:
            - {name: a, timeout: 20ms, rule: [{case: default, run: [{action: shell, command: "sleep 60"}]}]}
        """
        assert run_to_end(store, text).error_types == ["Timeout"]

    def test_a_case_may_handle_a_timeout(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              timeout: 20ms
              run: [{action: shell, command: "sleep 60"}]
              rule: [{case: "{{ error.type == 'Timeout' }}", run: [b]}]
            - {name: b, run: [{action: set, set: {late: true}}]}
        """
        assert result(store, text) == {"late": True}


class TestCancelAndResume:
    TEXT = """
        input: {ok: {type: boolean, default: true}}
        steps:
        - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
        - name: b
          run: [{action: fail, message: no, if: "{{ not input.ok }}"}]
          rule: [{case: default, run: [c]}]
        - {name: c, run: [{action: set, set: {y: "{{ x }}"}}]}
    """

    def test_a_cancelled_run_parks_ready_visits(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        harness.execute_next()
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        assert (harness.status, harness.result, harness.error_types) == ("cancelled", None, [])
        assert [(visit.step, visit.status.value) for visit in harness.visits][-1] == ("b", "parked")

    def test_a_run_can_be_cancelled_before_it_starts(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        assert harness.finish().status is RunStatus.CANCELLED
        assert harness.resume().finish().result == {"x": 1, "y": 1}

    def test_a_running_step_of_a_cancelled_run_finishes(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        claim = harness.claim()
        assert claim is not None
        stopped = store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        assert stopped.status is RunStatus.RUNNING
        following = harness.executor().execute(claim)
        assert following is not None
        assert following.visit.step == "@end"
        harness.executor().execute(following)
        assert harness.status is RunStatus.CANCELLED
        assert harness.resume().finish().result == {"x": 1, "y": 1}
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1}

    def test_a_failed_run_resumes_with_corrected_input(self, store: SqliteStore) -> None:
        harness = run_to_end(store, self.TEXT, ok=False)
        assert harness.status is RunStatus.FAILED
        harness.resume().finish()
        assert harness.status is RunStatus.FAILED
        harness.resume(ok=True).finish()
        assert (harness.status, harness.result, harness.run.error) == ("succeeded", {"x": 1, "y": 1}, None)
        assert (harness.visit_counts, harness.run.resumes) == ({"a": 1, "b": 1, "c": 1}, 2)
        assert harness.event_types("a").count("step.completed") == 1
        assert harness.event_types().count("workflow.resumed") == 2

    def test_corrected_input_renders_the_environment_again(self, store: SqliteStore) -> None:
        text = """
            input: {host: string}
            environment: {url: "https://{{ input.host }}"}
            steps:
            - name: a
              run: [{action: fail, message: no, if: "{{ input.host == 'bad' }}"}]
              rule: [{case: default, run: [b]}]
            - {name: b, run: [{action: set, set: {x: "{{ environment.url }}"}}]}
        """
        harness = run_to_end(store, text, host="bad")
        assert harness.resume(host="good").finish().result == {"x": "https://good"}

    def test_invalid_corrected_input_changes_nothing(self, store: SqliteStore) -> None:
        harness = run_to_end(store, self.TEXT, ok=False)
        before = harness.run
        with pytest.raises(RejectedError):
            harness.resume(ok="yes")
        assert harness.run == before

    def test_a_failed_branch_before_a_join_resumes(self, store: SqliteStore) -> None:
        text = """
            input: {ok: boolean}
            steps:
            - {name: a, rule: [{case: default, run: [b, c]}]}
            - name: b
              run: [{action: fail, message: no, if: "{{ not input.ok }}"}]
              rule: [{case: default, run: [d]}]
            - {name: c, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
            - {name: d, run: [{action: set, set: {y: "{{ x }}"}}]}
        """
        harness = run_to_end(store, text, ok=False)
        assert harness.resume(ok=True).finish().result == {"x": 1, "y": 1}
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1}

    def test_a_branch_that_ended_in_a_failure_resumes(self, store: SqliteStore) -> None:
        """The following join fires again, with its earlier names and the new ones."""
        text = """
            on_error: continue
            input: {ok: boolean}
            steps:
            - {name: a, rule: [{case: default, run: [b, c]}]}
            - name: b
              run: [{action: fail, message: no, if: "{{ not input.ok }}"}, {action: set, set: {x: 1}}]
              rule: [{case: default, run: [d]}]
            - {name: c, run: [{action: set, set: {y: 1}}], rule: [{case: default, run: [d]}]}
            - {name: d, run: [{action: set, set: {z: "{{ x | default(0) + y }}"}}]}
        """
        harness = run_to_end(store, text, ok=False)
        assert (harness.status, harness.result) == ("completed_with_errors", {"y": 1, "z": 1})
        harness.resume(ok=True).finish()
        assert (harness.status, harness.result, harness.run.live) == (
            "succeeded",
            {"x": 1, "y": 1, "z": 2},
            0,
        )
        assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 2}


class TestWorkerCrashes:
    TEXT = """
        steps:
        - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: error, run: [b]}]}
        - {name: b, run: [{action: set, set: {e: "{{ steps.a.error.type }}"}}]}
    """

    def test_a_visit_whose_workers_die_fails(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        for _ in range(MAX_CLAIMS):
            assert harness.claim() is not None
            harness.clock.advance(LEASE_SECONDS)
        harness.finish()
        assert (harness.status, harness.result) == ("succeeded", {"e": "WorkerLost"})
        assert "action.started" not in harness.event_types("a")

    def test_the_last_allowed_claim_may_succeed(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        for _ in range(MAX_CLAIMS - 1):
            assert harness.claim() is not None
            harness.clock.advance(LEASE_SECONDS)
        assert harness.finish().result == {"x": 1}

    def test_a_commit_after_a_takeover_is_refused(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT)
        lost = harness.claim("lost")
        assert lost is not None
        harness.clock.advance(LEASE_SECONDS)
        harness.execute_next()
        before = harness.events
        assert harness.executor("lost").execute(lost) is None
        assert harness.events == before

    def test_a_run_needs_only_the_stored_plan(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = RunHarness(store, self.TEXT)
        store.close()
        again = SqliteStore(str(tmp_path / "noetl.db"))
        harness.store = again
        assert harness.finish().result == {"x": 1}
        again.close()


def test_events_are_in_causal_order(store: SqliteStore) -> None:
    text = """
        tasks: {t: [{action: set, set: {y: 1}}]}
        steps:
        - {name: a, run: [{action: log, message: m}, t], rule: [{case: default, run: [b]}]}
        - {name: b, rule: [{case: default, run: [{action: log, message: in place}]}]}
    """
    harness = run_to_end(store, text)
    assert [(event.step, event.type) for event in harness.events] == [
        (None, "workflow.started"),
        ("a", "step.started"),
        ("a", "action.started"),
        ("a", "action.log"),
        ("a", "action.completed"),
        ("a", "action.started"),
        ("a", "action.completed"),
        ("a", "step.transition"),
        ("a", "step.completed"),
        ("b", "step.started"),
        ("b", "action.started"),
        ("b", "action.log"),
        ("b", "action.completed"),
        ("b", "step.transition"),
        ("b", "step.completed"),
        (None, "workflow.completed"),
    ]
    positions = [event.payload["position"] for event in harness.events if event.type == "action.started"]
    assert positions == ["run.0", "run.1/t.0", "rule.0.0"]
    assert all(
        event.duration_seconds is not None for event in harness.events if event.type.endswith("completed")
    )
    assert timestamp(harness.events[2].at) == "1970-01-12T13:46:40.000000Z"
    json.dumps([event.payload for event in harness.events])


def test_stored_data_contains_no_secrets(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_SECRET_KEY", "canary-0123456789")
    text = """
        steps:
        - name: a
          run:
          - action: shell
            command: "echo $K; echo $K >&2; exit $1"
            env: {K: "{{ secrets.KEY }}"}
            as: out
            on_error: continue
          - {action: shell, command: "echo got $K", env: {K: "{{ secrets.KEY }}"}, as: out}
          rule: [{case: "{{ 'got' in out.stdout }}", run: [b]}]
        - {name: b, run: [{action: fail, message: "{{ out.stdout }}"}]}
    """
    run_to_end(store, text)
    store.close()
    for path in tmp_path.iterdir():
        assert b"canary-0123456789" not in path.read_bytes()


def test_the_last_step_of_a_long_chain_costs_no_more(store: SqliteStore) -> None:
    """The number of pointers of a visit does not grow with the run."""
    steps = [
        {
            "name": "s0",
            "run": [{"action": "set", "set": {"x": 1}}],
            "rule": [{"case": "default", "run": ["s1"]}],
        }
    ]
    for index in range(1, 40):
        rule = [{"case": "default", "run": [f"s{index + 1}"]}]
        steps.append(
            {"name": f"s{index}", "run": [{"action": "set", "set": {f"y{index}": "{{ x }}"}}], "rule": rule}
        )
    steps.append({"name": "s40", "run": [{"action": "log", "message": "{{ x }}"}]})
    harness = run_to_end(store, json.dumps({"name": "chain", "steps": steps}))
    assert harness.status is RunStatus.SUCCEEDED
    assert {len(visit.names) for visit in harness.visits[1:]} == {1}


def test_a_result_that_is_not_json_fails_the_step(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noetl.executor.engine.attempts.handler", lambda _: lambda _: {"when": object()})
    text = """
        steps:
        - name: a
          run: [{action: log, message: x, as: y}]
          rule: [{case: error, run: [{action: log, message: "{{ error.type }}"}]}]
    """
    harness = RunHarness(store, text, folder=Path.cwd()).finish()
    assert [e.payload["error"]["type"] for e in harness.events if e.type == "step.failed"] == [
        "FunctionFailed"
    ]


def test_error_details_that_are_not_json_become_text(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(_: object) -> None:
        raise ActionError("Odd", "no", retryable=False, details={"found": {1}})

    monkeypatch.setattr("noetl.executor.engine.attempts.handler", lambda _: handler)
    harness = RunHarness(store, "steps: [{name: a, run: [{action: log, message: x}]}]").finish()
    assert (harness.error_types, harness.run.errors[0]["details"]) == (["Odd"], "{'found': {1}}")


def test_an_empty_object_is_a_result(store: SqliteStore) -> None:
    text = """
        steps:
        - name: a
          run: [{action: python, function: "builtins:dict", args: {}}]
          rule: [{case: default, run: [b]}]
        - {name: b, run: [{action: set, set: {found: "{{ steps.a.result }}"}}]}
    """
    assert run_to_end(store, text).result == {"found": {}}
