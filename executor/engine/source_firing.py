"""The firing of triggers whose source is read: files of a folder, messages of a queue, events of a bus.

Problem: several processes read the same source, and each may die after it has read an item.

Algorithm: the key of a firing names the item. So an item that is read again starts no second run. Its records
have the time at which the source got it, so that they are one record. The firing is committed before the
item is removed from its source.

Cost: as that of each firing.

Limits: an item that is rejected or filtered is evaluated again if it is read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from noetl.executor.engine.firing import Firer
from noetl.executor.errors import ActionError
from noetl.executor.model.triggers import (
    PAUSED_REASON,
    Advance,
    Firing,
    FiringOutcome,
    new_firing,
    record_firing,
    trigger_changed,
)
from noetl.planner.frozen import frozen, replace

MAX_SOURCE_KEY_BYTES = 8192
"""The most bytes of a key that firings have as it is. Paths of files and of objects are shorter."""


@frozen
class SourceItem:
    """An item of a source.

    Attributes:
        key: what tells it from the other items of the source.
        arrived_at: when the source got it.
        view: what templates read under `trigger`.
    """

    key: str
    arrived_at: float
    view: Mapping[str, Any]

    @property
    def recorded_key(self) -> str:
        """The key as records of firings have it: a long one is its hash. The id is made of the key itself."""
        encoded = self.key.encode("utf-8", "surrogatepass")
        if len(encoded) <= MAX_SOURCE_KEY_BYTES:
            return self.key
        return f"id {hashlib.sha256(encoded).hexdigest()}"


def item_firing(firer: Firer, item: SourceItem) -> Firing:
    """Return the firing of an item. Its outcome is not known yet.

    Raises:
        ActionError: the `key` of the trigger has no value.
    """
    return firer.with_key(_new_firing(firer, item), item.view)


def fire_item(firer: Firer, item: SourceItem) -> FiringOutcome:
    """Fire a trigger for an item of its source, once. Return the outcome.

    Raises:
        RejectedError: `quota_exceeded`.
        TriggerChangedError: the trigger was changed or removed.
        StoreError: the store cannot be reached, or the plan cannot be read.
    """
    advance = Advance(firer.trigger, firer.trigger)
    try:
        firing = item_firing(firer, item)
    except ActionError as problem:
        rejected = _new_firing(firer, item)
        written = firer.write(record_firing(advance, rejected, FiringOutcome.REJECTED, problem.message))
    else:
        written = firer.fire(firing, item.view, advance)
    if written is None:
        raise trigger_changed(firer.trigger)
    # A run that was started before has no new record.
    return written.firings[-1].outcome if written.firings else FiringOutcome.STARTED


def miss_item(firer: Firer, item: SourceItem) -> None:
    """Record that a trigger was paused when an item arrived.

    Raises:
        StoreError: the store cannot be reached.
    """
    firing = _new_firing(firer, item)
    try:
        firing = firer.with_key(firing, item.view)
    except ActionError as problem:
        outcome, reason = FiringOutcome.REJECTED, problem.message
    else:
        outcome, reason = FiringOutcome.MISSED, PAUSED_REASON
    firer.write(record_firing(Advance(firer.trigger, firer.trigger), firing, outcome, reason))


def _new_firing(firer: Firer, item: SourceItem) -> Firing:
    # After a registration or a pause, an item that is evaluated again has a record of its own.
    firing = new_firing(firer.trigger, item.key, max(item.arrived_at, firer.trigger.changed_at))
    return replace(firing, key=item.recorded_key)
