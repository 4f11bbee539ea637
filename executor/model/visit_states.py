"""The states of a visit, and the transitions between them, as a table.

Problem: several stores and the engine change visits. All must agree on what a visit may become, also after a
crash.

Algorithm: a deterministic finite automaton (Hopcroft and Ullman 1979), written as the table TRANSITIONS. The
keys are the status before and the trigger, the value is the status after. The status before is None for a
visit that does not exist yet. The functions of `visit_transition` and `transition` take the next status from
the table, so no function can make a transition that is not in it. The tests observe every store and compare.
The page `docs/how-it-works/states.md` is generated from it.

A store may write two successive transitions at once. COMBINED lists them. For example, a commit enters the
next step and claims its visit.

Cost: two look-ups in dictionaries for each transition.

Limits: a status says nothing about time. Whether a visit is due depends on its `due_at`.
"""

from __future__ import annotations

from enum import StrEnum

from noetl.executor.model.run import Visit, VisitStatus

ACTIVE = (VisitStatus.READY, VisitStatus.RUNNING, VisitStatus.WAITING, VisitStatus.RETRYING)
"""The statuses of visits that a worker executes, or will claim when they are due."""

PARKABLE = (VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING)
"""The statuses of visits that are parked when their run stops or is paused."""

WAKEABLE = (VisitStatus.WAITING, VisitStatus.PARKED)
"""The statuses of visits that an answer makes due."""

FINISHED = (VisitStatus.SUCCEEDED, VisitStatus.FAILED)
"""The statuses of visits that have an outcome."""


class VisitTrigger(StrEnum):
    """Cause of a change of the status or the due time of a visit. Its value is the label in diagrams."""

    ENTER = "branch enters the step"
    ENTER_STOPPING = "branch enters, run stops or is paused"
    CLAIM = "claimed"
    RENEW = "lease renewed"
    RELEASE = "claim released"
    END_LEASE = "worker found dead"
    SUCCEED = "work done"
    FAIL = "failed, no retry left"
    RETRY = "failed, retry left"
    SUSPEND = "suspended"
    YIELD = "suspended, due at once"
    ABANDON = "run cancelled, work abandoned"
    REVOKE = "claimed as the run stopped or was paused"
    WAKE = "answer arrives"
    PARK = "run stops or is paused"
    REOPEN = "run resumed"
    REOPEN_SUSPENDED = "run resumed, still suspended"
    UNPARK = "repaired by the sweep"
    UNPAUSE = "run unpaused"
    UNPAUSE_WAITING = "run unpaused, still suspended"
    UNPAUSE_RETRYING = "run unpaused, to be retried"


TRANSITIONS: dict[VisitStatus | None, dict[VisitTrigger, VisitStatus]] = {
    None: {
        VisitTrigger.ENTER: VisitStatus.READY,
        VisitTrigger.ENTER_STOPPING: VisitStatus.PARKED,
    },
    VisitStatus.READY: {
        VisitTrigger.CLAIM: VisitStatus.RUNNING,
        VisitTrigger.PARK: VisitStatus.PARKED,
    },
    VisitStatus.RUNNING: {
        VisitTrigger.CLAIM: VisitStatus.RUNNING,
        VisitTrigger.RENEW: VisitStatus.RUNNING,
        VisitTrigger.RELEASE: VisitStatus.RUNNING,
        VisitTrigger.END_LEASE: VisitStatus.RUNNING,
        VisitTrigger.SUCCEED: VisitStatus.SUCCEEDED,
        VisitTrigger.FAIL: VisitStatus.FAILED,
        VisitTrigger.RETRY: VisitStatus.RETRYING,
        VisitTrigger.SUSPEND: VisitStatus.WAITING,
        VisitTrigger.YIELD: VisitStatus.READY,
        VisitTrigger.ABANDON: VisitStatus.READY,
        VisitTrigger.REVOKE: VisitStatus.PARKED,
    },
    VisitStatus.RETRYING: {
        VisitTrigger.CLAIM: VisitStatus.RUNNING,
        VisitTrigger.PARK: VisitStatus.PARKED,
    },
    VisitStatus.WAITING: {
        VisitTrigger.CLAIM: VisitStatus.RUNNING,
        VisitTrigger.WAKE: VisitStatus.WAITING,
        VisitTrigger.PARK: VisitStatus.PARKED,
    },
    VisitStatus.PARKED: {
        VisitTrigger.WAKE: VisitStatus.PARKED,
        VisitTrigger.REOPEN: VisitStatus.READY,
        VisitTrigger.REOPEN_SUSPENDED: VisitStatus.WAITING,
        VisitTrigger.UNPARK: VisitStatus.READY,
        VisitTrigger.UNPAUSE: VisitStatus.READY,
        VisitTrigger.UNPAUSE_WAITING: VisitStatus.WAITING,
        VisitTrigger.UNPAUSE_RETRYING: VisitStatus.RETRYING,
    },
    VisitStatus.SUCCEEDED: {},
    VisitStatus.FAILED: {
        VisitTrigger.REOPEN: VisitStatus.READY,
    },
}
"""The status of a visit after a trigger, by the status before it.

A running visit whose lease has ended is claimed again, so CLAIM leads from running to running. A failed visit
is reopened only if its failure was unhandled.
"""

COMBINED: tuple[tuple[VisitTrigger, VisitTrigger], ...] = (
    (VisitTrigger.ENTER, VisitTrigger.CLAIM),
    (VisitTrigger.RETRY, VisitTrigger.PARK),
    (VisitTrigger.SUSPEND, VisitTrigger.PARK),
    (VisitTrigger.YIELD, VisitTrigger.PARK),
    (VisitTrigger.ABANDON, VisitTrigger.PARK),
    (VisitTrigger.REOPEN, VisitTrigger.PARK),
    (VisitTrigger.REOPEN_SUSPENDED, VisitTrigger.PARK),
)
"""Two successive transitions that a store may write at once, in a commit."""


class IllegalTransitionError(Exception):
    """A transition that the table does not have. It is a fault of the caller."""


def next_status(status: VisitStatus | None, trigger: VisitTrigger) -> VisitStatus:
    """Return the status after a trigger.

    >>> next_status(VisitStatus.READY, VisitTrigger.CLAIM).value
    'running'
    >>> next_status(VisitStatus.SUCCEEDED, VisitTrigger.CLAIM)
    Traceback (most recent call last):
    noetl.executor.model.visit_states.IllegalTransitionError: a succeeded visit has no transition `claimed`

    Raises:
        IllegalTransitionError: the table has no such transition.
    """
    try:
        return TRANSITIONS[status][trigger]
    except KeyError:
        subject = "a visit that does not exist" if status is None else f"a {status} visit"
        raise IllegalTransitionError(f"{subject} has no transition `{trigger}`") from None


def may_hold(visit: Visit | None) -> bool:
    """Return whether a visit may be granted a slot: it exists, has not ended, and is not parked."""
    return visit is not None and visit.status in ACTIVE
