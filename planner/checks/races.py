"""NP303: no name is saved by two branches, items or visits that may run at the same time.

Problem: If two of them save the same name, the value depends on which one is faster.

Algorithm: May-happen-in-parallel analysis (`noetl.planner.graph.concurrency`) gives, for each step, the steps
that may run at the same time. Two of them race if they save the same name, unless no run visits both
(`noetl.planner.dataflow.unreachable`).

Cost: One pass over the pairs of parallel steps that save a shared name.

Limits: At most `MAX_RACES` races are reported in full; the others are only counted. If the concurrency
analysis exceeds its limit, races between branches are not reported. `noetl.planner.checks.visit_timing` uses
the same analysis for NP307.
"""

from __future__ import annotations

from collections.abc import Iterable

from noetl.planner.checks.name_usage import definition_span
from noetl.planner.dataflow.definitions import (
    Definitions,
    PlacedEntry,
    bits_set_more_than_once,
    place_entries,
)
from noetl.planner.dataflow.liveness import MAX_LIVE_NAMES
from noetl.planner.dataflow.unreachable import Unreachable
from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.graph.bitset import bit_indexes
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.concurrency import find_concurrency
from noetl.planner.guards.coverage import is_error_aware
from noetl.planner.program.program import Program
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import Step

MAX_RACES = 500
"""How many races are reported in full. Thousands of them mostly have one cause."""

USE_DIFFERENT_NAMES = "save a different name in each of them"
SAVE_AFTER_JOIN = "save the name in a later step, where the branches have joined"
WAIT_FOR_ALL = "wait for all branches: `join: all`"


def report_races(
    program: Program, definitions: Definitions, unreachable: Unreachable | None = None
) -> frozenset[str]:
    """Report every name that items, steps or visits save which may run at the same time.

    Return the steps of which several visits may run, or be refused, at the same time.
    """
    check = _RaceCheck(program, definitions, unreachable or Unreachable())
    for task in program.symbols.tasks.values():
        if task.parallel:
            check.check_items(definitions.task_entries(task))
    for step in program.symbols.steps.values():
        if step.parallel and step.loop is None:
            check.check_items(place_entries(step.run or (), (*step.path, "run")))
    if program.playbook.mode != "parallel":
        return frozenset()
    return check.check_branches(program.cfg_without(check.unreachable.cases))


def explain_unordered_visits(program: Program, step: Step) -> tuple[Label, str]:
    """Return why several visits of a step may run at the same time, and how to change it."""
    joins = program.joins
    if step.name in joins.multi_merges:
        join, reason, hint = step, "this step runs for each branch", SAVE_AFTER_JOIN
    else:
        late = next(join for join in joins.regions[step.name] if join in joins.discriminators)
        join = program.symbols.steps[late]
        reason, hint = "a branch that is late for this join still runs until it arrives", WAIT_FOR_ALL
    return Label(program.document.span((*join.path, "join")), reason), hint


