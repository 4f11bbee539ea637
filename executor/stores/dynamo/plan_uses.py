"""Uses of plans in DynamoDB: until when each plan is needed, whatever names it.

Problem: no index finds the runs that name a plan. A plan must not be deleted while a run names it, even if
the run starts, ends or is resumed at the same time. No start or step should cost another request.

Algorithm: leases (Gray and Cheriton 1989). Next to the blocks of a plan there is a small item, its use. Its
attribute `due` is the time until which the plan is needed, and never decreases. A writer extends it by
USE_SECONDS before it saves the plan, or starts, resumes or moves a run in the index of open runs. The end of
a run extends it until the run has expired for certain. So after that time, only runs that have been open for
long can name the plan, and registered playbooks. `versions` counts these. `plan_deletion.py` finds the runs
in the index of open runs.

Cost: a process reads the use together with the plan, and remembers it. A use is extended a day further than
required, so it is written once a day for each plan that is in use. A save in a process that remembers the
use makes no request.

Limits: ended runs without a time to live are kept for ever, and so are their plans: `due` is FOR_EVER then.
If a retention is set later, `late_expiry.py` ends this, and a process without a retention notices it within
a day. Plans of earlier versions have no use, and are kept for ever. The table may be replaced by a copy
without the plan. Then a process that remembers the use starts runs of it for a day at most.

A use has the attributes `due` and `wakes`, which is the partition of its entry in the index `due`. It also
has `versions`, and `blocks`, the number of blocks of the plan.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from threading import Lock

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.expressions import PRESENT, Update
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.retention import DAY_SECONDS

USE_SECONDS = DAY_SECONDS
"""How long a plan is needed at least after a start, a resume, or a move of a run in the index."""

EXPIRY_DELAY_SECONDS = 7 * DAY_SECONDS
"""How late DynamoDB may delete an expired item. Its documentation says: within a few days."""

RENEWAL_SECONDS = DAY_SECONDS
"""How much further than required a use is extended, so that it is seldom written."""

FOR_EVER = 10**12
"""The time until which a plan is needed for ever, in seconds since the epoch."""

_MAX_REMEMBERED = 10_000


class DynamoPlanUses:
    """The uses of plans in a table, and those that this process remembers. Safe to call from any thread.

    Ended runs are kept for `retention_seconds`, or for ever.
    """

    def __init__(self, table: DynamoTable, retention_seconds: float | None) -> None:
        self.retention_seconds = retention_seconds
        self._table = table
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By plan: until when it is needed, and until when this process relies on that."""
        self._lock = Lock()

    def require(self, plan_hash: str) -> bool:
        """Let a plan be needed for USE_SECONDS at least. Return False if the plan does not exist."""
        return self._extend(plan_hash, self._table.clock() + USE_SECONDS)

    def require_after_end(self, plan_hash: str) -> bool:
        """Let a plan be needed until a run that ends now has expired. Return False if it does not exist."""
        seconds = self.retention_seconds or 0.0
        return self._extend(plan_hash, self._table.clock() + seconds + EXPIRY_DELAY_SECONDS)

    def is_required(self, plan_hash: str) -> bool:
        """Return whether this process remembers that a plan is needed for USE_SECONDS."""
        return self._is_known(plan_hash, self._table.clock() + USE_SECONDS)

    def remember(self, plan_hash: str, use: Item | None) -> None:
        """Remember the use of a plan that was read, or that has none since an earlier version saved it."""
        with self._lock:
            due = FOR_EVER if use is None else float(use.get("due", FOR_EVER))
            # A retention may be set later.
            relied_until = self._table.clock() + RENEWAL_SECONDS if due == FOR_EVER else math.inf
            self._known[plan_hash] = due, relied_until
            self._known.move_to_end(plan_hash)
            while len(self._known) > _MAX_REMEMBERED:
                self._known.popitem(last=False)

    def forget(self, plan_hash: str) -> None:
        """Remove what is remembered of a use, so that the next save and the next start ask the table."""
        with self._lock:
            self._known.pop(plan_hash, None)

    def encode(self, plan_hash: str, blocks: int) -> Item:
        """Return the use of a plan that is saved now, with its number of blocks."""
        return {"blocks": blocks, **self._times(plan_hash, self._table.clock() + USE_SECONDS)}

    def _times(self, plan_hash: str, until: float) -> Item:
        """Return the attributes of a use that is needed until a time, or for ever without a retention."""
        due = FOR_EVER if self.retention_seconds is None else math.ceil(until + RENEWAL_SECONDS)
        return {"due": due, "wakes": keys.plan_shard(plan_hash)}

    def _is_known(self, plan_hash: str, until: float) -> bool:
        """Return whether this process remembers that a plan is needed until a time."""
        due, relied_until = self._known.get(plan_hash, (0.0, 0.0))
        return due >= until and self._table.clock() < relied_until

    def _extend(self, plan_hash: str, until: float) -> bool:
        required = FOR_EVER if self.retention_seconds is None else until
        if self._is_known(plan_hash, required):
            return True
        is_shorter = ("due", "<", required)
        change = Update(keys.plan_use(plan_hash), self._times(plan_hash, until), when=(PRESENT, is_shorter))
        try:
            use: Item | None = self._table.update(change)
        except ConditionFailed as refusal:
            use = refusal.items[0]
            if use is None and self._table.get(keys.plan(plan_hash), ("blocks",)) is None:
                self.forget(plan_hash)
                return False
        self.remember(plan_hash, use)
        return True
