"""The interface through which commands reach triggers: those of a store, or those of a service over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from noetl.api.service.trigger_views import FiringPage, TriggerDetails, TriggerEntry, TriggerPage
    from noetl.api.service.triggers import FireRequest
    from noetl.executor.model.run import RunStatus
    from noetl.planner.schedules.schedule import CatchUpMode


class FiredRun(NamedTuple):
    """The run of a firing by hand. `starts` is how many starts share it, or None for one.

    `earlier_status` is the status of a run that an earlier firing has started, or None for a new run.
    """

    id: str
    starts: int | None
    earlier_status: RunStatus | None = None


class TriggerAccess(Protocol):
    """The triggers that a command can reach. Methods about one raise NotFoundError if there is none."""

    def current_time(self) -> float:
        """Return the time, in seconds since the epoch."""
        ...

    def find(self, playbook: str | None, limit: int, cursor: str | None) -> TriggerPage:
        """Return a page of the triggers of all playbooks, or of one."""
        ...

    def get(self, playbook: str, name: str, count: int) -> TriggerDetails:
        """Return a trigger with its next `count` firings."""
        ...

    def firings(self, playbook: str, name: str, limit: int, cursor: str | None) -> FiringPage:
        """Return a page of the firings of a trigger, the newest first."""
        ...

    def pause(self, playbook: str, name: str) -> TriggerEntry:
        """Pause a trigger."""
        ...

    def resume(self, playbook: str, name: str, catch_up: CatchUpMode) -> TriggerEntry:
        """Resume a trigger, and perform its missed firings as `catch_up` says."""
        ...

    def fire(self, playbook: str, name: str, request: FireRequest) -> FiredRun:
        """Start the run of a firing by hand, or let it join one that waits for further starts."""
        ...
