"""NP307: the number, the place and the refusal of a visit do not depend on timing.

Problem: Parallel branches may visit one step. Which of these visits gets which number, ends last or exceeds
`max_visits` then depends on which branch is faster. A template that reads one of these gives other results in
other runs.

Algorithm: The steps with unordered visits come from may-happen-in-parallel analysis
(`noetl.planner.graph.concurrency`). `step.visit` and `steps.NAME.visits` of them are reported wherever they
are read. The other fields of `steps.NAME` are only ambiguous where such visits have come together. That is in
`output`, in the `finally` step, and behind a join that waits for the step. A forward data-flow analysis finds
the steps behind such joins (Kam and Ullman 1977). A join generates a fact for each step that it waits for,
and a later visit of the step kills the fact. For `max_visits`, `noetl.planner.graph.visit_bounds` counts the
visits that branches can make.

Cost: One pass over the templates and two over the edges. An exact bound of visits is linear in the number of
steps. It is only computed for a step whose `max_visits` is below the rough bound of the second pass.

Limits: Guards are ignored: two branches may be reported although their guards exclude each other. If the
bounds take more than `MAX_COUNTED_STEPS` steps together, the remaining steps with `max_visits` are reported.
If the concurrency analysis exceeds its limit, nothing is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import networkx as nx

from noetl.planner.checks.races import explain_unordered_visits
from noetl.planner.diagnostics.diagnostic import Span
from noetl.planner.graph.bitset import bit_indexes
from noetl.planner.graph.visit_bounds import bound_arrivals, compute_visit_bound
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.syntax.entries import find_called_tasks
from noetl.planner.syntax.models import Step
from noetl.planner.templates.access_paths import AccessPath

MAX_COUNTED_STEPS = 100_000
"""How many steps all computations of bounds may visit together."""

ReaderSet = int
"""A set of readers of a template: bit 0 is the output, the other bits are steps in the order of the text."""

FactSet = int
"""A set of steps whose unordered visits have come together: one bit for each step of `unordered`."""

USE_IDEMPOTENCY_KEY = "to tell visits apart, read `step.idempotency_key`"
COUNT_BEFORE_FORK = "count in a saved name before the branches separate"
READ_IN_BRANCH = "read it before the branches join, or give each branch a step of its own"
BOUND_THE_CYCLE = "limit the cycle at a step that one branch visits at a time"


def report_visit_timing(program: Program, unordered: frozenset[str]) -> None:
    """Report what depends on the order of the visits of the steps in `unordered`."""
    if unordered:
        check = _VisitTimingCheck(program, unordered)
        check.report_reads()
        check.report_refusals()


class _StepRead(NamedTuple):
    """An access to `step` or `steps` in a template, and its offset."""

    use: TemplateUse
    access: AccessPath
    offset: int

    def find_span(self, program: Program) -> Span:
        """Return the span of the access, from its first word to its last one."""
        source, end = self.use.template.source, self.offset
        for word in self.access:
            start = source.find(word, end)
            end = start + len(word) if start >= 0 else end
        end += 2 if source[end : end + 2] in ("']", '"]') else 0
        return program.document.text_span(self.use.path, self.offset, end)


class _VisitTimingCheck:
    def __init__(self, program: Program, unordered: frozenset[str]) -> None:
        self.program = program
        self.steps = program.symbols.steps
        self.unordered = {name: 1 << index for index, name in enumerate(sorted(unordered))}
        self.reader_bits = {name: 2 << index for index, name in enumerate(self.steps)}
        finally_step = program.playbook.finally_
        self.readers_at_end = 1 | self.reader_bits.get(finally_step or "", 0)
        self.evaluated = self.readers_at_end | self.readers_named(program.cfg.reachable)

    def readers_named(self, names: Iterable[str]) -> ReaderSet:
        """Return the set of steps with these names."""
        readers = 0
        for name in names:
            readers |= self.reader_bits[name]
        return readers

    def report_reads(self) -> None:
        """Report all templates whose values depend on the order of visits."""
        for use in self.program.uses:
            for access, offset in use.template.reads.items():
                read = _StepRead(use, access, offset)
                if access[0] == "step" and access[1:2] in ((), ("visit",)):
                    self.check_own_number(read)
                elif access[0] == "steps" and len(access) > 1 and access[1] in self.unordered:
                    self.check_named_step(read)

    def check_own_number(self, read: _StepRead) -> None:
        """Report a read of `step.visit` in a step with unordered visits, or in a task that it calls."""
        readers = self.readers_of(read.use)
        name = next((name for name in self.unordered if readers & self.reader_bits[name]), None)
        if name is not None:
            self.report_read(read, name, USE_IDEMPOTENCY_KEY)

    def check_named_step(self, read: _StepRead) -> None:
        """Report a read of `steps.NAME`: of its number anywhere, of another field where visits have come
        together.
        """
        name, readers = read.access[1], self.readers_of(read.use) & self.evaluated
        if read.access[2:3] in ((), ("visits",)):
            if readers:
                self.report_read(read, name, COUNT_BEFORE_FORK)
        elif readers & self.readers_at_end or self.facts_at_readers(read.use) & self.unordered[name]:
            self.report_read(read, name, READ_IN_BRANCH)

    def report_read(self, read: _StepRead, name: str, hint: str) -> None:
        """Report a template that reads what depends on the order of visits of a step."""
        path = ".".join(read.access[:3])
        message = f"`{path}` depends on timing: several visits of `{name}` may run in parallel"
        label, _ = explain_unordered_visits(self.program, self.steps[name])
        self.program.diagnostics.add("NP307", message, read.find_span(self.program), hint, labels=[label])

    def readers_of(self, use: TemplateUse) -> ReaderSet:
        """Return the steps that evaluate a template, and the output."""
        if use.step is not None:
            return self.reader_bits[use.step]
        if use.task is not None:
            return self.callers_of_task[use.task]
        if use.scope is TemplateScope.OUTPUT:
            return 1
        if use.scope is TemplateScope.AFTER_WORK:
            return self.readers_with_default_retry
        return 0

    @cached_property
    def callers_of_task(self) -> dict[str, ReaderSet]:
        """The steps that call each task, directly or through other tasks."""
        callers = dict.fromkeys(self.program.symbols.tasks, 0)
        for name, step in self.steps.items():
            for work in (step.run or (), *(case.run for case in step.rule or ())):
                for task in find_called_tasks(work):
                    if task in callers:
                        callers[task] |= self.reader_bits[name]
        call_graph = self.program.call_graph
        for task in nx.topological_sort(call_graph):
            for called in call_graph.successors(task):
                callers[called] |= callers[task]
        return callers

    @cached_property
    def readers_with_default_retry(self) -> ReaderSet:
        """The steps to which the `retry` of the playbook applies."""
        return self.readers_named(name for name, step in self.steps.items() if step.retry is None)

    def facts_at_readers(self, use: TemplateUse) -> FactSet:
        """Return the steps whose unordered visits have come together where a template is evaluated."""
        if use.step is not None:
            return self.facts_on_entry.get(use.step, 0)
        if use.task not in self._facts_in_task:
            names = [*self.steps]
            readers = (names[index - 1] for index in bit_indexes(self.readers_of(use)) if index)
            facts = 0
            for name in readers:
                facts |= self.facts_on_entry.get(name, 0)
            self._facts_in_task[use.task] = facts
        return self._facts_in_task[use.task]

    @cached_property
    def _facts_in_task(self) -> dict[str | None, FactSet]:
        """The results of `facts_at_readers` for tasks, and for the `retry` of the playbook."""
        return {}

    @cached_property
    def facts_on_entry(self) -> dict[str, FactSet]:
        """The steps whose unordered visits have come together where a branch enters a step, by this step."""
        cfg, joins = self.program.cfg, self.program.joins
        facts: dict[str, FactSet] = dict.fromkeys(cfg.reachable, 0)
        for name, fact in self.unordered.items():
            for join in joins.joins_waiting_for(name):
                facts[join] |= fact
        for component in reversed(cfg.components):
            worklist = [*component]
            while worklist:
                name = worklist.pop()
                leaving = facts[name] & ~self.unordered.get(name, 0)
                for successor in cfg.graph.succ[name]:
                    if leaving & ~facts[successor]:
                        facts[successor] |= leaving
                        if successor in component:
                            worklist.append(successor)
        return facts

    def report_refusals(self) -> None:
        """Report every `max_visits` of a step with unordered visits that branches can exceed."""
        limits = {
            name: limit for name in self.unordered if (limit := self.steps[name].max_visits) is not None
        }
        arrivals = bound_arrivals(self.program.cfg, self.program.joins) if limits else {}
        exceeded = [name for name, limit in limits.items() if arrivals[name] > limit]
        for number, name in enumerate(exceeded, start=1):
            step, bound = self.steps[name], None
            if number * len(self.steps) <= MAX_COUNTED_STEPS:
                bound = self.count_arrivals(step)
            if bound is not None and bound <= limits[name]:
                continue
            message = (
                f"`max_visits` of `{name}` is below the number of branches that can arrive: "
                "timing decides which visit is refused"
            )
            hint = BOUND_THE_CYCLE if bound is None else f"increase it to {bound:,}"
            if not self.program.cfg.is_cyclic(name):
                hint = "remove it" if bound is None else f"remove it, or {hint}"
            label, _ = explain_unordered_visits(self.program, step)
            self.program.report("NP307", message, (*step.path, "max_visits"), hint, labels=[label])

    def count_arrivals(self, step: Step) -> int | None:
        """Return how many branches can arrive at a step, or None if only its own `max_visits` limits them."""
        cfg = self.program.cfg
        bounds = {
            name: other.max_visits
            for name, other in self.steps.items()
            if other.max_visits is not None and name != step.name
        }
        if cfg.is_cyclic(step.name):
            component = cfg.components[cfg.component_index[step.name]]
            if not nx.is_directed_acyclic_graph(cfg.graph.subgraph(component - bounds.keys())):
                return None
        return compute_visit_bound(cfg, self.program.joins, bounds, step.name)
