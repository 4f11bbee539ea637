"""The order in which several playbooks are registered: those that others use come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.planner.plan import Plan


@frozen
class _UsedNames:
    """The name of a playbook, and the names of those that it calls, or for whose runs a trigger waits."""

    name: str
    used: frozenset[str]


def order_by_use(plans: Sequence[Plan]) -> list[int]:
    """Return the numbers of plans, each after those that it uses, and else in their order.

    Versions of one playbook keep their order. If playbooks use each other, the first of them comes first.
    """
    playbooks = list(map(_find_used_names, plans))
    waiting = list(range(len(plans)))
    order: list[int] = []
    while waiting:
        ready = (number for number in waiting if not _must_wait(number, waiting, playbooks))
        order.append(next(ready, waiting[0]))
        waiting.remove(order[-1])
    return order


def _must_wait(number: int, waiting: Sequence[int], playbooks: Sequence[_UsedNames]) -> bool:
    """Return whether another playbook that waits must be registered before one."""
    playbook = playbooks[number]
    return any(
        (other < number if playbooks[other].name == playbook.name else playbooks[other].name in playbook.used)
        for other in waiting
    )


def _find_used_names(plan: Plan) -> _UsedNames:
    from noetl.executor.actions import catalogue
    from noetl.planner.draw.called_playbooks import find_calls
    from noetl.planner.trigger_sources import RunEnd

    awaited = (trigger.source for trigger in plan.header.triggers)
    names = [source.playbook for source in awaited if isinstance(source, RunEnd)]
    names += [call.name for call in find_calls(plan, catalogue())]
    return _UsedNames(plan.header.name, frozenset(names))
