"""The firing of triggers by events of EventBridge: which events fit, and what happens to their messages."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest

from noetl.executor.engine.bus_firing import (
    EventMessage,
    EventOutcome,
    EventTriggers,
    explain_unknown,
    find_event_firings,
)
from noetl.executor.engine.firing import Firer
from noetl.executor.errors import RejectedError, StoreAwayError, StoreError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.triggers import FiringOutcome, pause_trigger
from noetl.executor.runtime.source_triggers import read_event_triggers
from noetl.executor.security.allowed_sources import AllowedSources, read_allowed_sources
from noetl.executor.security.redaction import REVEALED_SECRETS
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import compile_text
from tests.redaction import forget_secrets

RULES = "s3:orders; event:shop; acme/event:shop"

TEXT = """
triggers:
- {name: object, type: s3, bucket: orders, prefix: in/, input: {seen: "{{ trigger }}"}}
- {name: paid, type: event, source: shop, detail_type: [Paid, Sent], input: {seen: "{{ trigger }}"}}
- {name: large, type: event, source: shop, if: "{{ trigger.detail.sum > 9 }}", input: {seen: "{{ trigger }}"}}
input: {seen: object}
steps: [{name: a, run: [{action: log, message: hello}]}]
"""


DEEP = '{"a":' * 100 + "1" + "}" * 100


def fire_event(triggers: EventTriggers, text: str, arrived_at: float) -> EventOutcome:
    """Fire all triggers that the event of a message fits."""
    firings = find_event_firings(triggers, EventMessage("m-1", text, arrived_at))
    return EventOutcome.UNKNOWN if firings is None else firings.perform_until(math.inf)


class Bus:
    """A store with a playbook that events start, and a process that gets messages."""

    def __init__(self, text: str = TEXT, rules: str = RULES) -> None:
        self.store = MemoryStore()
        environ = {"NOETL_TRIGGER_SOURCES": rules, "NOETL_EVENT_QUEUE": "https://queue"}
        self.allowed: AllowedSources = read_allowed_sources(environ)
        self.register(text)

    def register(self, text: str, tenant: str = "default") -> None:
        plan = compile_text(text)
        self.store.plans.save(plan)
        playbook = RegisteredPlaybook(tenant, plan.header.name, None, plan.hash, self.store.clock())
        self.store.registry.register(playbook, triggers=plan.header.triggers)

    def send(self, body: Any, arrived_at: float = 5.0) -> EventOutcome:
        text = body if isinstance(body, str) else json.dumps(body)
        return fire_event(read_event_triggers(self.store, self.allowed), text, arrived_at)

    def firings(self, trigger: str, tenant: str = "default") -> list[Any]:
        return self.store.triggers.firings(tenant, "play", trigger, limit=1000)[0][::-1]

    def seen(self, trigger: str) -> list[Any]:
        runs = [self.store.runs.get("default", firing.run_id) for firing in self.firings(trigger)]
        return [run.input["seen"] for run in runs if run is not None]


def written(key: str, bucket: str = "orders", **fields: Any) -> dict[str, Any]:
    """Return the event of an object that was written."""
    found = {"key": key, "size": 3, "sequencer": "1", **fields}
    return event("aws.s3", "Object Created", {"bucket": {"name": bucket}, "object": found})


def event(source: str, detail_type: str, detail: Any, id: str = "e-1") -> dict[str, Any]:
    return {"version": "0", "id": id, "source": source, "detail-type": detail_type, "detail": detail}


def test_a_written_object_starts_one_run() -> None:
    bus = Bus()
    assert bus.send(written("in/a b.csv", **{"version-id": "v7"})) is EventOutcome.FIRED
    # Another message with the same object is the same firing, also with another id.
    assert bus.send({**written("in/a b.csv", **{"version-id": "v7"}), "id": "e-2"}) is EventOutcome.FIRED
    assert bus.seen("object") == [{"bucket": "orders", "object": "in/a b.csv", "size": 3, "version": "v7"}]
    (firing,) = bus.firings("object")
    assert (firing.key, firing.fired_at >= 5.0) == ("orders/in/a b.csv 1", True)
    assert bus.send(written("in/a b.csv", sequencer="2", size=None)) is EventOutcome.FIRED
    assert bus.seen("object")[1] == {
        "bucket": "orders",
        "object": "in/a b.csv",
        "size": None,
        "version": None,
    }


@pytest.mark.parametrize(
    "message",
    [
        written("out/a"),
        written("in/a", bucket="others"),
        {**written("in/a"), "detail-type": "Object Deleted"},
        {**written("in/a"), "source": "shop.s3"},
        event("aws.s3", "Object Created", {"bucket": "orders", "object": {"key": "in/a"}}),
        event("aws.s3", "Object Created", {"bucket": {"name": "orders"}, "object": "in/a"}),
        event("aws.s3", "Object Created", {"bucket": {"name": "orders"}, "object": {"key": 7}}),
        event("shop.other", "Paid", {}),
    ],
)
def test_an_event_that_fits_no_trigger_is_named_and_dropped(
    message: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus()
    with caplog.at_level(logging.INFO, "noetl.executor"):
        assert bus.send(message) is EventOutcome.UNMATCHED
    assert EventOutcome.UNMATCHED.is_done
    (record,) = caplog.records
    text = f"event e-1 ({message['source']}, {message['detail-type']}) fits no trigger"
    assert record.getMessage() == text


def test_an_event_fires_each_trigger_that_it_fits() -> None:
    bus = Bus()
    bus.register(TEXT, "acme")
    bus.register(TEXT, "zoo")
    assert bus.send(event("shop", "Paid", {"sum": 10})) is EventOutcome.FIRED
    seen = {"source": "shop", "detail_type": "Paid", "detail": {"sum": 10}}
    assert bus.seen("paid") == bus.seen("large") == [seen]
    assert [firing.key for firing in bus.firings("paid")] == ["e-1"]
    # Each tenant whose rules allow it has a run of its own.
    assert [firing.outcome for firing in bus.firings("paid", "acme")] == ["started"]
    assert bus.firings("paid", "zoo") == []
    assert bus.send(event("shop", "Lost", {"sum": 1}, "e-2")) is EventOutcome.FIRED
    assert [firing.outcome for firing in bus.firings("large")] == ["started", "filtered"]
    assert len(bus.firings("paid")) == 1


@pytest.mark.parametrize(
    "body",
    ["no JSON", "[1]", "{}", "[" * 100_000, json.dumps(event("shop", "Paid", "text"))]
    + [json.dumps({**event("shop", "Paid", {}), name: 7}) for name in ("id", "source", "detail-type")]
    + [json.dumps(event("shop", "Paid", {}, id=""))],
)
def test_a_message_that_is_no_event_is_named_and_kept(
    body: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A function that an earlier test has called limits the lines of all handlers that repeat.
    monkeypatch.setattr(caplog.handler, "filters", [])
    bus = Bus()
    with caplog.at_level(logging.ERROR, "noetl.executor"):
        assert bus.send(body) is EventOutcome.UNKNOWN
    assert not EventOutcome.UNKNOWN.is_done
    (record,) = caplog.records
    text = "message m-1 is no event of EventBridge, and the dead-letter queue gets it: it "
    assert record.getMessage().startswith(text)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("hello", "it is no JSON object: only rules"),
        (json.dumps(event("shop", "Paid", {})).replace("{}", DEEP), "it is nested more than 100 levels deep"),
        (
            json.dumps(event("shop", "Paid", {})).replace("{}", '{"n": 1e999}'),
            "the number 1e999 is too large",
        ),
        ('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}', "S3 has sent it"),
        ('{"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]}', "S3 has sent it"),
        (
            '{"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Message": "{}"}',
            "SNS has sent it",
        ),
        ('{"key1": "value1"}', "it has no `id`, `source`, `detail-type`, `detail`: a rule"),
        ('{"Records": [], "id": "1", "source": "s", "detail": {}}', "it has no `detail-type`: a rule"),
        (json.dumps(event("shop", "Paid", {}, id="")), "it has no text in `id`: a rule"),
    ],
)
def test_an_unknown_message_says_what_its_sender_must_do(body: str, reason: str) -> None:
    assert explain_unknown(body).startswith(reason)


def test_refused_inputs_keep_the_message_and_no_other_trigger_fires_twice() -> None:
    given = 'Sent], input: {seen: "{{ trigger'
    bus = Bus(TEXT.replace(given, f"{given}.detail.no"))
    assert bus.send(event("shop", "Paid", {"sum": 10})) is EventOutcome.POSTPONED
    assert bus.send(event("shop", "Paid", {"sum": 10})) is EventOutcome.POSTPONED
    assert not EventOutcome.POSTPONED.is_done
    (refused,) = bus.firings("paid")
    assert refused.outcome == "rejected"
    (started,) = bus.firings("large")
    assert started.outcome == "started"


def test_a_paused_trigger_misses_its_events() -> None:
    bus = Bus(TEXT.replace("type: s3,", 'type: s3, key: "{{ trigger.size // 1 }}",'))
    for name in ("object", "paid"):
        trigger = bus.store.triggers.get("default", "play", name)
        assert trigger is not None
        assert bus.store.triggers.advance(pause_trigger(trigger, bus.store.clock()))
    assert bus.send(event("shop", "Paid", {"sum": 10})) is EventOutcome.FIRED
    (missed,) = bus.firings("paid")
    assert (missed.outcome, missed.reason) == (FiringOutcome.MISSED, "the trigger was paused")
    assert [firing.outcome for firing in bus.firings("large")] == ["started"]
    assert bus.send(written("in/a")) is EventOutcome.FIRED
    assert bus.send(written("in/b", size="no number")) is EventOutcome.FIRED
    assert sorted((firing.outcome, firing.key) for firing in bus.firings("object")) == [
        ("missed", "key 3"),
        ("rejected", "orders/in/b 1"),
    ]


def test_values_of_secrets_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus()
    forget_secrets(monkeypatch)
    REVEALED_SECRETS.add("a-secret-value", "default")
    bus.send(event("shop", "Paid", {"sum": 1, "token": "a-secret-value"}))
    (seen,) = bus.seen("paid")
    assert "a-secret-value" not in json.dumps(seen)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (RejectedError("quota_exceeded", "too many"), "is tried again: too many"),
        (StoreError("damaged"), "is tried again: damaged"),
        (KeyError("wrong"), "failed; it is tried again"),
    ],
)
def test_a_trigger_that_fails_does_not_keep_the_others_from_firing(
    problem: Exception, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus()
    fire = Firer.fire

    def fail_once(firer: Firer, *arguments: Any) -> Any:
        if firer.trigger.name == "large":
            raise problem
        return fire(firer, *arguments)

    monkeypatch.setattr(Firer, "fire", fail_once)
    with caplog.at_level(logging.WARNING, "noetl.executor"):
        assert bus.send(event("shop", "Paid", {"sum": 10})) is EventOutcome.POSTPONED
    assert [firing.outcome for firing in bus.firings("paid")] == ["started"]
    (record,) = [record for record in caplog.records if record.levelname != "INFO"]
    assert record.getMessage() == f"trigger large of play {text}"
    monkeypatch.undo()
    assert bus.send(event("shop", "Paid", {"sum": 10})) is EventOutcome.FIRED
    assert [len(bus.firings(name)) for name in ("paid", "large")] == [1, 1]


def test_a_plan_that_cannot_be_read_keeps_the_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus()
    bus.register(TEXT.replace("hello", "other"), "acme")
    broken = bus.store.triggers.get("acme", "play", "paid")
    assert broken is not None
    header, broken_hash = bus.store.plans.header, broken.plan_hash

    def read(plan_hash: str) -> Any:
        if plan_hash == broken_hash:
            raise StoreError("the plan is damaged")
        return header(plan_hash)

    monkeypatch.setattr(bus.store.plans, "header", read)
    with caplog.at_level(logging.WARNING, "noetl.executor"):
        assert bus.send(event("shop", "Paid", {"sum": 1})) is EventOutcome.POSTPONED
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == [
        "events of tenant acme are received again: the plan is damaged"
    ]
    assert [firing.outcome for firing in bus.firings("paid")] == ["started"]


def test_a_store_that_is_away_ends_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus()

    def fail(*_: Any, **__: Any) -> Any:
        raise StoreAwayError("away")

    triggers: EventTriggers = read_event_triggers(bus.store, bus.allowed)
    monkeypatch.setattr(Firer, "fire", fail)
    with pytest.raises(StoreAwayError):
        fire_event(triggers, json.dumps(event("shop", "Paid", {"sum": 1})), 5.0)
    monkeypatch.setattr(bus.store.plans, "header", fail)
    with pytest.raises(StoreAwayError):
        read_event_triggers(bus.store, bus.allowed)
