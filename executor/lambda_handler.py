"""The AWS Lambda functions of the executor.

`step` executes the visits that queue messages name, `dead_letter` fails those whose messages were retried too
often, and `sweep` sends missing messages again.

The import of this module needs no settings; a missing setting is reported when it is first needed. In Lambda,
everything that the first message needs is loaded at import time. The initialization of a function has more
processor time than its invocations.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from noetl.executor.errors import ActionError, MessageError, SettingError, StoreError
from noetl.executor.model.run import Claim, Lease, Run, RunStatus
from noetl.executor.runtime.json_logs import LOG_CONTEXT, log_as_json_lines
from noetl.executor.stores import create_clients, import_store, open_store
from noetl.planner.frozen import frozen
from noetl.planner.gc_control import gc_frozen

if TYPE_CHECKING:
    from noetl.executor.engine.invocation import VisitExecutor
    from noetl.executor.security.capabilities import Capabilities
    from noetl.executor.stores.interface import QueuedStore

COMMIT_MARGIN_SECONDS = 2.0
"""The time of an invocation that is reserved for the commit of a step that used all of its time."""

CONTINUE_FRACTION = 0.5
"""The first part of an invocation, in which it also executes following visits.

Later ones get a new invocation.
"""

MAX_CONCURRENT_MESSAGES = 10

logger = logging.getLogger("noetl.executor")


class LambdaContext(Protocol):
    """The part of Lambda's context object that is used."""

    aws_request_id: str
    function_name: str

    def get_remaining_time_in_millis(self) -> int: ...


@frozen
class WarmState:
    """The objects that all invocations of one process share."""

    store: QueuedStore
    capabilities: Capabilities
    lease_seconds: float
    public_url: str | None


@dataclass(slots=True, eq=False, repr=False)
class InvocationMetrics:
    """The counters of one invocation, shared by its threads."""

    function: str
    counts: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, count: int = 1) -> None:
        """Increment a counter."""
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + count

    def to_emf_line(self) -> str:
        """Return the metrics as a log line in CloudWatch embedded metric format."""
        values = {**self.counts, "Milliseconds": round((time.monotonic() - self.started) * 1000, 1)}
        metrics = [
            {"Name": name, "Unit": "Milliseconds" if name == "Milliseconds" else "Count"} for name in values
        ]
        directive = {"Namespace": "NoETL", "Dimensions": [["FunctionName"]], "Metrics": metrics}
        metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
        return json.dumps({"_aws": metadata, "FunctionName": self.function, **values})


