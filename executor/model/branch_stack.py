"""Sequential mode: the stack of the branches of a run, as pure functions.

Problem: in `mode: sequential` one branch of a run is performed at a time. Every store must choose the same
one next, also after a crash.

Algorithm: depth-first traversal with an explicit stack, and reference counting for joins (Collins 1960). A
fork is one frame with the index of its next target. So the stack grows with the depth of the forks, and not
with their width. A branch gets its turn when it is on top. It begins a visit, or it arrives at a join and is
taken off. After each turn, every join fires that has an arrival and that no branch can reach any more. It
goes on top of the stack. Of several, the one with the earliest first arrival is topmost. A visit exists only
once it has begun, and the stack itself is one JSON value.

All branches share one set of names. The next visit therefore carries the names that the visit before it left,
and its clock is one more. So clocks are in the order of the visits.

Cost: a finished visit costs time in its targets, in the joins that wait for them, and in the depth of the
stack. A branch that begins costs time in the depth.

Limits: the stack is written with every visit, so very deep forks make each of them dearer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, TypeAlias

from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import Branch, FailureState, Pointers, Visit
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.transition import StepOf, id_of_entry, names_after
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import reopen
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Step


@frozen
class ForkFrame:
    """The targets of a finished visit whose turn is to come: those of its case from `index` on."""

    visit_id: str
    step: str
    case: int
    index: int = 0


@frozen
class JoinFrame:
    """A join that has fired, and whose visit has not begun."""

    step: str
    wave: int


@frozen
class ResumedFrame:
    """A failed or parked visit of a resumed run, which continues when it gets its turn."""

    visit_id: str
    step: str


Frame: TypeAlias = ForkFrame | JoinFrame | ResumedFrame
"""An entry of the stack."""


@frozen
class BranchStack:
    """The branches of a run in sequential mode whose turn is to come; the top is the last of `frames`.

    `branches` is the number of all branches, also of the one that is performed. `waited_for` is the number of
    branches that can still reach each join. `arrived` are the joins with arrivals, in the order of their
    first ones. `waves` is how often each join has fired, and `discriminated` has the last visit of each
    `join: any`. `visits` counts the visits of steps on cycles.
    """

    frames: tuple[Frame, ...] = ()
    branches: int = 1
    waited_for: Mapping[str, int] = field(default_factory=dict)
    arrived: tuple[str, ...] = ()
    waves: Mapping[str, int] = field(default_factory=dict)
    discriminated: Mapping[str, str] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """Return the stack as a JSON value. Its form is part of the stored format."""
        return [
            [_frame_to_json(frame) for frame in self.frames],
            self.branches,
            dict(self.waited_for),
            list(self.arrived),
            dict(self.waves),
            dict(self.discriminated),
            dict(self.visits),
        ]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> BranchStack:
        """Return the stack that `to_json` describes.

        >>> stack = BranchStack((ForkFrame("v", "a", 0, 2), JoinFrame("j", 1), ResumedFrame("w", "b")))
        >>> BranchStack.from_json(stack.to_json()) == stack
        True
        """
        frames, branches, waited_for, arrived, waves, discriminated, visits = data
        restored = tuple(map(_frame_from_json, frames))
        return cls(restored, branches, waited_for, tuple(arrived), waves, discriminated, visits)

    def count_in_line(self, step_of: StepOf) -> int:
        """Return the number of branches without a visit: they wait for their turn, or at joins."""
        targets = [
            len(step_of(frame.step).cases[frame.case].targets) - frame.index
            for frame in self.frames
            if isinstance(frame, ForkFrame)
        ]
        joins = [frame for frame in self.frames if isinstance(frame, JoinFrame)]
        return sum(targets) + len(joins) + len(self.arrived)

    @property
    def resumed_ids(self) -> frozenset[str]:
        """Ids of the visits that will continue when they get their turn."""
        return frozenset(frame.visit_id for frame in self.frames if isinstance(frame, ResumedFrame))


@frozen
class Turn:
    """The stack after a turn, and the branch that is performed next, or None if no branch is left.

    `number` is the number of the visit that the branch begins. If `is_resumed`, the visit exists already.
    """

    stack: BranchStack
    branch: Branch | None = None
    number: int = 1
    is_resumed: bool = False


def first_stack(first: Step) -> BranchStack:
    """Return the stack of a run that begins with a visit of the step `first`."""
    visits = {first.name: 1} if first.cyclic else {}
    return BranchStack(waited_for=dict.fromkeys(first.regions, 1), visits=visits)


def finish_turn(stack: BranchStack, visit: Visit, step_of: StepOf) -> Turn:
    """Return the turn that follows a finished visit: its targets are put on the stack, and joins fire."""
    changes = _StackChanges(stack, step_of)
    changes.leave(visit)
    changes.fire_joins()
    return changes.take_turn(visit)


def next_turn(stack: BranchStack, last: Visit, step_of: StepOf) -> Turn:
    """Return the next turn of a stack without an active visit. `last` is the visit that began last."""
    changes = _StackChanges(stack, step_of)
    changes.fire_joins()
    return changes.take_turn(last)


def put_resumed_visits(stack: BranchStack, visits: Iterable[Visit], step_of: StepOf) -> BranchStack:
    """Return the stack with the visits that a resume continues on top, the one that began first topmost.

    Visits that an earlier resume has put on the stack stay where they are.
    """
    changes = _StackChanges(stack, step_of)
    known = stack.resumed_ids
    resumed = [visit for visit in visits if visit.id not in known]
    for visit in sorted(resumed, key=lambda visit: (visit.clock, visit.id), reverse=True):
        changes.put_back(visit)
    return changes.build()


def is_turn_over(visit: Visit) -> bool:
    """Return whether the next branch gets its turn: the visit is finished, and it does not stop the run."""
    is_finished = visit.status in FINISHED and visit.failure is not FailureState.OPEN
    return is_finished and not is_pseudo_step(visit.step)


def find_last_begun(visits: Iterable[Visit]) -> Visit:
    """Return the visit that began last."""
    return max(visits, key=lambda visit: (visit.clock, visit.id))


def resume_visit(visit: Visit, branch: Branch, now: float) -> Visit:
    """Return a failed or parked visit as it continues in its turn, with what was saved meanwhile.

    Its own record is left out: it sees that of the visit before it.
    """
    again = reopen(visit, now) or visit
    names = {name: pointer for name, pointer in branch.names.items() if pointer[1] != visit.id}
    return replace(again, clock=branch.clock, names={**visit.names, **names})


class _StackChanges:
    """The changes of a stack during one turn."""

    def __init__(self, stack: BranchStack, step_of: StepOf) -> None:
        self.step_of = step_of
        self.frames = list(stack.frames)
        self.branches = stack.branches
        self.waited_for = dict(stack.waited_for)
        self.arrived = list(stack.arrived)
        self.waves = dict(stack.waves)
        self.discriminated = dict(stack.discriminated)
        self.visits = dict(stack.visits)

    def build(self) -> BranchStack:
        waited_for = {join: number for join, number in self.waited_for.items() if number}
        return BranchStack(
            tuple(self.frames),
            self.branches,
            waited_for,
            tuple(self.arrived),
            self.waves,
            self.discriminated,
            self.visits,
        )

    def leave(self, visit: Visit) -> None:
        """Take a finished visit off, and put the targets of its case on the stack."""
        step = self.step_of(visit.step)
        self._count(step.regions, -1)
        self.branches -= 1
        if visit.case is None or visit.has_ended_branch:
            return
        targets = step.cases[visit.case].targets
        if targets:
            self.frames.append(ForkFrame(visit.id, visit.step, visit.case))
        for target in targets:
            self._count(_joins_before(self.step_of(target)), 1)
        self.branches += len(targets)

    def put_back(self, visit: Visit) -> None:
        """Put a visit on the stack that a resume continues. A branch that had ended is counted again."""
        self.frames.append(ResumedFrame(visit.id, visit.step))
        if visit.failure is FailureState.ENDED:
            self._count(self.step_of(visit.step).regions, 1)
            self.branches += 1

    def fire_joins(self) -> None:
        """Put the joins on the stack that have arrivals and that no branch can reach any more."""
        fired = [join for join in self.arrived if self.waited_for.get(join, 0) <= 0]
        for join in reversed(fired):
            self.arrived.remove(join)
            self.waves[join] = self.waves.get(join, 0) + 1
            self.frames.append(JoinFrame(join, self.waves[join]))

    def take_turn(self, last: Visit) -> Turn:
        """Let branches arrive at joins until one begins a visit. `last` is the visit before it."""
        names, clock = _names_left_by(last), last.clock + 1
        while self.frames:
            frame = self.frames.pop()
            if isinstance(frame, ResumedFrame):
                branch = Branch(frame.visit_id, frame.step, clock, self._carried(frame.step, names))
                return Turn(self.build(), branch, is_resumed=True)
            if isinstance(frame, JoinFrame):
                id = derived_id("join", frame.step, frame.wave)
                return self._begin(id, self.step_of(frame.step), clock, names)
            target = self._take_target(frame)
            visit_id = self._find_entered(frame, target, clock, names)
            if visit_id is not None:
                return self._begin(visit_id, target, clock, names)
            self.fire_joins()
        # A branch that was lost, and that no frame holds, must not keep the run from ending.
        return Turn(replace(self.build(), branches=0))

    def _take_target(self, frame: ForkFrame) -> Step:
        """Return the next target of a fork, and put its other targets back."""
        targets = self.step_of(frame.step).cases[frame.case].targets
        if frame.index + 1 < len(targets):
            self.frames.append(replace(frame, index=frame.index + 1))
        return self.step_of(targets[frame.index])

    def _find_entered(self, frame: ForkFrame, target: Step, clock: int, names: Pointers) -> str | None:
        """Return the id of the visit that a branch begins, or None if it arrives at a join."""
        if target.join is None:
            return id_of_entry(frame.visit_id, frame.case, target, clock)
        if target.join.mode == "all":
            self._arrive(target)
            return None
        # The visit of the dominator is a live name only if there can be several.
        wave = self._carried(target.name, names).get(f"steps.{target.join.dominator}", (0, ""))[1]
        id = derived_id("any", target.name, wave)
        if self.discriminated.get(target.name) == id:
            self._count(target.regions, -1)
            self.branches -= 1
            return None
        self.discriminated[target.name] = id
        return id

    def _arrive(self, join: Step) -> None:
        """Let a branch arrive. The first one waits for the others, and each of them ends."""
        self._count((join.name,), -1)
        if join.name in self.arrived:
            self._count(join.regions, -1)
            self.branches -= 1
        else:
            self.arrived.append(join.name)

    def _begin(self, visit_id: str, step: Step, clock: int, names: Pointers) -> Turn:
        number = 1
        if step.cyclic:
            number = self.visits[step.name] = self.visits.get(step.name, 0) + 1
        branch = Branch(visit_id, step.name, clock, self._carried(step.name, names), is_counted=step.cyclic)
        return Turn(self.build(), branch, number)

    def _carried(self, step: str, names: Pointers) -> Pointers:
        live_names = self.step_of(step).live_names
        return {name: pointer for name, pointer in names.items() if name in live_names}

    def _count(self, joins: Iterable[str], change: int) -> None:
        for join in joins:
            self.waited_for[join] = self.waited_for.get(join, 0) + change


def _joins_before(target: Step) -> tuple[str, ...]:
    """Return the joins that a branch on its way to a step can reach, also the step itself."""
    is_join = target.join is not None and target.join.mode == "all"
    return (*target.regions, target.name) if is_join else target.regions


def _names_left_by(visit: Visit) -> Pointers:
    """Return the names that a visit leaves to the next one. An unfinished visit leaves those before it."""
    return names_after(visit) if visit.status in FINISHED else visit.names


def _frame_to_json(frame: Frame) -> list[Any]:
    if isinstance(frame, ForkFrame):
        return [frame.visit_id, frame.step, frame.case, frame.index]
    if isinstance(frame, JoinFrame):
        return [frame.step, frame.wave]
    return [frame.visit_id, frame.step]


def _frame_from_json(data: Sequence[Any]) -> Frame:
    if len(data) == 4:
        return ForkFrame(*data)
    return JoinFrame(*data) if isinstance(data[1], int) else ResumedFrame(*data)
