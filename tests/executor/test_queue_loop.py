"""The loop that fires triggers for the messages of queues, with an emulator of AWS."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from typing import Any, cast

import pytest

from noetl.executor.engine.bus_firing import EventOutcome
from noetl.executor.engine.firing import Firer
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.source_firing import SourceItem, fire_item
from noetl.executor.errors import RejectedError, SettingError, StoreAwayError, StoreError, TriggerChangedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Lease
from noetl.executor.model.triggers import Advance, FiringOutcome, pause_trigger
from noetl.executor.runtime import queue_loop
from noetl.executor.runtime.queue_loop import QueueLoop, view_message
from noetl.executor.security.allowed_sources import read_allowed_sources
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.worker import Worker, WorkerSettings
from noetl.planner.frozen import replace
from noetl.testing.run_harness import compile_text
from tests.aws import Client

pytestmark = pytest.mark.xdist_group("aws")

TEXT = """
triggers:
- name: ordered
  type: queue
  sqs: URL
  input:
    id: "{{ trigger.id }}"
    body: "{{ trigger.body }}"
    attributes: "{{ trigger.attributes }}"
    receives: "{{ trigger.receives }}"
input: {id: string, body: any, attributes: object, receives: integer}
steps: [{name: a, run: [{action: log, message: "{{ input.id }}"}]}]
"""


class ReadQueue:
    """A queue of the emulator, a store with a playbook that reads it, and a process."""

    def __init__(self, aws: Client, text: str = TEXT, rules: str = "sqs:URL", **attributes: str) -> None:
        self.sqs = aws("sqs")
        given = {"VisibilityTimeout": "1", **attributes}
        self.url: str = self.sqs.create_queue(QueueName="orders", Attributes=given)["QueueUrl"]
        self.rules = rules.replace("URL", self.url)
        self.store = MemoryStore()
        self.register(text)
        self.restart()

    def register(self, text: str, tenant: str = "default", version: str | None = None) -> None:
        plan = compile_text(text.replace("URL", self.url))
        self.store.plans.save(plan)
        playbook = RegisteredPlaybook(tenant, plan.header.name, version, plan.hash, self.store.clock())
        self.store.registry.register(playbook, triggers=plan.header.triggers)

    def restart(self) -> None:
        """Replace the process by another, which remembers nothing."""
        allowed = read_allowed_sources({"NOETL_TRIGGER_SOURCES": self.rules})
        self.loop = QueueLoop(self.store, allowed, threading.Event())

    def send(self, body: str, **attributes: Any) -> str:
        sent = self.sqs.send_message(QueueUrl=self.url, MessageBody=body, MessageAttributes=attributes)
        return str(sent["MessageId"])

    def read(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.read_all()

    def firings(self, name: str = "ordered", tenant: str = "default") -> list[Any]:
        return self.store.triggers.firings(tenant, "play", name, limit=1000)[0][::-1]

    def inputs(self) -> list[Any]:
        runs = [self.store.runs.get("default", f.run_id) for f in self.firings() if f.run_id]
        return [run.input for run in runs if run is not None]

    def messages(self) -> int:
        """Return how many messages the queue has, also those that are invisible."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)


def test_each_message_starts_one_run_and_is_deleted(aws: Client) -> None:
    queue = ReadQueue(aws)
    color = {"DataType": "String", "StringValue": "red"}
    data = {"DataType": "Binary", "BinaryValue": b"\x00\xff"}
    first = queue.send('{"order": [1, 2]}', color=color, data=data)
    second = queue.send("no JSON")
    queue.read(2)
    assert sorted(queue.inputs(), key=lambda item: str(item["body"])) == [
        {"id": second, "body": "no JSON", "attributes": {}, "receives": 1},
        {
            "id": first,
            "body": {"order": [1, 2]},
            "attributes": {"color": "red", "data": "AP8="},
            "receives": 1,
        },
    ]
    assert queue.messages() == 0


