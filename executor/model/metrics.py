"""Facts about runs and firings that a store counts for metrics, and how much a scrape reads of them.

Problem: counters must be right although several processes execute runs, any of them may be killed, and old
runs are deleted. Names of playbooks are data of users, and a monitoring system keeps a series for each label.

Algorithm: each fact is written in the transaction that makes it true, so it exists exactly if that was
committed. A store adds facts up to totals, which a deletion of runs does not change. A histogram is a total
for each of its buckets. The first MAX_PLAYBOOKS playbooks of a tenant have a label, and all later ones share
one. A playbook never changes its label, so no counter falls.

Cost: one short row for each outcome of a step, for the start and the end of a run, and for each firing.

Limits: a playbook that is no longer used keeps its label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum

from noetl.executor.model.run import Run, Visit, VisitStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.visit_states import FINISHED
from noetl.planner.frozen import frozen

MAX_PLAYBOOKS = 50
"""How many playbooks of a tenant have a label of their own."""

MAX_LABEL_LENGTH = 100
"""Characters of a label. The rest of a longer name is cut off."""

OTHER_PLAYBOOKS = "other"
"""The label of all further playbooks. A playbook with this name is counted with them."""

MAX_COUNTED = 10_000
"""How many due visits and open runs are counted. More are reported as this number."""

BUCKET_SECONDS = (0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds of the buckets of durations. A stored bucket is an index, so a change needs a migration."""


class FactKind(StrEnum):
    """Kind of a counted fact.

    Runs and steps have a status and a duration. Attempts at notifications have a status, and firings an
    outcome.
    """

    START = "start"
    RUN = "run"
    STEP = "step"
    RETRY = "retry"
    LOST_LEASE = "lost_lease"
    CACHED = "cached"
    NOTIFICATION = "notification"
    FIRING = "firing"


@frozen
class Fact:
    """A fact about a run: its kind, the status of what has ended, its duration, and the bucket of that."""

    kind: FactKind
    status: str = ""
    bucket: int = 0
    seconds: float = 0.0


RUN_STARTED = Fact(FactKind.START)
LEASE_LOST = Fact(FactKind.LOST_LEASE)
RESULT_REUSED = Fact(FactKind.CACHED)

NOTIFICATION_SENT = Fact(FactKind.NOTIFICATION, "sent")
NOTIFICATION_FAILED = Fact(FactKind.NOTIFICATION, "failed")
NOTIFICATION_HELD = Fact(FactKind.NOTIFICATION, "held")
NOTIFICATION_UNDELIVERED = Fact(FactKind.NOTIFICATION, "undelivered")
"""The outcomes of an attempt: `failed` is tried again, `held` waits for a paused channel."""


def timed_fact(kind: FactKind, status: str, started_at: float | None, ended_at: float) -> Fact:
    """Return the fact that something has ended.

    >>> timed_fact(FactKind.STEP, "failed", started_at=5.0, ended_at=5.5).bucket
    3
    """
    seconds = max(ended_at - (ended_at if started_at is None else started_at), 0.0)
    return Fact(kind, str(status), bisect_left(BUCKET_SECONDS, seconds), seconds)


def fact_of_outcome(visit: Visit, now: float) -> Fact | None:
    """Return the fact that a commit of a visit makes true, or None if the visit goes on."""
    if is_pseudo_step(visit.step):
        return None
    if visit.status is VisitStatus.RETRYING:
        return Fact(FactKind.RETRY)
    if visit.status in FINISHED:
        return timed_fact(FactKind.STEP, visit.status, visit.started_at, visit.finished_at or now)
    return None


def fact_of_end(run: Run, now: float) -> Fact:
    """Return the fact that a run has ended, with the duration that its history has."""
    return timed_fact(FactKind.RUN, run.status, run.started_at, run.finished_at or now)


def loses_lease(before: Visit) -> bool:
    """Return whether a claim of this visit takes it from a worker that has not given it up."""
    return before.status is VisitStatus.RUNNING and before.worker is not None


def label_playbook(playbook: str, labels: set[str]) -> str:
    r"""Return the label of a playbook among the labels that its tenant has so far.

    Characters that cannot be printed would end a line of a scrape, or reorder it, so they are replaced.

    >>> label_playbook("a", {"a", "b"}), label_playbook("c", {str(n) for n in range(MAX_PLAYBOOKS)})
    ('a', 'other')
    >>> label_playbook("two\nlines", set())
    'two?lines'
    """
    shown = playbook[:MAX_LABEL_LENGTH]
    label = "".join(character if character.isprintable() else "?" for character in shown)
    has_place = label in labels or len(labels - {OTHER_PLAYBOOKS}) < MAX_PLAYBOOKS
    return label if has_place else OTHER_PLAYBOOKS


@frozen
class FactTotal:
    """The number of facts of a kind with a label, a status and a bucket, and the sum of their durations."""

    playbook: str
    kind: FactKind
    status: str
    bucket: int
    count: int
    seconds: float


@frozen
class StoreMetrics:
    """The counts of a store for one tenant or for all.

    `due` is the number of visits that wait for a worker of a service. `open_runs` is that of runs that have
    not ended. Both are at most MAX_COUNTED. `oldest_due_at` is the time since which one of the visits is due.
    `log_bytes` is the length of the write-ahead log of SQLite.
    """

    totals: Sequence[FactTotal]
    due: int
    oldest_due_at: float | None
    open_runs: int
    log_bytes: int | None = None
