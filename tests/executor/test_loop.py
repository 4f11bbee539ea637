"""`loop`: on an action, on a call of a task, on a step, and spread over invocations."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from noetl.executor.engine import loop
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness
from tests.executor.finished_runs import result

FOUND = [f"{n * n} at {n}" for n in range(7)]


class TestLoopsOfActions:
    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_results_are_in_the_order_of_the_items(self, store: SqliteStore, concurrency: int) -> None:
        text = """
            steps:
            - name: a
              run:
              - action: set
                set: {n: "{{ item }}", at: "{{ loop.index }}/{{ loop.length }}"}
                loop: {items: [c, a, b], concurrency: %d}
                as: all
        """
        expected = [{"n": n, "at": f"{position}/3"} for position, n in enumerate("cab", 1)]
        assert result(store, text % concurrency) == {"all": expected}

    def test_names_saved_by_an_item_are_visible_only_in_its_result(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run:
              - {action: set, set: {n: before}}
              - {action: set, set: {n: "{{ item }}"}, loop: {items: [1, 2]}, as: all}
              - {action: set, set: {after: "{{ n }}"}}
        """
        assert result(store, text) == {"n": "before", "all": [{"n": 1}, {"n": 2}], "after": "before"}

    def test_an_item_may_be_skipped(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run:
              - action: set
                set: {n: "{{ word }}"}
                if: "{{ word != 'b' }}"
                loop: {items: [a, b], as: word}
                as: all
        """
        assert result(store, text) == {"all": [{"n": "a"}, None]}

    def test_a_loop_without_items_does_no_work(self, store: SqliteStore) -> None:
        text = "steps: [{name: a, run: [{action: fail, message: no, loop: {items: []}, as: all}]}]"
        assert result(store, text) == {"all": []}

    def test_a_loop_pauses_for_the_foreground_before_it_counts_its_items(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[None] = []
        monkeypatch.setattr(loop, "wait_for_slice", lambda: pauses.append(None))
        text = "steps: [{name: a, run: [{action: set, set: {x: 1}, loop: {items: [1, 2, 3]}}]}]"
        assert RunHarness(store, text).finish().status == "succeeded"
        assert len(pauses) == 2

    def test_a_failed_item_ends_the_loop(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run:
              - {action: fail, if: "{{ item == 2 }}", message: "no {{ item }}", loop: {items: [1, 2, 3]}}
        """
        harness = RunHarness(store, text).finish()
        assert (harness.status, [e["message"] for e in harness.run.errors]) == (
            "failed",
            ["item 2 of 3: no 2"],
        )
        (progress,) = (e.payload for e in harness.events if e.type == "loop.progress")
        assert (progress["done"], progress["failed"], progress["total"]) == (2, 1, 3)

    def test_failures_of_items_may_be_forgiven(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run:
              - action: fail
                if: "{{ item == 2 }}"
                message: "no {{ item }}"
                loop: {items: [1, 2, 3], on_error: continue}
                as: all
              rule:
              - case: "{{ not result.success }}"
                run:
                - action: set
                  set: {failed: "{{ result['items'] | rejectattr('success') | list | length }}"}
        """
        assert result(store, text) == {"all": [None, None, None], "failed": 1}

    def test_items_that_are_no_list_fail_the_loop(self, store: SqliteStore) -> None:
        text = "steps: [{name: a, run: [{action: log, message: x, loop: {items: '{{ 3 }}'}}]}]"
        harness = RunHarness(store, text).finish()
        assert [e["type"] for e in harness.run.errors] == ["ParameterError"]

    def test_a_task_does_not_see_the_loop_around_its_call(self, store: SqliteStore) -> None:
        text = """
            variables: {x: of the run}
            tasks: {look: [{action: set, set: {seen: "{{ x }}"}}]}
            steps: [{name: a, run: [{task: look, loop: {items: [1], as: x}, as: all}]}]
        """
        assert result(store, text) == {"all": [{"seen": "of the run"}]}

    def test_nested_loops_see_both_items(self, store: SqliteStore) -> None:
        text = """
            tasks:
              row:
              - {action: set, set: {x: "{{ args.y }}{{ n }}"}, loop: {items: [1, 2], as: n}, as: cells}
              - {action: set, set: {row: "{{ cells | map(attribute='x') | list }}"}}
            steps:
            - name: a
              run: [{task: row, with: {y: "{{ letter }}"}, loop: {items: [a, b], as: letter}, as: rows}]
        """
        assert result(store, text) == {"rows": [{"row": ["a1", "a2"]}, {"row": ["b1", "b2"]}]}


class TestLoopsOfSteps:
    TEXT = """
        steps:
        - name: a
          loop: {items: "{{ range(7) | list }}", as: n%s}
          run:
          - {action: fail, if: "{{ n == 4 and not %s }}", message: four}
          - {action: set, set: {square: "{{ n * n }}"}}
          - {action: set, set: {text: "{{ square }} at {{ loop.index0 }}"}}
          rule:
          - {case: "{{ result.success }}", run: [b]}
        - {name: b, run: [{action: set, set: {found: "{{ steps.a.result | map(attribute='text') | list }}"}}]}
    """

    @pytest.mark.parametrize(
        "spread", ["", ", batch: 1", ", batch: 3", ", batch: 7", ", batch: 100, concurrency: 4"]
    )
    def test_the_whole_work_is_performed_for_each_item(self, store: SqliteStore, spread: str) -> None:
        assert result(store, self.TEXT % (spread, "true")) == {"found": FOUND}

    @pytest.mark.parametrize("spread", ["", ", batch: 2"])
    def test_a_forgiven_failure_does_not_fail_its_item(self, store: SqliteStore, spread: str) -> None:
        text = """
            steps:
            - name: a
              loop: {items: [1, 2, 3]%s}
              run: [{action: fail, if: "{{ item == 2 }}", message: no, on_error: continue}]
              rule: [{case: "{{ result.success }}", run: [{action: set, set: {all: true}}]}]
        """
        assert result(store, text % spread) == {"all": True}

    def test_each_batch_is_one_segment(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT % (", batch: 3", "true"))
        done = []
        while not harness.run.status.is_final:
            harness.execute_next()
            done.append(len(store.runs.batch_results(harness.id, store.runs.visits(harness.id)[0].id, "run")))
        assert done[:3] == [1, 2, 0]
        counts = [e.payload["done"] for e in harness.events if e.type == "loop.progress"]
        assert counts == [3, 6, 7]

    @pytest.mark.parametrize("spread", ["", ", batch: 2"])
    def test_a_failed_item_fails_the_step(self, store: SqliteStore, spread: str) -> None:
        harness = RunHarness(store, self.TEXT % (spread, "false")).finish()
        assert (harness.status, [e["message"] for e in harness.run.errors]) == (
            "failed",
            ["item 5 of 7: four"],
        )

    @pytest.mark.parametrize(
        ("policy", "ending"), [("abort", "failed"), ("continue", "completed_with_errors")]
    )
    def test_a_resumed_loop_continues_with_the_failed_batch(
        self, store: SqliteStore, policy: str, ending: str
    ) -> None:
        text = f"\n        on_error: {policy}{self.TEXT}".replace(
            "steps:", "input: {ok: {type: boolean, default: false}}\n        steps:", 1
        )
        harness = RunHarness(store, text % (", batch: 2", "input.ok")).finish()
        assert harness.status == ending
        harness.resume(ok=True).finish()
        assert (harness.status, harness.run.result) == ("succeeded", {"found": FOUND})
        counts = [e.payload["done"] for e in harness.events if e.type == "loop.progress"]
        assert counts == [2, 4, 5, 6, 7]

    def test_a_batch_whose_data_is_not_json_fails_the_step(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("noetl.executor.engine.attempts.handler", lambda _: lambda _: {1, 2})
        text = "steps: [{name: a, loop: {items: [1, 2], batch: 1}, run: [{action: log, message: x}]}]"
        assert RunHarness(store, text).finish().error_types == ["FunctionFailed"]

    def test_a_cancelled_loop_stops_between_batches(self, store: SqliteStore) -> None:
        harness = RunHarness(store, self.TEXT % (", batch: 2", "true"))
        harness.execute_next()
        harness.store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        assert harness.status == "cancelled"
        assert [e.payload["done"] for e in harness.events if e.type == "loop.progress"] == [2]


class TestChangedItems:
    """A loop that goes on after a resume with another list."""

    TEXT = """
        input: {ids: {type: array}, ok: {type: boolean, default: false}}
        steps:
        - name: a
          loop: {items: "{{ input.ids }}", batch: 2}
          run:
          - {action: fail, if: "{{ item == 'c' and not input.ok }}", message: no}
          - {action: set, set: {n: "{{ item }}"}}
          rule: [{case: default, run: [b]}]
        - {name: b, run: [{action: set, set: {found: "{{ steps.a.result | map(attribute='n') | list }}"}}]}
    """
    WAITING = """
        input: {ids: {type: array}, ok: {type: boolean, default: false}}
        steps:
        - name: a
          loop: {items: "{{ input.ids }}", concurrency: 9, on_error: continue}
          run:
          - {action: wait, seconds: 60, if: "{{ item == 'a' }}"}
          - {action: set, set: {n: "{{ item }}"}}
          rule: [{case: default, run: [c]}]
        - {name: start, run: [], rule: [{case: default, run: [a, b]}]}
        - name: b
          run: [{action: wait, seconds: 9}, {action: fail, if: "{{ not input.ok }}", message: no}]
        - {name: c, run: [{action: set, set: {found: "{{ steps.a.result | map(attribute='n') | list }}"}}]}
        start: start
    """

    @pytest.mark.parametrize("ids", ["abcd", "abxc", "ab", "abcdefgh"])
    def test_items_that_have_not_begun_may_change(self, store: SqliteStore, ids: str) -> None:
        harness = RunHarness(store, self.TEXT, input={"ids": [*"abcd"]}).finish()
        harness.resume(ok=True, ids=[*ids]).finish()
        assert (harness.status, harness.run.result["found"]) == ("succeeded", [*ids])

    @pytest.mark.parametrize("ids", ["xabcd", "axcd", "bacd", "a", ""])
    def test_other_items_in_the_place_of_finished_ones_fail_the_step(
        self, store: SqliteStore, ids: str
    ) -> None:
        harness = RunHarness(store, self.TEXT, input={"ids": [*"abcd"]}).finish()
        harness.resume(ok=True, ids=[*ids]).finish()
        assert harness.error_types == ["ItemsChanged"]
        assert "the list has changed at item 1, which has begun" in str(harness.run.errors[0]["message"])
        harness.resume(ids=[*"abcd"]).finish()
        assert (harness.status, harness.run.result["found"]) == ("succeeded", [*"abcd"])

    @pytest.mark.parametrize(("ids", "ending"), [("abc", "succeeded"), ("xbc", "failed"), ("axc", "failed")])
    def test_a_batch_in_the_middle_keeps_its_items(self, store: SqliteStore, ids: str, ending: str) -> None:
        harness = RunHarness(store, self.WAITING, input={"ids": [*"abc"]}).finish()
        assert harness.error_types == ["Failed"]
        harness.resume(ok=True, ids=[*ids]).finish()
        assert harness.status == ending
        if ending == "failed":
            assert harness.error_types[-1] == "ItemsChanged"

    def test_an_item_that_has_become_a_secret_is_no_other_item(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another run of the process has read a secret with the text of an item."""
        ids = ["text-of-a-secret", *"bcd"]
        harness = RunHarness(store, self.TEXT, input={"ids": ids}).finish()
        monkeypatch.setenv("NOETL_SECRET_KEY", "text-of-a-secret")
        reader = "steps: [{name: a, run: [{action: shell, command: 'true', env: {K: '{{ secrets.KEY }}'}}]}]"
        assert RunHarness(store, reader).finish().status == "succeeded"
        harness.resume(ok=True).finish()
        assert harness.status == "succeeded"

    def test_items_with_the_time_are_not_compared(self, store: SqliteStore) -> None:
        text = self.TEXT.replace("{{ input.ids }}", "{{ input.ids + [now() | string] }}")
        harness = RunHarness(store, text, input={"ids": [*"abcd"]}).finish()
        harness.resume(ok=True).finish()
        assert harness.run.result["found"][:4] == [*"abcd"]


def summary(failures: list[Any]) -> list[Any]:
    return [(f["index"], f["item"], f["error"]["type"], f["error"]["message"]) for f in failures]


class TestFailures:
    """`.failures` of a loop under `on_error: continue` (language.md, "Loops" and "Names")."""

    LOOP = "loop: {items: [a, b, c, d, e], on_error: continue%s}"
    FAIL = "action: fail, type: Odd, message: 'no {{ item }}', if: \"{{ item in ['b', 'd'] }}\""
    FAILED = ((2, "b", "Odd", "item 2 of 5: no b"), (4, "d", "Odd", "item 4 of 5: no d"))
    PLACES: ClassVar = {
        "step": (LOOP, f"{{{FAIL}}}"),
        "action": ("join: all", f"{{{FAIL}, {LOOP}}}"),
        "task": ("join: all", f"{{task: check, with: {{letter: '{{{{ item }}}}'}}, {LOOP}}}"),
    }
    TEXT = """
        tasks:
          check:
          - action: fail
            type: Odd
            message: "no {{ args.letter | default('-') }}"
            if: "{{ args.letter | default('-') in 'bd' }}"
        steps:
        - name: a
          %s
          run: [{action: set, set: {x: 1}}, %s]
          rule:
          - case: "{{ result.failures | length == 2 }}"
            run: [b]
        - {name: b, run: [{action: set, set: {seen: "{{ steps.a.failures }}"}}]}
        output: {seen: "{{ seen }}", last: "{{ steps.a.failures }}", of_b: "{{ steps.b.failures }}"}
    """

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("spread", ["", ", batch: 1", ", batch: 2", ", batch: 9, concurrency: 4"])
    def test_each_failed_item_is_listed_in_order(self, store: SqliteStore, place: str, spread: str) -> None:
        loop, work = self.PLACES[place]
        text = self.TEXT % (loop, work)
        found = result(store, text.replace("%s", spread))
        assert tuple(summary(found["seen"])) == self.FAILED
        assert found["last"] == found["seen"]
        assert found["of_b"] == []

    @pytest.mark.parametrize("spread", ["", ", batch: 1"])
    def test_items_that_pause_are_listed_too(self, store: SqliteStore, spread: str) -> None:
        text = """
            steps:
            - name: a
              loop: {items: [1, 2, 3], on_error: continue, concurrency: 3%s}
              run:
              - {action: wait, seconds: "{{ 10 - item }}"}
              - {action: fail, message: "no {{ item }}", if: "{{ item != 2 }}"}
              rule: [{case: default, run: [b]}]
            - name: b
              run: [{action: wait, seconds: 1}, {action: set, set: {seen: "{{ steps.a.failures }}"}}]
        """
        found = result(store, text % spread)
        assert [(f["index"], f["item"]) for f in found["seen"]] == [(1, 1), (3, 3)]

    def test_in_place_work_reads_them_after_a_pause(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run: [{action: fail, message: no, loop: {items: [x], on_error: continue}}]
              rule:
              - case: "{{ result.failures }}"
                run: [{action: wait, seconds: 5}, {action: set, set: {seen: "{{ result.failures }}"}}]
            output: {seen: "{{ seen }}", steps: "{{ steps.a.failures }}"}
        """
        found = result(store, text)
        assert summary(found["seen"]) == [(1, "x", "Failed", "item 1 of 1: no")]
        assert found["steps"] == found["seen"]

    @pytest.mark.parametrize(
        ("step", "work"),
        [
            ("loop: {items: [1, 2]}", "{action: log, message: x}"),
            ("loop: {items: [1, 2], on_error: continue}", "{action: log, message: x}"),
            ("join: all", "{action: fail, message: x, on_error: continue}"),
            ("join: all", "{action: fail, message: x, on_error: continue, loop: {items: [1, 2]}}"),
            ("parallel: true", "{action: fail, message: x, loop: {items: [1, 2], on_error: continue}}"),
            ("loop: {items: [1], on_error: continue}", "{action: fail, message: x, on_error: continue}"),
        ],
    )
    def test_without_failed_items_of_such_a_loop_the_list_is_empty(
        self, store: SqliteStore, step: str, work: str
    ) -> None:
        text = f"""
            steps:
            - name: a
              {step}
              run: [{work}]
              rule: [{{case: "{{{{ result.failures == [] }}}}", run: [b]}}]
            - {{name: b, run: [{{action: set, set: {{seen: "{{{{ steps.a.failures }}}}"}}}}]}}
        """
        assert result(store, text) == {"seen": []}

    def test_a_failed_step_has_none(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run:
              - {action: fail, message: no, loop: {items: [1], on_error: continue}}
              - {action: fail, message: later}
              rule: [{case: error, run: [b]}]
            - {name: b, run: [{action: set, set: {seen: "{{ steps.a.failures }}"}}]}
        """
        assert result(store, text) == {"seen": []}

    @pytest.mark.parametrize("guard", ["{{ 1 / 0 }}", "{{ true }}"])
    def test_none_are_left_if_the_rule_or_in_place_work_fails(self, store: SqliteStore, guard: str) -> None:
        text = f"""
            steps:
            - name: a
              run: [{{action: fail, message: no, loop: {{items: [1], on_error: continue}}}}]
              rule: [{{case: "{guard}", run: [{{action: fail, message: no}}]}}]
        """
        harness = RunHarness(store, text).finish()
        (visit,) = (v for v in store.runs.visits_with_outputs(harness.id) if v.step == "a")
        assert (harness.status, visit.result, visit.failures) == ("failed", None, ())

    def test_none_are_left_if_the_step_has_failed_and_a_case_handles_it(self, store: SqliteStore) -> None:
        text = """
            steps:
            - name: a
              run: [{action: fail, message: no, loop: {items: [1], on_error: continue}}]
              rule: [{case: "{{ 1 / 0 }}", run: []}, {case: error, run: [b]}]
            - {name: b, run: [{action: set, set: {seen: "{{ steps.a.failures }}"}}]}
        """
        assert result(store, text) == {"seen": []}

    def test_a_task_call_without_a_loop_has_none(self, store: SqliteStore) -> None:
        text = """
            tasks: {t: [{action: fail, message: no, loop: {items: [1], on_error: continue}}]}
            steps:
            - name: a
              run: [t]
              rule: [{case: "{{ result.success and result.failures == [] }}", run: [b]}]
            - name: b
              run: [{action: set, set: {seen: "{{ steps.a.failures }}", data: "{{ steps.a.result }}"}}]
        """
        assert result(store, text) == {"seen": [], "data": [None]}

    def test_they_survive_a_resume(self, store: SqliteStore) -> None:
        text = """
            input: {ok: {type: boolean, default: false}}
            steps:
            - name: a
              run: [{action: fail, message: no, loop: {items: [1, 2], on_error: continue, batch: 1}}]
              rule: [{case: default, run: [b]}]
            - name: b
              run:
              - {action: fail, message: not yet, if: "{{ not input.ok }}"}
              - {action: set, set: {seen: "{{ steps.a.failures | map(attribute='index') | list }}"}}
        """
        harness = RunHarness(store, text).finish()
        assert harness.status == "failed"
        harness.resume(ok=True).finish()
        assert harness.run.result == {"seen": [1, 2]}

    def test_they_are_stored_without_secrets(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOETL_SECRET_KEY", "a-secret-key")
        text = """
            steps:
            - name: a
              run:
              - {action: shell, command: "echo $K", env: {K: "{{ secrets.KEY }}"}, parse: lines, as: shown}
              - action: fail
                message: "no {{ item }}"
                loop: {items: "{{ shown.data }}", on_error: continue}
              rule: [{case: default, run: [b]}]
            - {name: b, run: [{action: set, set: {seen: "{{ steps.a.failures }}"}}]}
        """
        harness = RunHarness(store, text).finish()
        assert summary(harness.run.result["seen"]) == [(1, "***", "Failed", "item 1 of 1: no ***")]
        assert "a-secret-key" not in repr(store.runs.visits_with_outputs(harness.id))

    def test_errors_of_items_count_for_the_memory_budget(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("noetl.executor.engine.loop.MAX_LOOP_RESULT", 2_000)
        text = """
            steps:
            - name: a
              run:
              - action: fail
                message: "%s"
                loop: {items: [1, 2, 3], on_error: continue, batch: 1}
        """
        assert RunHarness(store, text % "short").finish().status == "succeeded"
        assert RunHarness(store, text % ("long" * 200)).finish().error_types == ["PayloadTooLarge"]
