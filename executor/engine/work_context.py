"""One piece of an attempt at the work of a visit, from its claim to its commit or pause."""

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
"""How much of what stands beside each other is at work at once; the rest waits."""


def _no_parts(loop: str) -> list[Outcome]:
    return []


@dataclass(slots=True, eq=False, repr=False)
class WorkContext:
    """What the work has at hand. On the clock of `time.monotonic`, `began` is when the attempt would have begun had it never
    paused, `expires` when it is out of time, and `deadline` when this piece of it is; `telling` is told what happens.

    `journal` is what the work left when it suspended last, and `parts_of` gives the outcomes of the batches of a loop that
    are done. When `cancelled` is set, the work ends with CancelledError. `waits` are those of the actions that may wait,
    `room` is what the work may hold.
    """

    find_task: Callable[[str], Task]
    capabilities: Capabilities
    deadline: float
    clock: Callable[[], float] = time.time
    attempt_started: float = field(default_factory=time.monotonic)
    attempt_deadline: float = math.inf
    events: EventBuffer = field(default_factory=EventBuffer)
    journal: Mapping[str, Any] = field(default_factory=dict)
    batch_outcomes_of: Callable[[str], list[Outcome]] = _no_parts
    outside: ExternalWaits | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    wait_ids: set[str] = field(default_factory=set)
    memory_budget: MemoryBudget = field(default_factory=MemoryBudget)

    def without_events(self) -> WorkContext:
        """The same piece, which tells nothing."""
        return replace(self, events=NullEventBuffer())

    def check_time(self) -> None:
        """Raises CancelledError, or ActionError: `Timeout`."""
        if self.cancelled.is_set():
            raise CancelledError
        if time.monotonic() >= self.deadline:
            raise ActionError("Timeout", "the action ran out of time")

    def scope_of_item(self, place: str, scope: Scope, local: Mapping[str, Any] | None = None) -> Scope:
        """The scope of work beside other work, with what it had saved when it suspended."""
        own = scope.copy(local)
        own.saved.update(self.journal.get(place, {}).get("saved", {}))
        return own

    def finished_outcome(self, place: str) -> Outcome | None:
        """The outcome of work beside other work that was done when that suspended."""
        done = self.journal.get(place, {}).get("done")
        return None if done is None else Outcome.from_list(done)

    def reserve_outcome(self, outcome: Outcome, scope: Scope) -> Outcome:
        """The outcome, whose data is held until the work beside it is done; or a failure, where there is no room for it."""
        try:
            self.memory_budget.reserve(json_size(outcome.data))
        except ActionError as problem:
            return Outcome(False, None, scope.failure(problem, outcome.action or "loop"), outcome.action)
        return outcome
