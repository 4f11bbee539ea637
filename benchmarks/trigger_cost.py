"""Cost on AWS of what triggers, notifications and limits add to runs: a part of `python -m benchmarks.cost`.

The requests to DynamoDB are those that botocore sends. A firing and a partition count without the start of
their run. A message is sent, received and deleted, and is one invocation. Each measurement is made twice, and
the first one fills the caches.

How many runs a turn of a backfill starts depends on the machine. Here it is TURN_STARTS, so that a slow
machine has the same requests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from benchmarks.meter import AwsMeter
from benchmarks.run_cost import firing_dollars
from noetl.executor.actions import catalogue
from noetl.executor.channels.sender import Sender
from noetl.executor.engine import backfill as backfill_module
from noetl.executor.engine.backfill import perform_backfill
from noetl.executor.engine.backfill_start import BackfillRequest, start_backfill
from noetl.executor.engine.delivery import Courier
from noetl.executor.engine.start import new_run
from noetl.executor.engine.webhook_firing import WebhookRequest, find_webhook, perform_request
from noetl.executor.model.channels import Channel
from noetl.executor.model.gates import SlotRequest, own_gate, own_rate_gate
from noetl.executor.model.outbox import PERFORM_SECONDS
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import wait_for_slot
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan
from noetl.testing.store_contract import gates
from noetl.testing.store_contract.operations import claim_visit, start_run, succeed
from noetl.testing.store_contract.outbox import claim_end, entry, finish
from noetl.testing.store_contract.rates import ask_rate
from tests.http_server import serve

STEPS = "steps: [{name: a, run: [{action: log, message: hello}]}]\n"
WEBHOOK = f"name: hooked\ntriggers: [{{name: w, type: webhook, path: w, auth: {{scheme: none}}}}]\n{STEPS}"
DEBOUNCED = f"name: debounced\ndebounce: {{key: '{{{{ input.key }}}}', wait: 1h}}\n{STEPS}"
NIGHTLY = f"name: nightly\ntriggers: [{{name: n, type: schedule, every: 1d}}]\n{STEPS}"
PARTITIONS = 100
TURN_STARTS = 10
"""How many runs a turn of a backfill starts: each takes some 25 ms, the most of it in requests."""


def measure_additions(store: DynamoStore, meter: AwsMeter) -> dict[str, float]:
    """Return dollars a million, by the name of what is counted."""
    webhook, nightly = _register(store, WEBHOOK), _register(store, NIGHTLY)
    start = _second(lambda: _measure_start(store, meter, webhook))
    return {
        "firings of a webhook": _second(lambda: _measure_webhook(store, meter)) - start,
        "notifications": _second(lambda: _measure_notification(store, meter)),
        "partitions of a backfill": _second(lambda: _measure_partition(store, meter, nightly)) - start,
        "steps with a limit": _second(lambda: _measure_limited_step(store, meter, _new_limit())),
        "steps that wait for a limit": _second(lambda: _measure_queued_step(store, meter)),
        "steps with a rate": _second(lambda: _measure_limited_step(store, meter, _new_rate())),
        "steps that wait for a rate": _second(lambda: _measure_delayed_step(store, meter)),
        "starts that wait for further ones": _second(lambda: _measure_debounced(store, meter, 1)) - start,
        "starts that join a run": _second(lambda: _measure_debounced(store, meter, 2)),
    }


def _second(measure: Callable[[], float]) -> float:
    measure()
    return measure()


def _register(store: DynamoStore, text: str) -> Plan:
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    playbook = RegisteredPlaybook(DEFAULT_TENANT, plan.header.name, None, plan.hash, store.clock())
    store.registry.register(playbook, triggers=plan.header.triggers)
    return plan


def _measure_start(store: DynamoStore, meter: AwsMeter, plan: Plan) -> float:
    meter.read()
    store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time()))
    return meter.read().dollars * 1e6


def _measure_webhook(store: DynamoStore, meter: AwsMeter) -> float:
    """Return dollars of a million requests to a webhook, each with its run. A start is a request, too."""
    body = {"time": time.time_ns()}
    request = WebhookRequest("POST", {}, {}, json.dumps(body).encode(), body)
    meter.read()
    firer = find_webhook(store, DEFAULT_TENANT, "w", store.clock())
    assert firer is not None
    assert perform_request(firer, request, store.clock).run_id is not None
    return meter.read().dollars * 1e6


def _measure_notification(store: DynamoStore, meter: AwsMeter) -> float:
    """Return dollars of a million notifications: what they add to the ends of runs, and their delivery."""
    plain, notified = claim_end(store), claim_end(store)
    meter.read()
    finish(store, plain)
    end = meter.read().dollars
    record: dict[str, Any] = {
        "channel": "ops",
        "event": "cancelled",
        "run_id": notified.run.id,
        "playbook": notified.run.playbook,
        "version": None,
        "status": "cancelled",
        "attempts": 0,
        "waits_for": [],
    }
    notification = entry(f"n{time.time_ns()}", record=record)
    finish(store, notified, notification)
    added = meter.read().dollars - end
    with serve(lambda exchange: exchange.reply(204)) as server:
        target = Channel(DEFAULT_TENANT, "ops", "webhook", server.url(), 1.0)
        if (known := store.channels.get(DEFAULT_TENANT, "ops")) is not None:
            store.channels.remove(known)
        store.channels.put(target, None)
        meter.read()
        began = time.process_time()
        assert Courier(store, Sender(("127.0.0.0/8",))).deliver(notification, store.clock())
        cpu_seconds = time.process_time() - began
    return (added + meter.read().dollars) * 1e6 + firing_dollars(cpu_seconds)


def _measure_debounced(store: DynamoStore, meter: AwsMeter, starts: int) -> float:
    """Return dollars of a million starts of a playbook with `debounce`: of the last of some with one key."""
    compiled = compile_playbook(DEBOUNCED, catalogue()).plan
    assert compiled is not None
    store.plans.save(compiled)
    request = StartRequest({"key": f"{time.time_ns()}"})
    drafts = [new_run(compiled.header, compiled.hash, request, now=time.time()) for _ in range(starts)]
    for draft in drafts:
        meter.read()
        store.runs.create(*draft)
    return meter.read().dollars * 1e6


def _measure_limited_step(store: DynamoStore, meter: AwsMeter, request: SlotRequest) -> float:
    """Return dollars of a million steps with a limit that is not full: what they add to a step without."""
    claim = claim_visit(store, start_run(store))
    commit = _measure_commit(store, meter)
    gates.acquire(store, claim, request)
    for gate in gates.give_back(store, claim):
        store.gates.grant(gate, store.clock())
    return (meter.read().dollars - commit) * 1e6


def _measure_queued_step(store: DynamoStore, meter: AwsMeter) -> float:
    """Return dollars of a million steps that wait for a limit: what they add to a step without.

    A step that waits is one message and one invocation more.
    """
    request = _new_limit()
    holder, claim = gates.hold(store, request), claim_visit(store, start_run(store))
    commit = _measure_commit(store, meter)
    began = time.process_time()
    (slot,) = gates.acquire(store, claim, request)
    gates.suspend_queued(store, claim, slot)
    seconds = time.process_time() - began
    dollars = meter.read().dollars
    freed = gates.give_back(store, holder)
    meter.read()
    assert [store.gates.grant(gate, 3.0) for gate in freed] == [1]
    dollars += meter.read().dollars
    again = claim_visit(store, claim.run, 3.0)
    meter.read()
    gates.acquire(store, again, request)
    for gate in gates.give_back(store, again, 3.0):
        store.gates.grant(gate, 3.0)
    return (dollars + meter.read().dollars - commit) * 1e6 + firing_dollars(seconds)


def _measure_delayed_step(store: DynamoStore, meter: AwsMeter) -> float:
    """Return dollars of a million steps that a rate delays: what they add to a step without.

    A step that waits is one message and one invocation more.
    """
    request = _new_rate()
    gates.hold(store, request)
    claim = claim_visit(store, start_run(store))
    commit = _measure_commit(store, meter)
    began = time.process_time()
    (slot,) = gates.acquire(store, claim, request)
    assert slot.held_at is not None
    begins_at = slot.held_at
    store.queue.commit(wait_for_slot(claim.visit, slot, begins_at, 1.0), 1.0)
    seconds = time.process_time() - began
    dollars = meter.read().dollars
    again = claim_visit(store, claim.run, begins_at)
    meter.read()
    gates.acquire(store, again, request, now=begins_at)
    for gate in gates.give_back(store, again, begins_at):
        store.gates.grant(gate, begins_at)
    return (dollars + meter.read().dollars - commit) * 1e6 + firing_dollars(seconds)


def _measure_commit(store: DynamoStore, meter: AwsMeter) -> float:
    """Return dollars of the commit of a step without limits. What is metered afterwards begins with it."""
    claim = claim_visit(store, start_run(store))
    meter.read()
    store.queue.commit(succeed(store, claim), 1.0)
    return meter.read().dollars


def _new_limit() -> SlotRequest:
    """Return a request for the only unit of a new limit."""
    return gates.ask(own_gate(DEFAULT_TENANT, "play", "a", 0, f"{time.time_ns()}"))


def _new_rate() -> SlotRequest:
    """Return a request for the only unit in a minute of a new rate."""
    return ask_rate(own_rate_gate(DEFAULT_TENANT, "play", "a", 0, f"{time.time_ns()}"))


class _SteadyTime:
    """The time on a machine that starts TURN_STARTS runs in PERFORM_SECONDS. It passes when it is read."""

    def __init__(self) -> None:
        self._reads = 0

    def monotonic(self) -> float:
        """Return seconds."""
        self._reads += 1
        return self._reads * PERFORM_SECONDS / (TURN_STARTS - 0.5)


def _measure_partition(store: DynamoStore, meter: AwsMeter, plan: Plan) -> float:
    """Return dollars of a million partitions, each with its run, and one check of the open runs."""
    trigger = store.triggers.get(DEFAULT_TENANT, plan.header.name, "n")
    assert trigger is not None
    values = [f"{time.time_ns()} {number}" for number in range(PARTITIONS)]
    meter.read()
    began, messages = time.process_time(), 0
    backfill, _ = start_backfill(
        store, trigger, BackfillRequest(partitions=values, limit=PARTITIONS), store.clock()
    )
    while True:
        read = store.outbox.get(DEFAULT_TENANT, backfill.id)
        assert read is not None
        was_started = read.record["counts"]["started"] == PARTITIONS
        with mock.patch.object(backfill_module, "time", _SteadyTime()):
            assert perform_backfill(store, read, store.clock())
        messages += 1
        if was_started:
            break
    seconds = (time.process_time() - began) / messages
    return (meter.read().dollars * 1e6 + messages * firing_dollars(seconds)) / PARTITIONS