def step(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Execute the visits that a batch of messages names. Return the ids of the messages to deliver again."""
    return _process_batch(event, context, give_up=False)


def dead_letter(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Fail the visits whose messages were delivered too often, so that no run waits for them.

    A message that this version cannot decode stays in the queue for inspection.
    """
    return _process_batch(event, context, give_up=True)


def sweep(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Send missing messages again. Return how many runs were examined, and how many messages were sent."""
    log_as_json_lines()
    metrics = InvocationMetrics(context.function_name)
    result = _warm_state().store.maintenance.sweep(time.time())
    metrics.add("Swept", result.runs)
    metrics.add("SentAgain", result.repaired)
    _write_metrics(metrics)
    return {"runs": result.runs, "sent_again": result.repaired}


def _process_batch(event: Mapping[str, Any], context: LambdaContext, *, give_up: bool) -> dict[str, Any]:
    log_as_json_lines()
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise TypeError("the event is not a batch of SQS messages")
    metrics = InvocationMetrics(context.function_name)
    invocation = _LambdaInvocation(_warm_state(), context, metrics, give_up=give_up)
    failed = invocation.process_all(records)
    _write_metrics(metrics)
    return {"batchItemFailures": [{"itemIdentifier": id} for id in failed]}


class _LambdaInvocation:
    """One invocation. Its messages are processed concurrently, each with the whole time of the invocation."""

    def __init__(
        self, warm: WarmState, context: LambdaContext, metrics: InvocationMetrics, *, give_up: bool
    ) -> None:
        from noetl.executor.runtime.lease_keeper import LeaseKeeper

        self._warm = warm
        self._metrics = metrics
        self._give_up = give_up
        self._request_id = context.aws_request_id
        self._seconds = max(context.get_remaining_time_in_millis() / 1000 - COMMIT_MARGIN_SECONDS, 0.0)
        self._started = time.monotonic()
        self._lease_keeper = LeaseKeeper(warm.store, warm.lease_seconds, time.time)

    def process_all(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Process the messages and return the ids of those to deliver again."""
        finished = threading.Event()
        renewal = threading.Thread(
            target=self._lease_keeper.renew_until, args=(finished,), name="noetl-lease", daemon=True
        )
        renewal.start()
        try:
            return [id for id in _run_concurrently(self._process, records) if id is not None]
        finally:
            finished.set()
            renewal.join()

    def _process(self, record: Mapping[str, Any]) -> str | None:
        """Process a message. Return its id if it must be delivered again."""
        id = str(record.get("messageId", ""))
        token = LOG_CONTEXT.set({"request_id": self._request_id})
        try:
            return id if self._is_held_elsewhere(str(record.get("body", ""))) else None
        except MessageError as error:
            logger.error("unknown message %s: %s", id, error)  # noqa: TRY400  The traceback adds nothing.
            self._metrics.add("NotOurs")
        except StoreError as error:
            logger.warning("the store failed; message %s is delivered again: %s", id, error)
            self._metrics.add("StoreFailures")
        except Exception:
            logger.exception("message %s could not be processed; it is delivered again", id)
            self._metrics.add("Bugs")
        finally:
            LOG_CONTEXT.reset(token)
        return id

    def _is_held_elsewhere(self, body: str) -> bool:
        """Execute the visit of a message, and following visits while there is time.

        Return whether another worker holds the claim.
        """
        from noetl.executor.stores.interface import MessageOutcome

        executor = self._make_executor()
        claimed = self._warm.store.queue.claim_message(
            body, executor.lease, time.time(), give_up=self._give_up
        )
        claim = claimed if isinstance(claimed, Claim) else None
        if claim is not None and self._give_up:
            self._metrics.add("GivenUp")
        elif claim is None:
            self._metrics.add("Held" if claimed is MessageOutcome.HELD else "Repeated")
        while claim is not None:
            claim = self._execute(executor, claim)
        return claimed is MessageOutcome.HELD

    def _execute(self, executor: VisitExecutor, claim: Claim) -> Claim | None:
        from noetl.executor.model.tracing import trace_id

        LOG_CONTEXT.set(
            {
                "workflow_id": claim.run.id,
                "step": claim.visit.step,
                "visit": claim.visit.number,
                "trace_id": trace_id(claim.run),
                "request_id": self._request_id,
            }
        )
        try:
            return self._lease_keeper.execute(executor, claim)
        finally:
            self._metrics.add("Steps")

    def _make_executor(self) -> VisitExecutor:
        from noetl.executor.engine.invocation import VisitExecutor
        from noetl.executor.engine.work_context import InvocationTime
        from noetl.executor.model.worker_identity import process_name

        continues_until = self._started + self._seconds * CONTINUE_FRACTION
        return VisitExecutor(
            self._warm.store,
            Lease(f"{process_name()}/{self._request_id}", self._warm.lease_seconds),
            self._warm.capabilities,
            invocation=InvocationTime(self._seconds, self._started + self._seconds),
            continues=lambda: time.monotonic() < continues_until,
            public_url=self._warm.public_url,
            on_run_end=self._record_run_end,
        )

    def _record_run_end(self, run: Run, status: RunStatus) -> None:
        logger.info("the run of `%s` has ended: %s", run.playbook, status)
        self._metrics.add("RunsEnded")
        if status in (RunStatus.FAILED, RunStatus.TIMED_OUT):
            self._metrics.add("RunsFailed")


def _run_concurrently(
    process: Callable[[Mapping[str, Any]], str | None], records: Sequence[Mapping[str, Any]]
) -> list[str | None]:
    if len(records) == 1:
        return [process(records[0])]
    with ThreadPoolExecutor(MAX_CONCURRENT_MESSAGES, "noetl-walk") as pool:
        futures = [pool.submit(copy_context().run, process, record) for record in records]
        return [future.result() for future in futures]


def load() -> None:
    """Import what the execution of visits needs, with the store that the settings name.

    Objects allocated here are frozen out of garbage collection.
    """
    with gc_frozen():
        import noetl.executor.runtime.lease_keeper  # noqa: F401

        import_store()


def prepare() -> None:
    """Load, and create the clients of the store if the settings allow. Make no network call."""
    load()
    with gc_frozen(), suppress(ActionError):
        create_clients()


@cache
def _warm_state() -> WarmState:
    """Return the objects that all invocations share.

    Raises:
        SettingError: a setting is missing or invalid.
        StoreError: the store cannot be opened.
    """
    from noetl.executor.security.capabilities import service_capabilities
    from noetl.executor.worker import lease_seconds, public_url

    url = os.environ.get("NOETL_STORE")
    if not url:
        raise SettingError(
            "NOETL_STORE is missing; set it to a table, dynamodb://TABLE, or a Postgres database."
        )
    store = open_store(url)
    if getattr(store.queue, "message_queue", None) is None:
        store.close()
        message = (
            "NOETL_STORE names a store without a message queue: set it to a table, dynamodb://TABLE, or a"
            " Postgres database, and set NOETL_QUEUE to the URL of the queue."
        )
        raise SettingError(message)
    return WarmState(
        cast("QueuedStore", store), service_capabilities(os.environ), lease_seconds(), public_url()
    )


def _write_metrics(metrics: InvocationMetrics) -> None:
    sys.stdout.write(metrics.to_emf_line() + "\n")
    sys.stdout.flush()


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    prepare()
