"""The outcome of a visit's work, the choice that follows from it, and suspensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.model.run import BatchResult, ErrorRecord, Progress, Visit
from noetl.planner.frozen import frozen


@frozen
class Outcome:
    """The outcome of work: the data of its last item, and the names it saved.

    `forgiven` is true if that item failed with `on_error: continue`; the work as a whole has then not failed.
    `items` are the results of the items of a loop.
    """

    success: bool = True
    data: Any = None
    error: ErrorRecord | None = None
    action: str | None = None
    skipped: bool = False
    saved: Mapping[str, Any] = field(default_factory=dict)
    forgiven: bool = False
    items: tuple[Mapping[str, Any], ...] | None = None

    @property
    def failed(self) -> bool:
        return not self.success and not self.forgiven

    def to_list(self) -> list[Any]:
        """Return the stored form of the outcome: all fields except `saved`."""
        items = None if self.items is None else list(self.items)
        return [self.success, self.data, self.error, self.action, self.skipped, self.forgiven, items]

    @classmethod
    def from_list(cls, stored: Sequence[Any]) -> Outcome:
        """Return the outcome that `to_list` stored.

        >>> Outcome.from_list(Outcome(data=1).to_list()) == Outcome(data=1)
        True
        """
        success, data, error, action, skipped, forgiven, items = stored
        items = None if items is None else tuple(items)
        return cls(success, data, error, action, skipped, forgiven=forgiven, items=items)

    def as_result(self) -> dict[str, Any]:
        """Return the outcome as guards see it under the name `result`."""
        return {
            "success": self.success,
            "data": self.data,
            "error": self.error,
            "action": self.action,
            "skipped": self.skipped,
            **({} if self.items is None else {"items": list(self.items)}),
        }


@frozen
class Choice:
    """Decision after an outcome: the index of the case taken, or None; or a retry that is due at
    `retry_at`.
    """

    outcome: Outcome
    failed: bool
    case: int | None = None
    retry_at: float | None = None


@frozen
class Suspension:
    """Work that continues in a later segment: its progress and the names saved so far.

    It continues at `due_at`, or when one of the waits `awaits` has its answer. `batch_results` are the
    results of completed batches, `actions` the types of the actions that wait, and `retried` the types of
    those that are retried.
    """

    progress: Progress
    due_at: float
    saved: Mapping[str, Any] = field(default_factory=dict)
    batch_results: tuple[BatchResult, ...] = ()
    awaits: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()


def error_record(
    visit: Visit,
    type: str,
    message: str,
    *,
    action: str | None = None,
    retryable: bool = False,
    status: int | None = None,
    details: Any = None,
) -> ErrorRecord:
    """Return the record of a failure of a visit."""
    return ErrorRecord(
        type=type,
        message=message,
        action=action,
        step=visit.step,
        attempt=visit.attempt,
        retryable=retryable,
        status=status,
        details=details,
    )
