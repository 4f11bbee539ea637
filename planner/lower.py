"""Lowering: the translation of a checked program to a plan.

Problem: the executor must interpret a playbook without analysing it, and must read one step at a time.

Algorithm: a direct translation of the syntax model. Shorthands are expanded and defaults are filled in. Each
step receives its join, its regions, the counter changes of each case, the names that it reads and saves, and
its live names. Names that a task reads or saves count for every step that calls the task. They are propagated
along the call graph in reverse topological order (Kahn 1962).

Cost: linear in the size of the playbook plus the number of name-step pairs, which `MAX_LIVE_NAMES` bounds.

Limits: the program must have no errors. Without a plan, NP701 is reported.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
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
from noetl.planner.debounce import DEFAULT_FACTOR, Debounce
from noetl.planner.frozen import replace
from noetl.planner.graph.joins import ROOT
from noetl.planner.graph.visit_bounds import compute_visit_bound
from noetl.planner.guards.coverage import is_error_aware
from noetl.planner.limits import Limit
from noetl.planner.notify import Notify, NotifyEvent
from noetl.planner.plan import (
    MAX_COUNTED_VISITS,
    NO_RETRY,
    Action,
    Cache,
    Header,
    Input,
    Join,
    Loop,
    Plan,
    Repeat,
    Retry,
    TaskCall,
    Trigger,
    TriggerSource,
    Work,
)
from noetl.planner.plan import Case as PlanCase
from noetl.planner.plan import Step as PlanStep
from noetl.planner.plan import Task as PlanTask
from noetl.planner.polled_sources import DEFAULT_RECEIVES, BucketObjects, BusEvents, Folder, Queue
from noetl.planner.program.cache_reads import CacheReads
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.schedules.schedule import LAST, CatchUp, Schedule
from noetl.planner.schedules.zone_names import find_zone
from noetl.planner.syntax import models
from noetl.planner.syntax.entries import find_called_tasks, find_saved_names
from noetl.planner.syntax.instants import parse_instant
from noetl.planner.syntax.models import (
    ActionEntry,
    BucketDeclaration,
    CachePolicy,
    Case,
    DebouncePolicy,
    Entry,
    EventDeclaration,
    FolderDeclaration,
    KeyedTriggerDeclaration,
    LimitDeclaration,
    NotifyDeclaration,
    QueueDeclaration,
    RateDeclaration,
    RetryPolicy,
    RunTriggerDeclaration,
    ScheduleDeclaration,
    Step,
    Task,
    TaskEntry,
    TriggerDeclaration,
    WebhookDeclaration,
)
from noetl.planner.syntax.names import find_secret_name
from noetl.planner.trigger_sources import DEFAULT_TOLERANCE_SECONDS, RunEnd, Webhook, WebhookAuth

_UNCACHED_KEYS = frozenset({"line", "retry", "timeout_seconds", "cache"})
"""The keys of lowered work on which its result does not depend."""


def lower(program: Program) -> Plan | None:
    """Return the plan of a program without errors, or None if branches carry too many names."""
    try:
        return Lowering(program).build_plan()
    except TooManyLiveNamesError:
        return None


def report_too_many_live_names(program: Program) -> None:
    """Report why a program without errors has no plan (NP701)."""
    program.report("NP701", TOO_MANY_LIVE_NAMES, ("steps",), SAVE_TOGETHER, key=True)


class Lowering:
    """The translation of one program. It holds the names that each step and task reads and saves."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.playbook = program.playbook
        self.symbols = program.symbols
        self.cfg = program.cfg
        self.is_sequential = self.playbook.mode == "sequential" and any(self.cfg.forks())
        self.default_retry = lower_retry(self.playbook.retry) or NO_RETRY
        self.reads_of_step = self._find_reads()
        self.saves_of_task = {
            name: {saved for saved, _ in find_saved_names(task.run)}
            for name, task in self.symbols.tasks.items()
        }
        self._include_called_tasks(self.saves_of_task)
        self.saves_of_step = self._find_saves()
        definitions = {name: {*saved, f"steps.{name}"} for name, saved in self.saves_of_step.items()}
        analyse_liveness = find_live_names_in_sequential_mode if self.is_sequential else find_live_names
        reads = {**self.reads_of_step, **self._find_reads_of_discriminators()}
        self.live_names = analyse_liveness(self.cfg, reads, definitions)

    def build_plan(self) -> Plan:
        finally_step = self.playbook.finally_
        included = self.cfg.reachable | {finally_step}
        steps = {name: self.lower_step(step) for name, step in self.symbols.steps.items() if name in included}
        tasks = {name: self.lower_task(task) for name, task in self.symbols.tasks.items()}
        header = Header(
            name=self.playbook.name,
            start=self.cfg.start,
            version=self.playbook.version,
            description=self.playbook.description,
            inputs=self.lower_inputs(),
            accepts_other_inputs=self.playbook.input is None and self._reads_all_inputs(),
            environment=self.playbook.environment,
            variables=self.playbook.variables,
            output=self.playbook.output,
            reads=self.find_reads_of_output(),
            timeout_seconds=self.playbook.timeout,
            finally_step=finally_step,
            sequential=self.is_sequential,
            statistics=self.count_statistics(steps, tasks),
            triggers=tuple(map(self.lower_trigger, self.playbook.triggers)),
            notify=lower_notify(self.playbook.notify),
            concurrency=tuple(map(lower_limit, self.playbook.limits)),
            rate=tuple(map(lower_limit, self.playbook.rates)),
            debounce=lower_debounce(self.playbook.debounce),
            priority=self.playbook.priority,
        )
        return Plan(header, steps, tasks, self.program.document.text)

    def find_reads_of_output(self) -> tuple[str, ...] | None:
        """Return the saved names and `steps.NAME` that `output` reads; None without `output`, which returns
        all names.
        """
        if self.playbook.output is None:
            return None
        uses = (use for use in self.program.uses if use.scope is TemplateScope.OUTPUT)
        return tuple(sorted({name for use in uses for name in self._names_read_by(use)}))

    def _find_reads_of_discriminators(self) -> dict[str, set[str]]:
        """Return the reads of each discriminator on a cycle, with the visit of its dominator, which
        identifies the wave.
        """
        joins = self.program.joins
        dominators = {join: joins.dominators[join] for join in joins.discriminators}
        return {
            join: {*self.reads_of_step[join], f"steps.{dominator}"}
            for join, dominator in dominators.items()
            if dominator != ROOT and self.cfg.is_cyclic(dominator)
        }

    def lower_step(self, step: Step) -> PlanStep:
        name = step.name
        joins = self.program.joins
        dominator = joins.dominators.get(name)
        cases = zip(step.rule or (), self.cfg.targets[name], strict=True)
        return PlanStep(
            name=name,
            run=tuple(map(self.lower_work, step.run or ())),
            parallel=step.parallel,
            cases=tuple(self.lower_case(name, case, targets) for case, targets in cases),
            join=None if dominator is None else Join(None if dominator == ROOT else dominator, step.join),
            runs_per_branch=name in joins.multi_merges,
            regions=joins.joins_waiting_for(name),
            cyclic=self.cfg.is_cyclic(name) or name in joins.multi_merges,
            max_visits=step.max_visits,
            retry=lower_retry(step.retry) or self.default_retry,
            timeout_seconds=step.timeout,
            on_error=step.on_error or self.playbook.on_error,
            loop=lower_loop(step.loop),
            repeat=lower_repeat(step.repeat),
            at_most_once=step.delivery == "at_most_once",
            is_finally_step=name == self.playbook.finally_,
            reads=tuple(sorted(self.reads_of_step[name])),
            saves=tuple(sorted(self.saves_of_step[name])),
            live_names=self.live_names.get(name, frozenset()),
            line=self.program.name_span(step).line,
            cache=None if step.cache is None else self.lower_step_cache(step, step.cache),
            concurrency=tuple(map(lower_limit, step.limits)),
            rate=tuple(map(lower_limit, step.rates)),
            priority=step.priority,
        )

    @cached_property
    def cache_reads(self) -> CacheReads:
        """The names that cached work reads."""
        return CacheReads(self.program)

    def lower_step_cache(self, step: Step, cache: CachePolicy) -> Cache:
        """Return the cache of the work of a step. The items of its loop are cached one by one."""
        tasks = {name: self.symbols.tasks[name] for name in self.cache_reads.called_tasks(step)}
        runs = [step.run or (), *(task.run for task in tasks.values())]
        called = {name: self.hashed_form(task.run, parallel=task.parallel) for name, task in tasks.items()}
        work = [self.hashed_form(step.run or (), parallel=step.parallel), called]
        types = {entry.action for run in runs for entry in run if isinstance(entry, ActionEntry)}
        item_name = None if step.loop is None else step.loop.as_
        reads = self.cache_reads.of_step(step)
        return Cache(hash_work([work, item_name]), cache.ttl, cache.key, reads, tuple(sorted(types)))

    def hashed_form(self, run: Iterable[Entry], *, parallel: bool) -> list[Any]:
        """Return work as data, without what its result does not depend on."""
        forms = (self.lower_work(entry).to_json() for entry in run)
        kept = [{key: form[key] for key in form.keys() - _UNCACHED_KEYS} for form in forms]
        return [parallel, kept]

    def lower_action_cache(self, entry: ActionEntry, parameters: Mapping[str, Any]) -> Cache | None:
        """Return the cache of an action."""
        if entry.cache is None:
            return None
        reads = self.cache_reads.of_deferred(entry)
        work = hash_work([entry.action, parameters])
        return Cache(work, entry.cache.ttl, entry.cache.key, reads, (entry.action,))

    def lower_case(self, step: str, case: Case, targets: tuple[str, ...]) -> PlanCase:
        return PlanCase(
            guard=lower_guard(str(case.case)),
            error_aware=is_error_aware(case),
            targets=targets,
            work=tuple(map(self.lower_work, self.symbols.work(case))),
            counter_changes=self.program.joins.counter_changes(step, targets),
            leads_back=self.cfg.leads_back(step, targets),
        )

    def lower_task(self, task: Task) -> PlanTask:
        return PlanTask(tuple(map(self.lower_work, task.run)), task.parallel)

    def lower_work(self, entry: Entry) -> Work:
        if isinstance(entry, str):
            return TaskCall(entry, {})
        forgiven = getattr(entry, "on_error", None) == "continue"
        if isinstance(entry, TaskEntry):
            loop = lower_loop(entry.loop)
            condition, line = lower_condition(entry.if_), self.find_line(entry)
            return TaskCall(entry.task, entry.with_, entry.as_, condition, forgiven, loop, line)
        assert isinstance(entry, ActionEntry)
        parameters = {
            name: self.lower_parameter(entry, name, value) for name, value in entry.parameters.items()
        }
        return Action(
            type=entry.action,
            parameters=parameters,
            save_as=entry.as_,
            condition=lower_condition(entry.if_),
            retry=lower_retry(entry.retry) or NO_RETRY,
            timeout_seconds=entry.timeout,
            forgiven=forgiven,
            loop=lower_loop(entry.loop),
            line=self.find_line(entry),
            cache=self.lower_action_cache(entry, parameters),
        )

    def find_line(self, entry: ActionEntry | TaskEntry) -> int:
        """Return the line on which an entry begins; 0 for an action that is a parameter of another."""
        return self.program.document.span(entry.path).line if entry.path else 0

    def lower_parameter(self, entry: ActionEntry, name: str, value: Any) -> Any:
        """Return a parameter as written; lower it if it is an action."""
        declared = self.program.catalogue[entry.action].parameters.get(name)
        if declared is None or Kind.ACTION not in declared.kinds or not isinstance(value, dict):
            return value
        work = self.lower_work(ActionEntry.model_validate(value))
        assert isinstance(work, Action)
        return work.to_json()

    def lower_inputs(self) -> dict[str, Input]:
        if self.playbook.input is None:
            return {
                name: Input(required=inferred.required, inferred=True, line=inferred.line)
                for name, inferred in infer_inputs(self.program).items()
            }
        return {
            name: Input(
                type=declared.type,
                required="default" not in declared.model_fields_set,
                default=declared.default,
                enum=None if declared.enum is None else tuple(declared.enum),
                description=declared.description,
                line=self.program.document.key_span(("input", name)).line,
            )
            for name, declared in self.playbook.input.items()
        }

    def lower_trigger(self, declared: TriggerDeclaration) -> Trigger:
        return Trigger(
            declared.name,
            declared.type,
            lower_source(declared),
            declared.input,
            lower_condition(declared.if_),
            declared.key if isinstance(declared, KeyedTriggerDeclaration) else None,
            line=self.program.document.span((*declared.path, "name")).line,
        )

    def count_statistics(
        self, steps: Mapping[str, PlanStep], tasks: Mapping[str, PlanTask]
    ) -> dict[str, Any]:
        cases = [case for step in steps.values() for case in step.cases]
        work_lists = [
            *(step.run for step in steps.values()),
            *(case.work for case in cases),
            *(task.run for task in tasks.values()),
        ]
        actions = Counter(
            work.type for work_list in work_lists for work in work_list if isinstance(work, Action)
        )
        limited = sum(step.has_limits for step in steps.values())
        return {
            "steps": len(steps),
            "tasks": len(tasks),
            "edges": sum(len(case.targets) for case in cases),
            "forks": sum(len(case.targets) > 1 for case in cases),
            "joins": sum(step.join is not None for step in steps.values()),
            "cycles": sum(self.cfg.is_cyclic(next(iter(component))) for component in self.cfg.components),
            "most_visits": self.compute_visit_bound(),
            "actions": dict(sorted(actions.items())),
            **({"limited_steps": limited} if limited else {}),
        }

    def compute_visit_bound(self) -> int:
        """Return the bound of a run's visits, with that of the `finally` step."""
        steps = self.symbols.steps.values()
        max_visits = {step.name: step.max_visits for step in steps if step.max_visits is not None}
        visits = compute_visit_bound(self.cfg, self.program.joins, max_visits)
        return min(visits + (self.playbook.finally_ is not None), MAX_COUNTED_VISITS)

    def _reads_all_inputs(self) -> bool:
        return any(("input",) in use.template.reads for use in self.program.uses)

    def _find_reads(self) -> dict[str, set[str]]:
        """Return the saved names and `steps.NAME` that each step reads, also by the tasks that it calls."""
        by_step: dict[str, set[str]] = {name: set() for name in self.symbols.steps}
        by_task: dict[str, set[str]] = {name: set() for name in self.symbols.tasks}
        by_default_retry: set[str] = set()
        for use in self.program.uses:
            reads = by_step.get(use.step or "") if use.step is not None else by_task.get(use.task or "")
            if reads is None:
                if use.scope is not TemplateScope.AFTER_WORK:
                    continue
                reads = by_default_retry
            reads.update(self._names_read_by(use))
        self._include_called_tasks(by_task)
        for name, step in self.symbols.steps.items():
            by_step[name].update(() if step.retry is not None else by_default_retry)
            for work in (step.run or (), *(self.symbols.work(case) for case in step.rule or ())):
                by_step[name].update(*(by_task[task] for task in find_called_tasks(work) if task in by_task))
        return by_step

    def _names_read_by(self, use: TemplateUse) -> Iterator[str]:
        for path in use.template.reads:
            if path[0] in self.program.definitions and path[0] not in use.local_names:
                yield path[0]
            elif path[0] == "steps" and len(path) > 1:
                yield f"steps.{path[1]}"

    def _include_called_tasks(self, names_of_task: dict[str, set[str]]) -> None:
        """Add to the names of each task those of all tasks that it calls, directly or indirectly."""
        calls = self.program.call_graph
        for task in reversed(list(nx.topological_sort(calls))):
            names_of_task[task].update(*map(names_of_task.__getitem__, calls.successors(task)))

    def _find_saves(self) -> dict[str, set[str]]:
        """Return the names that each step saves, also by the tasks that it calls.

        Raises:
            TooManyLiveNamesError: all steps together save and read more names than may be live.
        """
        saves: dict[str, set[str]] = {}
        total = 0
        for name, step in self.symbols.steps.items():
            saves[name] = self._saves_of(step)
            total += len(saves[name]) + len(self.reads_of_step[name])
            if total > MAX_LIVE_NAMES:
                raise TooManyLiveNamesError
        return saves

    def _saves_of(self, step: Step) -> set[str]:
        saves: set[str] = set()
        for work in (step.run or (), *(case.run for case in step.rule or ())):
            saves.update(name for name, _ in find_saved_names(work))
            saves.update(
                *(self.saves_of_task[task] for task in find_called_tasks(work) if task in self.saves_of_task)
            )
        return saves


