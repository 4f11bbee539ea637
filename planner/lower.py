"""From a playbook without errors to its plan: everything the executor needs, worked out once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import networkx as nx
from noetl.planner.catalogue import Kind
from noetl.planner.checks.references import infer_inputs
from noetl.planner.dataflow.liveness import (
    MAX_LIVE_NAMES,
    SAVE_TOGETHER,
    TOO_MANY_LIVE_NAMES,
    TooManyLiveNamesError,
    find_live_names,
    find_live_names_in_sequential_mode,
)
from noetl.planner.graph.joins import ROOT
from noetl.planner.graph.visit_bounds import most_visits
from noetl.planner.guards.coverage import is_error_aware
from noetl.planner.plan import (
    MOST_COUNTED,
    ONCE,
    Action,
    Header,
    Input,
    Join,
    Loop,
    Plan,
    Repeat,
    Retry,
    TaskCall,
    Work,
)
from noetl.planner.plan import Case as PlanCase
from noetl.planner.plan import Step as PlanStep
from noetl.planner.plan import Task as PlanTask
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Place, Use
from noetl.planner.syntax import models
from noetl.planner.syntax.entries import find_called_tasks, find_saved_names
from noetl.planner.syntax.models import ActionEntry, Case, Entry, RetryPolicy, Step, Task, TaskEntry


def lower(subject: Subject) -> Plan | None:
    """The plan of a playbook in which no check has found an error; None, with NP701, when branches carry too much."""
    try:
        return _Lowering(subject).plan()
    except TooManyLiveNamesError:
        subject.report("NP701", TOO_MANY_LIVE_NAMES, ("steps",), SAVE_TOGETHER, key=True)
        return None


class _Lowering:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.playbook = subject.playbook
        self.names = subject.names
        self.flow = subject.flow
        self.is_sequential = self.playbook.mode == "sequential"
        self.default_retry = lower_retry(self.playbook.retry) or ONCE
        self.read_by_step = self._reads()
        self.saved_by_task = {
            name: {n for n, _ in find_saved_names(task.run)} for name, task in self.names.tasks.items()
        }
        self._include_called(self.saved_by_task)
        self.saved_by_step = self._all_saved()
        marks = {name: {*saved, f"steps.{name}"} for name, saved in self.saved_by_step.items()}
        hand_on = find_live_names_in_sequential_mode if self.is_sequential else find_live_names
        self.handed_on = hand_on(self.flow, {**self.read_by_step, **self.waves()}, marks)

    def plan(self) -> Plan:
        last = self.playbook.finally_
        walked = self.flow.reachable | {last}
        steps = {name: self.step(step) for name, step in self.names.steps.items() if name in walked}
        tasks = {name: self.task(task) for name, task in self.names.tasks.items()}
        header = Header(
            name=self.playbook.name,
            start=self.flow.start,
            version=self.playbook.version,
            description=self.playbook.description,
            inputs=self.inputs(),
            takes_other_inputs=self.playbook.input is None and self._reads_all_inputs(),
            environment=self.playbook.environment,
            variables=self.playbook.variables,
            output=self.playbook.output,
            reads=self.read_by_output(),
            timeout_seconds=self.playbook.timeout,
            last_step=last,
            sequential=self.is_sequential,
            statistics=self.statistics(steps, tasks),
        )
        return Plan(header, steps, tasks, self.subject.document.text)

    def read_by_output(self) -> tuple[str, ...] | None:
        """The saved names and `steps.NAME` that `output` reads; None without an output, which gives all names."""
        if self.playbook.output is None:
            return None
        uses = (use for use in self.subject.uses if use.place is Place.OUTPUT)
        return tuple(sorted({name for use in uses for name in self._read_by(use)}))

    def waves(self) -> dict[str, set[str]]:
        """What each `join: any` needs to know besides what it reads: the visit at which the branches parted that arrive."""
        joins = self.subject.joins
        parted = {join: joins.dominators[join] for join in joins.discriminators}
        return {
            join: {*self.read_by_step[join], f"steps.{dominator}"}
            for join, dominator in parted.items()
            if dominator != ROOT and self.flow.is_cyclic(dominator)
        }

    def step(self, step: Step) -> PlanStep:
        name = step.name
        joins = self.subject.joins
        dominator = joins.dominators.get(name)
        return PlanStep(
            name=name,
            run=tuple(map(self.work, step.run or ())),
            parallel=step.parallel,
            cases=tuple(
                self.case(name, *one) for one in zip(step.rule or (), self.flow.targets[name], strict=True)
            ),
            join=None if dominator is None else Join(None if dominator == ROOT else dominator, step.join),
            each=name in joins.multi,
            regions=joins.waiting(name),
            cyclic=self.flow.is_cyclic(name) or name in joins.multi,
            max_visits=step.max_visits,
            retry=lower_retry(step.retry) or self.default_retry,
            timeout_seconds=step.timeout,
            on_error=step.on_error or self.playbook.on_error,
            loop=lower_loop(step.loop),
            repeat=lower_repeat(step.repeat),
            at_most_once=step.delivery == "at_most_once",
            runs_last=name == self.playbook.finally_,
            reads=tuple(sorted(self.read_by_step[name])),
            saves=tuple(sorted(self.saved_by_step[name])),
            hands_on=self.handed_on.get(name, frozenset()),
            line=self.subject.name_span(step).line,
        )

    def case(self, step: str, case: Case, targets: tuple[str, ...]) -> PlanCase:
        return PlanCase(
            guard=lower_guard(str(case.case)),
            error_aware=is_error_aware(case),
            targets=targets,
            work=tuple(map(self.work, self.names.work(case))),
            live=self.subject.joins.change(step, targets),
            leads_back=self.flow.leads_back(step, targets),
        )

    def task(self, task: Task) -> PlanTask:
        return PlanTask(tuple(map(self.work, task.run)), task.parallel)

    def work(self, entry: Entry) -> Work:
        if isinstance(entry, str):
            return TaskCall(entry, {})
        forgiven = getattr(entry, "on_error", None) == "continue"
        if isinstance(entry, TaskEntry):
            loop = lower_loop(entry.loop)
            return TaskCall(entry.task, entry.with_, entry.as_, lower_condition(entry.if_), forgiven, loop)
        assert isinstance(entry, ActionEntry)
        return Action(
            type=entry.action,
            parameters={name: self.parameter(entry, name, value) for name, value in entry.parameters.items()},
            save_as=entry.as_,
            condition=lower_condition(entry.if_),
            retry=lower_retry(entry.retry) or ONCE,
            timeout_seconds=entry.timeout,
            forgiven=forgiven,
            loop=lower_loop(entry.loop),
        )

    def parameter(self, entry: ActionEntry, name: str, value: Any) -> Any:
        """A parameter as it is written, but for one that is itself an action."""
        declared = self.subject.catalogue[entry.action].parameters.get(name)
        if declared is None or Kind.ACTION not in declared.kinds or not isinstance(value, dict):
            return value
        work = self.work(ActionEntry.model_validate(value))
        assert isinstance(work, Action)
        return work.to_json()

    def inputs(self) -> dict[str, Input]:
        if self.playbook.input is None:
            return {
                name: Input(required=found.required, inferred=True, line=found.line)
                for name, found in infer_inputs(self.subject).items()
            }
        return {
            name: Input(
                type=declared.type,
                required="default" not in declared.model_fields_set,
                default=declared.default,
                enum=None if declared.enum is None else tuple(declared.enum),
                description=declared.description,
                line=self.subject.document.key_span(("input", name)).line,
            )
            for name, declared in self.playbook.input.items()
        }

    def statistics(self, steps: Mapping[str, PlanStep], tasks: Mapping[str, PlanTask]) -> dict[str, Any]:
        cases = [case for step in steps.values() for case in step.cases]
        runs = (
            [step.run for step in steps.values()]
            + [c.work for c in cases]
            + [task.run for task in tasks.values()]
        )
        actions = Counter(work.type for run in runs for work in run if isinstance(work, Action))
        return {
            "steps": len(steps),
            "tasks": len(tasks),
            "edges": sum(len(case.targets) for case in cases),
            "forks": sum(len(case.targets) > 1 for case in cases),
            "joins": sum(step.join is not None for step in steps.values()),
            "cycles": sum(self.flow.is_cyclic(next(iter(c))) for c in self.flow.components),
            "most_visits": self.most_visits(),
            "actions": dict(sorted(actions.items())),
        }

    def most_visits(self) -> int:
        """The bound of a run's visits, with that of the step that runs last."""
        steps = self.names.steps.values()
        max_visits = {step.name: step.max_visits for step in steps if step.max_visits is not None}
        visits = most_visits(self.flow, self.subject.joins, max_visits)
        return min(visits + (self.playbook.finally_ is not None), MOST_COUNTED)

    def _reads_all_inputs(self) -> bool:
        return any(("input",) in use.template.reads for use in self.subject.uses)

    def _reads(self) -> dict[str, set[str]]:
        """The saved names and `steps.NAME` that each step reads, through the tasks it calls too."""
        by_step: dict[str, set[str]] = {name: set() for name in self.names.steps}
        by_task: dict[str, set[str]] = {name: set() for name in self.names.tasks}
        retried: set[str] = set()
        for use in self.subject.uses:
            owner = by_step.get(use.step or "") if use.step is not None else by_task.get(use.task or "")
            if owner is None:
                if use.place is not Place.AFTER:
                    continue
                owner = retried
            owner.update(self._read_by(use))
        self._include_called(by_task)
        for name, step in self.names.steps.items():
            by_step[name].update(() if step.retry is not None else retried)
            for run in (step.run or (), *(self.names.work(case) for case in step.rule or ())):
                by_step[name].update(*(by_task[task] for task in find_called_tasks(run) if task in by_task))
        return by_step

    def _read_by(self, use: Use) -> Iterator[str]:
        for access in use.template.reads:
            if access[0] in self.subject.produced and access[0] not in use.local:
                yield access[0]
            elif access[0] == "steps" and len(access) > 1:
                yield f"steps.{access[1]}"

    def _include_called(self, by_task: dict[str, set[str]]) -> None:
        """Add to the names of each task those of the tasks it calls, of those that they call, and so on."""
        calls = self.subject.task_calls
        for task in reversed(list(nx.topological_sort(calls))):
            by_task[task].update(*map(by_task.__getitem__, calls.successors(task)))

    def _all_saved(self) -> dict[str, set[str]]:
        """What each step saves. A task's names count for every step that calls it.

        Raises:
            TooManyLiveNamesError: together they are more than may be handed on.
        """
        saved: dict[str, set[str]] = {}
        total = 0
        for name, step in self.names.steps.items():
            saved[name] = self._saved(step)
            total += len(saved[name]) + len(self.read_by_step[name])
            if total > MAX_LIVE_NAMES:
                raise TooManyLiveNamesError
        return saved

    def _saved(self, step: Step) -> set[str]:
        saved: set[str] = set()
        for run in (step.run or (), *(case.run for case in step.rule or ())):
            saved.update(name for name, _ in find_saved_names(run))
            saved.update(
                *(self.saved_by_task[task] for task in find_called_tasks(run) if task in self.saved_by_task)
            )
        return saved


def lower_guard(guard: str) -> str | None:
    """The guard as a template; None for `default`."""
    if guard == "default":
        return None
    return "{{ error }}" if guard == "error" else guard


def lower_condition(condition: str | bool | None) -> str | None:
    """An `if` as a template; None when it is always true."""
    if condition is False:
        return "{{ false }}"
    return None if condition is None or condition is True else condition


def lower_retry(policy: RetryPolicy | None) -> Retry | None:
    """The policy as the executor knows it."""
    if policy is None:
        return None
    return Retry(
        policy.attempts,
        policy.delay,
        policy.backoff,
        policy.max_delay,
        policy.jitter,
        lower_condition(policy.if_),
    )


def lower_loop(loop: models.Loop | None) -> Loop | None:
    """The loop as the executor knows it."""
    if loop is None:
        return None
    return Loop(loop.items, loop.as_, loop.concurrency, loop.batch, loop.on_error == "continue")


def lower_repeat(repeat: models.Repeat | None) -> Repeat | None:
    """The repetition as the executor knows it."""
    return None if repeat is None else Repeat(repeat.until, repeat.every, repeat.max)
