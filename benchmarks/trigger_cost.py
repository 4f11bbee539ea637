"""Cost on AWS of what triggers and notifications add to runs: a part of `python -m benchmarks.cost`.

The requests to DynamoDB are those that botocore sends. A firing and a partition count without the start of
their run. A message is sent, received and deleted, and is one invocation. Each measurement is made twice, and
the first one fills the caches.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.meter import AwsMeter
from benchmarks.run_cost import firing_dollars
from noetl.executor.actions import catalogue
from noetl.executor.channels.sender import Sender
from noetl.executor.engine.backfill import perform_backfill
from noetl.executor.engine.backfill_start import BackfillRequest, start_backfill
from noetl.executor.engine.delivery import Courier
from noetl.executor.engine.start import new_run
from noetl.executor.engine.webhook_firing import WebhookRequest, find_webhook, perform_request
from noetl.executor.model.channels import Channel
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan
from noetl.testing.store_contract.outbox import claim_end, entry, finish
from tests.http_server import serve

STEPS = "steps: [{name: a, run: [{action: log, message: hello}]}]\n"
WEBHOOK = f"name: hooked\ntriggers: [{{name: w, type: webhook, path: w, auth: {{scheme: none}}}}]\n{STEPS}"
NIGHTLY = f"name: nightly\ntriggers: [{{name: n, type: schedule, every: 1d}}]\n{STEPS}"
PARTITIONS = 100


def measure_additions(store: DynamoStore, meter: AwsMeter) -> dict[str, float]:
    """Return dollars a million, by the name of what is counted."""
    webhook, nightly = _register(store, WEBHOOK), _register(store, NIGHTLY)
    start = _second(lambda: _measure_start(store, meter, webhook))
    return {
        "firings of a webhook": _second(lambda: _measure_webhook(store, meter)) - start,
        "notifications": _second(lambda: _measure_notification(store, meter)),
        "partitions of a backfill": _second(lambda: _measure_partition(store, meter, nightly)) - start,
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
        assert perform_backfill(store, read, store.clock())
        messages += 1
        if was_started:
            break
    seconds = (time.process_time() - began) / messages
    return (meter.read().dollars * 1e6 + messages * firing_dollars(seconds)) / PARTITIONS
