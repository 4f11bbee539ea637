"""The state of a run as plain data: where its branches stand, and what each of them has.

The planner imports nothing of the executor, so `noetl.executor.model.run_history` makes these records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from noetl.planner.frozen import frozen, replace

Pointer = tuple[int, str]
"""The clock and the id of the visit that saved a name."""


@frozen
class FinishedLoop:
    """A failed loop: its position, the hash of the work of its items, and how many of all have succeeded."""

    position: str
    work: str
    done: int
    total: int


@frozen
class Begun:
    """Work that has begun in a visit which is not over.

    Attributes:
        is_suspended: whether the visit is suspended, so that its journal is kept.
        case: index of the case whose work is suspended; None if the work of the step is.
        item: index of the item that is suspended in this work; None if all of it is (`parallel` or a loop).
        rounds: the number of completed rounds of `repeat`.
        completed: positions of the actions that earlier attempts have completed, such as `run.0`.
        inside: indexes of the items that are suspended in the tasks which `item` calls, from the outside in.
        is_certain: whether the actions were completed. A lost worker has not said what it has completed.
        loops: the failed loops with items that need not be done again.
    """

    is_suspended: bool = False
    item: int | None = None
    case: int | None = None
    rounds: int = 0
    completed: tuple[str, ...] = ()
    inside: tuple[int, ...] = ()
    is_certain: bool = True
    loops: tuple[FinishedLoop, ...] = ()


@frozen
class BranchPosition:
    """A branch that is not over: it stands at a visit, or it has arrived at a join.

    `names` holds what the branch has by the history of the run, also names that the old plan reads no more.
    `steps.NAME` is the pointer to the last visit of a step. `number` is that of the visit.
    """

    step: str
    clock: int
    names: Mapping[str, Pointer]
    has_arrived: bool = False
    number: int = 1
    begun: Begun | None = None


@frozen
class DoneStep:
    """The finished visits of a step: how many there are, and the greatest of their clocks."""

    visits: int
    clock: int


@frozen
class SwitchState:
    """All of a run that decides whether it may continue in another plan.

    `ended_names` are the names that only branches which have ended have saved. `inputs` and `variables`
    are those with which the run was started. `is_edited` is true if a run of the old plan may never have
    it. `in_line` is the number of branches that wait for their turn in sequential mode. `follows_order`
    is true if a run of the new plan that makes the same visits has the same branches in the same order.
    `is_over` is true if all branches have ended by themselves, and so has the run: only `finally` and
    `output` are left.
    """

    branches: tuple[BranchPosition, ...]
    done: Mapping[str, DoneStep] = field(default_factory=dict)
    ended_names: frozenset[str] = frozenset()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    is_claimed: bool = False
    has_begun_to_end: bool = False
    is_edited: bool = False
    in_line: int = 0
    follows_order: bool = False
    is_over: bool = False

    def visits_of(self, step: str) -> int:
        """Return the number of finished visits of a step."""
        return self.done[step].visits if step in self.done else 0


@frozen
class Switch:
    """The wish to continue a run in another plan.

    `renamed` maps steps of the old plan to their names in the new one. `given` holds values for names that
    the new plan reads and the run does not have.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)


def rename_steps(state: SwitchState, renamed: Mapping[str, str]) -> SwitchState:
    """Return the state with the names that its steps have in the new plan.

    >>> state = SwitchState((BranchPosition("a", 2, {"steps.b": (1, "v")}),), {"b": DoneStep(1, 1)})
    >>> rename_steps(state, {"a": "x", "b": "y"}).branches[0].names
    {'steps.y': (1, 'v')}
    """
    if not renamed:
        return state
    branches = tuple(
        replace(
            branch,
            step=renamed.get(branch.step, branch.step),
            names=rename_pointers(branch.names, renamed),
        )
        for branch in state.branches
    )
    done = {renamed.get(step, step): finished for step, finished in state.done.items()}
    return replace(state, branches=branches, done=done)


def rename_pointers(names: Mapping[str, Pointer], renamed: Mapping[str, str]) -> dict[str, Pointer]:
    """Return pointers with the new names of steps.

    >>> rename_pointers({"steps.a": (1, "v"), "a": (1, "v")}, {"a": "b"})
    {'steps.b': (1, 'v'), 'a': (1, 'v')}
    """
    return {_rename_pointer(name, renamed): pointer for name, pointer in names.items()}


def _rename_pointer(name: str, renamed: Mapping[str, str]) -> str:
    step = name.removeprefix("steps.")
    return f"steps.{renamed[step]}" if name.startswith("steps.") and step in renamed else name
