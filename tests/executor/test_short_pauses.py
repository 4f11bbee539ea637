"""Pauses that are shorter than the shortest delay of a message of SQS, on DynamoDB."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions.action import Call
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import ActionError
from noetl.executor.model.run import Claim, Lease, RunStatus, VisitStatus
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.dynamo import table as tables
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.aws import Client
from tests.executor.fake_handler import FakeHandler

LEASE = Lease("one", 30.0)
RETRIED = """
    steps:
    - name: a
      retry: {attempts: 3, delay: 0.2s, jitter: false}
      run: [{action: probe, say: "{{ step.attempt }}"}]
"""
REPEATED = """
    steps:
    - name: a
      run: [{action: set, set: {n: "{{ (n | default(0)) + 1 }}"}}]
      repeat: {until: "{{ n == 3 }}", every: 0.2s, max: 5}
"""
PAUSED = """
    steps: [{name: a, run: [{action: wait, seconds: 0.4}]}]
"""


class WriterDied(Exception):
    """A worker that dies at a write."""


class RecordingQueue(MessageQueue):
    """A queue that keeps its messages."""

    def __init__(self) -> None:
        super().__init__("http://queue.invalid")
        self.messages: list[DueMessage] = []

    def send(self, messages: Sequence[Any], now: float) -> None:
        self.messages += messages


class ClockedEvent(threading.Event):
    """An event whose waits advance a clock."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.advance(timeout or 0.0)
        return self.is_set()


class RecordedService:
    """A service run of a playbook, and the functions that execute it."""

    def __init__(self, text: str) -> None:
        self.queue = RecordingQueue()
        self.store = DynamoStore("noetl", queue_url=self.queue.url)
        self.store.context.announcer.message_queue = self.queue
        self.run = RunHarness(self.store, text, origin="service")
        [self.first] = self.queue.messages
        self.queue.messages.clear()

    def deliver(self, body: str, *, continues: bool = True) -> None:
        """Handle a message as a function does."""
        clock = self.run.clock
        claim = self.store.queue.claim_message(body, LEASE, clock())
        capabilities = local_run_capabilities(Path.cwd())
        executor = VisitExecutor(self.store, LEASE, capabilities, clock, continues=lambda: continues)
        following = claim if isinstance(claim, Claim) else None
        while following is not None:
            following = executor.execute(following, ClockedEvent(clock))


@pytest.fixture(autouse=True)
def table(aws: Client, probe: FakeHandler) -> None:
    """An empty table, and an action that succeeds in the third attempt of its step."""

    def answer(call: Call) -> None:
        if call.parameters["say"] < 3:
            raise ActionError("Down", "not yet")

    probe.answer = answer
    upgrade("noetl")


@pytest.mark.parametrize("text", [RETRIED, REPEATED, PAUSED])
def test_a_short_pause_needs_no_message(text: str) -> None:
    service = RecordedService(text)
    started_at = service.run.clock()
    service.deliver(service.first.encode())
    assert (service.run.status, service.queue.messages) == (RunStatus.SUCCEEDED, [])
    assert 0.39 < service.run.clock() - started_at < 1.0


@pytest.mark.parametrize("text", [RETRIED, REPEATED, PAUSED])
def test_an_invocation_without_time_sends_a_message(text: str) -> None:
    service = RecordedService(text)
    service.deliver(service.first.encode(), continues=False)
    [message] = service.queue.messages
    assert (message.step, message.due_at > service.run.clock()) == ("a", True)


@pytest.mark.parametrize(
    "action", ["{action: wait, seconds: 1.5}", "{action: callback, timeout: 0.5s}"], ids=["long", "answer"]
)
def test_a_long_pause_and_one_that_an_answer_ends_are_left_to_the_queue(action: str) -> None:
    service = RecordedService(f"steps: [{{name: a, run: [{action}]}}]")
    service.deliver(service.first.encode())
    assert service.run.visit("a").status is VisitStatus.WAITING
    assert [message.step for message in service.queue.messages] == ["a"]


def test_a_run_that_stops_does_not_start_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    service = RecordedService(RETRIED)
    apply = service.store.queue._followups.apply

    def stop_and_apply(*arguments: Any) -> Any:
        due = apply(*arguments)
        monkeypatch.undo()
        service.store.runs.stop(service.run.id, RunStatus.CANCELLED, service.run.clock())
        return due

    monkeypatch.setattr(service.store.queue._followups, "apply", stop_and_apply)
    service.deliver(service.first.encode())
    assert (service.run.visit("a").status, service.run.visit("a").attempt) == (VisitStatus.PARKED, 2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_may_die_at_any_write_around_a_short_pause(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of the first attempt arrives again, or a sweep sends another, and no attempt is lost."""
    write, writes, dies_at = tables.DynamoTable._write, itertools.count(1), 0

    def write_or_die(self: Any, *arguments: Any, **request: Any) -> Any:
        number = next(writes)
        if number == dies_at and when == "before":
            raise WriterDied
        response = write(self, *arguments, **request)
        if number == dies_at:
            raise WriterDied
        return response

    monkeypatch.setattr(tables.DynamoTable, "_write", write_or_die)
    for point in range(1, 40):
        dies_at = 0
        service = RecordedService(RETRIED)
        end = service.run.clock() + 40 * LEASE.seconds
        writes, dies_at = itertools.count(1), point
        try:
            service.deliver(service.first.encode())
        except WriterDied:
            # The queue delivers the message again. A sweep sends those that are missing.
            service.queue.messages.insert(0, service.first)
            while not service.run.status.is_final and service.run.clock() < end:
                service.run.clock.advance(LEASE.seconds + 1.0)
                if service.queue.messages:
                    service.deliver(service.queue.messages.pop(0).encode())
                else:
                    service.store.maintenance.sweep(service.run.clock())
            assert service.run.status is RunStatus.SUCCEEDED
        else:
            break
        assert service.run.event_types("a").count("step.completed") == 1
        assert service.run.visit("a").attempt == 3
    assert point > 6
