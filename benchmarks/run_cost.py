"""Cost of whole runs on AWS, and of other services for the same runs: a part of `python -m benchmarks.cost`.

The requests to DynamoDB, S3 and SQS are those that botocore sends, from the start of a run to its end. Up to
ten messages are one invocation. It executes them at the same time and continues with the steps that follow.
The time of an invocation is its processor time here, divided by the share of a processor that its memory has.
The rest is arithmetic with the prices and sizes in `prices.json`.
"""

from __future__ import annotations

import json
import math
import random
import string
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.meter import PRICES, AwsMeter, AwsUsage
from benchmarks.playbooks import fan_out, text_chain
from noetl.executor.actions import catalogue
from noetl.executor.clients.aws import client
from noetl.executor.engine.bus_firing import EventMessage, EventOutcome, find_event_firings
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.engine.start import new_run
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import DEFAULT_TENANT, END, Claim, Lease
from noetl.executor.model.start_request import StartRequest
from noetl.executor.runtime.source_triggers import read_event_triggers
from noetl.executor.security.allowed_sources import AllowedSources
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.dynamo.attributes import decode_item, size_of
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.planner.compile import compile_playbook

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "portable.yaml"
TABLE = "noetl"
BATCH = 10
RESULT_BYTES = 1024
REPEATS = 5
GIGABYTE = 1e9
SCHEDULED = """
name: scheduled
triggers: [{name: often, type: schedule, every: 1m}]
steps: [{name: a, run: [{action: log, message: hello}]}]
"""
AWAITING = """
name: awaiting
triggers: [{name: paid, type: event, source: shop, input: {order: "{{ trigger.detail }}"}}]
input: {order: object}
steps: [{name: a, run: [{action: log, message: hello}]}]
"""
FIRING_MESSAGES = 3
"""Requests to SQS for the message about a firing: it is sent, received and deleted."""

PARTS = ("DynamoDB", "SQS", "Lambda", "Logs", "API")


@dataclass(frozen=True, slots=True)
class RunMeasurement:
    """Use of a run: requests, invocations, their processor time, and the bytes that it leaves."""

    usage: AwsUsage
    invocations: int
    cpu_seconds: float
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class MeasuredShape:
    """A playbook, the number of its steps, and the bytes that each of them saves."""

    name: str
    playbook: str
    steps: int
    result_bytes: int
    inputs: Mapping[str, Any]


def make_shapes(text: str) -> list[MeasuredShape]:
    """Return the shapes that the page about AWS compares."""
    return [
        MeasuredShape("chain of 10", text_chain(10), 10, len(text), {"text": text}),
        MeasuredShape("fork of 10", fan_out(10), 12, 0, {}),
        MeasuredShape("portable.yaml", EXAMPLE.read_text("utf-8"), 4, 0, {}),
        MeasuredShape("one step", text_chain(1), 1, len(text), {"text": text}),
    ]


def measure_run(store: DynamoStore, queue: str, shape: MeasuredShape, meter: AwsMeter) -> RunMeasurement:
    """Execute a run of a shape as functions do, and return what it uses."""
    plan = compile_playbook(shape.playbook, catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    bytes_before = _stored_bytes()
    meter.read()
    store.runs.create(*new_run(plan.header, plan.hash, StartRequest(dict(shape.inputs)), now=time.time()))
    lease, sqs = Lease("cost", 60.0), client("sqs", without_retries=True)
    executor = VisitExecutor(store, lease, local_run_capabilities(Path.cwd()), continues=lambda: True)

    def process(message: Mapping[str, Any]) -> bool:
        """Execute a visit and those that follow. Return whether the last one is the end of the run."""
        delivered = store.queue.claim_message(message["Body"], lease, time.time())
        claim = delivered if isinstance(delivered, Claim) else None
        is_over = False
        while claim is not None:
            is_over = claim.visit.step == END
            claim = executor.execute(claim)
        return is_over

    invocations, cpu_seconds, is_over = 0, 0.0, False
    with ThreadPoolExecutor(BATCH) as pool:
        while not is_over:
            reply = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=BATCH, WaitTimeSeconds=1)
            messages = reply.get("Messages", [])
            began = time.process_time()
            is_over = any(list(pool.map(process, messages)))
            cpu_seconds += time.process_time() - began
            invocations += bool(messages)
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages)
            ]
            if entries:
                sqs.delete_message_batch(QueueUrl=queue, Entries=entries)
    usage = meter.read()
    return RunMeasurement(usage, invocations, cpu_seconds, _stored_bytes() - bytes_before)


