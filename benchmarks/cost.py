"""`python -m benchmarks.cost`: what a step costs on DynamoDB and SQS, from the requests that are really made; and what a branch
of ten and one of a thousand do.

Every step of the chain reads the 1 KB result of the one before and saves one of its own, in an invocation of its own, as
behind a queue. The text is random letters, so that compressing it gains as little as it can. The branches of a fork save a
number each, and are walked by several threads.
"""

from __future__ import annotations

import argparse
import random
import statistics
import string
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from noetl.executor.actions import catalogue
from noetl.executor.clients.aws import client
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import END, Claim, Lease
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome
from noetl.infra.dynamodb import upgrade
from noetl.planner.compile import compile_playbook

from benchmarks import report
from benchmarks.meter import PRICES, Meter, Usage, lambda_dollars
from benchmarks.playbooks import fan_out

RESULT_BYTES = 1024
BEFORE = frozenset({"ReceiveMessage", "DeleteMessage"})
"""What is asked of the queue before and after a step, whatever the step does."""

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
FANS: Sequence[report.Column] = (
    ("branches", lambda row: f"{row['branches']:,}"),
    ("requests", lambda row: f"{row['requests']:.2f}"),
    ("write units", lambda row: f"{row['write_units']:.2f}"),
    ("read units", lambda row: f"{row['read_units']:.2f}"),
    ("looks at all counters", lambda row: f"{row['looks']:,}"),
    ("dollars a million", lambda row: f"{row['dollars_a_million']:.2f}"),
)
OTHERS: Sequence[report.Column] = (
    ("", lambda row: row["name"]),
    ("dollars a million steps", lambda row: f"{row['dollars']:.2f}"),
)


def chain(steps: int) -> str:
    """A playbook of so many steps, each of which reads what the one before it has saved."""
    lines = ["name: cost", "input: {text: string}", "steps:"]
    for number in range(steps):
        before = "input.text" if number == 0 else f"r{number - 1}"
        value = f"{{{{ {before}[7:] ~ {before}[:7] }}}}"
        goes_on = f", rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < steps else ""
        lines.append(f'- {{name: s{number}, run: [{{action: set, set: {{r{number}: "{value}"}}}}]{goes_on}}}')
    return "\n".join(lines)


def walked(
    store: DynamoStore,
    queue: str,
    steps: int,
    meter: Meter,
    clock: Callable[[], float],
    *,
    walks_on: bool = False,
) -> list[tuple[Usage, float]]:
    """What each step of a chain asks of AWS, and how many seconds it takes. With `walks_on` one invocation walks them all."""
    found = compile_playbook(chain(steps), catalogue())
    assert found.plan is not None, found.diagnostics
    store.save_plan(found.plan)
    text = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=RESULT_BYTES))
    store.create_run(*new_run(found.plan.header, found.plan.hash, {"text": text}, now=clock()))
    lease = Lease("cost", 30.0)
    walker = VisitExecutor(
        store, lease, local_run_capabilities(Path.cwd()), clock, continues=lambda: walks_on
    )
    sqs = client("sqs", once=True)
    spent: list[tuple[Usage, float]] = []
    meter.read()
    while len(spent) < steps:
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)["Messages"]
        began = time.perf_counter()
        claim = store.claim_message(message["Body"], lease, clock())
        while isinstance(claim, Claim):
            claim = walker.execute(claim)
            if walks_on:
                spent.append((meter.read(), time.perf_counter() - began))
                began = time.perf_counter()
        seconds = time.perf_counter() - began
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        if not walks_on:
            spent.append((meter.read(), seconds))
    return spent


def row_of(step: int, usage: Usage, seconds: float) -> report.Row:
    asked = sum(n for (_, operation), n in usage.requests.items() if operation not in BEFORE)
    return {
        "step": step,
        "requests": asked,
        "all_requests": usage.requests.total(),
        "write_units": usage.write_units,
        "read_units": usage.read_units,
        "sent_bytes": usage.sent_bytes,
        "received_bytes": usage.received_bytes,
        "dollars_a_million": usage.dollars * 1e6,
        "milliseconds": seconds * 1e3,
        "with_lambda": (usage.dollars + lambda_dollars(seconds)) * 1e6,
    }


