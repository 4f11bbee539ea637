"""Triggers that await the ends of runs: each ending starts one run of each of them."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.engine import firing as firing_module
from noetl.executor.engine import run_firing
from noetl.executor.engine.hand_firing import HandFiring, fire_by_hand
from noetl.executor.engine.outbox import PERFORMED_KINDS, perform_entry
from noetl.executor.errors import RejectedError, StoreAwayError, StoreError
from noetl.executor.model.outbox import POSTPONE_SECONDS, OutboxEntry, OutboxKind
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.triggers import LiveTrigger, firing_id, pause_trigger
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.plan import Header
from noetl.testing.run_harness import FakeClock, RunHarness, compile_text

IMPORT = """
name: import
input: {rows: {type: integer, default: 3}}
steps:
- {name: count, run: [{action: fail, if: "{{ rows == 0 }}", message: no rows},
   {action: set, set: {total: "{{ rows * 2 }}"}}]}
"""

AFTER = """
name: after
triggers:
- {name: done, type: run, playbook: import, input: {total: "{{ trigger.result.total }}"}}
input: {total: integer}
steps: [{name: a, run: [{action: log, message: "{{ total }} of {{ run.trigger.workflow_id }}"}]}]
"""

ON_FAILURE = """
name: clean
triggers:
- {name: broken, type: run, playbook: import, status: [failed, succeeded],
   input: {why: "{{ trigger.status }} {{ trigger.error.type if trigger.error else '' }}"}}
