"""Counts of the requests of callers, in slots of a sliding window of time.

A window has WINDOW_SECONDS. It covers the slot that has begun and the SLOTS before it, so any minute is
covered completely.
"""

from __future__ import annotations

from noetl.planner.frozen import frozen

WINDOW_SECONDS = 60
SLOTS = 10
SLOT_SECONDS = WINDOW_SECONDS // SLOTS


@frozen
class RequestBatch:
    """A batch of `size` requests of a caller in a slot, of which there may be `limit` in the window.

    A negative size takes back requests that were counted in this slot.

    The number of a slot is the time in seconds since the epoch, divided by SLOT_SECONDS.
    """

    subject: str
    slot: int
    size: int
    limit: int

    @property
    def oldest_slot(self) -> int:
        """Number of the oldest slot in the window."""
        return self.slot - SLOTS

    def may_keep(self, slot: int) -> bool:
        """Return whether a slot is in the window, or so near after it that another process may be there."""
        return self.oldest_slot <= slot <= self.slot + SLOTS

    @property
    def place(self) -> int:
        """Place of the slot in the ring of SLOTS + 1 slots, whose counts are the only ones that are kept."""
        return self.slot % (SLOTS + 1)
