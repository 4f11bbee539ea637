"""NP303: what branches save never depends on which of them is faster."""

from __future__ import annotations

from collections.abc import Iterable

from noetl.planner.dataflow.definitions import Placed, Saves, placed, repeated
from noetl.planner.dataflow.liveness import MAX_HANDED
from noetl.planner.dataflow.unreachable import Never
from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.graph.bitset import bits
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.concurrency import find_concurrency
from noetl.planner.graph.joins import Joins
from noetl.planner.guards.coverage import is_error_aware
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import Step

MAX_RACES = 500
"""How many are worked out: names by the thousand that branches by the thousand save have one cause."""

OWN_NAMES = "let each of them save a name of its own"
SAVE_BEHIND = "let a step behind it save the name, where the branches have come together"
WAIT = "let the step wait for all branches: `join: all`"


def check_races(subject: Subject, saves: Saves, never: Never | None = None) -> None:
    """Report every name that items, steps or visits save which may be at work at the same time, unless only by what no run does."""
    races = _Races(subject, saves, never or Never())
    for task in subject.names.tasks.values():
        if task.parallel:
            races.items(saves.run_of_task(task))
    for step in subject.names.steps.values():
        if step.parallel and step.loop is None:
            races.items(placed(step.run or (), (*step.path, "run")))
    if subject.playbook.mode == "parallel":
        races.branches(subject.taken(races.never.cases))


class _Races:
    def __init__(self, subject: Subject, saves: Saves, never: Never) -> None:
        self.subject = subject
        self.never = never
        self.saves = saves
        self.found = 0

    def items(self, run: Iterable[Placed]) -> None:
        """The items of a `parallel: true`."""
        before: dict[int, list[tuple[Placed, int]]] = {}
        for path, entry in run:
            around = self.never.around(path)
            for index in bits(self.saves.of_entry(entry)):
                savers = before.setdefault(index, [])
                first = next(
                    (one for one, other in savers if not self.never.both_entries(around, other)), None
                )
                if first is not None and list(self.names(1 << index)):
                    name = self.saves.names[index]
                    message = f"two items that run together save `{name}`"
                    self.report(name, message, [first], [(path, entry)], "the first one is here")
                savers.append(((path, entry), around))

    def branches(self, flow: Flow) -> None:
        """Steps that branches may be at together, and visits of one step."""
        joins = self.subject.joins
        saved = {step: self.saves.by_step[step] for step in flow.targets if step in flow.reachable}
        shared = repeated(saved)
        if not (shared or joins.multi or joins.discriminators) or not any(flow.forks()):
            return
        if sum(mask.bit_count() for mask in saved.values()) > MAX_HANDED:
            return  # which NP701 says
        steps = self.subject.names.steps
        once = frozenset(name for name in flow.reachable if self.is_visited_once(steps[name]))
        concurrency = find_concurrency(flow, joins, once)
        savers: dict[int, int] = {}
        for at, name in enumerate(concurrency.steps):
            beside = concurrency.beside.get(name, 0)
            if beside >> at & 1:
                self.visits(steps[name], joins)
            for index in bits(saved[name] & shared):
                earlier = savers.get(index, 0)
                others = (concurrency.steps[other] for other in bits(earlier & beside))
                first = next((other for other in others if not self.never.both(other, name)), None)
                if first is not None and list(self.names(1 << index)):
                    self.steps(self.saves.names[index], steps[first], steps[name])
                savers[index] = earlier | 1 << at

    def is_visited_once(self, step: Step) -> bool:
        """Whether a branch that comes to a step again does nothing there and ends: it is refused, and no case goes on after that."""
        if step.max_visits != 1 or not self.subject.may_be_refused(step):
            return False
        flow, names = self.subject.flow, self.subject.names
        handling = [case for case in step.rule or () if case.run and is_error_aware(case)]
        return all(flow.leads_back(step.name, names.targets(case)) for case in handling)

    def steps(self, name: str, first: Step, second: Step) -> None:
        message = (
            f"`{name}` is saved by `{first.name}` and by `{second.name}`, which may run at the same time"
        )
        earlier, later = map(self.saves.run_of_step, (first, second))
        self.report(name, message, earlier, later, f"`{first.name}` saves it here")

    def visits(self, step: Step, joins: Joins) -> None:
        """A step that several branches may visit at once."""
        if step.name in joins.multi:
            place, why, hint = step, "it is visited once for each branch", SAVE_BEHIND
        else:
            late = next(join for join in joins.regions[step.name] if join in joins.discriminators)
            place, why, hint = (
                self.subject.names.steps[late],
                "a branch that comes too late here goes on until then",
                WAIT,
            )
        label = Label(self.subject.document.span((*place.path, "join")), why)
        for index in self.names(self.saves.by_step[step.name]):
            name = self.saves.names[index]
            message = f"`{name}` is saved by several visits of `{step.name}`, which may run at the same time"
            span = self.span(self.saves.run_of_step(step), name)
            self.subject.diagnostics.add("NP303", message, span, hint, labels=[label])

    def names(self, raced: int) -> Iterable[int]:
        """The names of races that are to be reported; of the others only the number is told."""
        for index in bits(raced):
            self.found += 1
            if self.found <= MAX_RACES:
                yield index
            else:
                self.subject.diagnostics.leave_out(1)

    def report(
        self, name: str, message: str, first: Iterable[Placed], second: Iterable[Placed], at_first: str
    ) -> None:
        label = Label(self.span(first, name), at_first)
        self.subject.diagnostics.add("NP303", message, self.span(second, name), OWN_NAMES, labels=[label])

    def span(self, run: Iterable[Placed], name: str) -> Span:
        saved = self.saves.place(run, name)
        document = self.subject.document
        return document.key_span(saved.path) if saved.is_key else document.span(saved.path)