def measure(steps: int, *, walks_on: bool = False) -> list[report.Row]:
    """A row for each decade of the steps of a chain, on an emulator of this process."""
    with ExitStack() as stack:
        queue = stack.enter_context(emulated())
        store = open_store()
        assert isinstance(store, DynamoStore)
        meter = stack.enter_context(Meter().attached("dynamodb", "sqs"))
        spent = walked(store, queue, steps, meter, time.time, walks_on=walks_on)
        seconds = statistics.median(taken for _, taken in spent)
        chosen = [number for number in (2, 10, 100, 1_000, 10_000) if number < steps]
        return [row_of(number, spent[number - 1][0], seconds) for number in chosen]


def fan(store: DynamoStore, queue: str, branches: int, meter: Meter) -> report.Row:
    """What a run that forks into so many branches, which come together, asks of AWS for each of them: with fork, join and end.
    Threads take its messages as functions do, ten at once, and walk each step in an invocation of its own.
    """
    plan = compile_playbook(fan_out(branches), catalogue()).plan
    assert plan is not None
    store.save_plan(plan)
    meter.read()
    run = store.create_run(*new_run(plan.header, plan.hash, {}, now=time.time()))
    lease, sqs, is_over = Lease("fan", 60.0), client("sqs", once=True), threading.Event()
    walker = VisitExecutor(store, lease, local_run_capabilities(Path.cwd()), continues=lambda: False)

    def walk(_: int) -> None:
        while not is_over.is_set():
            answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            for message in answer.get("Messages", ()):
                found = store.claim_message(message["Body"], lease, time.time())
                if isinstance(found, Claim):
                    walker.execute(found)
                if found is not MessageOutcome.HELD:
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                if isinstance(found, Claim) and found.visit.step == END:
                    is_over.set()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(walk, range(THREADS)))
    usage = meter.read()
    visits = Counter(visit.step for visit in store.visits(run.id) if visit.finished_at is not None)
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


def fans(widths: Sequence[int] = BRANCHES) -> list[report.Row]:
    """A row for every width of a fork, on an emulator of this process."""
    with ExitStack() as stack:
        queue = stack.enter_context(emulated())
        store = open_store()
        assert isinstance(store, DynamoStore)
        meter = stack.enter_context(Meter().attached("dynamodb", "sqs"))
        return [fan(store, queue, width, meter) for width in widths]


def emulated() -> Any:
    """An account with a table and a queue, in an emulator that ends with the block; the URL of the queue."""
    from contextlib import contextmanager

    from tests import aws

    @contextmanager
    def opened() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            server = aws.aws_server.__wrapped__()  # type: ignore[attr-defined]
            url = next(server)
            account = aws.aws.__wrapped__(url, patch)  # type: ignore[attr-defined]
            of = next(account)
            upgrade("noetl")
            queue = of("sqs").create_queue(QueueName="noetl")["QueueUrl"]
            patch.setenv("NOETL_STORE", "dynamodb://noetl")
            patch.setenv("NOETL_QUEUE", queue)
            yield queue
            next(account, None)
            next(server, None)

    return opened()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_010, help="how long the chain is")
    steps = parser.parse_args().steps
    print(f"{PRICES['region']}, prices of {PRICES['as_of']}: {PRICES['source']}\n")
    rows = measure(steps)
    print(report.table("A step that reads 1 KB and saves 1 KB, in an invocation of its own", COLUMNS, rows))
    on = measure(min(steps, 110), walks_on=True)
    print(report.table("The same, in the invocation of the step before", COLUMNS, on))
    title = f"A branch of a fork with one join, {THREADS} threads, each step in an invocation of its own"
    print(report.table(title, FANS, fans()))
    ours = [
        {"name": "noetl, an invocation a step", "dollars": rows[-1]["with_lambda"]},
        {"name": "noetl, many steps an invocation", "dollars": on[-1]["with_lambda"]},
    ]
    others = [{"name": name, **told} for name, told in PRICES["others_per_million_steps"].items()]
    print(report.table("Beside", OTHERS, [*ours, *others]))


if __name__ == "__main__":
    main()
