"""One invocation of a Lambda function: the messages of a batch, and what all invocations share."""

from __future__ import annotations

import itertools
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
from noetl.executor.engine.run_log import log_run_end
from noetl.executor.engine.work_context import InvocationTime
from noetl.executor.errors import DamagedRunError, MessageError, SettingError, StoreError
from noetl.executor.model.read_memory import counting_reads
from noetl.executor.model.run import Claim, Lease, Run, RunEnding, RunStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.tracing import trace_labels
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.model.worker_identity import process_name
from noetl.executor.patience import bounded_by_invocation, limited_patience, retrying_until
from noetl.executor.runtime.function_settings import read_continue_fraction
from noetl.executor.runtime.json_logs import LOG_CONTEXT
from noetl.executor.runtime.lease_keeper import LeaseKeeper, read_lease_seconds
from noetl.executor.runtime.message_return import MessageReturn, message_of_claim
from noetl.executor.security.capabilities import Capabilities, service_capabilities
from noetl.executor.security.secret_sources import register_local_secrets
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import MessageOutcome, QueuedStore
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.outbox_message import OutboxMessage
from noetl.executor.stores.sqs.trigger_message import TriggerMessage
from noetl.planner.frozen import frozen, replace

COMMIT_MARGIN_SECONDS = 2.0
"""The time of an invocation that is reserved for the commit of a step that used all of its time."""

RETURN_MARGIN_SECONDS = 3.0
"""The time before that in which no request to the store is tried again: messages are returned then."""

RENEWAL_PATIENCE_SECONDS = 5.0
"""How long a renewal of claims waits for the store. The next one is soon."""

MIN_FIRING_SECONDS = 1.0
"""With less time before that, no message about a trigger or an entry of the outbox is performed."""

MAX_CONCURRENT_MESSAGES = 10