input: {why: string}
steps: [{name: a, run: [{action: log, message: "{{ why }}"}]}]
"""


class AwaitedPlaybook:
    """A store with registered playbooks that await `import`, and its clock."""

    def __init__(self, *texts: str) -> None:
        self.store = MemoryStore()
        self.clock = FakeClock()
        for text in texts:
            self.register(text)

    def register(self, text: str) -> None:
        plan = compile_text(text)
        self.store.plans.save(plan)
        playbook = RegisteredPlaybook("default", plan.header.name, None, plan.hash, self.clock())
        self.store.registry.register(playbook, triggers=plan.header.triggers)

    def run_import(self, origin: str = "service", **given: Any) -> RunHarness:
        return RunHarness(self.store, IMPORT, given, clock=self.clock, origin=origin).finish()

    def trigger(self, playbook: str = "after", name: str = "done") -> LiveTrigger:
        found = self.store.triggers.get("default", playbook, name)
        assert found is not None
        return found

    def entries(self) -> list[OutboxEntry]:
        return self.store.outbox.due(PERFORMED_KINDS, self.clock(), 10)

    def perform(self) -> list[Run]:
        """Perform all entries that are due, and return the runs of all playbooks that await `import`."""
        for entry in self.entries():
            assert perform_entry(self.store, entry, self.clock())
        return self.started()

    def started(self) -> list[Run]:
        found, _ = self.store.runs.find(RunFilter("default"))
        runs = [self.store.runs.get("default", run.id) for run in found if run.playbook != "import"]
        return [run for run in runs if run is not None]

    def outcomes(self, playbook: str = "after", name: str = "done") -> list[tuple[str, str | None]]:
        firings, _ = self.store.triggers.firings("default", playbook, name)
        return [(firing.outcome.value, firing.reason) for firing in firings]


def test_the_end_of_a_run_starts_the_run_that_awaits_it() -> None:
    service = AwaitedPlaybook(AFTER)
    ended = service.run_import(rows=4)
    [entry] = service.entries()
    assert (entry.kind, entry.due_at) == (OutboxKind.RUN_ENDED, service.clock())
    [run] = service.perform()
    assert run.id == firing_id("default", "after", "done", f"{ended.id} 0")
    assert run.input == {"total": 8}
    assert run.trigger is not None
    shown = {key: run.trigger[key] for key in ("name", "type", "scheduled_at", "workflow_id")}
    assert shown == {"name": "done", "type": "run", "scheduled_at": None, "workflow_id": ended.id}
    assert service.outcomes() == [("started", None)]
    assert service.entries() == []
    # The entry was removed, so that another process does not perform it.
    assert not perform_entry(service.store, entry, service.clock())
    assert [started.id for started in service.started()] == [run.id]


def test_an_entry_that_is_performed_again_starts_no_second_run(monkeypatch: pytest.MonkeyPatch) -> None:
    service = AwaitedPlaybook(AFTER, ON_FAILURE)
    service.run_import()
    with monkeypatch.context() as patched:
        # The process dies before it removes the entry.
        patched.setattr(service.store.outbox, "change", lambda *_: True)
        assert len(service.perform()) == 2
    service.clock.advance(60)
    assert len(service.perform()) == 2
    assert (service.outcomes(), service.outcomes("clean", "broken")) == (
        [("started", None)],
        [("started", None)],
    )


def test_a_trigger_fires_at_the_statuses_that_it_names() -> None:
    service = AwaitedPlaybook(AFTER, ON_FAILURE)
    failed = service.run_import(rows=0)
    assert failed.status is RunStatus.FAILED
    [run] = service.perform()
    assert (run.playbook, run.input) == ("clean", {"why": "failed Failed"})
    assert service.outcomes() == []


def test_a_run_that_is_resumed_and_ends_again_fires_again() -> None:
    service = AwaitedPlaybook(ON_FAILURE)
    ended = service.run_import(rows=0)
    service.perform()
    service.clock.advance(5)
    ended.resume(rows=2).finish()
    assert [run.input["why"] for run in service.perform()] == ["succeeded ", "failed Failed"]


def test_a_run_that_was_resumed_meanwhile_fires_without_its_result() -> None:
    service = AwaitedPlaybook(ON_FAILURE)
    ended = service.run_import(rows=0)
    ended.resume(rows=2)
    [run] = service.perform()
    assert run.input == {"why": "failed "}


def test_a_run_that_was_deleted_meanwhile_fires_without_its_result() -> None:
    service = AwaitedPlaybook(AFTER)
    ended = service.run_import()
    service.store.maintenance.delete_run("default", ended.id)
    assert service.perform() == []
    [(outcome, reason)] = service.outcomes()
    assert (outcome, reason) == ("rejected", "`total`: `total` is undefined in none")


def test_a_run_without_subscribers_and_a_local_one_write_no_entry() -> None:
    service = AwaitedPlaybook()
    service.run_import()
    service.register(AFTER)
    service.run_import(origin="local")
    assert service.entries() == []


def test_firings_of_a_paused_trigger_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    service = AwaitedPlaybook(AFTER)
    service.store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.run_import()
    with monkeypatch.context() as patched:
        patched.setattr(service.store.outbox, "change", lambda *_: True)
        assert service.perform() == []
    service.clock.advance(60)
    assert service.perform() == []
    # Both records are one.
    assert service.outcomes() == [("missed", "the trigger was paused")]


def test_a_condition_that_is_false_starts_no_run() -> None:
    service = AwaitedPlaybook(AFTER.replace("import,", 'import, if: "{{ trigger.result.total > 6 }}",'))
    service.run_import()
    assert service.perform() == []
    assert service.outcomes() == [("filtered", "`if` is false")]


def test_a_key_tells_which_ends_are_the_same() -> None:
    service = AwaitedPlaybook(AFTER.replace("import,", 'import, key: "{{ trigger.result.total }}",'))
    for rows in (1, 2, 1):
        service.run_import(rows=rows)
        service.perform()
    assert sorted(run.input["total"] for run in service.started()) == [2, 4]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("{{ trigger.result.none_of_these }}", "`none_of_these` is undefined in an object with `total`"),
        ("{{ trigger.result }}", "`key` must be a text or a number, not an object"),
        ("{{ 'x' * 1025 }}", "`key` must have at most 1024 bytes"),
    ],
)
def test_a_key_without_a_value_is_recorded(key: str, reason: str) -> None:
    service = AwaitedPlaybook(AFTER.replace("import,", f'import, key: "{key}",'))
    service.run_import()
    assert service.perform() == []
    [(outcome, found)] = service.outcomes()
    assert (outcome, found) == ("rejected", found)
    assert reason in str(found)


def test_a_trigger_that_cannot_be_fired_now_does_not_hold_up_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = AwaitedPlaybook(AFTER, ON_FAILURE)
    service.run_import()
    read_header = service.store.plans.header
    lost = service.trigger().plan_hash

    def header(plan_hash: str) -> Any:
        if plan_hash == lost:
            raise StoreError("The plan is lost.")
        return read_header(plan_hash)

    with monkeypatch.context() as patched:
        patched.setattr(service.store.plans, "header", header)
        assert [run.playbook for run in service.perform()] == ["clean"]
    assert service.entries() == []
    service.clock.advance(POSTPONE_SECONDS)

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("a fault of the engine")

    with monkeypatch.context() as patched:
        patched.setattr(firing_module, "new_run", fail)
        service.perform()
    assert "trigger done of after failed; it is tried again" in caplog.text
    service.clock.advance(POSTPONE_SECONDS)
    assert sorted(run.playbook for run in service.perform()) == ["after", "clean"]


def test_a_trigger_that_is_paused_before_others_are_fired_has_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    service = AwaitedPlaybook(AFTER, ON_FAILURE)
    service.run_import()
    read_header = service.store.plans.header
    lost = service.trigger("clean", "broken").plan_hash

    def header(plan_hash: str) -> Any:
        if plan_hash == lost:
            raise StoreError("The plan is lost.")
        return read_header(plan_hash)

    with monkeypatch.context() as patched:
        patched.setattr(service.store.plans, "header", header)
        service.perform()
    assert service.store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(POSTPONE_SECONDS)
    assert sorted(run.playbook for run in service.perform()) == ["after", "clean"]
    assert service.outcomes() == [("started", None)]


def test_many_triggers_are_fired_by_several_performances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tenants have their turn in between, and a trigger that cannot be fired keeps no other from it."""
    names = ["a", "b", "c"]
    service = AwaitedPlaybook(*(AFTER.replace("name: after", f"name: {name}") for name in names))
    service.run_import()
    monkeypatch.setattr(run_firing, "PERFORM_SECONDS", 0.0)
    read_header, lost = service.store.plans.header, service.trigger("a").plan_hash

    def header(plan_hash: str) -> Any:
        if plan_hash == lost:
            raise StoreError("The plan is lost.")
        return read_header(plan_hash)

    with monkeypatch.context() as patched:
        patched.setattr(service.store.plans, "header", header)
        counts = [len(service.perform()) for _ in names]
    assert (counts, service.entries()) == ([0, 1, 2], [])
    service.clock.advance(POSTPONE_SECONDS)
    assert [len(service.perform()) for _ in names] == [3, 3, 3]
    assert sorted(run.playbook for run in service.started()) == names
    service.clock.advance(POSTPONE_SECONDS)
    assert service.entries() == []


