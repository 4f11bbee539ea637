"""The rules of the list of open waits, as pure functions: which waits are listed, and in which order.

Problem: all stores must list the same questions, whatever the run and the visit do meanwhile.

Algorithm: a wait has a rank, which is fixed when it is opened. Whether it is listed follows from its visit
and its run.

A question is a part of the journal of its visit. A page ends before the journals of its visits are longer
than it may hold.

Cost: constant for each wait.

Limits: a wait that is opened again for another time keeps its latest rank. A page has one wait at least,
however long its journal is.
"""

from __future__ import annotations

from collections.abc import Iterable

from noetl.executor.model.memory_budget import json_size
from noetl.executor.model.run import NEVER, Run, Visit, VisitStatus
from noetl.executor.model.visit_states import ACTIVE

MAX_LISTED_JOURNALS = 4 * 1024 * 1024
"""How many bytes the journals of the visits of a page have, unless its first journal has more."""


def rank_wait(expires_at: float, now: float) -> float:
    """Return the rank of a wait that is opened now, in the list of open waits of its tenant.

    What expires first comes first, then what was opened first of those that never expire.

    >>> rank_wait(60.0, 1.0), rank_wait(NEVER, 1.0) > rank_wait(NEVER - 1, 2.0)
    (60.0, True)
    """
    return expires_at if expires_at < NEVER else NEVER + now


def may_be_listed(run: Run, visit: Visit) -> bool:
    """Return whether the open waits of a visit are listed: it has been suspended, and may be continued.

    A visit that runs again because of another answer still has its other waits. A pause has parked it.
    """
    if run.finished_at is not None or visit.progress is None:
        return False
    return visit.status in ACTIVE or (visit.status is VisitStatus.PARKED and run.is_paused)


def count_listed(journals: Iterable[int], journal_bytes: int) -> int:
    """Return how many waits a page has. `journals` are the lengths of the journals of their visits.

    >>> count_listed([40, 30, 40], 100), count_listed([400, 30], 100)
    (2, 1)
    """
    count = total = 0
    for length in journals:
        total += length
        if count and total > journal_bytes:
            break
        count += 1
    return count


def measure_journal(visit: Visit) -> int:
    """Return the length of the journal of a visit as JSON."""
    return 0 if visit.progress is None else json_size(dict(visit.progress.journal))
