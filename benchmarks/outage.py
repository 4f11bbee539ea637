"""Runs during an outage of their table: `python -m benchmarks.outage`.

Starts runs, and passes their messages to the functions as Lambda does, with the visibility timeout and the
dead-letter queue of the template. Meanwhile the table refuses, throttles or does not answer the requests of
the functions, by faults that are injected into botocore. After the outage every run must continue within
LIMIT_SECONDS, and none may fail. Otherwise the command fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import report
from benchmarks.cost import emulated_account
from noetl.executor import lambda_handler
from noetl.executor.actions import catalogue
from noetl.executor.clients.aws import client
from noetl.executor.engine.start import new_run
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.runtime import message_batch
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.planner.compile import compile_playbook
from tests.aws_faults import DENIED, TIMEOUT, Capacity, Fault, faulty_table

LIMIT_SECONDS = 60.0
VISIBILITY_SECONDS = 720
FUNCTION_SECONDS = 120.0
MAX_RECEIVES = 5
SHARE = 0.05
WARM_UP_SECONDS = 5.0
SWEEP_SECONDS = 60.0

COLUMNS: Sequence[report.Column] = (
    ("outage", lambda row: row["outage"]),
    ("seconds", lambda row: f"{row['seconds']:.0f}"),
    ("runs", lambda row: f"{row['runs']:,}"),
    ("failed", lambda row: f"{row['failed']:,}"),
    ("not ended", lambda row: f"{row['open']:,}"),
    ("refused requests", lambda row: f"{row['refused']:,}"),
    ("messages that were returned", lambda row: f"{row['returned']:,}"),
    ("last run ended after recovery", lambda row: f"{row['recovery']:.1f} s"),
)

CHAIN = """
name: chain
steps:
- {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b]}]}
- {name: b, run: [{action: wait, seconds: 1}], rule: [{case: default, run: [c]}]}
- {name: c, run: [{action: set, set: {n: "{{ n + 1 }}"}}], rule: [{case: default, run: [d]}]}
- {name: d, run: [{action: set, set: {n: "{{ n + 1 }}"}}]}
"""


@dataclass
class Context:
    """The context of an invocation."""

    aws_request_id: str
    function_name: str = "step"
    ends_at: float = field(default_factory=lambda: time.monotonic() + FUNCTION_SECONDS)

    def get_remaining_time_in_millis(self) -> int:
        return int((self.ends_at - time.monotonic()) * 1000)


class Functions:
    """The functions of a stack, called with the messages of their queues by `threads` threads."""

    def __init__(self, queue: str, threads: int) -> None:
        sqs = client("sqs", without_retries=True)
        self.dead_letters: str = sqs.create_queue(QueueName="dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=self.dead_letters, AttributeNames=["QueueArn"])
        redrive = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVES}
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": json.dumps(redrive)})
        self.counts: Counter[str] = Counter()
        self._sqs = sqs
        self._is_over = threading.Event()
        pollers: list[tuple[Callable[[Any, Any], dict[str, Any]], str]] = [
            *[(lambda_handler.step, queue)] * threads,
            (lambda_handler.dead_letter, self.dead_letters),
        ]
        self._threads = [threading.Thread(target=self._poll, args=poller) for poller in pollers]
        self._threads.append(threading.Thread(target=self._sweep))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Call the functions during this block. Their metrics are not printed."""
        with contextlib.redirect_stdout(io.StringIO()):
            for thread in self._threads:
                thread.start()
            try:
                yield
            finally:
                self._is_over.set()
                for thread in self._threads:
                    thread.join()

    def _poll(self, function: Callable[[Any, Any], dict[str, Any]], queue: str) -> None:
        while not self._is_over.is_set():
            messages = self._sqs.receive_message(
                QueueUrl=queue,
                MaxNumberOfMessages=10,
                WaitTimeSeconds=1,
                VisibilityTimeout=VISIBILITY_SECONDS,
                AttributeNames=["All"],
            ).get("Messages", ())
            if messages:
                self._invoke(function, queue, messages)

    def _invoke(
        self,
        function: Callable[[Any, Any], dict[str, Any]],
        queue: str,
        messages: Sequence[Mapping[str, Any]],
    ) -> None:
        records = [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
                "eventSourceARN": f"arn:aws:sqs:us-east-1:1:{queue.rpartition('/')[2]}",
            }
            for message in messages
        ]
        self.counts["released"] += sum('"released":' in record["body"] for record in records)
        try:
            answer = function({"Records": records}, Context(records[0]["messageId"]))
        except Exception:  # noqa: BLE001  Lambda delivers the messages of such an invocation again.
            self.counts["errors"] += 1
            return
        failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        self.counts["failures"] += len(failed)
        for record in records:
            if record["messageId"] not in failed:
                self._sqs.delete_message(QueueUrl=queue, ReceiptHandle=record["receiptHandle"])

    def _sweep(self) -> None:
        while not self._is_over.wait(SWEEP_SECONDS):
            with contextlib.suppress(Exception):
                lambda_handler.sweep({}, Context("sweep"))


