"""Cached work: hits, misses, what is never cached, and visits that wait for the work of another run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.actions import temporary_types
from noetl.executor.engine import cached_work
from noetl.executor.engine.cached_work import FIRST_WAIT_SECONDS
from noetl.executor.engine.result_cache import read_longest_ttl
from noetl.executor.engine.start import new_run
from noetl.executor.errors import ActionError, SettingError
from noetl.executor.model.cached_results import MAX_RESULT_CHARACTERS, CacheFilter
from noetl.executor.model.events import Event
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink
from noetl.testing.actions import ScriptedAction
from noetl.testing.run_harness import LEASE_SECONDS, FakeClock, RunHarness
from tests.property_settings import examples

READ = ActionDeclaration(
    "read",
    "Reads what a test says.",
    {
        "value": Parameter((Kind.ANY,), "What to read.", secrets=True),
        "query": Parameter((Kind.STRING,), "A statement.", sink=Sink.SQL),
        "later": Parameter((Kind.ANY,), "What the handler evaluates.", deferred_names=("page",)),
    },
    reads_only=True,
)

ACTION = """
    input: {n: {type: integer, default: 1}}
    steps:
    - name: a
      run: [{action: read, value: "{{ input.n }}", cache: %s, as: x}]
"""
STEP = """
    input: {n: {type: integer, default: 1}}
    steps:
    - name: a
      cache: 1h
      run:
      - {action: read, value: "{{ input.n }}", as: x}
      - {action: set, set: {y: "{{ x + 1 }}"}}
      rule: [{case: default, run: [b]}]
    - name: b
      run: [{action: set, set: {z: "{{ x + y + steps.a.result.y }}"}}]