MAX_RELEASED = 2
"""How many workers a message names that have given up its visit: the last, and one whose visits follow."""

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

    A message that was received before is processed alone afterwards: its visit may have ended its worker.
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
        self._worker = f"{process_name()}/{self._request_id}"
        self._numbers = itertools.count()
        self._return = MessageReturn(os.environ.get("NOETL_QUEUE", ""))
        self._lease_keeper = LeaseKeeper(warm.store, warm.lease_seconds, warm.store.clock)

    def process_all(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """Process the messages and return the ids of those to deliver again."""
        records = self._without_copies(records)
        first = [record for record in records if not _was_received_before(record)]
        finished = threading.Event()
        renewal = threading.Thread(
            target=self._renew_until, args=(finished,), name="noetl-lease", daemon=True
        )
        renewal.start()
        try:
            with retrying_until(self._started + self._seconds - RETURN_MARGIN_SECONDS):
                ids = _run_concurrently(self._process, first)
                ids += [self._process(record) for record in records if _was_received_before(record)]
            return [id for id in ids if id is not None]
        finally:
            finished.set()
            renewal.join(RENEWAL_PATIENCE_SECONDS)

    def _renew_until(self, finished: threading.Event) -> None:
        with limited_patience(RENEWAL_PATIENCE_SECONDS):
            self._lease_keeper.renew_until(finished)

    def _without_copies(self, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return one message of each visit, and the unknown messages. The others need no second delivery."""
        kept: dict[Any, Mapping[str, Any]] = {}
        for record in records:
            try:
                message = DueMessage.decode(str(record.get("body", "")))
            except MessageError:
                kept[len(kept), None] = record
                continue
            key = message.run_id, message.visit_id
            if key in kept:
                self._metrics.add("Repeated")
            if key not in kept or message.released is not None:
                kept[key] = record
        return list(kept.values())

    def _process(self, record: Mapping[str, Any]) -> str | None:
        """Process a message. Return its id if it must be delivered again."""
        id = str(record.get("messageId", ""))
        token = LOG_CONTEXT.set({"request_id": self._request_id})
        try:
            text = str(record.get("body", ""))
            message = TriggerMessage.decode(text) or OutboxMessage.decode(text)
            with counting_reads():
                if message is not None:
                    return None if self._perform_due(message, record) else id
                return None if self._execute_visits(record) else id
        except MessageError as error:
            logger.error("unknown message %s: %s", id, error)  # noqa: TRY400  The traceback adds nothing.
            self._metrics.add("NotOurs")
        except Exception:
            logger.exception("message %s could not be processed; it is delivered again", id)
            self._metrics.add("Bugs")
        finally:
            LOG_CONTEXT.reset(token)
        return id

    def _perform_due(self, message: TriggerMessage | OutboxMessage, record: Mapping[str, Any]) -> bool:
        """Perform what a message names, if it is due. Return False if it must be delivered again.

        One that was received too often is dropped, since the next sweep sends another.
        """
        from noetl.executor.runtime.due_messages import perform_message

        if self._give_up:
            return True
        try:
            if bounded_by_invocation(MIN_FIRING_SECONDS) >= MIN_FIRING_SECONDS:
                is_performed = perform_message(self._warm.store, message)
                self._metrics.add("Fired" if is_performed else "Repeated")
                return True
        except StoreError as error:
            logger.warning("the store failed; %s is tried again: %s", message, error)
            self._metrics.add("StoreFailures")
        with retrying_until(self._started + self._seconds):
            self._return.shorten([record])
        return False

    def _execute_visits(self, record: Mapping[str, Any]) -> bool:
        """Execute the visit of a message, and following visits while there is time.

        If another worker holds the claim, or the visit is given up, another message replaces this one, so
        that no delivery counts as a failure. Return False if none could be sent: this one must be delivered
        again.
        """
        body, executor = str(record.get("body", "")), self._make_executor()
        given_up, claim = DueMessage.decode(body), None
        queue, clock = self._warm.store.queue, self._warm.store.clock
        worker = executor.lease.worker
        try:
            if given_up.released and queue.release_given_up(body, clock()):
                return True
            # From here on, a request that fails may have been a claim.
            given_up = replace(given_up, released=(worker, *given_up.released)[:MAX_RELEASED])
            claimed = queue.claim_message(body, executor.lease, clock(), give_up=self._give_up)
            self._count(claimed)
            claim = claimed if isinstance(claimed, Claim) else None
            while claim is not None:
                given_up = message_of_claim(given_up, claim)
                claim = self._execute(executor, claim)
        except DamagedRunError as error:
            self._warm.store.maintenance.set_aside(error.run_id or given_up.run_id, error.message)
            return True
        except StoreError as error:
            logger.warning("the store failed; visit %s is given up: %s", given_up.visit_id, error)
            self._metrics.add("StoreFailures")
            if claim is not None:
                given_up = replace(given_up, released=() if self._claim_counts(claim) else (worker,))
            return self._replace(record, given_up)
        return claimed is not MessageOutcome.HELD or self._replace(record, DueMessage.decode(body))

    def _count(self, claimed: Claim | MessageOutcome) -> None:
        if not isinstance(claimed, Claim):
            self._metrics.add("Held" if claimed is MessageOutcome.HELD else "Repeated")
        elif claimed.visit.claims > MAX_CLAIMS:
            self._metrics.add("GivenUp")

    def _replace(self, record: Mapping[str, Any], message: DueMessage) -> bool:
        """Return whether a message replaces the one in `record`. If not, that one arrives again soon."""
        with retrying_until(self._started + self._seconds):
            is_replaced = self._return.send(message, self._warm.store.clock())
            if not is_replaced:
                self._return.shorten([record])
        return is_replaced

    def _claim_counts(self, claim: Claim) -> bool:
        """Return whether a claim that is given up counts: a step with `at_most_once` has started."""
        visit = claim.visit
        if is_pseudo_step(visit.step):
            return False
        try:
            return self._warm.store.plans.step(claim.run.plan_hash, visit.step).at_most_once
        except StoreError:
            # The step was not read, so it has not started.
            return False

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
            # What a message leads to has a worker of its own, which may give it up.
            Lease(f"{self._worker}.{next(self._numbers)}", self._warm.lease_seconds),
            self._warm.capabilities,
            self._warm.store.clock,
            invocation=InvocationTime(self._seconds, self._started + self._seconds),
            continues=lambda: time.monotonic() < continues_until,
            public_url=self._warm.public_url,
            on_run_end=self._record_run_end,
        )

    def _record_run_end(self, run: Run, ending: RunEnding) -> None:
        log_run_end(run, ending, self._warm.store.clock())
        self._metrics.add("RunsEnded")
        if ending.status in (RunStatus.FAILED, RunStatus.TIMED_OUT):
            self._metrics.add("RunsFailed")
        if ending.outbox:
            self._announce_entries(run, ending)

    def _announce_entries(self, run: Run, ending: RunEnding) -> None:
        """Send messages about the entries of the outbox that the end of a run has written."""
        from noetl.executor.runtime.due_messages import send_messages_about

        try:
            send_messages_about(self._warm.store, ending.outbox)
        except StoreError as error:
            logger.warning("what follows from run %s waits for the next sweep: %s", run.id, error)


def _run_concurrently(
    process: Callable[[Mapping[str, Any]], str | None], records: Sequence[Mapping[str, Any]]
) -> list[str | None]:
    if len(records) <= 1:
        return [process(record) for record in records]
    with ThreadPoolExecutor(MAX_CONCURRENT_MESSAGES, "noetl-walk") as pool:
        futures = [pool.submit(copy_context().run, process, record) for record in records]
        return [future.result() for future in futures]


def _was_received_before(record: Mapping[str, Any]) -> bool:
    count = str((record.get("attributes") or {}).get("ApproximateReceiveCount", ""))
    return count.isdecimal() and int(count) > 1


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
    if getattr(store.queue, "message_queue", None) is None:
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


def process_batch(
    records: Sequence[Mapping[str, Any]],
    context: LambdaContext,
    metrics: InvocationMetrics,
    *,
    give_up: bool = False,
) -> list[str]:
    """Process the messages of an invocation, and return the ids of those to deliver again.

    If the store cannot be opened, these are all messages. They arrive again soon.

    Raises:
        SettingError: a setting is missing or invalid.
    """
    ends_at = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - COMMIT_MARGIN_SECONDS
    try:
        with retrying_until(ends_at - RETURN_MARGIN_SECONDS):
            warm = warm_state()
    except StoreError as error:
        logger.warning("the store failed; %s messages are delivered again: %s", len(records), error)
        metrics.add("StoreFailures", len(records))
        with retrying_until(ends_at):
            MessageReturn(os.environ.get("NOETL_QUEUE", "")).shorten(records)
        return [str(record.get("messageId", "")) for record in records]
    return MessageBatch(warm, context, metrics, give_up=give_up).process_all(records)
