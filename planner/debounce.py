"""The `debounce` of a playbook: starts that follow each other soon make one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.planner.frozen import frozen

DEFAULT_FACTOR = 10
"""How many times as long as `wait` the run waits at most if `max` is not given."""


@frozen
class Debounce:
    """The time for which a run waits for further starts, which replace its input.

    It waits for `wait_seconds` after the last start, and for at most `max_seconds` after the first. `key` is
    a template: starts with the same value share a run. None means that all starts do.
    """

    wait_seconds: float
    max_seconds: float
    key: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"wait_seconds": self.wait_seconds, "max_seconds": self.max_seconds, "key": self.key}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Debounce:
        return cls(data["wait_seconds"], data["max_seconds"], data["key"])
