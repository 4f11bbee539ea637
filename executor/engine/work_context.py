"""The work context: what the work of one invocation segment needs, from its claim to its commit."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noetl.executor.actions.action import ExternalWaits
from noetl.executor.engine.event_buffer import EventBuffer, NullEventBuffer
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.memory_budget import MemoryBudget, json_size
from noetl.executor.model.outcome import Outcome
from noetl.executor.security.capabilities import Capabilities
from noetl.planner.plan import Task

MAX_PARALLEL = 32
"""How many parallel items, or items of a loop, run at once; the others wait."""


def _no_batches(loop: str) -> list[Outcome]:
    return []


@dataclass(slots=True, eq=False, repr=False)
class WorkContext:
    """The context of one invocation segment.

    Three times are on the clock of `time.monotonic`. `attempt_started` is when the attempt would have started
    without its suspensions. `attempt_deadline` is the end of the attempt, `deadline` the end of this segment.

    `events` collects events. `journal` is what the work left when it was last suspended, and
    `batch_outcomes_of` returns the outcomes of the completed batches of a loop. When `cancelled` is set, the
    work ends with CancelledError. `wait_ids` collects the waits of actions that may suspend. `memory_budget`
    bounds what the work holds.
    """

    find_task: Callable[[str], Task]
    capabilities: Capabilities
    deadline: float
    clock: Callable[[], float] = time.time
    attempt_started: float = field(default_factory=time.monotonic)
    attempt_deadline: float = math.inf
    events: EventBuffer = field(default_factory=EventBuffer)
    journal: Mapping[str, Any] = field(default_factory=dict)
    batch_outcomes_of: Callable[[str], list[Outcome]] = _no_batches
    external_waits: ExternalWaits | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    wait_ids: set[str] = field(default_factory=set)
    memory_budget: MemoryBudget = field(default_factory=MemoryBudget)

    def without_events(self) -> WorkContext:
        """Return the same context with a buffer that drops events."""
        return replace(self, events=NullEventBuffer())

    def check_time(self) -> None:
        """Check that the run is not cancelled and that time is left.

        Raises:
            CancelledError: the run was cancelled.
            ActionError: `Timeout`.
        """
        if self.cancelled.is_set():
            raise CancelledError
        if time.monotonic() >= self.deadline:
            raise ActionError("Timeout", "the action ran out of time")

    def scope_of_item(self, position: str, scope: Scope, local: Mapping[str, Any] | None = None) -> Scope:
        """Return the scope of a parallel item, with the names it had saved when it was suspended."""
        item_scope = scope.copy(local)
        item_scope.saved.update(self.journal.get(position, {}).get("saved", {}))
        return item_scope

    def finished_outcome(self, position: str) -> Outcome | None:
        """Return the outcome of a parallel item that had finished before the suspension, or None."""
        stored = self.journal.get(position, {}).get("done")
        return None if stored is None else Outcome.from_list(stored)

    def reserve_outcome(self, outcome: Outcome, scope: Scope) -> Outcome:
        """Reserve memory for the data of an outcome until the parallel work has finished.

        Return the outcome, or a failure if the memory budget is exceeded.
        """
        try:
            self.memory_budget.reserve(json_size(outcome.data))
        except ActionError as problem:
            return Outcome(False, None, scope.failure(problem, outcome.action or "loop"), outcome.action)
        return outcome
