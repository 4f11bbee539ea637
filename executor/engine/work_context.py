"""The work context: what the work of one invocation segment needs, and its time limits."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import field
from functools import partial
from typing import Any, TypeVar

from noetl.executor.actions.action import ExternalWaits
from noetl.executor.engine.event_buffer import EventBuffer, NullEventBuffer
from noetl.executor.engine.item_threads import HelperCount, attempt_helpers
from noetl.executor.engine.kept_data import KeptData
from noetl.executor.engine.result_cache import ResultCache
from noetl.executor.engine.run_bytes import AddToStore, ignore_bytes
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError, CancelledError, timeout_error
from noetl.executor.model.count_budget import CountBudget, action_budget, wait_budget
from noetl.executor.model.finished_items import RecordedItem
from noetl.executor.model.memory_budget import MemoryBudget
from noetl.executor.model.outcome import CANCELLED, Cancelled, Outcome
from noetl.executor.model.run import FailedItem, Run
from noetl.executor.precedence import wait_for_slice
from noetl.executor.security.capabilities import Capabilities
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Step, Task
from noetl.planner.templates.template import stop_when

DEFAULT_STEP_SECONDS = 24 * 3600.0
FINALLY_STEP_SECONDS = 300.0
MAX_INVOCATION_FRACTION = 0.9

Value = TypeVar("Value")
"""The fraction of an invocation that is enough to start any step, because some time has always passed."""

MAX_PARALLEL = 32
"""How many items of one list run at once, if enough threads are free; the others wait."""


@frozen
class Deadlines:
    """The time limits of one invocation segment, on `time.monotonic`.

    `attempt_started` is when the attempt would have started without its suspensions. `attempt` is the end of
    the attempt, `segment` the end of this segment. `limit` says in words which limit ends the segment.
    """

    attempt_started: float
    attempt: float
    segment: float
    limit: str = ""


@frozen
class InvocationTime:
    """The time of an invocation, which lasts `seconds`. The current one ends at `ends_at`, if that is set.

    `ends_at` is on `time.monotonic`.
    """

    seconds: float = DEFAULT_STEP_SECONDS
    ends_at: float | None = None

    def suffices_for(self, step: Step) -> bool:
        """Return whether the current invocation has as much time left as the step may need.

        A step without a timeout may need half an invocation. No step needs more than
        `MAX_INVOCATION_FRACTION` of one.
        """
        if self.ends_at is None:
            return True
        limit = self.seconds * MAX_INVOCATION_FRACTION
        needed = min(step.timeout_seconds or self.seconds / 2, limit)
        return self.ends_at - time.monotonic() >= needed

    def deadlines(self, step: Step, run: Run, now: float, used_seconds: float = 0.0) -> Deadlines:
        """Return the deadlines of an attempt that has used some of its time before `now`.

        They are the earliest of the step's timeout, the run's deadline, and the end of the invocation. The
        run's deadline does not end the finally step.
        """
        started = time.monotonic()
        default = FINALLY_STEP_SECONDS if step.is_finally_step else DEFAULT_STEP_SECONDS
        attempt_started = started - used_seconds
        attempt = attempt_started + (step.timeout_seconds or default)
        limit = f"the `timeout` of its step, {step.timeout_seconds:g} s" if step.timeout_seconds else ""
        if not step.is_finally_step and run.deadline_at is not None:
            run_end = started + max(run.deadline_at - now, 0.0)
            if run_end < attempt:
                seconds = run.deadline_at - (run.started_at or run.created_at)
                attempt, limit = run_end, f"the `timeout` of the playbook, {seconds:g} s"
        segment = min(attempt, started + self.seconds, self.ends_at or math.inf)
        if segment < attempt:
            limit = f"the time of an invocation, {self.seconds:g} s"
        limit = limit or f"the limit of a step without `timeout`, {default:g} s"
        return Deadlines(attempt_started, attempt, segment, limit)


class FailureFlag:
    """A flag that something in the work of a cache has failed, even if that was forgiven.

    Threads may share it. `outer` is that of the cache around the work, if there is one.
    """

    def __init__(self, is_set: bool = False, outer: FailureFlag | None = None) -> None:
        self.is_set = is_set
        self._outer = outer

    def set(self) -> None:
        """Note a failure."""
        self.is_set = True
        if self._outer is not None:
            self._outer.set()


def _no_batches(loop: str) -> list[Outcome]:
    return []


def _no_items(loop: str) -> Mapping[int, RecordedItem]:
    return {}


@frozen
class WorkContext:
    """The context of one invocation segment.

    `events` collects events. `journal` is what the work left when it was last suspended, and
    `batch_outcomes_of` returns the outcomes of the completed batches of a loop. When `cancelled` is set, the
    work ends. `memory_budget` bounds what the work holds, and `helpers` the threads of its parallel items.
    `actions` bounds how many actions it performs, and `waits` how many of them wait. `add_bytes` adds to the
    bytes that the run has logged or written in all processes. `kept_data` is what the history keeps of the
    actions, if it keeps any of it. `results` are the cached results, if the work may use them. `failures`
    notes failures in the work of a cache. `items_of` returns the items that a loop has finished before its
    visit failed.
    """

    find_task: Callable[[str], Task]
    capabilities: Capabilities
    deadlines: Deadlines
    clock: Callable[[], float] = time.time
    events: EventBuffer = field(default_factory=EventBuffer)
    journal: Mapping[str, Any] = field(default_factory=dict)
    batch_outcomes_of: Callable[[str], list[Outcome]] = _no_batches
    external_waits: ExternalWaits | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    memory_budget: MemoryBudget = field(default_factory=MemoryBudget)
    helpers: HelperCount = field(default_factory=attempt_helpers)
    actions: CountBudget = field(default_factory=action_budget)
    waits: CountBudget = field(default_factory=wait_budget)
    add_bytes: AddToStore = ignore_bytes
    kept_data: KeptData | None = None
    results: ResultCache | None = None
    failures: FailureFlag | None = None
    items_of: Callable[[str], Mapping[int, RecordedItem]] = _no_items

    def without_events(self) -> WorkContext:
        """Return the same context with a buffer that drops events."""
        return replace(self, events=NullEventBuffer())

    def stopping(self, deadline: float, limit: str) -> AbstractContextManager[None]:
        """Stop the templates in this block when the run is cancelled, or at the deadline of a limit.

        They raise CancelledError, or an ActionError `Timeout`.
        """
        return stop_when(partial(find_stop, self.cancelled, deadline, limit))

    def until_stopped(self, work: Callable[[], Value]) -> Value | Cancelled:
        """Return work(), or CANCELLED. It stops when the run is cancelled or the segment has no time left."""
        return until_stopped(work, self.cancelled, self.deadlines.segment, self.deadlines.limit)

    def check_time(self) -> None:
        """Check that the segment has time left.

        Raises:
            ActionError: `Timeout`.
        """
        if time.monotonic() >= self.deadlines.segment:
            raise timeout_error(self.deadlines.limit)

    def scope_of_item(self, position: str, scope: Scope, local: Mapping[str, Any] | None = None) -> Scope:
        """Return the scope of a parallel item, with the names it had saved when it was suspended."""
        item_scope = scope.copy(local)
        item_scope.saved.update(self.journal.get(position, {}).get("saved", {}))
        return item_scope

    def finished_outcome(self, position: str) -> Outcome | None:
        """Return the outcome of a parallel item that had finished before the suspension, or None."""
        stored = self.journal.get(position, {}).get("done")
        return None if stored is None else Outcome.from_list(stored)

    def without_finished(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose failure is forgiven, without the finished items of its failed loops."""
        if not outcome.finished:
            return outcome
        self.memory_budget.release(sum(items.size for items in outcome.finished))
        return replace(outcome, finished=())

    def reserve_outcome(
        self, outcome: Outcome, scope: Scope, describe_item: Callable[[], FailedItem] | None = None
    ) -> Outcome:
        """Reserve memory for an outcome until the parallel work has finished.

        The error of a failure names the item of its loop, if there is one. Return the outcome, or a failure
        if the memory budget is exceeded.
        """
        kept = _with_item(outcome, describe_item)
        try:
            self.memory_budget.reserve(kept.size)
        except ActionError as problem:
            error = scope.failure(problem, outcome.action or "loop")
            kept = _with_item(Outcome(False, None, error, outcome.action), describe_item)
            self.memory_budget.count(kept.size)
        return kept


