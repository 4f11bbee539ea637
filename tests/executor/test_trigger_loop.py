"""The loop that fires triggers in a process of a service, and the messages about them in AWS."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from noetl.executor.engine import schedule_firing
from noetl.executor.errors import DamagedRunError, MessageError, StoreAwayError, StoreError
from noetl.executor.model.outbox import PERFORM_SECONDS, POSTPONE_SECONDS, OutboxEntry, OutboxKind
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.triggers import pause_trigger
from noetl.executor.runtime import due_messages, trigger_loop
from noetl.executor.runtime.due_messages import perform_message, send_due_messages, send_messages_about
from noetl.executor.runtime.trigger_loop import MAX_DUE, POLL_SECONDS, TABLE_POLL_SECONDS, TriggerLoop
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.outbox_message import OutboxMessage
from noetl.executor.stores.sqs.trigger_message import TriggerMessage
from noetl.executor.worker import Worker, WorkerSettings
from noetl.planner.frozen import replace
from noetl.testing.run_harness import FakeClock, RunHarness, compile_text

START = 1_000_000_020.0


class FakeQueue:
    """A message queue that keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, messages: Any, now: float) -> None:
        del now
        self.sent += messages


class TimedStore(MemoryStore):
    """A store in memory with the clock of the test, and a message queue."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        queue: Any = self.queue
        queue.message_queue = FakeQueue()


def open_timed_store(interval: str, playbooks: int = 1) -> tuple[Any, FakeClock]:
    clock = FakeClock(START)
    store = TimedStore(clock)
    for number in range(playbooks):
        plan = compile_text(f"""
        name: play{number}
        triggers: [{{name: tick, type: schedule, every: {interval}}}]
        steps: [{{name: a, run: [{{action: log, message: hello}}]}}]
        """)
        store.plans.save(plan)
        playbook = RegisteredPlaybook("default", plan.header.name, None, plan.hash, START)
        store.registry.register(playbook, triggers=plan.header.triggers)
    return store, clock


def count_runs(store: Any) -> int:
    return len(store.runs.find(RunFilter("default", limit=20_000))[0])


def test_the_loop_performs_what_is_due_and_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigger_loop, "TURN_SECONDS", 3600.0)
    store, clock = open_timed_store("40s", playbooks=MAX_DUE + 20)
    loop = TriggerLoop(store, threading.Event())
    assert loop.perform_all() == POLL_SECONDS
    clock.advance(19.6)
    assert loop.perform_all() == pytest.approx(0.4, abs=0.001)
    clock.advance(0.5)
    assert loop.perform_all() == 0.0
    assert count_runs(store) == MAX_DUE
    # The only tenant is passed over once, and then has its next turn.
    assert [loop.perform_all() for _ in range(2)] == [0.0, 0.0]
    assert count_runs(store) == MAX_DUE + 20
    assert [loop.perform_all() for _ in range(2)] == [0.0, POLL_SECONDS]


def test_each_of_many_due_firings_starts_one_run_in_bounded_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    playbooks, triggers = 100, 25
    monkeypatch.setattr(trigger_loop, "TURN_SECONDS", 3600.0)
    clock = FakeClock(START)
    store: Any = TimedStore(clock)
    declared = "".join(f"- {{name: t{number}, type: schedule, every: 40s}}\n" for number in range(triggers))
    plan = compile_text(
        f"triggers:\n{declared}steps: [{{name: a, run: [{{action: log, message: hello}}]}}]\n"
    )
    store.plans.save(plan)
    for number in range(playbooks):
        playbook = RegisteredPlaybook("default", f"play{number}", None, plan.hash, START)
        store.registry.register(playbook, triggers=plan.header.triggers)
    clock.advance(20)
    loop, rounds = TriggerLoop(store, threading.Event()), 0
    while loop.perform_all() == 0.0:
        rounds += 1
    # Each turn performs MAX_DUE firings, and the tenant is passed over once after each.
    assert rounds <= 2 * playbooks * triggers // MAX_DUE + 1
    assert len(store.triggers.due(START + 60, playbooks * triggers + 1)) == playbooks * triggers
    for number in range(playbooks):
        for trigger in plan.header.triggers:
            firings, _ = store.triggers.firings("default", f"play{number}", trigger.name)
            assert [firing.scheduled_at for firing in firings] == [START + 20]
    assert count_runs(store) == playbooks * triggers


@pytest.mark.parametrize("most", [2, 100])
def test_tenants_fire_in_turn(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(START)
    store: Any = TimedStore(clock)
    for tenant, count in (("many", 6), ("few", 2)):
        triggers = "".join(f"- {{name: t{n}, type: schedule, every: 40s}}\n" for n in range(count))
        text = f"name: p\ntriggers:\n{triggers}steps: [{{name: a, run: [{{action: log, message: hello}}]}}]\n"
        plan = compile_text(text)
        store.plans.save(plan)
        playbook = RegisteredPlaybook(tenant, plan.header.name, None, plan.hash, START)
        store.registry.register(playbook, triggers=plan.header.triggers)
    monkeypatch.setattr(trigger_loop, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(trigger_loop, "MAX_DUE", most)
    fired: list[str] = []
    start = store.runs.fire

    def fire(run: Run, *rest: Any) -> Any:
        fired.append(run.tenant)
        return start(run, *rest)

    monkeypatch.setattr(store.runs, "fire", fire)
    clock.advance(20)
    loop = TriggerLoop(store, threading.Event())
    while loop.perform_all() == 0.0:
        pass
    assert sorted(fired) == ["few"] * 2 + ["many"] * 6
    # After each turn of the tenant with more triggers, the other one has its turn.
    assert set(fired[:2]) == set(fired[2:4]) == {"few", "many"}


def test_a_tenant_that_was_passed_over_too_often_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = open_timed_store("40s", playbooks=3)
    monkeypatch.setattr(trigger_loop, "MAX_PASSED_OVER", 0)
    clock.advance(20)
    loop = TriggerLoop(store, threading.Event())
    assert loop.perform_all() == 0.0
    assert count_runs(store) == 3


def test_a_store_that_bills_requests_is_read_less_often() -> None:
    store, _ = open_timed_store("40s")
    store.queue.claims_in_turn = False
    assert TriggerLoop(store, threading.Event()).perform_all() == TABLE_POLL_SECONDS


def test_the_loop_survives_failures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = open_timed_store("40s")
    stopping = threading.Event()
    failures = [StoreAwayError("The store is away."), StoreAwayError("The store is away."), ValueError("bug")]

    def due(*_: object) -> list[Any]:
        if failures:
            raise failures.pop(0)
        stopping.set()
        return []

    monkeypatch.setattr(store.triggers, "due", due)
    monkeypatch.setattr("noetl.executor.runtime.trigger_loop.POLL_SECONDS", 0.001)
    loop = TriggerLoop(store, stopping)
    with caplog.at_level(logging.WARNING):
        loop.run()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "the store failed; triggers are tried again: The store is away.",
        "a trigger could not be performed; it is tried again",
    ]


@pytest.mark.parametrize("kind", [OutboxKind.LATE, OutboxKind.RUN_ENDED])
def test_an_entry_whose_run_cannot_be_read_holds_up_no_other_tenant(
    kind: OutboxKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clock = open_timed_store("40s")
    text = (
        "triggers: [{name: t, type: run, playbook: p}]\nsteps: [{name: a, run: [{action: log, message: x}]}]"
    )
    plan = compile_text(text)
    store.plans.save(plan)
    playbook = RegisteredPlaybook("other", plan.header.name, None, plan.hash, START)
    store.registry.register(playbook, triggers=plan.header.triggers)
    record = {"run_id": "damaged", "playbook": "p", "status": "failed", "ending": 0}
    store.outbox.add(OutboxEntry("e1", "other", kind, START, START, record))

    def get(*_: object) -> Any:
        raise DamagedRunError("Data of run damaged cannot be read.", "damaged")

    monkeypatch.setattr(store.runs, "get", get)
    clock.advance(20)
    loop = TriggerLoop(store, threading.Event())
    assert loop.perform_all() == 0.0
    assert count_runs(store) == 1
    assert store.outbox.get("other", "e1").due_at == clock() + POSTPONE_SECONDS


def test_a_loop_that_stops_performs_no_more() -> None:
    store, clock = open_timed_store("40s", playbooks=3)
    clock.advance(60)
    stopping = threading.Event()
    stopping.set()
    TriggerLoop(store, stopping).perform_all()
    assert count_runs(store) == 0


def test_a_worker_performs_triggers() -> None:
    store = MemoryStore()
    plan = compile_text("""
    triggers: [{name: tick, type: schedule, every: 1s}]
    steps: [{name: a, run: [{action: log, message: hello}]}]
    """)
    store.plans.save(plan)
    playbook = RegisteredPlaybook("default", "play", None, plan.hash, store.clock())
    store.registry.register(playbook, triggers=plan.header.triggers)
    worker = Worker(store, WorkerSettings(Capabilities(), threads=1))
    worker.start()
    try:
        while len(runs := store.runs.find(RunFilter("default"))[0]) < 2:
            seen = store.changes.count
            store.changes.wait(seen, 0.2)
        ended = worker.wait_until_finished("default", runs[-1].id, 60)
    finally:
        worker.stop()
    assert ended.status == "succeeded"


def test_a_sweep_sends_messages_about_what_is_due_soon() -> None:
    store, clock = open_timed_store("40s")
    assert send_due_messages(store, clock()) == 1
    assert store.queue.message_queue.sent == [TriggerMessage("default", "play0", "tick", START + 20)]
    store, clock = open_timed_store("3000s")
    assert send_due_messages(store, clock()) == 0
    store.queue.message_queue = None
    assert send_due_messages(store, clock() + 3000) == 0


def test_messages_of_one_trigger_do_not_multiply() -> None:
    store, clock = open_timed_store("10s")
    queue = store.queue.message_queue
    for second in range(1, 241):
        if second % 60 == 1:
            send_due_messages(store, clock())
        due = [message for message in queue.sent if message.due_at <= clock()]
        queue.sent = [message for message in queue.sent if message.due_at > clock()]
        for message in due:
            perform_message(store, message)
        assert len(queue.sent) <= 2
        clock.advance(1)
    assert count_runs(store) == 23


def test_a_message_that_is_late_performs_what_is_due() -> None:
    store, clock = open_timed_store("10s")
    message = TriggerMessage("default", "play0", "tick", START + 10)
    clock.advance(35)
    assert perform_message(store, message)
    assert count_runs(store) == 3
    assert store.queue.message_queue.sent == [TriggerMessage("default", "play0", "tick", START + 40)]
    # A copy of it finds the trigger due later.
    assert not perform_message(store, message)


def test_a_message_performs_missed_firings_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = open_timed_store("10s")
    fire = schedule_firing.perform_due

    def fire_slowly(*arguments: Any) -> Any:
        time.sleep(PERFORM_SECONDS / 4)
        return fire(*arguments)

    monkeypatch.setattr(due_messages, "perform_due", fire_slowly)
    clock.advance(69)  # A firing of a minute ago is not missed yet.
    store.queue.message_queue.sent = [TriggerMessage("default", "play0", "tick", START + 10)]
    counts = []
    while (message := store.queue.message_queue.sent.pop()).due_at <= clock():
        assert perform_message(store, message)
        assert len(store.queue.message_queue.sent) == 1
        counts.append(count_runs(store))
    assert counts[0] < counts[-1] == 6
    assert message == TriggerMessage("default", "play0", "tick", START + 70)


def test_a_message_that_comes_too_early_is_sent_again() -> None:
    store, _ = open_timed_store("10s")
    message = TriggerMessage("default", "play0", "tick", START + 10)
    assert not perform_message(store, message)
    assert store.queue.message_queue.sent == [message]


def test_a_message_about_a_trigger_that_does_not_fire() -> None:
    store, clock = open_timed_store("10s")
    assert not perform_message(store, TriggerMessage("default", "play0", "other", START + 10))
    trigger = store.triggers.get("default", "play0", "tick")
    store.triggers.advance(pause_trigger(trigger, clock()))
    clock.advance(30)
    assert not perform_message(store, TriggerMessage("default", "play0", "tick", START + 10))
    assert (count_runs(store), store.queue.message_queue.sent) == (0, [])


AWAITING = """
name: after
triggers: [{name: done, type: run, playbook: play}]
steps: [{name: a, run: [{action: log, message: hello}]}]
"""


def end_awaited_run() -> tuple[Any, FakeClock, OutboxMessage]:
    """Return a store in which a run has ended that a trigger awaits, its clock, and the message."""
    clock = FakeClock(START)
    store: Any = TimedStore(clock)
    plan = compile_text(AWAITING)
    store.plans.save(plan)
    playbook = RegisteredPlaybook("default", "after", None, plan.hash, START)
    store.registry.register(playbook, triggers=plan.header.triggers)
    text = "steps: [{name: a, run: [{action: log, message: hello}]}]"
    RunHarness(store, text, clock=clock, origin="service").finish()
    [entry] = store.outbox.due([OutboxKind.RUN_ENDED], START, 10)
    return store, clock, OutboxMessage("default", entry.id, START)


def test_the_loop_performs_what_follows_from_the_end_of_a_run() -> None:
    store, _, _ = end_awaited_run()
    loop = TriggerLoop(store, threading.Event())
    assert loop.perform_all() == 0.0
    assert count_runs(store) == 2
    assert [loop.perform_all() for _ in range(2)] == [0.0, POLL_SECONDS]


def test_a_message_about_the_end_of_a_run_is_performed_once() -> None:
    store, clock, message = end_awaited_run()
    assert send_due_messages(store, clock()) == 1
    assert store.queue.message_queue.sent == [message]
    assert perform_message(store, message)
    assert not perform_message(store, message)
    assert count_runs(store) == 2
    assert store.queue.message_queue.sent == [message]


def test_an_entry_that_is_tried_again_has_a_message_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock, message = end_awaited_run()

    def header(_: str) -> Any:
        raise StoreError("The plan is lost.")

    with monkeypatch.context() as patched:
        patched.setattr(store.plans, "header", header)
        assert perform_message(store, message)
    assert store.queue.message_queue.sent == [OutboxMessage("default", message.id, START + 10)]
    # It is not due yet, and a copy of the first message is about another time.
    assert not perform_message(store, store.queue.message_queue.sent[0])
    assert not perform_message(store, message)
    clock.advance(10)
    assert perform_message(store, store.queue.message_queue.sent[0])
    assert count_runs(store) == 2


def test_messages_about_nothing() -> None:
    store, _, message = end_awaited_run()
    later = OutboxEntry("e", "default", OutboxKind.LATE, START, START + 90, {})
    assert send_messages_about(store, [later, replace(later, due_at=None)]) == 0
    store.queue.message_queue = None
    assert send_messages_about(store, [replace(later, due_at=START)]) == 0
    assert not perform_message(store, OutboxMessage("default", "unknown", message.due_at))


def test_an_outbox_message_is_no_other_message() -> None:
    message = OutboxMessage("default", "0a1b", START)
    assert OutboxMessage.decode(message.encode()) == message
    assert TriggerMessage.decode(message.encode()) is None
    for text in (TriggerMessage("d", "p", "t", 1.0).encode(), "", "no JSON", "[1]", "{}"):
        assert OutboxMessage.decode(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"v":2,"outbox":"e","tenant":"d","due":1.0}',
        '{"v":1,"outbox":7,"tenant":"d","due":1.0}',
        '{"v":1,"outbox":"e","tenant":"d","due":true}',
        '{"v":1,"outbox":"e"}',
    ],
)
def test_an_outbox_message_of_another_version(text: str) -> None:
    with pytest.raises(MessageError, match="outbox"):
        OutboxMessage.decode(text)


def test_a_trigger_message_is_no_message_about_a_visit() -> None:
    message = TriggerMessage("default", "a/b ü", "tick", START)
    assert TriggerMessage.decode(message.encode()) == message
    with pytest.raises(MessageError):
        DueMessage.decode(message.encode())
    for text in (DueMessage("r", "v", "s", 1.0).encode(), "", "no JSON", "[1]", "{}"):
        assert TriggerMessage.decode(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"v":2,"trigger":"t","playbook":"p","tenant":"d","due":1.0}',
        '{"v":1,"trigger":"t","playbook":7,"tenant":"d","due":1.0}',
        '{"v":1,"trigger":"t","playbook":"p","tenant":"d","due":true}',
        '{"v":1,"trigger":"t"}',
    ],
)
def test_a_trigger_message_of_another_version(text: str) -> None:
    with pytest.raises(MessageError, match="was not sent by this version of noetl"):
        TriggerMessage.decode(text)
