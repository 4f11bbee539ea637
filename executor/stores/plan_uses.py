"""Uses of plans: a plan that no run and no registered playbook names is deleted after an hour.

Problem: each playbook that a request carries leaves a plan. Retention deletes the runs of a plan, and must
not delete the plan of a run that is just being started. A start should not write to its plan each time.

Algorithm: a plan has a time of its last use, like the access time of a file system that is mounted with
`relatime`. The start of a run writes it in the transaction of the run, unless this process has seen a time
less than TOUCH_SECONDS ago. Such a plan is deleted no sooner than UNUSED_SECONDS after that time, when the
start is long over. If the plan is gone, the start is refused, whatever this process has seen: the store may
have been restored from a copy. A deletion examines the plans that have been
unused longest, and gives those that are still named the present time.

Cost: no statement for most starts, and one for the first start of a plan in a process and ten minutes. A plan
that is named is examined once an hour.

Limits: a plan is deleted up to two hours after the last run that names it. DynamoDB has rules of its own
(`dynamo/plan_uses.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from noetl.executor.errors import StoreError

TOUCH_SECONDS = 600.0
"""How old the time of the last use of a plan may be before a start writes it again."""

UNUSED_SECONDS = 3600.0
"""How long a plan must be unused before it is deleted."""

MAX_DELETED_PLANS = 20
"""Number of plans that one call of `delete_old` examines at most. SQL stores delete one in a transaction."""

_MAX_REMEMBERED = 10_000


class PlanUses:
    """The latest use of each plan that this process has read or written. Safe to call from any thread."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, float] = OrderedDict()
        self._lock = Lock()

    def is_recent(self, plan_hash: str, now: float) -> bool:
        """Return whether the store has a use of a plan that needs not be written again at `now`.

        >>> uses = PlanUses()
        >>> uses.record("p", 100.0)
        >>> uses.is_recent("p", 699.0), uses.is_recent("p", 700.0), uses.is_recent("q", 100.0)
        (True, False, False)
        """
        used_at = self._times.get(plan_hash)
        return used_at is not None and now < used_at + TOUCH_SECONDS

    def forget(self, plan_hash: str) -> None:
        """Remove the use of a plan, so that the next save and the next start ask the store."""
        with self._lock:
            self._times.pop(plan_hash, None)

    def record(self, plan_hash: str, used_at: float) -> None:
        """Remember a use that is committed."""
        with self._lock:
            self._times[plan_hash] = used_at
            self._times.move_to_end(plan_hash)
            while len(self._times) > _MAX_REMEMBERED:
                self._times.popitem(last=False)


def deleted_plan(plan_hash: str) -> StoreError:
    """Return the error of the start of a run whose plan was deleted."""
    return StoreError(
        f"The store has no plan {plan_hash}: no run and no registered playbook named it. Start the run again."
    )
