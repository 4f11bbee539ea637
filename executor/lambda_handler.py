"""The functions of AWS Lambda that walk runs: `step` for messages of the queue, `dead_letter` for those it has given up, and
`sweep` for what should have a message and has none.

Importing this needs no settings; what is missing is named when it is first needed. In Lambda what the first message needs is made
ready by then: the time before it is given with a whole processor, and that after it with a part of one.
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

MARGIN_SECONDS = 2.0
"""What is left of an invocation for the commit of a step that took all of its time."""

WALKS_ON_FOR = 0.5
"""The part of an invocation in which the step that follows is walked in it, too, instead of by another one."""

MOST_AT_ONCE = 10

logger = logging.getLogger("noetl.executor")


class LambdaContext(Protocol):
    """What Lambda says of an invocation."""

    aws_request_id: str
    function_name: str

    def get_remaining_time_in_millis(self) -> int: ...


@frozen
class WarmState:
    """What invocations of one process share."""

    store: QueuedStore
    capabilities: Capabilities
    lease_seconds: float
    public_url: str | None


@dataclass(slots=True, eq=False, repr=False)
class InvocationMetrics:
    """What an invocation has done. Threads share it."""

    function: str
    counts: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + count

    def line(self) -> str:
        """It as a line that CloudWatch reads metrics from (embedded metric format)."""
        values = {**self.counts, "Milliseconds": round((time.monotonic() - self.started) * 1000, 1)}
        metrics = [
            {"Name": name, "Unit": "Milliseconds" if name == "Milliseconds" else "Count"} for name in values
        ]
        directive = {"Namespace": "NoETL", "Dimensions": [["FunctionName"]], "Metrics": metrics}
        about = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
        return json.dumps({"_aws": about, "FunctionName": self.function, **values})


def step(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Walk what the messages of a batch tell of; the answer names those that are to come again."""
    return _batch(event, context, give_up=False)