"""


@pytest.fixture
def read() -> Any:
    """The action type `read`, which returns `value` unless a test says something else."""
    scripted = ScriptedAction(READ, answer=lambda call: call.parameters.get("value"))
    with temporary_types(scripted):
        yield scripted


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def run(store: Store, text: str, clock: FakeClock | None = None, **options: Any) -> RunHarness:
    return RunHarness(store, text, options.pop("input", None), clock=clock, **options).finish()


def cached_events(harness: RunHarness) -> list[Event]:
    return [event for event in harness.events if event.type == "action.cached"]


class TestHits:
    def test_an_action_is_called_once(self, store: MemoryStore, read: ScriptedAction) -> None:
        clock = FakeClock()
        first = run(store, ACTION % "1h", clock)
        clock.advance(5.0)
        second = run(store, ACTION % "1h", clock)
        assert (first.result, second.result, len(read.calls)) == ({"x": 1}, {"x": 1}, 1)
        assert "action.cached" not in first.event_types()
        assert second.event_types("a") == ["step.started", "action.cached", "step.completed"]
        (event,) = cached_events(second)
        key = event.payload["key"]
        assert len(key) == 64
        expected = {"action": "read", "position": "run.0", "age_seconds": 5.0, "run": first.id, "key": key}
        assert event.payload == expected

    def test_a_step_is_performed_once_with_what_it_saves(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        results = [run(store, STEP).result for _ in range(2)]
        assert results == [{"x": 1, "y": 2, "z": 5}] * 2
        assert len(read.calls) == 1

    def test_the_event_of_a_step_names_no_action(self, store: MemoryStore, read: ScriptedAction) -> None:
        run(store, STEP)
        (event,) = cached_events(run(store, STEP))
        assert (event.payload["position"], "action" in event.payload) == ("run", False)

    def test_items_of_a_loop_are_cached_one_by_one(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = """
            input: {items: array}
            steps:
            - name: a
              loop: {items: "{{ input.items }}", concurrency: 3}
              cache: 1h
              run: [{action: read, value: "{{ item * 2 }}"}]
            output: {got: "{{ steps.a.result }}"}
        """
        assert run(store, text, input={"items": [1, 2]}).result == {"got": [2, 4]}
        assert run(store, text, input={"items": [2, 3]}).result == {"got": [4, 6]}
        assert sorted(call.parameters["value"] for call in read.calls) == [2, 4, 6]

    def test_an_action_with_a_loop_is_cached_by_item(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = """
            steps:
            - name: a
              run: [{action: read, loop: {items: [1, 2, 1]}, value: "{{ item }}", cache: 1h, as: x}]
        """
        assert run(store, text).result == {"x": [1, 2, 1]}
        assert len(read.calls) == 2

    def test_actions_of_tasks_and_cases_are_cached(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = """
            tasks: {t: [{action: read, value: "{{ args.v }}", cache: 1h, as: x}]}
            steps:
            - name: a
              parallel: true
              run: [{task: t, with: {v: 7}}]
              rule: [{case: default, run: [{action: read, value: 8, cache: 1h, as: y}]}]
        """
        assert [run(store, text).result for _ in range(2)] == [{"x": 7, "y": 8}] * 2
        assert len(read.calls) == 2

    def test_a_skipped_action_is_not_looked_up(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = (ACTION % "1h").replace("as: x", "if: false")
        assert run(store, text).status == "succeeded"
        assert store.state.cached_results == {}

    def test_the_result_of_another_run_is_counted(self, store: MemoryStore, read: ScriptedAction) -> None:
        for _ in range(3):
            run(store, ACTION % "1h")
        metrics = store.facts.read("default", 0.0)
        assert metrics is not None
        assert [total.count for total in metrics.totals if total.kind == "cached"] == [2]


class TestKeys:
    def test_other_parameters_miss(self, store: MemoryStore, read: ScriptedAction) -> None:
        assert [run(store, ACTION % "1h", input={"n": n}).result["x"] for n in (1, 2, 1)] == [1, 2, 1]
        assert len(read.calls) == 2

    def test_what_a_step_reads_is_its_key(self, store: MemoryStore, read: ScriptedAction) -> None:
        assert [run(store, STEP, input={"n": n}).result["y"] for n in (1, 2, 1)] == [2, 3, 2]
        assert len(read.calls) == 2

    def test_a_changed_definition_misses(self, store: MemoryStore, read: ScriptedAction) -> None:
        run(store, STEP)
        run(store, STEP.replace("x + 1", "x + 2"))
        assert len(read.calls) == 2

    def test_a_change_elsewhere_hits(self, store: MemoryStore, read: ScriptedAction) -> None:
        run(store, STEP)
        changed = STEP.replace("    steps:", "    description: changed\n\n    steps:").replace(
            "x + y", "y + x"
        )
        assert run(store, changed).result == {"x": 1, "y": 2, "z": 5}
        assert len(read.calls) == 1

    def test_the_body_of_a_called_task_is_part_of_the_work(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = """
            tasks: {t: [{task: u}], u: [{action: read, value: 1, as: x}], other: [{action: read, value: 9}]}
            steps: [{name: a, cache: 1h, run: [t], rule: [{case: default, run: [other]}]}]
        """
        assert run(store, text).result == {"x": 1}
        assert run(store, text.replace("value: 9", "value: 8")).result == {"x": 1}
        assert [call.parameters["value"] for call in read.calls] == [1, 9, 8]
        assert run(store, text.replace("value: 1", "value: 2")).result == {"x": 2}

    def test_arguments_of_a_task_are_part_of_the_key(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = """
            input: {n: integer}
            tasks: {t: [{action: read, value: "{{ args.v }}", as: x}]}
            steps: [{name: a, cache: 1h, run: [{task: t, with: {v: "{{ input.n }}"}}]}]
        """
        assert [run(store, text, input={"n": n}).result["x"] for n in (1, 2, 1)] == [1, 2, 1]
        assert len(read.calls) == 2

    def test_a_given_key_replaces_the_values(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = ACTION % '{key: "{{ input.n % 2 }}", ttl: 1h}'
        assert [run(store, text, input={"n": n}).result["x"] for n in (1, 3, 2)] == [1, 1, 2]
        (even, odd) = store.cache.find(CacheFilter("default"), 1_000_000.0, 10)
        assert {even.label, odd.label} == {"0", "1"}

    def test_a_key_may_be_any_value(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = ACTION % '{key: {a: ["{{ input.n }}", x]}, ttl: 1h}'
        assert [run(store, text, input={"n": n}).result["x"] for n in (1, 2, 1)] == [1, 2, 1]
        assert len(read.calls) == 2

    def test_the_label_of_a_key_can_be_stored(self, store: MemoryStore, read: ScriptedAction) -> None:
        run(store, ACTION % r"""{ttl: 1h, key: "{{ 'a\\ud800\\0' }}"}""")
        (entry,) = store.cache.find(CacheFilter("default"), 1_000_000.0, 10)
        assert entry.label == "a\ufffd␀"

    def test_a_key_without_a_value_fails(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = ACTION % '{key: "{{ 1 / (input.n - 1) }}"}'
        harness = run(store, text)
        (error,) = harness.run.errors
        assert (error["type"], error["key"], read.calls) == ("TemplateError", "cache.key", [])

    def test_a_parameter_without_a_value_fails_as_without_a_cache(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = (ACTION % "1h").replace("input.n }}", "input.n / 0 }}")
        (error,) = run(store, text).run.errors
        assert (error["type"], error["action"]) == ("TemplateError", "read")

    def test_what_a_handler_evaluates_counts_by_what_it_reads(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = """
            input: {n: integer}
            steps: [{name: a, run: [{action: read, later: "{{ page ~ input.n }}", cache: 1h}]}]
        """
        for n in (1, 2, 1):
            run(store, text, input={"n": n})
        assert len(read.calls) == 2

    def test_a_statement_counts_with_its_values_and_its_names(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = """
            input: {n: integer, t: string}
            steps:
            - name: a
              run: [{action: read, query: "select {{ input.n }} from {{ input.t | identifier }}", cache: 1h}]
        """
        for n, table in ((1, "a"), (2, "a"), (1, "b"), (1, "a"), (2, "a")):
            run(store, text, input={"n": n, "t": table})
        assert len(read.calls) == 3

    def test_the_time_in_a_parameter_counts(self, store: MemoryStore, read: ScriptedAction) -> None:
        read.answer = lambda _: 1
        clock = FakeClock()
        text = (ACTION % "1h").replace("input.n }}", "now() }}")
        for _ in range(2):
            run(store, text, clock)
            clock.advance(5.0)
        assert len(read.calls) == 2

    def test_another_folder_and_another_tenant_miss(self, store: MemoryStore, read: ScriptedAction) -> None:
        run(store, ACTION % "1h")
        run(store, ACTION % "1h", tenant="another")
        run(store, ACTION % "1h", queue="q")
        assert len(read.calls) == 2
        harness = RunHarness(store, ACTION % "1h")
        request = StartRequest({}, origin="local", folder="/elsewhere")
        elsewhere, first = new_run(harness.plan.header, harness.plan.hash, request, now=harness.clock())
        store.runs.create(elsewhere, first)
        harness.id, harness.queue = elsewhere.id, elsewhere.queue
        harness.finish()
        assert len(read.calls) == 3

    def test_names_that_vary_count(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = """
            steps: [{name: a, cache: 1h, run: [{action: read, value: "{{ now() }}"}]}]
        """
        for _ in range(2):
            run(store, text)
        assert len(read.calls) == 2


class TestTimes:
    def test_a_result_expires(self, store: MemoryStore, read: ScriptedAction) -> None:
        clock = FakeClock()
        for advance in (0.0, 3599.0, 1.0):
            clock.advance(advance)
            run(store, ACTION % "1h", clock)
        assert len(read.calls) == 2

    def test_a_shorter_time_does_not_use_an_older_result(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        clock = FakeClock()
        run(store, ACTION % "1d", clock)
        clock.advance(120.0)
        run(store, ACTION % "1m", clock)
        assert len(read.calls) == 2

    def test_the_operator_limits_the_time(
        self, store: MemoryStore, read: ScriptedAction, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOETL_CACHE_TTL", "1m")
        clock = FakeClock()
        run(store, ACTION % "1d", clock)
        clock.advance(60.0)
        run(store, ACTION % "1d", clock)
        assert len(read.calls) == 2

    def test_the_operator_turns_the_cache_off(
        self, store: MemoryStore, read: ScriptedAction, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOETL_CACHE_TTL", "off")
        for _ in range(2):
            run(store, STEP)
        assert (len(read.calls), store.state.cached_results) == (2, {})

    def test_a_wrong_setting_is_refused(self) -> None:
        with pytest.raises(SettingError, match="a duration such as 7d, or off"):
            read_longest_ttl({"NOETL_CACHE_TTL": "soon"})


class TestUncachedFailures:
    def test_a_failure_is_not_cached(self, store: MemoryStore, read: ScriptedAction) -> None:
        read.answers = [ActionError("Failed", "no", retryable=False)]
        assert run(store, ACTION % "1h").status == "failed"
        assert store.state.cached_results == {}
        assert run(store, ACTION % "1h").result == {"x": 1}

    def test_a_forgiven_failure_is_not_cached(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = STEP.replace("as: x}", "as: x, on_error: continue}").replace("x + 1", "x | default(0)")
        text = text.replace("x + y", "y")
        read.answers = [ActionError("Failed", "no", retryable=False)]
        assert run(store, text).result["y"] == 0
        assert store.state.cached_results == {}
        assert run(store, text).result["y"] == 1
        assert len(read.calls) == 2

    def test_a_forgiven_failure_before_a_suspension_is_not_cached(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = """
            steps:
            - name: a
              cache: 1h
              run:
              - {action: read, on_error: continue}
              - {action: read, retry: {attempts: 2, delay: 5s}, value: 3, as: x}
        """
        read.answers = [ActionError("Failed", "no", retryable=False), ActionError("Failed", "later")]
        harness = run(store, text)
        assert (harness.result, "step.waiting" in harness.event_types("a")) == ({"x": 3}, True)
        assert store.state.cached_results == {}

    def test_a_later_success_of_a_retry_is_cached(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = (ACTION % "1h").replace("as: x", "as: x, retry: {attempts: 2, delay: 5s}")
        read.answers = [ActionError("Failed", "later")]
        assert [run(store, text).result for _ in range(2)] == [{"x": 1}] * 2
        assert len(read.calls) == 2

    def test_a_result_that_is_too_long_is_not_cached(self, store: MemoryStore, read: ScriptedAction) -> None:
        read.answer = lambda _: "x" * MAX_RESULT_CHARACTERS
        harness = run(store, ACTION % "1h")
        assert harness.status == "succeeded"
        lines = [event.payload["text"] for event in harness.events if event.type == "action.log"]
        assert lines == ["the result is not cached: it is longer than 8,388,608 characters of JSON"]
        assert store.state.cached_results == {}

    def test_a_result_that_is_no_json_is_not_cached(self, store: MemoryStore, read: ScriptedAction) -> None:
        read.answer = lambda _: float("nan")
        assert run(store, ACTION % "1h").error_types == ["FunctionFailed"]
        assert store.state.cached_results == {}

    def test_an_action_that_is_off_is_not_taken_from_the_cache(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        for text in (ACTION % "1h", STEP):
            run(store, text)
            harness = RunHarness(store, text)
            harness.capabilities = replace(harness.capabilities, actions=("set",))
            assert harness.finish().error_types == ["ActionDisabled"]


class TestSecrets:
    @pytest.fixture(autouse=True)
    def secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOETL_SECRET_TOKEN", "correct-horse-battery")
        monkeypatch.setenv("NOETL_SECRET_OTHER", "another-horse-battery")

    def test_a_secret_is_neither_in_a_result_nor_in_a_key(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = """
            steps: [{name: a, run: [{action: read, value: "x {{ secrets.TOKEN }}", cache: 1h, as: x}]}]
        """
        results = [run(store, text).result for _ in range(2)]
        assert (results[0], len(read.calls)) == (results[1], 1)
        assert read.calls[0].parameters["value"] == "x correct-horse-battery"
        records = repr(list(store.state.cached_results.values()))
        assert "horse" not in records

    def test_another_secret_has_another_key(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = """
            tasks: {t: [{action: read, value: "{{ args.s }}", cache: 1h}]}
            steps: [{name: a, run: [{task: t, with: {s: "{{ secrets.TOKEN }}"}}]}]
        """
        run(store, text)
        run(store, text.replace("TOKEN", "OTHER"))
        assert len(read.calls) == 2


class TestWaitsForResults:
    @pytest.mark.parametrize("text", [ACTION % "1h", STEP], ids=["action", "step"])
    def test_a_second_run_waits_for_the_first(
        self, store: MemoryStore, read: ScriptedAction, text: str
    ) -> None:
        clock = FakeClock()
        second = RunHarness(store, text, clock=clock, queue="second")

        def start_second(_: Any) -> int:
            assert second.execute_next()
            assert second.status == "waiting"
            return 1

        read.answer = start_second
        first = run(store, text, clock, queue="first")
        assert (first.result, len(read.calls)) == (second.finish().result, 1)
        (waiting,) = [event for event in second.events if event.type == "step.waiting"]
        assert waiting.payload["actions"] == ["cache"]
        assert (cached_events(second)[0].payload["run"], clock()) == (
            first.id,
            1_000_000.0 + FIRST_WAIT_SECONDS,
        )
        assert second.visit("a").attempt == 1

    @pytest.mark.parametrize("text", [ACTION % "1h", STEP], ids=["action", "step"])
    def test_a_run_that_waits_does_the_work_after_a_crash(
        self, store: MemoryStore, read: ScriptedAction, text: str
    ) -> None:
        clock = FakeClock()
        second = RunHarness(store, text, clock=clock, queue="second")

        class Crash(BaseException):
            """The death of a worker."""

        def die(_: Any) -> int:
            second.execute_next()
            raise Crash

        read.answer = die
        with pytest.raises(Crash):
            run(store, text, clock, queue="first")
        read.answer = lambda call: call.parameters["value"]
        assert second.finish().result["x"] == 1
        assert clock() >= 1_000_000.0 + LEASE_SECONDS
        waits = [event for event in second.events if event.type == "step.waiting"]
        assert 3 < len(waits) < 12
        assert len(read.calls) == 2

    def test_a_run_that_waits_does_the_work_after_a_failure(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        clock = FakeClock()
        second = RunHarness(store, ACTION % "1h", clock=clock, queue="second")

        def fail(_: Any) -> int:
            second.execute_next()
            raise ActionError("Failed", "no", retryable=False)

        read.answer = fail
        assert run(store, ACTION % "1h", clock, queue="first").status == "failed"
        read.answer = lambda call: call.parameters["value"]
        assert second.finish().result == {"x": 1}

    def test_a_retry_with_a_delay_lets_another_run_do_the_work(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = (ACTION % "1h").replace("as: x", "as: x, retry: {attempts: 3, delay: 5s, jitter: false}")
        clock = FakeClock()
        first, second = (RunHarness(store, text, clock=clock, queue=name) for name in ("first", "second"))
        read.answers = [ActionError("Failed", "later")]
        assert first.execute_next()
        assert first.status == "waiting"
        clock.advance(6.0)

        def resume_first(_: Any) -> int:
            assert first.execute_next()
            return 1

        read.answer = resume_first
        assert second.finish().result == {"x": 1}
        assert first.finish().result == {"x": 1}
        assert len(read.calls) == 2
        assert [event.type for event in first.events if event.type.startswith("action.")] == [
            "action.started",
            "action.retrying",
            "action.cached",
        ]

    def test_a_step_that_waits_keeps_its_progress(self, store: MemoryStore, read: ScriptedAction) -> None:
        text = """
            steps:
            - name: a
              cache: 1h
              run:
              - {action: read, value: 1, as: x}
              - {action: read, value: 2, retry: {attempts: 3, delay: 5s, jitter: false}, as: y}
        """
        clock = FakeClock()
        first, second = (RunHarness(store, text, clock=clock, queue=name) for name in ("first", "second"))
        read.answers = [1, ActionError("Failed", "later")]
        assert first.execute_next()
        clock.advance(6.0)

        def fail_second(_: Any) -> int:
            assert first.execute_next()
            raise ActionError("Failed", "no", retryable=False)

        read.answer = fail_second
        assert second.finish().status == "failed"
        read.answer = lambda call: call.parameters["value"]
        assert first.finish().result == {"x": 1, "y": 2}
        # The first action of the first run is not called again.
        assert [call.parameters["value"] for call in read.calls] == [1, 2, 1, 2]

    def test_equal_items_at_the_same_time_are_computed_once(
        self, store: MemoryStore, read: ScriptedAction
    ) -> None:
        text = """
            steps:
            - name: a
              run:
              - {action: read, loop: {items: [1, 1, 1], concurrency: 3}, value: 1, cache: 1h, as: x}
        """
        assert run(store, text).result == {"x": [1, 1, 1]}
        assert len(read.calls) == 1


def test_a_plan_with_a_cache_is_stored_and_read(store: MemoryStore, read: ScriptedAction) -> None:
    harness = RunHarness(store, STEP)
    assert store.plans.step(harness.plan.hash, "a").cache == harness.plan.steps["a"].cache


WORK = st.lists(
    st.sampled_from(
        [
            '{action: read, value: "{{ input.n }}", as: x}',
            '{action: read, value: "{{ (x | default(0)) + 1 }}", as: y}',
            '{action: set, set: {x: "{{ input.n * 2 }}"}}',
            '{action: read, if: "{{ input.n > 1 }}", value: 5, as: z}',
            '{action: read, loop: {items: [1, 2]}, value: "{{ item + input.n }}", as: l}',
            '{task: t, with: {v: "{{ input.n }}"}}',
            "{action: fail, message: no, on_error: continue}",
        ]
    ),
    min_size=1,
    max_size=4,
)


@examples(0.5)
@given(WORK, st.booleans(), st.lists(st.integers(0, 2), min_size=2, max_size=4))
def test_cached_work_has_the_same_result_as_other_work(
    work: list[str], is_parallel: bool, inputs: list[int]
) -> None:
    """A parallel step saves only names that its items do not share, so it has one item of a kind."""
    lines = [*dict.fromkeys(work)] if is_parallel else work
    text = f"""
        input: {{n: integer}}
        tasks: {{t: [{{action: read, value: "{{{{ args.v | default(0) }}}}", as: w}}]}}
        steps:
        - name: a
          CACHE
          parallel: {str(is_parallel).lower()}
          run: [{", ".join(lines[:1] if is_parallel else lines)}]
          rule: [{{case: default, run: [b]}}]
        - name: b
          run: [{{action: set, set: {{seen: "{{{{ [steps.a.result, steps.a.status] }}}}"}}}}]
    """
    scripted = ScriptedAction(READ, answer=lambda call: call.parameters.get("value"))
    store = MemoryStore()
    with temporary_types(scripted):
        plain = [run(store, text.replace("CACHE", "description: x"), input={"n": n}).result for n in inputs]
        cached = [run(store, text.replace("CACHE", "cache: 1h"), input={"n": n}).result for n in inputs]
    assert cached == plain


class TestLongKeys:
    def test_a_default_key_that_is_too_long_is_not_used(
        self, store: MemoryStore, read: ScriptedAction, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cached_work, "MAX_KEY", 2_000)
        text = """
            input: {n: any}
            steps: [{name: a, run: [{action: read, value: "{{ input.n }}", cache: 1h, as: x}]}]
        """
        results = [run(store, text, input={"n": "x" * 2_000}) for _ in range(2)]
        assert len(read.calls) == 2
        lines = [event.payload["text"] for event in results[1].events if event.type == "action.log"]
        assert lines == ["the result is not cached: the key is longer than 2,000 bytes of JSON"]
        assert (
            "action.cached"
            in run(store, text, input={"n": 1}).event_types() + run(store, text, input={"n": 1}).event_types()
        )

    @pytest.mark.parametrize("key", ["'k' * 5000", "['k' * 5000]", "['k' * 500000] * 4"])
    def test_the_label_is_the_beginning_of_a_key(
        self, store: MemoryStore, read: ScriptedAction, key: str
    ) -> None:
        work = f'{{action: read, cache: {{ttl: 1h, key: "{{{{ {key} }}}}"}}, as: x}}'
        text = f"steps: [{{name: a, run: [{work}]}}]"
        run(store, text)
        (entry,) = store.cache.find(CacheFilter("default"), 0.0, 10)
        assert entry.label == ('["' if key.startswith("[") else "") + "k" * (
            198 if key.startswith("[") else 200
        )
