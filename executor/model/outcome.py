"""The results of work (outcome, suspension, cancellation), and the choice that follows from an outcome.

Each function between an action and the invocation segment returns one of the results. No exception passes
between these functions, except for failures of the store and bugs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, TypeAlias, cast

from noetl.executor.model.memory_budget import json_size
from noetl.executor.model.run import NEVER, BatchResult, ErrorRecord, Progress, Visit
from noetl.planner.frozen import frozen, replace


@frozen
class Outcome:
    """The outcome of work: the data of its last item, and the names it saved.

    `forgiven` is true if that item failed with `on_error: continue`; the work as a whole has then not failed.
    `items` are the results of the items of a loop. `failures` are the items of a forgiving loop that failed:
    index from 1, item and error of each. `finished` are the items of failed loops in it that have succeeded.
    `left_out` is why the work of a step was not performed: a full limit, or a resume; otherwise it is None.
    """

    success: bool = True
    data: Any = None
    error: ErrorRecord | None = None
    action: str | None = None
    skipped: bool = False
    saved: Mapping[str, Any] = field(default_factory=dict)
    forgiven: bool = False
    items: tuple[Mapping[str, Any], ...] | None = None
    failures: tuple[Mapping[str, Any], ...] = ()
    finished: tuple[FinishedItems, ...] = ()
    left_out: Mapping[str, Any] | None = None

    @property
    def failed(self) -> bool:
        return not self.success and not self.forgiven

    @property
    def size(self) -> int:
        """The size of its data and its error, in characters of JSON."""
        return json_size(self.data) + (0 if self.error is None else json_size(self.error))

    def to_list(self) -> list[Any]:
        """Return the stored form of the outcome: without names, `failures`, `finished` and `left_out`."""
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
        return {**self.as_item(), "failures": list(self.failures)}

    def as_item(self) -> dict[str, Any]:
        """Return the outcome of an item of a loop as guards see it in `result.items`."""
        return {
            "success": self.success,
            "data": self.data,
            "error": self.error,
            "action": self.action,
            "skipped": self.skipped,
            **({} if self.items is None else {"items": list(self.items)}),
        }


@frozen
class FinishedItems:
    """The items of a failed loop that have succeeded: each with its outcome, by its index.

    `loop` is the position of the loop, `total` the number of its items, and `enclosing` are the items of the
    loops around it. Those of earlier batches, `before` in number, are recorded elsewhere. `lost` items are
    left out, because their outcomes are too large.
    """

    loop: str
    total: int
    enclosing: tuple[Any, ...] = ()
    outcomes: Mapping[int, tuple[Any, Outcome]] = field(default_factory=dict)
    before: int = 0
    lost: int = 0

    @property
    def size(self) -> int:
        """The size of the outcomes, in characters of JSON."""
        return sum(outcome.size for _, outcome in self.outcomes.values())


@frozen
class WorkSuspension:
    """Work that continues at `due_at`, or when a wait in `awaits` is answered.

    `journal` holds the entries of the positions so far: each function around the waiting action adds its own.
    `batch_results` are the results of completed batches, `actions` the types of the actions that wait, and
    `retried` of those that are retried. `titles` are what the waiting actions ask persons. `reserved` is the
    part of the memory budget that suspended parallel work still holds.
    """

    journal: Mapping[str, Any]
    due_at: float = NEVER
    awaits: tuple[str, ...] = ()
    batch_results: tuple[BatchResult, ...] = ()
    actions: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()
    reserved: int = 0
    titles: tuple[str, ...] = ()

    def with_entry(self, position: str, entry: Mapping[str, Any]) -> WorkSuspension:
        """Return the suspension with `entry` added to the journal entry of a position.

        >>> WorkSuspension({"run.0/t": {"at": 1}}).with_entry("run.0/t", {"args": {}}).journal
        {'run.0/t': {'at': 1, 'args': {}}}
        """
        merged = {**self.journal.get(position, {}), **entry}
        return replace(self, journal={**self.journal, position: merged})


@frozen
class Cancelled:
    """The result of work that was abandoned because its run was cancelled."""


CANCELLED = Cancelled()

WorkResult: TypeAlias = Outcome | WorkSuspension | Cancelled
"""What performing work returns."""


def combine_suspensions(
    journal: Mapping[str, Any], suspensions: Iterable[WorkSuspension], reserved: int
) -> WorkSuspension:
    """Return one suspension for parallel work: what all of `suspensions` wait for and hold.

    `journal` and `reserved` are those of the work around them.
    """
    items = list(suspensions)
    entries = dict(journal)
    for item in items:
        entries |= item.journal
    return WorkSuspension(
        entries,
        min((item.due_at for item in items), default=NEVER),
        tuple(wait for item in items for wait in item.awaits),
        tuple(result for item in items for result in item.batch_results),
        tuple(dict.fromkeys(action for item in items for action in item.actions)),
        tuple(dict.fromkeys(action for item in items for action in item.retried)),
        reserved + sum(item.reserved for item in items),
        tuple(dict.fromkeys(title for item in items for title in item.titles)),
    )


@frozen
class Choice:
    """Decision after an outcome: the index of the case taken, or None; or a retry that is due at
    `retry_at`.

    `guards` are the guards that were evaluated, in their order: the index of the case, and the value. The
    value of a guard that has none is None.
    """

    outcome: Outcome
    failed: bool
    case: int | None = None
    retry_at: float | None = None
    guards: tuple[tuple[int, bool | None], ...] = ()


@frozen
class Suspension:
    """Work that continues in a later segment: its progress and the names saved so far.

    It continues at `due_at`, or when one of the waits `awaits` has its answer. `batch_results` are the
    results of completed batches, `actions` the types of the actions that wait, and `retried` the types of
    those that are retried. `titles` are what the waiting actions ask persons.
    """

    progress: Progress
    due_at: float
    saved: Mapping[str, Any] = field(default_factory=dict)
    batch_results: tuple[BatchResult, ...] = ()
    awaits: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    retried: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()


def error_record(
    visit: Visit,
    type: str,
    message: str,
    *,
    retryable: bool = False,
    details: Any = None,
) -> ErrorRecord:
    """Return the record of a failure of a visit, which no action caused."""
    return ErrorRecord(
        type=type,
        message=message,
        action=None,
        step=visit.step,
        attempt=visit.attempt,
        retryable=retryable,
        status=None,
        details=details,
    )


def place_error(record: ErrorRecord, place: Mapping[str, Any]) -> ErrorRecord:
    """Return an error record with the optional members in `place`."""
    return cast("ErrorRecord", {**record, **place})
