"""The outcome of the work of a visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.model.run import (
    BatchResult,
    ErrorRecord,
    Progress,
    Visit,
)
from noetl.planner.frozen import frozen


@frozen
class Outcome:
    """How the work of a visit went: what its last item gave, and what it saved.

    `forgiven` is true when that item failed and may (`on_error: continue`): the work as a whole has not failed then.
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
        """What is kept of an outcome until the work around it is done: all but what was saved."""
        items = None if self.items is None else list(self.items)
        return [self.success, self.data, self.error, self.action, self.skipped, self.forgiven, items]

    @classmethod
    def from_list(cls, part: Sequence[Any]) -> Outcome:
        """The outcome that `to_part` kept."""
        success, data, error, action, skipped, forgiven, items = part
        return cls(
            success,
            data,
            error,
            action,
            skipped,
            forgiven=forgiven,
            items=None if items is None else tuple(items),
        )

    def as_result(self) -> dict[str, Any]:
        """The outcome as guards see it under `result`."""
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
    """What the rule made of an outcome: the index of the case taken, or None; or a retry that is due at `retry_at`."""

    outcome: Outcome
    failed: bool
    case: int | None = None
    retry_at: float | None = None


@frozen
class Suspension:
    """Work that goes on in a later invocation: how far it has come, and what it has saved so far.

    It is due at `due_at`, or when one of the waits `awaits` has its answer. `parts` are the results of batches that are
    done, `actions` the types of the actions that wait, and `retried` of those that are to be tried again.
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
    """A failure of a visit, as playbooks see it."""
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
