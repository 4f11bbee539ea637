"""The limits of how many runs of a playbook, or visits of a step, are in progress at once.

Those of rates bound how many begin in a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from noetl.planner.frozen import frozen

MAX_LIMIT = 10_000
"""How many runs or visits a limit allows at most."""

MAX_LIMITS = 5
"""How many limits a playbook or a step may have."""

MAX_PRIORITY = 10
"""The greatest priority. The least one is its negative."""

MAX_LIMIT_NAME = 64
"""How many characters the name of an operator's limit may have."""

MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS = 1.0, 31 * 86_400.0
"""The shortest and the longest window of a rate."""

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


def format_rate(units: int, per_seconds: float) -> str:
    """Return a rate as text.

    >>> format_rate(100, 60.0), format_rate(5, 90.0), format_rate(1000, 86400.0)
    ('100 per 1m', '5 per 90s', '1,000 per 1d')
    """
    sizes = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    unit, size = next(
        ((unit, size) for unit, size in sizes if per_seconds >= size and per_seconds % size == 0), sizes[-1]
    )
    return f"{units:,} per {per_seconds / size:g}{unit}"


@frozen
class Limit:
    """One entry of `concurrency`, or of `rate` if `is_rate` is true.

    `use` names a limit of the operator, or is None for an own limit, which has `units`. `key` is a template:
    each of its values is counted apart. None means one count for all. After `max_wait_seconds` in the queue
    the visit fails, and a run is skipped; None means any time. A run is skipped, too, if `max_queued` runs
    wait already. An own rate has a window of `per_seconds`. `fair` is a template: its values alternate in the
    queue. None means that playbooks do.
    """

    use: str | None = None
    units: int | None = None
    key: str | None = None
    when_full: WhenFull = "queue"
    max_wait_seconds: float | None = None
    max_queued: int | None = None
    is_rate: bool = False
    per_seconds: float | None = None
    fair: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "use": self.use,
            "units": self.units,
            "key": self.key,
            "when_full": self.when_full,
            "max_wait_seconds": self.max_wait_seconds,
            **({} if self.max_queued is None else {"max_queued": self.max_queued}),
            **({"per_seconds": self.per_seconds} if self.is_rate else {}),
            **({} if self.fair is None else {"fair": self.fair}),
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
            "per_seconds" in data,
            data.get("per_seconds"),
            data.get("fair"),
        )
