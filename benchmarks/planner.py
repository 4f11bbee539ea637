"""Time to compile a playbook, as a multiple of the time in which libyaml loads the same text."""

from __future__ import annotations

from typing import Any

import yaml

from benchmarks.measure import median_seconds, median_seconds_without_gc
from benchmarks.playbooks import SHAPES
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.plan import Plan
from noetl.planner.program import template_uses
from noetl.planner.syntax import reader

SIZES = {100: 15, 1_000: 7, 10_000: 3}
"""Numbers of steps, with the number of repetitions."""


def measure() -> list[dict[str, Any]]:
    """Return a row for each shape and size."""
    # The limits are raised, because ten thousand steps of this length exceed them.
    reader.MAX_BYTES = template_uses.MAX_CODE = 8 * 1024 * 1024
    catalogue()
    return [_row(shape, steps, repetitions) for shape in SHAPES for steps, repetitions in SIZES.items()]


def _row(shape: str, steps: int, repetitions: int) -> dict[str, Any]:
    text = SHAPES[shape](steps)

    def load() -> object:
        return yaml.load(text, Loader=yaml.CSafeLoader)

    compiled = median_seconds(lambda: _compile(text).hash, repetitions)
    loaded = median_seconds(load, repetitions)
    loaded_without_collection = median_seconds_without_gc(load, repetitions)
    return {
        "shape": shape,
        "steps": steps,
        "bytes": len(text),
        "compile_seconds": compiled,
        "load_seconds": loaded,
        "load_without_collection_seconds": loaded_without_collection,
        "ratio": compiled / loaded,
        "ratio_without_collection": compiled / loaded_without_collection,
        "compile_microseconds_per_step": compiled / steps * 1e6,
    }


def _compile(text: str) -> Plan:
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    return plan
