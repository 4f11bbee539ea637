"""The states of the items of a loop, in a module that the command line can import fast."""

from __future__ import annotations

from enum import StrEnum


class ItemState(StrEnum):
    """The state of an item of a loop.

    `open`: it has not ended, and its step runs. It may run, wait, or have to begin. `cancelled`: it has not
    ended, and the loop has.
    """

    PENDING = "pending"
    OPEN = "open"
    WAITING = "waiting"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