def dead_letter(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Fail what the messages tell of that were tried too often, so that no run waits for them. A message that is not ours
    stays where somebody finds it.
    """
    return _batch(event, context, give_up=True)


def sweep(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Send a message again for whatever has none and needs one; how many runs were looked at, and how many messages sent."""
    log_as_json_lines()
    tally = InvocationMetrics(context.function_name)
    swept = _warm().store.sweep(time.time())
    tally.add("Swept", swept.runs)
    tally.add("SentAgain", swept.repaired)
    _tell(tally)
    return {"runs": swept.runs, "sent_again": swept.repaired}


def _batch(event: Mapping[str, Any], context: LambdaContext, *, give_up: bool) -> dict[str, Any]:
    log_as_json_lines()
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise TypeError("the event is not a batch of messages of SQS")
    tally = InvocationMetrics(context.function_name)
    invocation = _Invocation(_warm(), context, tally, give_up=give_up)
    failed = invocation.walk_all(records)
    _tell(tally)
    return {"batchItemFailures": [{"itemIdentifier": id} for id in failed]}


class _Invocation:
    """One invocation: its messages are walked beside each other, all with the time that it has."""

    def __init__(
        self, warm: WarmState, context: LambdaContext, tally: InvocationMetrics, *, give_up: bool
    ) -> None:
        from noetl.executor.runtime.lease_keeper import LeaseKeeper

        self._warm = warm
        self._tally = tally
        self._give_up = give_up
        self._request_id = context.aws_request_id
        self._seconds = max(context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS, 0.0)
        self._started = time.monotonic()
        self._keeper = LeaseKeeper(warm.store, warm.lease_seconds, time.time)

    def walk_all(self, records: Sequence[Mapping[str, Any]]) -> list[str]:
        """The ids of the messages that are to come again."""
        finished = threading.Event()
        keeping = threading.Thread(
            target=self._keeper.renew_until, args=(finished,), name="noetl-keep", daemon=True
        )
        keeping.start()
        try:
            return [id for id in _beside_each_other(self._done, records) if id is not None]
        finally:
            finished.set()
            keeping.join()

    def _done(self, record: Mapping[str, Any]) -> str | None:
        """Walk what a message tells of; its id if it is to come again."""
        id = str(record.get("messageId", ""))
        about = LOG_CONTEXT.set({"request_id": self._request_id})
        try:
            return id if self._is_left(str(record.get("body", ""))) else None
        except MessageError as error:
            logger.error("message %s is not one of ours: %s", id, error)  # noqa: TRY400  It says all there is.
            self._tally.add("NotOurs")
        except StoreError as error:
            logger.warning("the store failed; message %s comes again: %s", id, error)
            self._tally.add("StoreFailures")
        except Exception:
            logger.exception("message %s could not be walked; it comes again", id)
            self._tally.add("Bugs")
        finally:
            LOG_CONTEXT.reset(about)
        return id

    def _is_left(self, body: str) -> bool:
        """Walk what the text of a message tells of, and what follows while there is time; whether somebody else has it."""
        from noetl.executor.stores.interface import MessageOutcome

        walker = self._walker()
        found = self._warm.store.claim_message(body, walker.lease, time.time(), give_up=self._give_up)
        claim = found if isinstance(found, Claim) else None
        if claim is not None and self._give_up:
            self._tally.add("GivenUp")
        elif claim is None:
            self._tally.add("Held" if found is MessageOutcome.HELD else "Repeated")
        while claim is not None:
            claim = self._walk(walker, claim)
        return found is MessageOutcome.HELD

    def _walk(self, walker: VisitExecutor, claim: Claim) -> Claim | None:
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
            return self._keeper.execute(walker, claim)
        finally:
            self._tally.add("Steps")

    def _walker(self) -> VisitExecutor:
        from noetl.executor.engine.invocation import VisitExecutor
        from noetl.executor.model.worker_identity import process_name

        walks_on_until = self._started + self._seconds * WALKS_ON_FOR
        return VisitExecutor(
            self._warm.store,
            Lease(f"{process_name()}/{self._request_id}", self._warm.lease_seconds),
            self._warm.capabilities,
            invocation_seconds=self._seconds,
            ends_at=self._started + self._seconds,
            continues=lambda: time.monotonic() < walks_on_until,
            public_url=self._warm.public_url,
            on_run_end=self._ended,
        )

    def _ended(self, run: Run, status: RunStatus) -> None:
        logger.info("the run of `%s` has ended: %s", run.playbook, status)
        self._tally.add("RunsEnded")
        if status in (RunStatus.FAILED, RunStatus.TIMED_OUT):
            self._tally.add("RunsFailed")


def _beside_each_other(
    act: Callable[[Mapping[str, Any]], str | None], records: Sequence[Mapping[str, Any]]
) -> list[str | None]:
    if len(records) == 1:
        return [act(records[0])]
    with ThreadPoolExecutor(MOST_AT_ONCE, "noetl-walk") as pool:
        return [
            done.result() for done in [pool.submit(copy_context().run, act, record) for record in records]
        ]


def load() -> None:
    """Import what walking takes, with the store that the settings name. What is there by then is never looked through for
    garbage.
    """
    with gc_frozen():
        import noetl.executor.runtime.lease_keeper  # noqa: F401

        import_store()


def prepare() -> None:
    """Also make the clients that the store speaks with, where the settings say enough. Nobody is asked anything."""
    load()
    with gc_frozen(), suppress(ActionError):
        create_clients()


@cache
def _warm() -> WarmState:
    """What is shared.

    Raises:
        SettingError: a setting is missing, or cannot be used.
        StoreError: the store cannot be opened.
    """
    from noetl.executor.security.capabilities import service_capabilities
    from noetl.executor.worker import lease_seconds, public_url

    url = os.environ.get("NOETL_STORE")
    if not url:
        raise SettingError(
            "NOETL_STORE is not set; it names a table, as dynamodb://TABLE, or a database of Postgres."
        )
    store = open_store(url)
    if getattr(store, "message_queue", None) is None:
        store.close()
        message = (
            "NOETL_STORE is a store that sends no messages: it names a table, as dynamodb://TABLE, or a database of"
            " Postgres, and NOETL_QUEUE is the URL of the queue."
        )
        raise SettingError(message)
    return WarmState(
        cast("QueuedStore", store), service_capabilities(os.environ), lease_seconds(), public_url()
    )


def _tell(tally: InvocationMetrics) -> None:
    sys.stdout.write(tally.line() + "\n")
    sys.stdout.flush()


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    prepare()