class _RaceCheck:
    def __init__(self, program: Program, definitions: Definitions, unreachable: Unreachable) -> None:
        self.program = program
        self.unreachable = unreachable
        self.definitions = definitions
        self.race_count = 0

    def check_items(self, run: Iterable[PlacedEntry]) -> None:
        """Report races between the items of a `parallel: true`."""
        savers_by_name: dict[int, list[PlacedEntry]] = {}
        for path, entry in run:
            for index in bit_indexes(self.definitions.assigned_by_entry(entry)):
                savers = savers_by_name.setdefault(index, [])
                are_exclusive = self.unreachable.are_exclusive_entries
                first = next((saver for saver in savers if not are_exclusive(path, saver[0])), None)
                if first is not None and self.count_race():
                    name = self.definitions.names[index]
                    message = f"`{name}` is saved by two items that run in parallel"
                    self.report(name, message, [first], [(path, entry)], "the first item is here")
                savers.append((path, entry))

    def check_branches(self, cfg: ControlFlowGraph) -> frozenset[str]:
        """Report races between steps of different branches, and between visits of one step.

        Return the steps of which several visits may run, or be refused, at the same time.
        """
        joins = self.program.joins
        saved = {step: self.definitions.by_step[step] for step in cfg.targets if step in cfg.reachable}
        shared = bits_set_more_than_once(saved)
        if not (shared or joins.multi_merges or joins.discriminators) or not any(cfg.forks()):
            return frozenset()
        if sum(names.bit_count() for names in saved.values()) > MAX_LIVE_NAMES:
            return frozenset()  # NP701 is reported.
        steps = self.program.symbols.steps
        visited_once = frozenset(name for name in cfg.reachable if self.is_visited_once(steps[name]))
        concurrency = find_concurrency(cfg, joins, visited_once)
        savers_by_name: dict[int, int] = {}
        for position, name in enumerate(concurrency.steps):
            parallel = concurrency.parallel.get(name, 0)
            if parallel >> position & 1:
                self.report_visits(steps[name])
            for index in bit_indexes(saved[name] & shared):
                earlier = savers_by_name.get(index, 0)
                savers = (concurrency.steps[saver] for saver in bit_indexes(earlier & parallel))
                first = next(
                    (saver for saver in savers if not self.unreachable.are_exclusive_steps(saver, name)), None
                )
                if first is not None and self.count_race():
                    self.report_steps(self.definitions.names[index], steps[first], steps[name])
                savers_by_name[index] = earlier | 1 << position
        return concurrency.unordered_steps()

    def is_visited_once(self, step: Step) -> bool:
        """Return whether a second visit of a step does nothing and ends its branch (MaxVisitsExceeded)."""
        if step.max_visits != 1 or step.name not in self.program.refusable_steps:
            return False
        cfg, symbols = self.program.cfg, self.program.symbols
        handling_cases = [case for case in step.rule or () if case.run and is_error_aware(case)]
        return all(cfg.leads_back(step.name, symbols.targets(case)) for case in handling_cases)

    def report_steps(self, name: str, first: Step, second: Step) -> None:
        message = f"`{name}` is saved by steps `{first.name}` and `{second.name}`, which may run in parallel"
        first_entries, second_entries = map(self.definitions.step_entries, (first, second))
        self.report(name, message, first_entries, second_entries, f"`{first.name}` saves it here")

    def report_visits(self, step: Step) -> None:
        """Report the names that a step saves of which several visits may run at the same time."""
        label, hint = explain_unordered_visits(self.program, step)
        for index in bit_indexes(self.definitions.by_step[step.name]):
            if self.count_race():
                name = self.definitions.names[index]
                message = f"`{name}` is saved by several visits of `{step.name}`, which may run in parallel"
                span = self.find_span(self.definitions.step_entries(step), name)
                self.program.diagnostics.add("NP303", message, span, hint, labels=[label])

    def count_race(self) -> bool:
        """Count a race, and return whether to report it in full."""
        self.race_count += 1
        if self.race_count <= MAX_RACES:
            return True
        self.program.diagnostics.count_unreported(1)
        return False

    def report(
        self,
        name: str,
        message: str,
        first: Iterable[PlacedEntry],
        second: Iterable[PlacedEntry],
        first_label: str,
    ) -> None:
        label = Label(self.find_span(first, name), first_label)
        span = self.find_span(second, name)
        self.program.diagnostics.add("NP303", message, span, USE_DIFFERENT_NAMES, labels=[label])

    def find_span(self, run: Iterable[PlacedEntry], name: str) -> Span:
        """Return the span of the first `as`, key or task call that saves a name. One entry must save it."""
        bit = 1 << self.definitions.names.index(name)
        path, entry = next(placed for placed in run if self.definitions.assigned_by_entry(placed[1]) & bit)
        for saved_name, saved_path in find_saved_names([entry]):
            if saved_name == name:
                return definition_span(self.program, saved_path)
        return self.program.document.span(path if isinstance(entry, str) else (*path, "task"))