def measure_firing(store: DynamoStore, meter: AwsMeter) -> float:
    """Return dollars of a million firings of a schedule, beyond what as many starts by requests cost.

    A sweep sends a message about each, and an invocation receives and deletes it. The first firing fills the
    caches.
    """
    plan = compile_playbook(SCHEDULED, catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    playbook = RegisteredPlaybook(DEFAULT_TENANT, plan.header.name, None, plan.hash, store.clock())
    store.registry.register(playbook, triggers=plan.header.triggers)
    for _ in range(2):
        meter.read()
        began = time.process_time()
        trigger = store.triggers.get(DEFAULT_TENANT, plan.header.name, "often")
        assert trigger is not None
        assert trigger.due_at is not None
        assert perform_due(store, trigger, trigger.due_at) is not None
        cpu_seconds = time.process_time() - began
        fired = meter.read()
    store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time()))
    started = meter.read()
    return float((fired.dollars - started.dollars) * 1e6 + firing_dollars(cpu_seconds))


def measure_event_firing(store: DynamoStore, meter: AwsMeter) -> float:
    """Return dollars of a million firings by events, beyond what as many starts by requests cost.

    A rule sends each event to the queue, and an invocation receives and deletes it. The first firing fills
    the caches.
    """
    plan = compile_playbook(AWAITING, catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    playbook = RegisteredPlaybook(DEFAULT_TENANT, plan.header.name, None, plan.hash, store.clock())
    store.registry.register(playbook, triggers=plan.header.triggers)
    allowed = AllowedSources({(DEFAULT_TENANT, "event"): ("shop",)}, "queue")
    for number in range(2):
        event = {"id": f"e-{number}", "source": "shop", "detail-type": "Paid", "detail": {"id": number}}
        meter.read()
        began = time.process_time()
        message = EventMessage("message", json.dumps(event), time.time())
        firings = find_event_firings(read_event_triggers(store, allowed), message)
        assert firings is not None
        assert firings.perform_until(math.inf) is EventOutcome.FIRED
        cpu_seconds = time.process_time() - began
        fired = meter.read()
    request = StartRequest({"order": {"id": 1}})
    store.runs.create(*new_run(plan.header, plan.hash, request, now=time.time()))
    started = meter.read()
    return float((fired.dollars - started.dollars) * 1e6 + firing_dollars(cpu_seconds)) + float(
        PRICES["per_million"]["bus_events"]
    )


def firing_dollars(cpu_seconds: float) -> float:
    """Return dollars of a million messages about firings, and of as many invocations."""
    prices = PRICES["per_million"]
    invocation = prices["lambda_requests"] + _log_dollars(PRICES["lambda_log_bytes"])
    invocation += _compute_dollars(cpu_seconds, PRICES["lambda_memory_megabytes"])
    return float(FIRING_MESSAGES * prices["sqs_requests"] + invocation)


def _stored_bytes() -> int:
    """Return the bytes for which DynamoDB charges: those of items in table and indexes, and 100 for each."""
    dynamodb = client("dynamodb")
    scans: tuple[dict[str, str], ...] = ({}, {"IndexName": "runs"}, {"IndexName": "open"})
    return sum(
        size_of(decode_item(item)) + PRICES["dynamodb_item_overhead_bytes"]
        for index in scans
        for page in dynamodb.get_paginator("scan").paginate(TableName=TABLE, **index)
        for item in page["Items"]
    )


def compute_dollars(run: RunMeasurement) -> dict[str, float]:
    """Return dollars of a million runs by service, and `Storage` of a million runs for a month."""
    prices = PRICES["per_million"]
    sqs = run.usage.count("sqs") * prices["sqs_requests"]
    api = PRICES["requests_per_run"] * (
        prices["api_requests"]
        + prices["lambda_requests"]
        + _compute_dollars(PRICES["api_cpu_seconds"], PRICES["api_memory_megabytes"])
        + _log_dollars(PRICES["api_log_bytes"])
        + prices["dynamodb_read_units"]
    )
    function = _compute_dollars(run.cpu_seconds, PRICES["lambda_memory_megabytes"])
    return {
        "DynamoDB": run.usage.dollars * 1e6 - sqs,
        "SQS": sqs,
        "Lambda": run.invocations * prices["lambda_requests"] + function,
        "Logs": _log_dollars(run.invocations * PRICES["lambda_log_bytes"]),
        "API": api,
        "Storage": run.stored_bytes * PRICES["dynamodb_storage_gigabyte_month"] * 1e6 / GIGABYTE,
    }


def _compute_dollars(cpu_seconds: float, megabytes: int) -> float:
    """Return dollars of a million invocations that need this processor time, with this memory."""
    seconds = cpu_seconds * PRICES["lambda_megabytes_per_processor"] / megabytes
    return float(seconds * megabytes / 1024 * PRICES["lambda_arm_gigabyte_second"] * 1e6)


def _log_dollars(bytes_of_run: float) -> float:
    return float(bytes_of_run * PRICES["log_gigabyte"] * 1e6 / GIGABYTE)


def compare_services(shape: MeasuredShape, run: RunMeasurement) -> dict[str, float]:
    """Return dollars of a million runs of a shape on each other service, without its work.

    Steps only pass on data, so no other function is needed. Requests come through the same gateway.
    """
    prices, gateway = (
        PRICES["per_million"],
        PRICES["requests_per_run"] * PRICES["per_million"]["api_requests"],
    )
    express_seconds = math.ceil(shape.steps * PRICES["express_seconds_per_step"] * 10) / 10
    express_log_bytes = 2 * (shape.steps + 1) * PRICES["express_log_bytes_per_event"]
    express = prices["express_requests"] + _log_dollars(express_log_bytes)
    express += express_seconds * 64 / 1024 * PRICES["express_gigabyte_second"] * 1e6
    operations = shape.steps + 1
    durable = operations * prices["durable_operations"] + prices["lambda_requests"]
    durable += shape.steps * shape.result_bytes * PRICES["durable_gigabyte_written"] * 1e6 / GIGABYTE
    durable += _compute_dollars(
        shape.steps * PRICES["durable_cpu_seconds"], PRICES["lambda_memory_megabytes"]
    )
    durable += _log_dollars(PRICES["lambda_log_bytes"])
    return {
        "NoETL": sum(dollars for part, dollars in compute_dollars(run).items() if part in PARTS),
        "Step Functions Standard": (shape.steps + 1) * prices["standard_transitions"] + gateway,
        "Step Functions Express": express + gateway,
        "Lambda durable functions": durable + gateway,
    }


def idle_dollars() -> dict[str, float]:
    """Return dollars a month of a stack that does nothing, by what causes them."""
    prices, idle = PRICES["per_million"], PRICES["idle_month"]
    sweep = idle["sweeps"] * (
        prices["lambda_requests"] + idle["sweep_read_units"] * prices["dynamodb_read_units"]
    )
    sweep += idle["sweeps"] * _compute_dollars(idle["sweep_cpu_seconds"], PRICES["lambda_memory_megabytes"])
    return {
        "alarms": idle["alarms"] * PRICES["alarm_month"],
        "metrics of the sweep": idle["metrics"] * PRICES["metric_month"],
        "empty receives of two queues": idle["receives"] * prices["sqs_requests"] / 1e6,
        "sweep, once a minute": sweep / 1e6,
        "its log": idle["sweeps"] * PRICES["lambda_log_bytes"] * PRICES["log_gigabyte"] / GIGABYTE,
    }


def measure_shapes(
    store: DynamoStore, queue: str, meter: AwsMeter, repeats: int = REPEATS
) -> list[report.Row]:
    """Return a row for each shape: the run with the median cost, after one that fills the caches."""
    text = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=RESULT_BYTES))
    rows = []
    for shape in make_shapes(text):
        runs = [measure_run(store, queue, shape, meter) for _ in range(repeats + 1)][1:]
        run = sorted(runs, key=_total)[len(runs) // 2]
        rows.append(
            {
                "name": shape.name,
                "steps": shape.steps,
                "dollars": compute_dollars(run),
                "services": compare_services(shape, run),
            }
        )
    return rows


def _total(run: RunMeasurement) -> float:
    return sum(compute_dollars(run).values())


def render_tables(rows: Sequence[report.Row]) -> str:
    """Return the tables of the page about AWS, in Markdown."""
    names = [row["name"] for row in rows]
    head = f"| dollars a million runs | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}"
    total = [sum(row["dollars"][part] for part in PARTS) for row in rows]

    def line(name: str, values: Sequence[float]) -> str:
        return f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |"

    parts = [line(part, [row["dollars"][part] for row in rows]) for part in PARTS]
    summary = [line("**sum**", total)]
    summary.append(
        line("a million steps", [sum_ / row["steps"] for sum_, row in zip(total, rows, strict=True)])
    )
    summary.append(line("storage, for each month", [row["dollars"]["Storage"] for row in rows]))
    services = [line(name, [row["services"][name] for row in rows]) for name in rows[0]["services"]]
    idle = idle_dollars()
    months = [
        f"| {name} | {dollars:.2f} |" for name, dollars in {**idle, "**sum**": sum(idle.values())}.items()
    ]
    return "\n".join(
        [head, *parts, *summary, "", head, *services, "", "| dollars a month | |\n| --- | --- |", *months, ""]
    )
