"""Suspended work continues at its position, and finished parts do not run again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.run import VisitStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import LEASE_SECONDS, RunHarness


def done(folder: Path) -> Counter[str]:
    """Return how often each line was written."""
    path = folder / "done.txt"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def make_harness(store: SqliteStore, folder: Path, text: str, **input: Any) -> RunHarness:
    return RunHarness(
        store, text.replace("NOTE", "action: file, append: done.txt, content"), input, folder=folder
    )


def result(store: SqliteStore, folder: Path, text: str) -> Any:
    finished = make_harness(store, folder, text).finish()
    assert finished.status == "succeeded", finished.run.errors
    return finished.result


class TestSuspendedTasks:
    TEXT = """
        tasks:
          inner:
          - {NOTE: "inner\\n"}
          - {action: wait, seconds: "{{ args.pause }}"}
          - {action: set, set: {b: "{{ args.pause }}"}}
          outer:
            - {NOTE: "outer\\n"}
            - {action: set, set: {pause: 1}}
            - {task: inner, with: {pause: "{{ args.by }}"}}
            - {action: set, set: {c: "{{ args.by + b }}"}}
        steps:
        - name: a
          run:
          - {action: set, set: {pause: 5}}
          - {task: outer, if: "{{ pause == 5 }}", with: {by: "{{ pause }}"}}
          - {NOTE: "after\\n"}
    """

    def test_a_task_continues_with_its_arguments(self, store: SqliteStore, tmp_path: Path) -> None:
        """`if` and `with` are not evaluated again, because the names they read have changed."""
        assert result(store, tmp_path, self.TEXT) == {"pause": 1, "b": 5, "c": 10}
        assert done(tmp_path) == {"outer": 1, "inner": 1, "after": 1}

    def test_secrets_in_arguments_are_stored_as_references(
        self, store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOETL_SECRET_KEY", "open sesame")
        text = """
            tasks:
              ask:
              - {action: wait, seconds: 1}
              - {action: shell, command: "wc -c", stdin: "{{ args.keys[0].key }}", as: count}
            steps:
            - {name: a, run: [{task: ask, with: {keys: [{key: "{{ secrets.KEY }}"}]}}]}
        """
        playing = make_harness(store, tmp_path, text)
        playing.execute_next()
        assert "sesame" not in str(store.runs.visits(playing.id))
        assert playing.finish().result["count"]["stdout"].strip() == "11"

    @pytest.mark.parametrize("parallel", ["false", "true"])
    @pytest.mark.parametrize("pause", ["{action: wait, seconds: 1}", "{action: log, message: x}"])
    def test_names_saved_by_a_failed_task_are_dropped(
        self, store: SqliteStore, tmp_path: Path, pause: str, parallel: str
    ) -> None:
        """Names saved before the suspension are dropped as well, and replaced values are restored."""
        text = f"""
            steps:
            - name: a
              run:
              - {{action: set, set: {{y: 7}}}}
              - {{task: outer}}
              - {{action: set, set: {{z: "{{{{ [x is defined, y] }}}}"}}}}
            tasks:
              bad: [{{action: set, set: {{x: 1, y: 8}}}}, {pause}, {{action: fail, message: no}}]
              outer:
                parallel: {parallel}
                run: [{{task: bad, on_error: continue}}, {{action: log, message: x}}]
        """
        assert result(store, tmp_path, text) == {"y": 7, "z": [False, 7]}


class TestSuspendedParallelWork:
    TEXT = """
        steps:
        - name: a
          parallel: true
          run:
            - {task: slow, as: slow}
            - {action: set, set: {b: 2}}
            - {action: wait, seconds: 5}
            - {NOTE: "once\\n", as: file}
          rule: [{case: default, run: [{action: set, set: {all: "{{ result.data | length }}"}}]}]
        tasks:
          slow:
          - {NOTE: "begin\\n"}
          - {action: set, set: {a: 1}}
          - {action: wait, seconds: 9}
          - {action: set, set: {c: "{{ a + 2 }}"}}
    """

    def test_finished_items_do_not_run_again(self, store: SqliteStore, tmp_path: Path) -> None:
        found = result(store, tmp_path, self.TEXT)
        assert (found["a"], found["b"], found["c"], found["all"]) == (1, 2, 3, 4)
        assert done(tmp_path) == {"begin": 1, "once": 1}

    def test_parallel_items_wait_concurrently(self, store: SqliteStore, tmp_path: Path) -> None:
        playing = make_harness(store, tmp_path, self.TEXT)
        before = playing.clock()
        assert playing.finish().clock() - before == 9

    def test_a_failure_does_not_wait_for_suspended_items(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - {name: a, parallel: true, run: [{action: wait, seconds: 60}, {action: fail, message: no}]}
        """
        playing = make_harness(store, tmp_path, text)
        before = playing.clock()
        assert playing.finish().error_types == ["Failed"]
        assert playing.clock() == before