def test_a_store_that_is_away_keeps_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    service = AwaitedPlaybook(AFTER)
    service.run_import()
    [entry] = service.entries()

    def header(_: str) -> Any:
        raise StoreAwayError("The store is away.")

    with monkeypatch.context() as patched:
        patched.setattr(service.store.plans, "header", header)
        with pytest.raises(StoreAwayError):
            perform_entry(service.store, entry, service.clock())
    assert service.entries() == [entry]


def test_a_trigger_that_is_no_longer_declared_does_not_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    service = AwaitedPlaybook(AFTER)
    service.run_import()
    monkeypatch.setattr(Header, "find_trigger", lambda *_: None)
    assert service.perform() == []
    assert service.entries() == []


def test_an_end_that_is_no_longer_awaited_starts_nothing() -> None:
    service = AwaitedPlaybook(AFTER)
    service.run_import()
    service.register(AFTER.replace("import", "other"))
    assert service.perform() == []
    assert service.entries() == []


def test_a_firing_by_hand_starts_the_run_that_the_end_starts() -> None:
    service = AwaitedPlaybook(AFTER)
    ended = service.run_import()
    request = HandFiring("k", run_id=ended.id)
    by_hand, is_new = fire_by_hand(service.store, service.trigger(), request, service.clock())
    assert [run.id for run in service.perform()] == [by_hand.id]
    assert (is_new, by_hand.input) == (True, {"total": 6})
    again, is_new = fire_by_hand(service.store, service.trigger(), request, service.clock())
    assert (again.id, is_new) == (by_hand.id, False)


def test_a_firing_by_hand_needs_an_ended_run_of_the_awaited_playbook() -> None:
    service = AwaitedPlaybook(AFTER)
    waiting = RunHarness(service.store, IMPORT, clock=service.clock)
    other = RunHarness(service.store, AFTER, {"total": 1}, clock=service.clock).finish()
    for run_id, reason in (
        ("unknown", "awaits runs of `import`, and `unknown` is none of them"),
        (other.id, "is none of them"),
        (waiting.id, "has not ended; wait for its end"),
    ):
        with pytest.raises(RejectedError, match=reason) as refusal:
            request = HandFiring("k", run_id=run_id)
            fire_by_hand(service.store, service.trigger(), request, service.clock())
        assert refusal.value.reason == "invalid_input"


def test_a_firing_by_hand_must_name_a_run() -> None:
    service = AwaitedPlaybook(AFTER)
    with pytest.raises(RejectedError, match="name a run of `import`"):
        fire_by_hand(service.store, service.trigger(), HandFiring("k"), service.clock())
    assert service.started() == []
