"""The state of a run as the judgement of a switch sees it, from the records of the run.

Problem: a branch carries pointers only for the names that its plan reads later. Another plan may read others,
which the branch had earlier. So its names must come from the history.

Algorithm: the ids of visits follow from their causes, so each finished visit tells the branches that left it.
A branch has what its cause had and saved. At a join it has what all arrivals had, at a first-come join what
they have in common: the first arrival is not recorded. Pointers that a visit holds are always right, so they
come last.

Cost: linear in the visits times the names of the run.

Limits: of a visit whose cause is not known, only its own pointers count. This happens for visits before an
earlier switch, and behind a join that fired again after a resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.model.branch_stack import BranchStack
from noetl.executor.model.events import Event
from noetl.executor.model.finished_items import ITEMS, read_records
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import Branch, FailureState, Pointers, Run, Visit, VisitStatus
from noetl.executor.model.sequential_history import SequentialPlace, find_place
from noetl.executor.model.special_visits import has_given_visit, is_branch_visit, is_pseudo_step
from noetl.executor.model.transition import StepOf, branches_after, names_after
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import SKIP, read_skip
from noetl.planner.continuation.switch_state import Begun, BranchPosition, DoneStep, FinishedLoop, SwitchState
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Header, Plan

ACTION_EVENTS = frozenset({"action.completed"})
"""The events from which the work that has begun in a visit is known."""


@frozen
class RunRecords:
    """The records of a run: the visits with their saved names, and what waits at joins.

    `arrivals` holds the branches that wait at each join, `waves` how often each join has fired. In sequential
    mode, `stack` has the branches instead. `events` are those of the actions of visits that are not over. A
    resume continues `ended` branches as well. The records were read at `read_at`: a claim whose lease had
    ended by then is lost. With `had_other_plans`, some visits were done before the run had its plan.
    """

    run: Run
    visits: Sequence[Visit]
    arrivals: Mapping[str, Sequence[Branch]] = field(default_factory=dict)
    waves: Mapping[str, int] = field(default_factory=dict)
    events: Sequence[Event] = ()
    resumes_ended: bool = False
    read_at: float = 0.0
    stack: BranchStack | None = None
    had_other_plans: bool = False

    def is_claimed(self, visit: Visit) -> bool:
        """Return whether a worker holds the visit."""
        return visit.status is VisitStatus.RUNNING and visit.due_at > self.read_at

    def is_live(self, visit: Visit) -> bool:
        """Return whether a branch stands at the visit."""
        if is_pseudo_step(visit.step):
            return False
        return (
            visit.status not in FINISHED
            or visit.failure is FailureState.OPEN
            or (self.resumes_ended and visit.failure is FailureState.ENDED)
        )


def read_switch_state(records: RunRecords, plan: Plan, new: Plan | None = None) -> SwitchState:
    """Return the state of a run of a plan, for `noetl.planner.continuation.judge.may_continue`.

    `new` is the plan in which it is to continue. It decides nothing but the order in sequential mode.
    """
    history = names_of_branches(records, plan)
    visits = [visit for visit in records.visits if is_branch_visit(visit, plan.header.finally_step)]
    live = [visit for visit in visits if records.is_live(visit)]
    over = [visit for visit in visits if not records.is_live(visit)]
    branches = [
        BranchPosition(
            visit.step,
            visit.clock,
            history[visit.id],
            number=visit.number,
            begun=_read_begun(records, visit, plan),
        )
        for visit in live
    ]
    branches += [
        BranchPosition(branch.step, branch.clock, history[branch.id], has_arrived=True)
        for arrivals in records.arrivals.values()
        for branch in arrivals
    ]
    held = {name for branch in branches for name in branch.names}
    in_line = 0 if records.stack is None else records.stack.count_in_line(plan.steps.__getitem__)
    has_ended = records.run.status.is_final and records.run.stop is None
    saved = {name for visit in over if not visit.has_ended_branch for name in visit.saved}
    return SwitchState(
        tuple(branches),
        _count_done(over),
        frozenset(saved - held),
        records.run.input,
        records.run.variables,
        any(map(records.is_claimed, records.visits)),
        _has_begun_to_end(records.visits, plan.header),
        is_edited=records.had_other_plans or has_given_visit(records.visits),
        in_line=in_line,
        follows_order=bool(in_line) and new is not None and find_new_place(records, plan, new) is not None,
        is_over=has_ended and not (branches or in_line),
    )


def find_new_place(records: RunRecords, old: Plan, new: Plan) -> SequentialPlace | None:
    """Return the place of a run in another plan, if both perform its branches in the same order.

    It has one branch that is performed, which is the last one that began.
    """
    if not (old.header.sequential and new.header.sequential):
        return None
    place = find_place(records.visits, new)
    live = [visit.id for visit in records.visits if records.is_live(visit) and visit.step in new.steps]
    return place if place is not None and live == [place.visit_id] else None


def _count_done(visits: Iterable[Visit]) -> dict[str, DoneStep]:
    done: dict[str, DoneStep] = {}
    for visit in visits:
        known = done.get(visit.step, DoneStep(0, 0))
        done[visit.step] = DoneStep(known.visits + 1, max(known.clock, visit.clock))
    return done


def _has_begun_to_end(visits: Iterable[Visit], header: Header) -> bool:
    special = [visit for visit in visits if not is_branch_visit(visit, header.finally_step)]
    return any(visit.status not in FINISHED and visit.step != "@deadline" for visit in special)


def _read_begun(records: RunRecords, visit: Visit, plan: Plan) -> Begun | None:
    """Return the work that has begun in a visit, or None.

    A lost worker has reported nothing, so all actions of its visit may have been completed. The work of a
    visit that is skipped has not begun. An earlier skip has left none.
    """
    if read_skip(visit, records.run.resumes + 1) is not None:
        return None
    is_lost = (visit.status is VisitStatus.RUNNING and not records.is_claimed(visit)) or (
        visit.error is not None and visit.error["type"] == "WorkerLost"
    )
    progress = visit.progress
    position = "run" if progress is None or progress.round == 0 else f"run~{progress.round}"
    if is_lost and visit.step in plan.steps:
        completed = tuple(f"{position}.{index}" for index in range(len(plan.steps[visit.step].run)))
    else:
        completed = tuple(
            str(event.payload["position"])
            for event in records.events
            if event.type in ACTION_EVENTS and (event.step, event.visit) == (visit.step, visit.number)
        )
    loops = tuple(
        FinishedLoop(loop, record.work, record.done_count, record.total)
        for loop, record in read_records(visit).items()
    )
    if progress is None or SKIP in progress.journal:
        return Begun(completed=completed, is_certain=not is_lost) if completed else None
    case = progress.journal["rule"]["case"] if "rule" in progress.journal else None
    places = _suspended_items(progress.journal, position if case is None else f"rule.{case}")
    item = places[0] if places else None
    inside = tuple(places[1:])
    is_suspended = any(key != ITEMS for key in progress.journal)
    return Begun(is_suspended, item, case, progress.round, completed, inside, not is_lost, loops)


def _suspended_items(journal: Mapping[str, Any], position: str) -> list[int]:
    """Return the index of the suspended item of work, followed by those of the tasks that it calls.

    >>> _suspended_items({"run": {"at": 1}, "run.1/t": {"at": 2}, "run.1/t.2": {"action": "wait"}}, "run")
    [1, 2]
    """
    items: list[int] = []
    frame: str | None = position
    while frame is not None and "at" in journal.get(frame, {}):
        items.append(journal[frame]["at"])
        place = f"{frame}.{items[-1]}/"
        frame = next((key for key in journal if key.startswith(place) and "." not in key[len(place) :]), None)
    return items


def names_of_branches(records: RunRecords, plan: Plan) -> dict[str, Pointers]:
    """Return what each visit and each waiting branch has, by its id: also names that nothing reads later."""
    return _History(records, plan).solve()


class _History:
    """The names of visits, in the order of their clocks, so that causes come first."""

    def __init__(self, records: RunRecords, plan: Plan) -> None:
        self.records = records
        self.step_of: StepOf = plan.steps.__getitem__
        self.steps = plan.steps
        self.names: dict[str, Pointers] = {}
        self.causes: dict[str, list[Pointers]] = {}
        self.arrivals: dict[str, list[tuple[int, str]]] = {}
        self.waiting = {branch.id: branch for arrived in records.arrivals.values() for branch in arrived}

    def solve(self) -> dict[str, Pointers]:
        for visit in sorted(self.records.visits, key=lambda visit: (visit.clock, visit.id)):
            self.names[visit.id] = self.names_of(visit)
            self.add_effects(visit)
        for id, branch in self.waiting.items():
            self.names[id] = {**_merge(self.causes.get(id, [])), **branch.names}
        return self.names

    def names_of(self, visit: Visit) -> Pointers:
        step = self.steps.get(visit.step)
        causes = self.causes.get(visit.id, [])
        if step is None or (step.join is None and len(causes) > 1):
            return visit.names
        if step.join is not None and step.join.mode == "any":
            return {**_intersect(causes), **visit.names}
        if step.join is not None and not causes:
            causes = self.take_arrivals(visit)
        return {**_merge(causes), **visit.names}

    def take_arrivals(self, visit: Visit) -> list[Pointers]:
        """Return what the branches had that a visit of a join has merged."""
        wave = self.records.waves.get(visit.step, 1)
        is_first = visit.id == derived_id("join", visit.step, 1)
        if not is_first and (self.records.run.resumes or wave == 1):
            return []
        if is_first and wave > 1 and self.records.run.resumes:
            return []
        taken = [id for clock, id in self.arrivals.get(visit.step, []) if clock <= visit.clock]
        self.arrivals[visit.step] = [
            item for item in self.arrivals.get(visit.step, []) if item[1] not in taken
        ]
        return [cause for id in taken for cause in self.causes.pop(id, [])]

    def add_effects(self, visit: Visit) -> None:
        """Add the branches that have left a visit."""
        step = self.steps.get(visit.step)
        if (
            step is None
            or visit.status not in FINISHED
            or visit.case is None
            or visit.case >= len(step.cases)
        ):
            return
        if any(target not in self.steps for target in step.cases[visit.case].targets):
            return
        after = names_after(replace(visit, names=self.names[visit.id]))
        for branch in branches_after(visit, step, self.step_of):
            self.causes.setdefault(branch.id, []).append(after)
            if branch.is_arrival and branch.id not in self.waiting:
                self.arrivals.setdefault(branch.step, []).append((branch.clock, branch.id))


def _merge(causes: Sequence[Pointers]) -> dict[str, tuple[int, str]]:
    """Return the pointers of all branches; of two to one name, the later.

    >>> _merge([{"n": (1, "a")}, {"n": (2, "b"), "m": (1, "a")}])
    {'n': (2, 'b'), 'm': (1, 'a')}
    """
    merged: dict[str, tuple[int, str]] = {}
    for names in causes:
        for name, pointer in names.items():
            candidate = (pointer[0], pointer[1])
            if name not in merged or merged[name] < candidate:
                merged[name] = candidate
    return merged


def _intersect(causes: Sequence[Pointers]) -> dict[str, tuple[int, str]]:
    """Return the pointers that all branches have in common."""
    first = causes[0] if causes else {}
    return {
        name: (pointer[0], pointer[1])
        for name, pointer in first.items()
        if all(tuple(names.get(name, ())) == tuple(pointer) for names in causes)
    }