class Outage:
    """A fault that begins and ends. `needed` are the requests in a second while the table was healthy."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.is_active = False
        self.refused = 0
        self.requests = 0
        self._fault: Fault = {"denied": lambda _: DENIED, "silent": lambda _: TIMEOUT}.get(
            kind, lambda _: None
        )

    def begin(self, needed: float) -> None:
        """Begin. A throttled table serves SHARE of what is needed."""
        if self.kind == "throttled":
            self._fault = Capacity(needed * SHARE)
        self.is_active = True

    def __call__(self, operation: str) -> str | None:
        self.requests += 1
        code = self._fault(operation) if self.is_active else None
        self.refused += code is not None
        return code


def start_runs(store: Store, count: int) -> list[Run]:
    """Start runs of CHAIN."""
    compilation = compile_playbook(CHAIN, catalogue())
    assert compilation.plan is not None, compilation.diagnostics
    plan = compilation.plan
    store.plans.save(plan)
    request = StartRequest({}, origin="service")
    return [
        store.runs.create(*new_run(plan.header, plan.hash, request, now=time.time())) for _ in range(count)
    ]


def measure(kind: str, seconds: float, *, runs: int, threads: int = 8) -> report.Row:
    """Return what an outage of a kind does to runs that are active when it begins."""
    logging.getLogger("noetl").setLevel(logging.CRITICAL)
    message_batch.warm_state.cache_clear()
    with emulated_account() as queue:
        functions, outage = Functions(queue, threads), Outage(kind)
        store = open_store()
        with faulty_table(outage), functions.running():
            began_at = time.monotonic()
            start_runs(store, runs)
            while time.monotonic() < began_at + WARM_UP_SECONDS:
                time.sleep(0.1)
            started = start_runs(store, runs)
            outage.begin(outage.requests / (time.monotonic() - began_at))
            time.sleep(seconds)
            outage.is_active = False
            recovered_at = time.monotonic()
            statuses = wait_for(store, started, recovered_at + 2 * LIMIT_SECONDS)
            recovery = time.monotonic() - recovered_at
        store.close()
    message_batch.warm_state.cache_clear()
    return {
        "outage": kind,
        "seconds": seconds,
        "runs": runs,
        "failed": sum(status.is_final and status is not RunStatus.SUCCEEDED for status in statuses),
        "open": sum(not status.is_final for status in statuses),
        "refused": outage.refused,
        "returned": functions.counts["released"] + functions.counts["failures"],
        "recovery": recovery,
    }


def wait_for(store: Store, runs: Sequence[Run], until: float) -> list[RunStatus]:
    """Return the statuses of runs when all have ended, or at a time on `time.monotonic`."""
    while True:
        statuses = [position.status for position in store.runs.positions([run.id for run in runs]).values()]
        if all(status.is_final for status in statuses) or time.monotonic() > until:
            return statuses
        time.sleep(0.25)


def is_harmless(row: report.Row) -> bool:
    """Return whether no run failed, and all have ended in time after the outage."""
    return bool(row["failed"] == row["open"] == 0 and row["recovery"] <= LIMIT_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=["denied", "throttled", "silent"])
    parser.add_argument("--seconds", type=float, default=600.0, help="length of each outage")
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    rows = [measure(kind, arguments.seconds, runs=arguments.runs) for kind in arguments.kinds]
    print(report.table("Runs during an outage of their table", COLUMNS, rows))
    if not all(map(is_harmless, rows)):
        sys.exit("a run failed, or continued too late")


if __name__ == "__main__":
    main()
