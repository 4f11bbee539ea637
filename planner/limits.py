"""The limits of how many runs of a playbook, or visits of a step, are in progress at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from noetl.planner.frozen import frozen

MAX_LIMIT = 10_000
"""How many runs or visits a limit allows at most."""

MAX_LIMITS = 5
"""How many limits a playbook or a step may have."""

MAX_LIMIT_NAME = 64
"""How many characters the name of an operator's limit may have."""

_LIMIT_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_LIMIT_NAME - 1}}}")

MAX_QUEUED = 100_000
"""How many runs may wait at a limit that bounds its queue."""

WhenFull = Literal["queue", "skip", "cancel_oldest"]
"""What happens if a limit is full.

The run or the visit waits, or it is skipped. A run may also wait in the place of older ones, which are
cancelled.
"""


def is_limit_name(name: str) -> bool:
    """Return whether an operator's limit may have this name.

    >>> is_limit_name("crm.api"), is_limit_name("crm api"), is_limit_name("")
    (True, False, False)
    """
    return _LIMIT_NAME.fullmatch(name) is not None


@frozen
class Limit:
    """One entry of `concurrency`.

    `use` names a limit of the operator, or is None for an own limit, which has `units`. `key` is a template:
    each of its values is counted apart. None means one count for all. After `max_wait_seconds` in the queue
    the visit fails, and a run is skipped; None means any time. A run is skipped, too, if `max_queued` runs
    wait already.
    """

    use: str | None = None
    units: int | None = None
    key: str | None = None
    when_full: WhenFull = "queue"
    max_wait_seconds: float | None = None
    max_queued: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "use": self.use,
            "units": self.units,
            "key": self.key,
            "when_full": self.when_full,
            "max_wait_seconds": self.max_wait_seconds,
            **({} if self.max_queued is None else {"max_queued": self.max_queued}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Limit:
        return cls(
            data["use"],
            data["units"],
            data["key"],
            data["when_full"],
            data["max_wait_seconds"],
            data.get("max_queued"),
        )