def hash_work(work: Any) -> str:
    """Return the hash of work as data. The order of keys does not count.

    >>> hash_work({"a": 1, "b": 2}) == hash_work({"b": 2, "a": 1})
    True
    """
    text = json.dumps(work, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def lower_guard(guard: str) -> str | None:
    """Return the guard as a template; None for `default`.

    >>> lower_guard("error"), lower_guard("default")
    ('{{ error }}', None)
    """
    if guard == "default":
        return None
    return "{{ error }}" if guard == "error" else guard


def lower_condition(condition: str | bool | None) -> str | None:
    """Return an `if` as a template; None if it is always true.

    >>> lower_condition(False), lower_condition(True)
    ('{{ false }}', None)
    """
    if condition is False:
        return "{{ false }}"
    return None if condition is None or condition is True else condition


def lower_notify(declared: NotifyDeclaration | None) -> Notify | None:
    """Return the channels of each event, or None if no channel receives anything.

    The channels of `failed` receive late runs if `late` names none.
    """
    if declared is None:
        return None
    late = declared.late
    named: Mapping[NotifyEvent, list[str] | None] = {
        "failed": declared.failed,
        "succeeded": declared.succeeded,
        "cancelled": declared.cancelled,
        "late": None if late is None else late.receivers or declared.failed,
    }
    channels = {event: tuple(dict.fromkeys(names)) for event, names in named.items() if names}
    return Notify(channels, None if late is None else late.after) if channels else None


def lower_limit(declared: LimitDeclaration | RateDeclaration) -> Limit:
    """Return a limit of how much is in progress at once, or of how much begins in a time."""
    limit = Limit(declared.use, declared.limit, declared.key, declared.when_full, declared.max_wait)
    if isinstance(declared, RateDeclaration):
        return replace(limit, is_rate=True, per_seconds=declared.per)
    return replace(limit, max_queued=declared.max_queued, fair=declared.fair)


def lower_debounce(declared: DebouncePolicy | None) -> Debounce | None:
    """Return how starts that follow each other soon share a run."""
    if declared is None:
        return None
    longest = declared.wait * DEFAULT_FACTOR if declared.longest is None else declared.longest
    return Debounce(declared.wait, longest, declared.key)


def lower_source(declared: TriggerDeclaration) -> TriggerSource:
    """Return what a valid trigger fires at."""
    if isinstance(declared, RunTriggerDeclaration):
        return RunEnd(declared.playbook, tuple(declared.status))
    if isinstance(declared, WebhookDeclaration):
        return lower_webhook(declared)
    if isinstance(declared, FolderDeclaration):
        return Folder(str(PurePosixPath(declared.folder)), declared.glob, declared.settle)
    if isinstance(declared, QueueDeclaration):
        return Queue(declared.url, declared.table, declared.max_receives or DEFAULT_RECEIVES)
    if isinstance(declared, BucketDeclaration):
        return BucketObjects(declared.bucket, declared.prefix or "")
    if isinstance(declared, EventDeclaration):
        return BusEvents(declared.source, tuple(declared.detail_type or ()))
    assert isinstance(declared, ScheduleDeclaration)
    return lower_schedule(declared)


def lower_webhook(declared: WebhookDeclaration) -> Webhook:
    """Return the webhook of a trigger whose secrets are names."""
    auth = declared.auth
    return Webhook(
        declared.address,
        WebhookAuth(
            auth.scheme,
            tuple(name for name in map(find_secret_name, auth.secret) if name is not None),
            auth.header or "",
            auth.prefix or "",
            auth.algorithm or "sha256",
            auth.encoding or "hex",
            DEFAULT_TOLERANCE_SECONDS if auth.tolerance is None else auth.tolerance,
        ),
        declared.method,
        declared.max_bytes,
        declared.answer,
        declared.wait,
        declared.remember,
    )


def lower_schedule(declared: ScheduleDeclaration) -> Schedule:
    """Return the schedule of a trigger whose cron expression and zone are valid."""
    zone = find_zone(declared.timezone)
    start, end = (
        None if text is None else parse_instant(text, zone) for text in (declared.start, declared.end)
    )
    policy = declared.catch_up
    return Schedule(
        declared.cron,
        declared.interval,
        declared.timezone,
        start,
        end,
        LAST if policy is None else CatchUp(policy.mode, policy.max_age, policy.limit),
        declared.jitter,
        declared.overlap,
    )


def lower_retry(policy: RetryPolicy | None) -> Retry | None:
    """Return the retry policy of the plan."""
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
    """Return the loop of the plan."""
    if loop is None:
        return None
    return Loop(loop.items, loop.as_, loop.concurrency, loop.batch, loop.on_error == "continue")


def lower_repeat(repeat: models.Repeat | None) -> Repeat | None:
    """Return the repetition of the plan."""
    return None if repeat is None else Repeat(repeat.until, repeat.every, repeat.max)
