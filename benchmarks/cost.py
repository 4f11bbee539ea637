"""Cost of a step on DynamoDB and SQS, from the requests that botocore sends: `python -m benchmarks.cost`.

Every step of the chain reads the 1 KB result of the step before and saves a result of 1 KB, in its own
invocation, as behind a queue. The text is random, so that compression gains little. The second measurement
is a fork: each of its branches saves a number, and several threads execute them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import string
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks import report, run_cost, trigger_cost
from benchmarks.meter import PRICES, AwsMeter, AwsUsage, lambda_dollars
from benchmarks.playbooks import fan_out, text_chain
from noetl.executor.actions import catalogue
from noetl.executor.clients.aws import client
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import END, Claim, Lease
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome
from noetl.infra.dynamodb import upgrade
from noetl.planner.compile import compile_playbook

RESULT_BYTES = 1024
QUEUE_OPERATIONS = frozenset({"ReceiveMessage", "DeleteMessage"})
"""Requests to the queue before and after every step."""

COLUMNS: Sequence[report.Column] = (
    ("step", lambda row: f"{row['step']:,}"),
    ("requests", lambda row: f"{row['requests']}"),
    ("with receive, delete", lambda row: f"{row['all_requests']}"),
    ("write units", lambda row: f"{row['write_units']:g}"),
    ("read units", lambda row: f"{row['read_units']:g}"),
    ("sent", lambda row: f"{row['sent_bytes']:,} B"),
    ("received", lambda row: f"{row['received_bytes']:,} B"),
    ("dollars a million", lambda row: f"{row['dollars_a_million']:.2f}"),
    ("measured here", lambda row: f"{row['milliseconds']:.0f} ms"),
    ("with Lambda", lambda row: f"{row['with_lambda']:.2f}"),
)
BRANCHES = (10, 100, 1_000)
THREADS = 8
FORK_COLUMNS: Sequence[report.Column] = (
    ("branches", lambda row: f"{row['branches']:,}"),
    ("requests", lambda row: f"{row['requests']:.2f}"),
    ("write units", lambda row: f"{row['write_units']:.2f}"),
    ("read units", lambda row: f"{row['read_units']:.2f}"),
    ("scans of all counters", lambda row: f"{row['looks']:,}"),
    ("dollars a million", lambda row: f"{row['dollars_a_million']:.2f}"),
)
COMPARISON_COLUMNS: Sequence[report.Column] = (
    ("", lambda row: row["name"]),
    ("dollars a million steps", lambda row: f"{row['dollars']:.2f}"),
)


def measure_chain(
    store: DynamoStore,
    queue: str,
    steps: int,
    meter: AwsMeter,
    clock: Callable[[], float],
    *,
    same_invocation: bool = False,
) -> list[tuple[AwsUsage, float]]:
    """Execute a chain. Return the requests to AWS and the seconds of each step.

    With `same_invocation`, one invocation executes all steps.
    """
    compilation = compile_playbook(text_chain(steps), catalogue())
    assert compilation.plan is not None, compilation.diagnostics
    store.plans.save(compilation.plan)
    text = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=RESULT_BYTES))
    store.runs.create(
        *new_run(compilation.plan.header, compilation.plan.hash, StartRequest({"text": text}), now=clock())
    )
    lease = Lease("cost", 30.0)
    executor = VisitExecutor(
        store, lease, local_run_capabilities(Path.cwd()), clock, continues=lambda: same_invocation
    )
    sqs = client("sqs", without_retries=True)
    measurements: list[tuple[AwsUsage, float]] = []
    meter.read()
    while len(measurements) < steps:
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)["Messages"]
        began = time.perf_counter()
        delivered = store.queue.claim_message(message["Body"], lease, clock())
        claim = delivered if isinstance(delivered, Claim) else None
        while claim is not None:
            claim = executor.execute(claim)
            if same_invocation:
                measurements.append((meter.read(), time.perf_counter() - began))
                began = time.perf_counter()
        seconds = time.perf_counter() - began
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        if not same_invocation:
            measurements.append((meter.read(), seconds))
    return measurements


def make_row(step: int, usage: AwsUsage, seconds: float) -> report.Row:
    requests = sum(n for (_, operation), n in usage.requests.items() if operation not in QUEUE_OPERATIONS)
    return {
        "step": step,
        "requests": requests,
        "all_requests": usage.requests.total(),
        "write_units": usage.write_units,
        "read_units": usage.read_units,
        "sent_bytes": usage.sent_bytes,
        "received_bytes": usage.received_bytes,
        "dollars_a_million": usage.dollars * 1e6,
        "milliseconds": seconds * 1e3,
        "with_lambda": (usage.dollars + lambda_dollars(seconds)) * 1e6,
    }


def measure(steps: int, *, same_invocation: bool = False) -> list[report.Row]:
    """Return a row for each decade of the steps of a chain, with an emulator in this process."""
    with ExitStack() as stack:
        queue = stack.enter_context(emulated_account())
        store = open_store()
        assert isinstance(store, DynamoStore)
        meter = stack.enter_context(AwsMeter().attached("dynamodb", "sqs"))
        measurements = measure_chain(store, queue, steps, meter, time.time, same_invocation=same_invocation)
        seconds = statistics.median(taken for _, taken in measurements)
        chosen = [number for number in (2, 10, 100, 1_000, 10_000) if number < steps]
        return [make_row(number, measurements[number - 1][0], seconds) for number in chosen]


def measure_fork(store: DynamoStore, queue: str, branches: int, meter: AwsMeter) -> report.Row:
    """Return the requests to AWS of a run with a fork and a join, divided by the number of branches.

    Threads receive messages as functions do, ten at a time, and execute each step in its own invocation.
    """
    plan = compile_playbook(fan_out(branches), catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    meter.read()
    run = store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=time.time()))
    lease, sqs, is_over = Lease("fan", 60.0), client("sqs", without_retries=True), threading.Event()
    executor = VisitExecutor(store, lease, local_run_capabilities(Path.cwd()), continues=lambda: False)

    def process_messages(_: int) -> None:
        while not is_over.is_set():
            answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in answer.get("Messages", ()):
                claim = store.queue.claim_message(message["Body"], lease, time.time())
                if isinstance(claim, Claim):
                    executor.execute(claim)
                if claim is not MessageOutcome.HELD:
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                if isinstance(claim, Claim) and claim.visit.step == END:
                    is_over.set()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(process_messages, range(THREADS)))
    usage = meter.read()
    visits = Counter(visit.step for visit in store.runs.visits(run.id) if visit.finished_at is not None)
    assert visits == dict.fromkeys(["fork", *(f"b{number}" for number in range(branches)), "join", END], 1)
    return {
        "branches": branches,
        "requests": usage.requests.total() / branches,
        "write_units": usage.write_units / branches,
        "read_units": usage.read_units / branches,
        "looks": usage.count("dynamodb", "TransactGetItems"),
        "queries": usage.count("dynamodb", "Query"),
        "dollars_a_million": usage.dollars * 1e6 / branches,
    }


def measure_forks(widths: Sequence[int] = BRANCHES) -> list[report.Row]:
    """Return a row for every width of a fork, with an emulator in this process."""
    with ExitStack() as stack:
        queue = stack.enter_context(emulated_account())
        store = open_store()
        assert isinstance(store, DynamoStore)
        meter = stack.enter_context(AwsMeter().attached("dynamodb", "sqs"))
        return [measure_fork(store, queue, width, meter) for width in widths]


def measure_run_tables() -> str:
    """Return tables of the cost of whole runs, and of a firing, with an emulator in this process."""
    with ExitStack() as stack:
        queue = stack.enter_context(emulated_account())
        store = open_store()
        assert isinstance(store, DynamoStore)
        meter = stack.enter_context(AwsMeter().attached("dynamodb", "sqs"))
        tables = run_cost.render_tables(run_cost.measure_shapes(store, queue, meter))
        firing = run_cost.measure_firing(store, meter)
        event = run_cost.measure_event_firing(store, meter)
        additions = {"firings of a schedule": firing, "firings by events": event}
        additions |= trigger_cost.measure_additions(store, meter)
        rows = "".join(f"| {name} | {dollars:.2f} |\n" for name, dollars in additions.items())
        return f"{tables}\n| dollars a million | |\n| --- | --- |\n{rows}"


def create_bucket() -> str:
    """Create a bucket, and return its name. All accounts of an emulator share the names of buckets."""
    name = f"noetl-{uuid.uuid4().hex}"
    client("s3").create_bucket(Bucket=name)
    return name


@contextmanager
def emulated_account() -> Iterator[str]:
    """Run an emulator with a table and a queue, and yield the URL of the queue."""
    from tests.aws import empty_account, running_emulator

    with (
        running_emulator() as server,
        pytest.MonkeyPatch.context() as patch,
        empty_account(server, patch) as make_client,
    ):
        upgrade("noetl")
        queue: str = make_client("sqs").create_queue(QueueName="noetl")["QueueUrl"]
        patch.setenv("NOETL_STORE", "dynamodb://noetl")
        patch.setenv("NOETL_QUEUE", queue)
        yield queue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_010, help="number of steps of the chain")
    steps = parser.parse_args().steps
    print(f"{PRICES['region']}, prices of {PRICES['as_of']}: {PRICES['source']}\n")
    print(measure_run_tables())
    rows = measure(steps)
    print(report.table("A step that reads 1 KB and saves 1 KB, in an invocation of its own", COLUMNS, rows))
    same_invocation_rows = measure(min(steps, 110), same_invocation=True)
    print(report.table("The same, in the invocation of the step before", COLUMNS, same_invocation_rows))
    title = f"A branch of a fork with one join, {THREADS} threads, each step in an invocation of its own"
    print(report.table(title, FORK_COLUMNS, measure_forks()))
    ours = [
        {"name": "noetl, an invocation a step", "dollars": rows[-1]["with_lambda"]},
        {"name": "noetl, many steps an invocation", "dollars": same_invocation_rows[-1]["with_lambda"]},
    ]
    competitors = [{"name": name, **price} for name, price in PRICES["others_per_million_steps"].items()]
    print(report.table("Compared with", COMPARISON_COLUMNS, [*ours, *competitors]))


if __name__ == "__main__":
    main()
