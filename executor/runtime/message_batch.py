"""One invocation of a Lambda function: the messages of a batch, and what all invocations share."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, cast

from noetl.executor.engine.external import read_public_url
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.work_context import InvocationTime
from noetl.executor.errors import MessageError, SettingError, StoreError
from noetl.executor.model.run import Claim, Lease, Run, RunStatus
from noetl.executor.model.tracing import trace_labels
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.model.worker_identity import process_name
from noetl.executor.runtime.function_settings import read_continue_fraction
from noetl.executor.runtime.json_logs import LOG_CONTEXT
from noetl.executor.runtime.lease_keeper import LeaseKeeper, read_lease_seconds
from noetl.executor.security.capabilities import Capabilities, service_capabilities
from noetl.executor.security.secret_sources import register_local_secrets
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import MessageOutcome, QueuedStore
from noetl.planner.frozen import frozen

COMMIT_MARGIN_SECONDS = 2.0
"""The time of an invocation that is reserved for the commit of a step that used all of its time."""

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
    continue_fraction: float


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

    def write(self) -> None:
        """Write the metrics to the log, which is the standard output."""
        sys.stdout.write(self.to_emf_line() + "\n")
        sys.stdout.flush()


class MessageBatch:
    """The messages of one invocation, processed concurrently, each with the whole time of the invocation.

    With `give_up`, the messages were received too often. Visits that have lost too many workers fail without
    being performed, and the other messages are sent again.
    """

    def __init__(
        self, warm: WarmState, context: LambdaContext, metrics: InvocationMetrics, *, give_up: bool
    ) -> None:
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
        executor = self._make_executor()
        claimed = self._warm.store.queue.claim_message(
            body, executor.lease, time.time(), give_up=self._give_up
        )
        claim = claimed if isinstance(claimed, Claim) else None
        if claim is None:
            self._metrics.add("Held" if claimed is MessageOutcome.HELD else "Repeated")
        elif claim.visit.claims > MAX_CLAIMS:
            self._metrics.add("GivenUp")
        while claim is not None:
            claim = self._execute(executor, claim)
        return claimed is MessageOutcome.HELD

    def _execute(self, executor: VisitExecutor, claim: Claim) -> Claim | None:
        LOG_CONTEXT.set(
            {
                "workflow_id": claim.run.id,
                "step": claim.visit.step,
                "visit": claim.visit.number,
                **trace_labels(claim.run),
                "request_id": self._request_id,
            }
        )
        try:
            return self._lease_keeper.execute(executor, claim)
        finally:
            self._metrics.add("Steps")

    def _make_executor(self) -> VisitExecutor:

        continues_until = self._started + self._seconds * self._warm.continue_fraction
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


@cache
def warm_state() -> WarmState:
    """Return the objects that all invocations share.

    Raises:
        SettingError: a setting is missing or invalid.
        StoreError: the store cannot be opened.
    """
    url = os.environ.get("NOETL_STORE")
    if not url:
        raise SettingError(
            "NOETL_STORE is missing; set it to a table, dynamodb://TABLE, or a Postgres database."
        )
    store = open_store(url)
    if getattr(store, "message_queue", None) is None:
        store.close()
        message = (
            "NOETL_STORE names a store without a message queue: set it to a table, dynamodb://TABLE, or a"
            " Postgres database, and set NOETL_QUEUE to the URL of the queue."
        )
        raise SettingError(message)
    register_local_secrets()
    return WarmState(
        cast("QueuedStore", store),
        service_capabilities(os.environ),
        read_lease_seconds(),
        read_public_url(),
        read_continue_fraction(),
    )