def until_stopped(
    work: Callable[[], Value], cancelled: threading.Event, deadline: float = math.inf, limit: str = ""
) -> Value | Cancelled:
    """Return work(), or CANCELLED if its run was cancelled or its process stops. Its templates stop then.

    Raises:
        ActionError: `Timeout`, a template of it has passed the deadline. What `work` raises else.
    """
    try:
        with stop_when(partial(find_stop, cancelled, deadline, limit)):
            return work()
    except CancelledError:
        return CANCELLED


def find_stop(cancelled: threading.Event, deadline: float = math.inf, limit: str = "") -> Exception | None:
    """Return why work must stop: its run was cancelled or its process stops, or a limit has passed."""
    wait_for_slice()
    if cancelled.is_set():
        return CancelledError()
    if time.monotonic() >= deadline:
        return timeout_error(limit)
    return None


def _with_item(outcome: Outcome, describe_item: Callable[[], FailedItem] | None) -> Outcome:
    """Return the outcome; the error of a failure names the item. An inner loop has named its own item."""
    if describe_item is None or not outcome.failed or outcome.error is None:
        return outcome
    item, error = describe_item(), outcome.error
    message = f"item {item['number']:,} of {item['total']:,}: {error['message']}"
    return replace(outcome, error={**error, "message": message, "item": error.get("item", item)})