class TestSuspendedLoops:
    STEP = """
        steps:
        - name: a
          loop: {{items: [1, 2, 3, 4, 5], concurrency: {concurrency}{batch}}}
          run:
            - {{action: set, set: {{double: "{{{{ item * 2 }}}}"}}}}
            - {{NOTE: "i{{{{ item }}}}\\n"}}
            - {{action: wait, seconds: 10}}
            - {{action: set, set: {{all: "{{{{ double + loop.index }}}}"}}}}
          rule: [{{case: default, run: [{{action: set, set: {{found: "{{{{ result.data }}}}"}}}}]}}]
    """

    @pytest.mark.parametrize(
        ("concurrency", "batch", "seconds"),
        [(1, "", 50), (2, "", 30), (5, "", 10), (40, "", 10), (2, ", batch: 2", 30), (5, ", batch: 3", 20)],
    )
    def test_suspended_items_count_as_running(
        self, store: SqliteStore, tmp_path: Path, concurrency: int, batch: str, seconds: float
    ) -> None:
        """Items that are started and unfinished are at most `concurrency`."""
        playing = make_harness(store, tmp_path, self.STEP.format(concurrency=concurrency, batch=batch))
        before = playing.clock()
        found = playing.finish().result["found"]
        assert found == [{"all": 3 * item} for item in (1, 2, 3, 4, 5)]
        assert playing.clock() - before == seconds
        assert done(tmp_path) == {f"i{n}": 1 for n in (1, 2, 3, 4, 5)}

    @pytest.mark.parametrize("batch", ["", ", batch: 1", ", batch: 3", ", batch: 9"])
    @pytest.mark.parametrize("seconds", [0, 5])
    def test_loops_of_tasks_and_actions_run_in_batches(
        self, store: SqliteStore, tmp_path: Path, batch: str, seconds: int
    ) -> None:
        text = f"""
            tasks:
              note:
              - {{NOTE: "i{{{{ args.i }}}}\\n"}}
              - {{action: wait, seconds: {seconds}}}
              - {{action: set, set: {{x: "{{{{ args.i + 1 }}}}"}}}}
            steps:
            - name: a
              run:
                - task: note
                  with: {{i: "{{{{ item }}}}"}}
                  loop: {{items: "{{{{ range(4) | list }}}}"{batch}}}
                  as: notes
                - action: set
                  set: {{y: "{{{{ n }}}}"}}
                  loop: {{items: [7, 8, 9], as: n{batch}}}
                  as: sets
        """
        assert result(store, tmp_path, text) == {
            "notes": [{"x": i} for i in (1, 2, 3, 4)],
            "sets": [{"y": i} for i in (7, 8, 9)],
        }
        assert done(tmp_path) == {f"i{n}": 1 for n in range(4)}

    def test_two_loops_run_batches_concurrently(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: a
              parallel: true
              run:
                - {action: set, set: {y: "{{ item }}"}, loop: {items: [1, 2, 3], batch: 1}, as: a}
                - {action: set, set: {y: "{{ item }}"}, loop: {items: [4, 5, 6, 7, 8], batch: 2}, as: b}
        """
        assert result(store, tmp_path, text) == {
            "a": [{"y": i} for i in (1, 2, 3)],
            "b": [{"y": i} for i in (4, 5, 6, 7, 8)],
        }

    def test_nested_loops_continue(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            tasks:
              inner:
                - {action: wait, seconds: "{{ item }}", loop: {items: "{{ args.items }}", concurrency: 9}}
                - {NOTE: "i{{ args.items[0] }}\\n"}
                - {action: set, set: {last: "{{ args.items[0] }}"}}
            steps:
            - name: a
              run:
              - task: inner
                with: {items: "{{ list }}"}
                loop: {items: [[1, 2], [3, 4]], as: list, concurrency: 2}
                as: all
        """
        playing = make_harness(store, tmp_path, text)
        before = playing.clock()
        assert playing.finish().result == {"all": [{"last": 1}, {"last": 3}]}
        assert playing.clock() - before == 4
        assert done(tmp_path) == {"i1": 1, "i3": 1}

    def test_a_failed_item_abandons_suspended_items(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: a
              loop: {items: [50, 0, 70], concurrency: 2}
              run: [{action: wait, seconds: "{{ item }}"}, {action: fail, message: no}]
        """
        playing = make_harness(store, tmp_path, text)
        before = playing.clock()
        assert playing.finish().error_types == ["Failed"]
        assert playing.clock() == before

    def test_items_that_fail_after_a_suspension_are_counted(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: a
              loop: {items: [3, 1, 2], concurrency: 3, on_error: continue}
              run:
              - {action: wait, seconds: "{{ item }}"}
              - {action: fail, message: no, if: "{{ item == 1 }}"}
              - {action: set, set: {x: "{{ item }}"}}
              rule: [{case: default, run: [{action: set, set: {found: "{{ result.data }}"}}]}]
        """
        assert result(store, tmp_path, text)["found"] == [{"x": 3}, None, {"x": 2}]


class TestSuspendedCases:
    TEXT = """
        steps:
        - name: a
          run: [{NOTE: "run\\n"}, {action: set, set: {x: 1}}]
          rule:
            - case: "{{ result.data.x == 1 }}"
              run:
                - {NOTE: "case\\n"}
                - {action: set, set: {y: "{{ result.data.x + 1 }}"}}
                - {action: wait, seconds: 5}
                - {action: set, set: {z: "{{ x + y + result.data.x }}"}}
            - {case: default, run: [{NOTE: "never\\n"}]}
    """

    def test_in_place_work_continues(self, store: SqliteStore, tmp_path: Path) -> None:
        assert result(store, tmp_path, self.TEXT) == {"x": 1, "y": 2, "z": 4}
        assert done(tmp_path) == {"run": 1, "case": 1}

    def test_in_place_work_after_a_failure_continues(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: a
              run: [{action: fail, message: no, type: Odd}]
              rule:
              - case: error
                run: [{action: wait, seconds: 5}, {action: set, set: {why: "{{ error.type }}"}}]
        """
        playing = make_harness(store, tmp_path, text).finish()
        assert (playing.status, playing.result) == ("succeeded", {"why": "Odd"})
        assert playing.visit("a").status is VisitStatus.FAILED

    def test_in_place_work_may_fail_after_a_suspension(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: a
              run: [{NOTE: "run\\n"}]
              rule:
              - case: default
                run: [{action: wait, seconds: 5}, {action: fail, message: no, if: "{{ input.bad }}"}]
        """
        playing = make_harness(store, tmp_path, text, bad=True).finish()
        assert playing.error_types == ["Failed"]
        assert playing.resume(bad=False).finish().status == "succeeded"
        assert done(tmp_path) == {"run": 1}

    def test_names_saved_by_failed_in_place_work_are_dropped(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        text = """
            tasks:
              bad: [{action: set, set: {x: 1}}, {action: wait, seconds: 1}, {action: fail, message: no}]
            steps:
            - name: a
              rule: [{case: default, run: [{task: bad, on_error: continue}, {action: set, set: {y: 2}}]}]
        """
        assert result(store, tmp_path, text) == {"y": 2}

    def test_in_place_work_past_max_visits_continues(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: a
              max_visits: 1
              rule:
                - case: error
                  run:
                  - {action: set, set: {x: 1}}
                  - {action: wait, seconds: 1}
                  - {action: set, set: {y: "{{ [x, error.type] }}"}}
                - {case: default, run: [a]}
        """
        assert result(store, tmp_path, text) == {"x": 1, "y": [1, "MaxVisitsExceeded"]}

    @pytest.mark.parametrize(
        ("options", "deaths", "error"),
        [("delivery: at_most_once", 1, "StepInterrupted"), ("retry: 1", 5, "WorkerLost")],
    )
    def test_in_place_work_whose_workers_die_is_given_up(
        self, store: SqliteStore, tmp_path: Path, options: str, deaths: int, error: str
    ) -> None:
        """The visit fails, and its in-place work does not start again for this failure."""
        text = f"""
            steps:
            - name: a
              {options}
              rule: [{{case: default, run: [{{action: wait, seconds: 1}}, {{NOTE: "once\\n"}}]}}]
        """
        playing = make_harness(store, tmp_path, text)
        playing.execute_next()
        playing.clock.advance(1)
        for _ in range(deaths):
            assert playing.claim("dies") is not None
            playing.clock.advance(LEASE_SECONDS)
        assert playing.finish().error_types == [error]
        assert done(tmp_path) == {}


class TestRetriesOfSuspendedWork:
    def test_a_retried_step_continues_from_its_last_suspension(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        text = """
            tasks:
              ask:
              - {NOTE: "before\\n"}
              - {action: wait, seconds: 5}
              - {NOTE: "behind\\n"}
              - {action: shell, command: exit 1, if: "{{ step.attempt < 3 }}"}
            steps:
            - {name: a, retry: {attempts: 3, delay: 1s, jitter: false}, run: [{task: ask}]}
        """
        assert make_harness(store, tmp_path, text).finish().status == "succeeded"
        assert done(tmp_path) == {"before": 1, "behind": 3}

    def test_a_retried_action_starts_again(self, store: SqliteStore, tmp_path: Path) -> None:
        """Attempts continue to count; they do not start at the first."""
        text = """
            steps:
            - name: a
              run:
              - {action: callback, timeout: 10s, retry: {attempts: 3, delay: 0s}, notify: {NOTE: "asked\\n"}}
        """
        playing = make_harness(store, tmp_path, text)
        before = playing.clock()
        assert playing.finish().error_types == ["CallbackExpired"]
        assert playing.clock() - before == 30
        assert done(tmp_path) == {"asked": 3}

    def test_each_round_starts_without_a_journal(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            variables: {n: 0}
            steps:
            - name: a
              repeat: {until: "{{ n == 3 }}", every: 1s, max: 5}
              run:
              - {NOTE: "begin\\n"}
              - {action: wait, seconds: 1, loop: {items: [1, 2], batch: 1}}
              - {action: set, set: {n: "{{ n + 1 }}"}}
        """
        assert result(store, tmp_path, text)["n"] == 3
        assert done(tmp_path) == {"begin": 3}

    def test_a_finished_batch_is_not_a_failed_attempt(self, store: SqliteStore, tmp_path: Path) -> None:
        """Attempts start at 1 with the next batch.

        An expired callback fails, and its retry creates a new token.
        """
        text = """
            tasks:
              flaky:
              - {action: wait, seconds: 2}
              - {action: shell, command: exit 1, if: "{{ step.attempt == 1 }}"}
            steps:
            - name: a
              parallel: true
              retry: {attempts: 2, delay: 1s, jitter: false}
              run:
                - {action: callback, timeout: 30s, notify: {NOTE: "asked\\n"}}
                - {action: wait, seconds: "{{ item }}", loop: {items: [1, 2, 40], batch: 1}}
                - {task: flaky}
        """
        playing = make_harness(store, tmp_path, text)
        while not any(event.attempt == 2 and event.type == "loop.progress" for event in playing.events):
            if not playing.execute_next():
                playing.clock.now = store.queue.next_due(playing.queue) or 0.0
        playing.clock.advance(100)
        playing.execute_next()
        assert playing.visit("a").error is not None
        assert done(tmp_path) == {"asked": 1}
        playing.clock.advance(1)
        playing.execute_next()
        assert done(tmp_path) == {"asked": 2}

    def test_a_journal_that_is_too_large_fails_the_step(self, store: SqliteStore, tmp_path: Path) -> None:
        store.context.limits = PayloadLimits(payload_bytes=1000)
        text = """
            steps:
            - name: a
              parallel: true
              run: [{action: set, set: {x: "{{ 'x' * 2000 }}"}}, {action: wait, seconds: 5}]
              rule:
              - case: "{{ error.type == 'PayloadTooLarge' }}"
                run: [{action: wait, seconds: 5}, {action: set, set: {y: 1}}]
        """
        assert result(store, tmp_path, text) == {"y": 1}
