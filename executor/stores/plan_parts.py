"""The parts of stored plans that a store keeps in memory: a header, steps and tasks.

Plans come from outside and have any size, so the caches of stores are bounded in bytes.
"""

from __future__ import annotations

from typing import Any

from noetl.planner.plan import Header, Step, Task

CACHE_BYTES = 32 * 1024 * 1024
"""How many bytes the parts of plans that a store keeps may use together, by the estimate below."""
BYTES_PER_CHARACTER = 10
ENTRY_BYTES = 1024

PartKey = tuple[str, str, str]
"""The hash of a plan, `header`, `step` or `task`, and the name of a step or task."""


def decode_part(kind: str, name: str, body: Any) -> Header | Step | Task:
    """Return the part of a plan whose JSON is `body`. `kind` is `header`, `step` or `task`."""
    if kind == "header":
        return Header.from_json(body)
    return Step.from_json(name, body) if kind == "step" else Task.from_json(body)


def weigh_part(length: int) -> int:
    """Return an estimate of the bytes of a part whose JSON has `length` characters."""
    return ENTRY_BYTES + BYTES_PER_CHARACTER * length
