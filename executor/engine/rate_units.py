"""The units that a claimed visit takes from the rates of its step.

Problem: each attempt of a step takes a unit, and each batch of a loop takes one for each of its items. A
claim that only continues an attempt takes none.

Algorithm: the journal of a suspended visit says which actions have begun. Between two attempts, rounds or
batches it names none. The items of the next batch are counted as the loop will count them.

Cost: nothing for a step without a loop. A loop evaluates the list of its items once more.

Limits: an attempt that is repeated after its worker was lost finds the units that it has. Failed items of a
loop that are not repeated are counted again.
"""

from __future__ import annotations

from noetl.executor.engine.journal import TIME
from noetl.executor.engine.rendering import render_at_key
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import ActionError
from noetl.executor.model.finished_items import ITEMS
from noetl.executor.model.run import Progress, Visit
from noetl.planner.plan import Loop, Step


def count_rate_units(visit: Visit, step: Step, scope: Scope) -> int:
    """Return how many units of its rates a claimed visit takes: none if it continues what has begun."""
    progress = visit.progress or Progress()
    position = "run" if progress.round == 0 else f"run~{progress.round}"
    begun = progress.journal.keys() - {TIME, ITEMS}
    if step.loop is None:
        return 0 if begun else 1
    if begun - {position}:
        return 0
    done = progress.journal[position]["next"] if begun else 0
    left = _count_items(step.loop, scope) - done
    return left if step.loop.batch is None else min(left, step.loop.batch)


def _count_items(loop: Loop, scope: Scope) -> int:
    """Return the number of items of a loop. A list without a value counts as none: the step fails then."""
    try:
        items = render_at_key("loop.items", loop.items, scope.lookup("loop"))
    except ActionError:
        return 0
    return len(items) if isinstance(items, list) else 0