def test_a_message_above_the_queue_of_its_playbook_has_a_skipped_run(aws: Client) -> None:
    head = "concurrency: {limit: 1, max_queued: 1}"
    queue = ReadQueue(aws, head + TEXT.replace("log, message: ", "callback, title: "))
    for body in "123":
        queue.send(body)
    while queue.messages():
        queue.read()
    lease, store = Lease("one", 30.0), queue.store
    executor = VisitExecutor(store, lease, Capabilities(), store.clock)
    while (claim := store.queue.claim("service", lease, store.clock())) is not None:
        executor.execute(claim)
    runs = [store.runs.get("default", firing.run_id) for firing in queue.firings()]
    shown = sorted((str(run.status), run.error and run.error["type"]) for run in runs if run is not None)
    assert shown == [("skipped", "RunSkipped"), ("waiting", None), ("waiting", None)]


def test_a_process_that_dies_before_the_deletion_starts_no_second_run(
    aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = ReadQueue(aws)
    queue.send("1")
    call = queue_loop._call

    def die(url: str, method: Any, **parameters: Any) -> Any:
        if "Entries" in parameters:
            raise SystemExit
        return call(url, method, **parameters)

    monkeypatch.setattr(queue_loop, "_call", die)
    with pytest.raises(SystemExit):
        queue.read()
    monkeypatch.undo()
    assert (len(queue.inputs()), queue.messages()) == (1, 1)
    queue.restart()
    while queue.messages():
        queue.read()
    assert len(queue.inputs()) == len(queue.firings()) == 1


def test_a_message_is_deleted_only_after_its_firing(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = ReadQueue(aws)
    for number in range(3):
        queue.send(str(number))
    fired: list[Any] = []

    def fail(firer: Any, item: Any) -> Any:
        if len(fired) == 1:
            raise StoreAwayError("away")
        fired.append(item.key)
        return fire_item(firer, item)

    monkeypatch.setattr(queue_loop, "fire_item", fail)
    with pytest.raises(StoreAwayError):
        while True:
            queue.read()
    assert queue.messages() == 2
    monkeypatch.setattr(queue_loop, "fire_item", fire_item)
    while queue.messages():
        queue.read()
    assert sorted(item["body"] for item in queue.inputs()) == [0, 1, 2]


def test_a_refused_message_ends_in_the_dead_letter_queue(aws: Client) -> None:
    dead = aws("sqs").create_queue(QueueName="dead")["QueueUrl"]
    arn = aws("sqs").get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    queue = ReadQueue(aws, TEXT.replace("body: any", "body: object"), RedrivePolicy=redrive)
    id = queue.send("text")
    while queue.messages():
        queue.read()
    assert [firing.outcome.value for firing in queue.firings()] == ["rejected"]
    received = aws("sqs").receive_message(QueueUrl=dead)["Messages"]
    assert [message["MessageId"] for message in received] == [id]


def test_a_message_that_fails_stops_neither_others_nor_other_triggers(
    aws: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = ReadQueue(aws, rules="sqs:URL; zoo/sqs:URL", VisibilityTimeout="60")
    queue.register(TEXT, "zoo")
    poison = queue.send("0")
    for number in range(1, 6):
        queue.send(str(number))

    def fail(firer: Any, item: Any) -> Any:
        if (firer.trigger.tenant, item.key) == ("default", poison):
            raise KeyError("wrong")
        return fire_item(firer, item)

    monkeypatch.setattr(queue_loop, "fire_item", fail)
    # The emulator may return fewer messages than there are. A queue without messages is waited for.
    for _ in range(6):
        if len(queue.firings(tenant="zoo")) == 6:
            break
        queue.loop._paused_until.clear()
        queue.read()
    assert sorted(item["body"] for item in queue.inputs()) == [1, 2, 3, 4, 5]
    assert len(queue.firings(tenant="zoo")) == 6
    assert queue.messages() == 1
    assert "could not be read; it is read again" in caplog.text


@pytest.mark.parametrize(
    "expected", [RejectedError("quota_exceeded", "too many branches"), StoreError("a plan is damaged")]
)
def test_a_failure_of_the_store_or_a_quota_is_not_hidden_by_another_one(
    expected: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [KeyError("wrong"), expected, TriggerChangedError("changed")]
    left = list(failures)

    def fail(*_: Any) -> Any:
        raise left.pop(0)

    monkeypatch.setattr(queue_loop, "fire_item", fail)
    item = SourceItem("m-1", 0.0, {})
    with pytest.raises(type(expected)) as raised:
        queue_loop.fire_row(cast("list[Firer]", [None] * 3), item)
    assert raised.value is expected
    # The others are in the log, with their traces.
    traces = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert traces == [failures[0], failures[2]]


def test_all_triggers_of_a_queue_get_each_message(aws: Client) -> None:
    queue = ReadQueue(aws, rules="sqs:URL; acme/sqs:URL")
    queue.register(TEXT.replace("  input:", '  if: "{{ trigger.body == 1 }}"\n  input:', 1), "acme")
    queue.register(TEXT, "other")
    queue.send("1")
    queue.send("2")
    queue.read(3)
    assert len(queue.inputs()) == 2
    assert sorted(f.outcome.value for f in queue.firings(tenant="acme")) == ["filtered", "started"]
    assert queue.firings(tenant="other") == []
    assert queue.messages() == 0


@pytest.mark.parametrize("rules", ["", "sqs:https://sqs.test/1/other", "acme/sqs:URL", "folder:in"])
def test_a_queue_is_read_only_if_the_operator_allows_it(
    aws: Client, rules: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue = ReadQueue(aws, rules=rules)
    queue.send("1")
    with caplog.at_level(logging.WARNING):
        queue.read(2)
    assert (queue.firings(), queue.messages()) == ([], 1)
    rule = f"NOETL_TRIGGER_SOURCES needs the rule `sqs:{queue.url}`"
    expected = [f"queue {queue.url} is not read: {rule}"] if rules.startswith("sqs") else []
    assert caplog.messages == expected


def test_a_paused_trigger_receives_nothing(aws: Client) -> None:
    queue = ReadQueue(aws)
    queue.read()
    trigger = queue.store.triggers.get("default", "play", "ordered")
    assert trigger is not None
    paused = pause_trigger(trigger, queue.store.clock())
    queue.store.triggers.advance(paused)
    queue.send("1")
    # The process does not know of the pause yet: the message returns.
    queue.read(3)
    assert (queue.firings(), queue.messages()) == ([], 1)
    queue.store.triggers.advance(Advance(paused.written, replace(trigger, edition=trigger.edition + 2)))
    queue.restart()
    while queue.messages():
        queue.read()
    assert len(queue.inputs()) == 1


def test_a_full_quota_receives_nothing(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = ReadQueue(aws)
    queue.send("1")

    def refuse(*_: Any) -> None:
        raise RejectedError("quota_exceeded", "too many branches")

    with monkeypatch.context() as patched:
        patched.setattr(queue_loop, "check_branch_quota", refuse)
        queue.read(2)
    queue.restart()
    queue.read()
    assert [item["receives"] for item in queue.inputs()] == [1]


def test_tenants_have_turns(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_loop, "QUEUES_PER_ROUND", 2)
    read = ReadQueue(aws)
    urls = [read.sqs.create_queue(QueueName=f"many{number}")["QueueUrl"] for number in range(5)]
    declared = "".join(
        f"- {{name: q{number}, type: queue, sqs: {url!r}}}\n" for number, url in enumerate(urls)
    )
    steps = "steps: [{name: a, run: [{action: log, message: a}]}]\n"
    read.rules = "; ".join([*(f"sqs:{url}" for url in urls), f"small/sqs:{read.url}"])
    read.register(f"triggers:\n{declared}{steps}", version="2")
    read.register(f"triggers:\n- {{name: q, type: queue, sqs: {read.url!r}}}\n{steps}", "small")
    read.restart()
    received: list[str] = []
    monkeypatch.setattr(read.loop, "_read_queue", lambda url, _: received.append(url))
    rounds = []
    for _ in range(4):
        count = read.loop.read_all()
        rounds.append({url.rpartition("/")[2] for url in received})
        assert (len(received), count) == (3, 3 + 3)
        received.clear()
    assert all("orders" in names for names in rounds)
    assert set().union(*rounds[:3]) == {"orders", *(f"many{number}" for number in range(5))}


def test_a_queue_that_cannot_be_read_delays_no_other(
    aws: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = ReadQueue(aws, rules="sqs:URL; sqs:URL-none; acme/sqs:URL")
    queue.register(f"name: none\n{TEXT.replace('URL', 'URL-none')}")
    queue.send("1")
    with caplog.at_level(logging.WARNING):
        queue.read(2)
    assert len(queue.inputs()) == 1
    assert len(caplog.messages) == 1
    assert f"queue {queue.url}-none is not read: " in caplog.text
    problems: list[Exception] = [StoreError("damaged"), ValueError("wrong")]

    def fail(*_: Any) -> Any:
        raise problems.pop(0)

    monkeypatch.setattr(queue_loop, "fire_item", fail)
    monkeypatch.setattr(queue_loop, "PAUSE_SECONDS", 0.0)
    queue.send("2")
    while problems:
        queue.read()
    assert "queue could not be read" not in caplog.text
    assert f"queue {queue.url} is read again: damaged" in caplog.text
    assert f"queue {queue.url} could not be read; it is read again" in caplog.text


def test_a_plan_that_cannot_be_read_stops_the_queues_of_its_tenant_only(
    aws: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = ReadQueue(aws, rules="acme/sqs:URL; sqs:URL")
    queue.register(TEXT.replace("ordered", "damaged"), tenant="acme")
    queue.send("1")
    read_header = queue.store.plans.header
    damaged = queue.store.triggers.get("acme", "play", "damaged")
    assert damaged is not None

    def header(plan_hash: str) -> Any:
        if plan_hash == damaged.plan_hash:
            raise StoreError("The plan is lost.")
        return read_header(plan_hash)

    monkeypatch.setattr(queue.store.plans, "header", header)
    queue.read(2)
    assert len(queue.inputs()) == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["queues of tenant acme are not read: The plan is lost."]


def test_a_worker_of_a_service_reads_queues(aws: Client) -> None:
    queue = ReadQueue(aws)
    queue.send("1")
    allowed = read_allowed_sources({"NOETL_TRIGGER_SOURCES": queue.rules})
    worker = Worker(queue.store, WorkerSettings(Capabilities(trigger_sources=allowed), threads=1))
    worker.start()
    try:
        seen = queue.store.changes.count
        while not queue.inputs():
            queue.store.changes.wait(seen, 1.0)
        run_id = queue.firings()[0].run_id
        assert worker.wait_until_finished("default", run_id, 30).status.is_final
    finally:
        worker.stop()


def test_the_queue_of_runs_is_no_source() -> None:
    url = "https://sqs.us-east-1.amazonaws.com/123456789012/noetl"
    with pytest.raises(SettingError, match="is the queue of runs"):
        read_allowed_sources({"NOETL_TRIGGER_SOURCES": f"sqs:{url}", "NOETL_QUEUE": url})


def test_attributes_of_functions_are_read_as_those_of_workers() -> None:
    attributes = {"a": {"stringValue": "x", "dataType": "String"}, "b": {"binaryValue": "AP8="}, "c": {}}
    view = view_message("id", "[NaN]", attributes, 1)
    assert view == {
        "id": "id",
        "body": "[NaN]",
        "attributes": {"a": "x", "b": "AP8=", "c": ""},
        "receives": 1,
    }


EVENTS = """
triggers:
- {name: ordered, type: event, source: shop, input: {id: "{{ trigger.detail.id }}"}}
- {name: object, type: s3, bucket: orders, prefix: in/, input: {id: "{{ trigger.object }}"}}
input: {id: string}
steps: [{name: a, run: [{action: log, message: "{{ input.id }}"}]}]
"""


class EventQueue(ReadQueue):
    """The queue of events, and a process that reads it."""

    def restart(self) -> None:
        rules = {"NOETL_TRIGGER_SOURCES": "event:shop; s3:orders", "NOETL_EVENT_QUEUE": self.url}
        self.loop = QueueLoop(self.store, read_allowed_sources(rules), threading.Event())

    def send_event(self, source: str, detail: Any, detail_type: str = "Paid") -> None:
        body = {"id": "e", "source": source, "detail-type": detail_type, "detail": detail}
        self.send(json.dumps(body))


def test_a_process_reads_the_queue_of_events(aws: Client, caplog: pytest.LogCaptureFixture) -> None:
    queue = EventQueue(aws, EVENTS)
    assert queue.loop.is_needed
    queue.send_event("shop", {"id": "a"})
    queue.send_event("other", {"id": "b"})
    detail = {"bucket": {"name": "orders"}, "object": {"key": "in/c", "sequencer": "1"}}
    queue.send_event("aws.s3", detail, "Object Created")
    queue.read(3)
    assert queue.inputs() == [{"id": "a"}]
    assert [firing.outcome for firing in queue.firings("object")] == ["started"]
    assert queue.messages() == 0
    queue.send("no event")
    queue.read()
    assert queue.messages() == 1
    assert "is no event of EventBridge" in caplog.text


def test_the_queue_of_events_is_read_only_for_triggers_that_await_events(aws: Client) -> None:
    queue = EventQueue(
        aws,
        EVENTS.replace("event, source: shop", "schedule, every: 1h")
        .replace("s3, bucket: orders, prefix: in/", "folder, folder: in")
        .replace("trigger.detail.id", "trigger.scheduled_at")
        .replace("trigger.object", "trigger.path"),
    )
    queue.send_event("shop", {"id": "a"})
    assert queue.loop.read_all() == 0
    assert queue.messages() == 1


def test_a_paused_queue_of_events_is_read_later(aws: Client, caplog: pytest.LogCaptureFixture) -> None:
    queue = EventQueue(aws, EVENTS)
    queue.sqs.delete_queue(QueueUrl=queue.url)
    queue.read(2)
    assert len([record for record in caplog.records if "is not read" in record.getMessage()]) == 1


def test_rules_of_events_need_their_queue() -> None:
    for rule in ("s3:orders", "acme/event:shop"):
        with pytest.raises(SettingError, match="needs NOETL_EVENT_QUEUE"):
            read_allowed_sources({"NOETL_TRIGGER_SOURCES": rule})
    arn = "arn:aws:sqs:eu-central-1:123456789012:events"
    url = "https://sqs.eu-central-1.amazonaws.com/123456789012/events"
    with pytest.raises(SettingError, match="is the queue of events"):
        read_allowed_sources({"NOETL_TRIGGER_SOURCES": f"sqs:{url}", "NOETL_EVENT_QUEUE": arn})
    allowed = read_allowed_sources({"NOETL_TRIGGER_SOURCES": f"sqs:{arn}"})
    assert allowed.allows_name("default", "sqs", url)
    assert not allowed.allows_name("default", "sqs", f"{url}2")
    assert not allowed.allows_name("default", "sqs", url.replace("sqs.", "evil."))


def test_a_message_leaves_triggers_for_which_there_is_no_time_to_the_next_time(
    aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = ["default", "acme", "zoo"]
    queue = ReadQueue(aws, rules="sqs:URL; acme/sqs:URL; zoo/sqs:URL", VisibilityTimeout="0")
    for tenant in tenants[1:]:
        queue.register(TEXT, tenant)
    queue.send("1")
    monkeypatch.setattr(queue_loop, "BATCH_SECONDS", 0.0)
    counts = []
    while queue.messages():
        queue.read()
        counts.append(sum(len(queue.firings(tenant=tenant)) for tenant in tenants))
    assert counts == [1, 2, 3]


def test_a_trigger_that_fails_leaves_a_turn_to_the_others_of_its_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fired: list[str] = []

    def fire(firer: Any, item: SourceItem) -> FiringOutcome:
        fired.append(item.key)
        if len(fired) == 1:
            raise KeyError("wrong")
        return FiringOutcome.STARTED

    monkeypatch.setattr(queue_loop, "fire_item", fire)
    firers = cast("list[Firer]", [None] * 3)
    firings = queue_loop.MessageFirings(
        deque((firer, SourceItem(str(number), 0.0, {})) for number, firer in enumerate(firers))
    )
    assert firings.perform_until(0.0) is firings.perform_until(0.0) is EventOutcome.UNFINISHED
    with pytest.raises(KeyError, match="wrong"):
        firings.perform_until(0.0)
    assert fired == ["0", "1", "2"]


def test_a_message_with_many_triggers_delays_the_others_of_its_batch_by_one_turn() -> None:
    performed: list[str] = []

    class Firings:
        def __init__(self, name: str, count: int) -> None:
            self.name, self.left = name, count

        def perform_until(self, ends_at: float) -> EventOutcome:
            assert time.monotonic() < ends_at <= time.monotonic() + queue_loop.BATCH_SECONDS
            performed.append(self.name)
            self.left -= 1
            return EventOutcome.UNFINISHED if self.left else EventOutcome.FIRED

    found = {"large": Firings("large", 3), "small": Firings("small", 1), "late": Firings("late", 2)}
    batch = queue_loop.ReceivedBatch([{"ReceiptHandle": name} for name in found])
    batch.fire(lambda message: found[message["ReceiptHandle"]])
    assert performed == ["large", "small", "late", "large", "late", "large"]
    assert batch.handles == ["small", "late", "large"]
