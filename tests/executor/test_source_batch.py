"""The Lambda function that fires triggers, called as Lambda does with messages of several queues."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from noetl.executor import lambda_handler as handlers
from noetl.executor.engine.firing import Firer
from noetl.executor.errors import RejectedError, StoreError, TriggerChangedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.triggers import firing_id, pause_trigger
from noetl.executor.runtime import message_batch, source_batch
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import compile_text
from tests.aws import Client
from tests.aws_faults import DENIED, faulty_table

pytestmark = pytest.mark.xdist_group("aws")

EVENTS = "arn:aws:sqs:us-east-1:123456789012:events"
ORDERS = "arn:aws:sqs:us-east-1:123456789012:orders"
RULES = f"event:shop; s3:orders; sqs:{ORDERS}; acme/sqs:{ORDERS}"

TEXT = """
triggers:
- {name: paid, type: event, source: shop, input: {seen: "{{ trigger.detail }}"}}
- name: ordered
  type: queue
  sqs: https://sqs.us-east-1.amazonaws.com/123456789012/orders
  input: {seen: "{{ trigger }}"}
- {name: other, type: queue, sqs: https://sqs.us-east-1.amazonaws.com/123456789012/other}
- {name: rows, type: queue, table: orders}
input: {seen: {type: object, default: {}}}
steps: [{name: a, run: [{action: log, message: hello}]}]
"""


@dataclass
class TriggerContext:
    seconds: float = 60.0
    aws_request_id: str = "request"
    function_name: str = "trigger"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture
def store(aws: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoStore]:
    upgrade("noetl")
    monkeypatch.setenv("NOETL_QUEUE", str(aws("sqs").create_queue(QueueName="noetl")["QueueUrl"]))
    monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
    monkeypatch.setenv("NOETL_EVENT_QUEUE", EVENTS)
    monkeypatch.setenv("NOETL_TRIGGER_SOURCES", RULES)
    message_batch.warm_state.cache_clear()
    store = open_store()
    assert isinstance(store, DynamoStore)
    register(store, TEXT)
    yield store
    message_batch.warm_state.cache_clear()


def register(store: DynamoStore, text: str, tenant: str = "default") -> None:
    plan = compile_text(text)
    store.plans.save(plan)
    playbook = RegisteredPlaybook(tenant, plan.header.name, None, plan.hash, store.clock())
    store.registry.register(playbook, triggers=plan.header.triggers)


def record(id: str, body: Any, queue: str = EVENTS, **attributes: Any) -> dict[str, Any]:
    """Return a message as Lambda passes it."""
    return {
        "messageId": id,
        "receiptHandle": f"handle of {id}",
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "5000"},
        "messageAttributes": attributes,
        "eventSource": "aws:sqs",
        "eventSourceARN": queue,
    }


def paid(id: str, source: str = "shop") -> dict[str, Any]:
    return {"id": id, "source": source, "detail-type": "Paid", "detail": {"id": id}}


def invoke(*records: dict[str, Any], seconds: float = 60.0) -> list[str]:
    answer = handlers.trigger({"Records": list(records)}, TriggerContext(seconds))
    return [item["itemIdentifier"] for item in answer["batchItemFailures"]]


def metrics(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the counters that the last invocation has written."""
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    return {name: found[name] for name in found if name not in ("_aws", "FunctionName", "Milliseconds")}


def outcomes(store: DynamoStore, trigger: str, tenant: str = "default") -> list[str]:
    firings = store.triggers.firings(tenant, "play", trigger, limit=1000)[0]
    return sorted(firing.outcome for firing in firings)


def test_a_batch_fires_its_events_and_reports_the_others(
    store: DynamoStore, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = [
        record("a", paid("1")),
        record("b", "no event"),
        record("c", paid("2", "x")),
        record("d", paid("2")),
    ]
    assert invoke(*batch) == ["b"]
    assert outcomes(store, "paid") == ["started", "started"]
    assert metrics(capsys) == {"Fired": 2, "NotOurs": 1, "Unmatched": 1}
    # The batch arrives again, as if its messages had not been deleted.
    assert invoke(*batch) == ["b"]
    assert outcomes(store, "paid") == ["started", "started"]


def test_a_long_id_of_an_event_makes_no_long_record(store: DynamoStore) -> None:
    batch = [record("a", paid("1" * 200_000)), record("b", paid("1" * 199_999 + "2"))]
    assert invoke(*batch) == []
    assert invoke(*batch) == []
    firings = store.triggers.firings("default", "play", "paid", limit=10)[0]
    assert [firing.outcome for firing in firings] == ["started", "started"]
    assert all(len(firing.key) < 100 for firing in firings)
    # An earlier version has started a run with the same id, so an upgrade starts no second one.
    keys = ("1" * 200_000, "1" * 199_999 + "2")
    assert {firing.run_id for firing in firings} == {
        firing_id("default", "play", "paid", key) for key in keys
    }


def test_a_message_of_a_queue_fires_the_triggers_that_read_it(store: DynamoStore) -> None:
    register(store, TEXT, "acme")
    register(store, TEXT, "zoo")
    attributes = {"kind": {"stringValue": "new", "dataType": "String"}}
    assert invoke(record("m-1", {"id": 7}, ORDERS, **attributes)) == []
    firing = store.triggers.firings("default", "play", "ordered", limit=10)[0][0]
    run = store.runs.get("default", str(firing.run_id))
    assert run is not None
    seen = {"id": "m-1", "body": {"id": 7}, "attributes": {"kind": "new"}, "receives": 2}
    assert run.input["seen"] == seen
    assert outcomes(store, "ordered", "acme") == ["started"]
    assert outcomes(store, "ordered", "zoo") == []
    assert outcomes(store, "other") == []


def test_a_message_cannot_pretend_to_be_of_another_queue(store: DynamoStore) -> None:
    assert invoke(record("m-1", paid("1"), ORDERS)) == []
    assert (outcomes(store, "paid"), outcomes(store, "ordered")) == ([], ["started"])


@pytest.mark.parametrize("is_paused", [True, False])
def test_a_message_without_a_trigger_is_kept(
    store: DynamoStore, is_paused: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if is_paused:
        trigger = store.triggers.get("default", "play", "ordered")
        assert trigger is not None
        store.triggers.advance(pause_trigger(trigger, store.clock()))
    queue = ORDERS if is_paused else ORDERS.replace("orders", "other")
    assert invoke(record("m-1", {}, queue)) == ["m-1"]
    assert metrics(capsys) == {"NotOurs": 1}


def test_refused_inputs_keep_the_message(store: DynamoStore, capsys: pytest.CaptureFixture[str]) -> None:
    register(store, TEXT.replace('{seen: "{{ trigger }}"}', '{seen: "{{ trigger.body.no }}"}'))
    assert invoke(record("m-1", {}, ORDERS), record("m-2", {"no": {}}, ORDERS)) == ["m-1"]
    assert outcomes(store, "ordered") == ["rejected", "started"]
    assert metrics(capsys) == {"Fired": 1, "Postponed": 1}


@pytest.mark.parametrize(
    ("problem", "metric"),
    [
        (RejectedError("quota_exceeded", "too many"), "Postponed"),
        (TriggerChangedError("it was changed"), "Postponed"),
        (StoreError("damaged"), "StoreFailures"),
        (KeyError("wrong"), "Bugs"),
    ],
)
def test_a_message_that_cannot_fire_now_is_kept_and_the_others_fire(
    store: DynamoStore,
    problem: Exception,
    metric: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fire = Firer.fire

    def fail_for_first(firer: Firer, firing: Any, *arguments: Any) -> Any:
        if firing.key == "m-1":
            raise problem
        return fire(firer, firing, *arguments)

    monkeypatch.setattr(Firer, "fire", fail_for_first)
    assert invoke(record("m-1", {}, ORDERS), record("m-2", {}, ORDERS)) == ["m-1"]
    assert metrics(capsys) == {"Fired": 1, metric: 1}
    monkeypatch.undo()


def test_a_store_that_is_away_keeps_all_messages(
    store: DynamoStore, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    message_batch.warm_state.cache_clear()
    with faulty_table(lambda _: DENIED), caplog.at_level(logging.WARNING, "noetl.executor"):
        assert invoke(record("a", paid("1")), record("b", paid("2"))) == ["a", "b"]
    assert metrics(capsys) == {"StoreFailures": 2}
    assert invoke(record("a", paid("1"))) == []


def test_without_enough_time_messages_are_left_to_another_invocation(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    margin = source_batch.MARGIN_SECONDS
    assert invoke(record("a", paid("1")), seconds=margin) == ["a"]
    assert outcomes(store, "paid") == []
    fire = Firer.fire

    def fire_slowly(*arguments: Any) -> Any:
        written = fire(*arguments)
        now = time.monotonic()
        monkeypatch.setattr(source_batch.time, "monotonic", lambda: now + 60)  # type: ignore[attr-defined]
        return written

    monkeypatch.setattr(Firer, "fire", fire_slowly)
    assert invoke(record("a", paid("1")), record("b", paid("2"))) == ["b"]
    monkeypatch.undo()
    assert outcomes(store, "paid") == ["started"]


def test_many_triggers_of_an_event_fire_in_several_invocations(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invocation ends in time, a tenant with one trigger waits for no other, and no work is repeated."""
    monkeypatch.setenv("NOETL_TRIGGER_SOURCES", f"{RULES}; zoo/event:shop")
    message_batch.warm_state.cache_clear()
    names = [f"t{number}" for number in range(20)]
    declared = "".join(f"- {{name: {name}, type: event, source: shop}}\n" for name in names)
    register(store, f"triggers:\n{declared}steps: [{{name: a, run: [{{action: log, message: hello}}]}}]")
    register(store, TEXT, "zoo")
    fired: list[str] = []
    fire = Firer.fire

    def fire_slowly(firer: Firer, firing: Any, *arguments: Any) -> Any:
        time.sleep(0.1)
        fired.append(f"{firing.key} {firing.tenant}")
        return fire(firer, firing, *arguments)

    monkeypatch.setattr(Firer, "fire", fire_slowly)
    message = record("a", paid("1"))
    begun_at = time.monotonic()
    batch = [message, record("b", paid("2"))]
    assert sorted(invoke(*batch, seconds=source_batch.MARGIN_SECONDS + 0.8)) == ["a", "b"]
    assert time.monotonic() - begun_at < 2.0
    # Each event has a share of the time.
    assert "1 zoo" in fired[:2]
    assert any(name.startswith("2 ") for name in fired)
    for _ in range(10):
        if invoke(message, seconds=source_batch.MARGIN_SECONDS + 0.8) == []:
            break
    assert sorted(name for name in fired if name.startswith("1 ")) == ["1 default"] * len(names) + ["1 zoo"]
    assert all("started" in outcomes(store, name) for name in names)


def register_many(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, lines: str, seconds: float = 0.1
) -> list[str]:
    """Register a playbook whose triggers take so long. Return the list of the keys of the begun firings."""
    register(store, f"triggers:\n{lines}steps: [{{name: a, run: [{{action: log, message: hello}}]}}]")
    fired: list[str] = []
    fire = Firer.fire

    def fire_slowly(firer: Firer, firing: Any, *arguments: Any) -> Any:
        time.sleep(seconds)
        fired.append(firing.key)
        return fire(firer, firing, *arguments)

    monkeypatch.setattr(Firer, "fire", fire_slowly)
    return fired


def test_a_message_of_a_queue_with_many_triggers_leaves_time_to_others(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://sqs.us-east-1.amazonaws.com/123456789012/orders"
    lines = "".join(f"- {{name: t{number}, type: queue, sqs: '{url}'}}\n" for number in range(20))
    fired = register_many(store, monkeypatch, lines)
    begun_at = time.monotonic()
    batch = [record("m-1", {}, ORDERS), record("a", paid("1"))]
    assert invoke(*batch, seconds=source_batch.MARGIN_SECONDS + 0.8) == ["m-1"]
    assert time.monotonic() - begun_at < 2.0
    assert metrics(capsys) == {"Postponed": 1, "Unmatched": 1}
    for _ in range(10):
        if invoke(batch[0], seconds=source_batch.MARGIN_SECONDS + 0.8) == []:
            break
    # What an earlier invocation has fired is not repeated.
    assert fired.count("m-1") == 20
    assert all(outcomes(store, f"t{number}") == ["started"] for number in range(20))


def test_an_event_with_many_triggers_uses_the_time_that_others_leave(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"t{number}" for number in range(16)]
    filtered = "".join(f"- {{name: {name}, type: event, source: shop, if: false}}\n" for name in names[8:])
    lines = "".join(f"- {{name: {name}, type: event, source: shop}}\n" for name in names[:8])
    fired = register_many(store, monkeypatch, lines + filtered)
    small = [record(f"m{number}", paid(f"s{number}", "other")) for number in range(9)]
    # Its share is half a second.
    assert invoke(record("a", paid("1")), *small, seconds=source_batch.MARGIN_SECONDS + 5) == []
    # No trigger is evaluated twice, also none that was filtered.
    assert len(fired) == len(names)
    assert metrics(capsys) == {"Fired": 1, "Unmatched": 9}
    assert all(outcomes(store, name) == ["started"] for name in names[:8])


def test_events_with_many_triggers_share_all_of_the_time(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f"- {{name: t{number}, type: event, source: shop}}\n" for number in range(30))
    fired = register_many(store, monkeypatch, lines)
    small = [record(f"m{number}", paid(f"s{number}", "other")) for number in range(4)]
    seconds = 3.0
    begun_at = time.monotonic()
    batch = [record("a", paid("1")), record("b", paid("2")), *small]
    assert sorted(invoke(*batch, seconds=source_batch.MARGIN_SECONDS + seconds)) == ["a", "b"]
    # No time is left unused, and none is taken from the margin.
    assert seconds <= time.monotonic() - begun_at < seconds + source_batch.MARGIN_SECONDS / 2
    assert metrics(capsys) == {"Postponed": 2, "Unmatched": 4}
    # They have turns of equal length.
    assert fired.count("1") > len(fired) / 4 < fired.count("2")
    assert fired.index("2") < len(fired) / 2 < len(fired) - fired[::-1].index("1")


def test_an_event_whose_triggers_exceed_its_turn_leaves_one_to_the_others(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(f"- {{name: t{number}, type: event, source: shop}}\n" for number in range(2))
    fired = register_many(store, monkeypatch, lines, 0.8)
    batch = [record(id, paid(id)) for id in "123"]
    # A turn has a second, so the first event takes 1.6 seconds.
    invoke(*batch, seconds=source_batch.MARGIN_SECONDS + 3.0)
    assert set(fired) == {"1", "2", "3"}


def test_an_event_that_is_no_batch_of_messages_is_an_error() -> None:
    with pytest.raises(TypeError, match="not a batch"):
        handlers.trigger({"no": "batch"}, TriggerContext())
