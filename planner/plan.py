"""The plan: the compiled playbook that the executor interprets. Its id is the hash of its content.

Standard library only: the executor imports this module at start-up. Templates are stored as text. The
executor parses them with `noetl.planner.templates`, which caches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from noetl.planner.debounce import Debounce
from noetl.planner.frozen import frozen
from noetl.planner.limits import Limit
from noetl.planner.notify import Notify
from noetl.planner.polled_sources import BucketObjects, BusEvents, Folder, Queue
from noetl.planner.schedules.schedule import Schedule
from noetl.planner.trigger_sources import RunEnd, Webhook

FORMAT = 3
"""The version of the JSON format of plans, and of what they mean. Runs of older plans keep their meaning."""

READABLE_FORMATS = (1, 2, FORMAT)
"""The formats that this version reads.

Versions that had no clocks of joins wrote format 1. Those that had no ordered ids of visits wrote format 2.
"""

MAX_COUNTED_VISITS = 10**15
"""The largest number of visits in statistics. It stands for itself and all larger numbers."""


@frozen
class Retry:
    """A retry policy for failed work.

    The delay before attempt `n + 1` is `delay_seconds * backoff ** (n - 1)`, at most `max_delay_seconds`.
    With `jitter`, it is reduced by up to one half. `condition` is a guard over `error`, or None.
    """

    attempts: int = 1
    delay_seconds: float = 1.0
    backoff: float = 2.0
    max_delay_seconds: float = 300.0
    jitter: bool = True
    condition: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts,
            "delay_seconds": self.delay_seconds,
            "backoff": self.backoff,
            "max_delay_seconds": self.max_delay_seconds,
            "jitter": self.jitter,
            "if": self.condition,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Retry:
        return cls(
            data["attempts"],
            data["delay_seconds"],
            data["backoff"],
            data["max_delay_seconds"],
            data["jitter"],
            data["if"],
        )


NO_RETRY = Retry()


@frozen
class Loop:
    """A loop: work that is executed for each of `items`, a template or a list with templates in it.

    Each item is assigned to `name`. `batch` is the maximum number of items in one invocation. `forgiving`
    means `on_error: continue`.
    """

    items: Any
    name: str = "item"
    concurrency: int = 1
    batch: int | None = None
    forgiving: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "items": self.items,
            "as": self.name,
            "concurrency": self.concurrency,
            "batch": self.batch,
            "forgiving": self.forgiving,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Loop | None:
        if data is None:
            return None
        return cls(data["items"], data["as"], data["concurrency"], data["batch"], data["forgiving"])


@frozen
class Repeat:
    """A repetition of the work of a step, every `every_seconds`, until a guard is true; at most `max_rounds`
    times.
    """

    until: str
    every_seconds: float
    max_rounds: int

    def to_json(self) -> dict[str, Any]:
        return {"until": self.until, "every_seconds": self.every_seconds, "max_rounds": self.max_rounds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Repeat | None:
        return None if data is None else cls(data["until"], data["every_seconds"], data["max_rounds"])


@frozen
class Cache:
    """A cache of the result of work, which is the work of a step or an action.

    `work_hash` identifies the work as it is written, with the tasks that it calls. `key` is a value with
    templates, or None for the default key: the values that the work reads. `reads` are the names and the
    entries of mappings among them that are not in the rendered parameters of an action. `types` are the types
    of all its actions.
    """

    work_hash: str
    ttl_seconds: float
    key: Any = None
    reads: tuple[tuple[str, ...], ...] = ()
    types: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "work_hash": self.work_hash,
            "ttl_seconds": self.ttl_seconds,
            "key": self.key,
            "reads": [list(path) for path in self.reads],
            "types": list(self.types),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Cache | None:
        if data is None:
            return None
        reads = tuple(map(tuple, data["reads"]))
        return cls(data["work_hash"], data["ttl_seconds"], data["key"], reads, tuple(data["types"]))


@frozen
class Action:
    """One action of the work of a step.

    `parameters` contain templates as text, at any depth. A parameter that is an action has the form of
    `to_json`. `condition` is the guard of `if`, `save_as` the name of `as`. `forgiven` means `on_error:
    continue`. `line` is the line of the action in the text, or 0 if it is unknown. Its JSON has `cache` only
    if there is one.
    """

    type: str
    parameters: Mapping[str, Any]
    save_as: str | None = None
    condition: str | None = None
    retry: Retry = NO_RETRY
    timeout_seconds: float | None = None
    forgiven: bool = False
    loop: Loop | None = None
    line: int = 0
    cache: Cache | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "action": self.type,
            "parameters": self.parameters,
            "as": self.save_as,
            "if": self.condition,
            "retry": self.retry.to_json(),
            "timeout_seconds": self.timeout_seconds,
            "forgiven": self.forgiven,
            "loop": self.loop and self.loop.to_json(),
            "line": self.line,
            **({} if self.cache is None else {"cache": self.cache.to_json()}),
        }


@frozen
class TaskCall:
    """A call of a task. `args` contain templates as text. `line` is as in `Action`."""

    task: str
    args: Mapping[str, Any]
    save_as: str | None = None
    condition: str | None = None
    forgiven: bool = False
    loop: Loop | None = None
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "args": self.args,
            "as": self.save_as,
            "if": self.condition,
            "forgiven": self.forgiven,
            "loop": self.loop and self.loop.to_json(),
            "line": self.line,
        }


Work = Action | TaskCall


def _work_from_json(data: Mapping[str, Any]) -> Work:
    if "task" in data:
        loop = Loop.from_json(data["loop"])
        line = data.get("line", 0)
        return TaskCall(data["task"], data["args"], data["as"], data["if"], data["forgiven"], loop, line)
    return action_from_json(data)


def action_from_json(data: Mapping[str, Any]) -> Action:
    """Return the action that `Action.to_json` describes."""
    return Action(
        data["action"],
        data["parameters"],
        data["as"],
        data["if"],
        Retry.from_json(data["retry"]),
        data["timeout_seconds"],
        data["forgiven"],
        Loop.from_json(data["loop"]),
        # Plans of earlier versions do not have these keys.
        data.get("line", 0),
        Cache.from_json(data.get("cache")),
    )


@frozen
class Task:
    """A task: a named list of work."""

    run: tuple[Work, ...]
    parallel: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"run": [work.to_json() for work in self.run], "parallel": self.parallel}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        return cls(tuple(map(_work_from_json, data["run"])), data["parallel"])


@frozen
class Case:
    """One case of a rule.

    Attributes:
        guard: a template over the names of the branch, or None for `default`.
        error_aware: whether the guard reads `error`, `result.success` or `result.error`, so that the case can
            be taken after a failure.
        targets: the steps that the case leads to. The branch ends if there are none.
        work: in-place work, which the branch does before it ends. A case with targets has none.
        counter_changes: what the case adds to the live counter of each join (JSON key `live`).
        leads_back: whether the step can be reached again from a target. A visit that is refused for
            `max_visits` must not take such a case.
    """

    guard: str | None
    error_aware: bool = False
    targets: tuple[str, ...] = ()
    work: tuple[Work, ...] = ()
    counter_changes: Mapping[str, int] = field(default_factory=dict)
    leads_back: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "guard": self.guard,
            "error_aware": self.error_aware,
            "targets": list(self.targets),
            "work": [work.to_json() for work in self.work],
            "live": dict(self.counter_changes),
            "leads_back": self.leads_back,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        return cls(
            data["guard"],
            data["error_aware"],
            tuple(data["targets"]),
            tuple(map(_work_from_json, data["work"])),
            data["live"],
            data["leads_back"],
        )


@frozen
class Join:
    """A join of branches that separated after `dominator` (None: after the start of the run).

    In mode `all`, branches wait for those that are still on the way, and continue as one. In mode `any`, the
    first branch continues, and the others of its wave end. A wave is the branches that left one visit of
    `dominator`.
    """

    dominator: str | None
    mode: str = "all"

    def to_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "dominator": self.dominator}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Join | None:
        return None if data is None else cls(data["dominator"], data["mode"])


@frozen
class Step:
    """A step of the plan.

    Attributes:
        name: the name, which is unique.
        run: the work.
        parallel: whether the entries of `run` are executed at the same time.
        cases: the cases of the rule, in order.
        join: how arriving branches join; None if at most one branch arrives.
        runs_per_branch: whether the step is a multi-merge, visited once for each branch (JSON key `each`).
        regions: the joins that wait for a branch at this step.
        cyclic: whether the step can be visited more than once.
        max_visits: how many visits are allowed.
        retry: the retry policy of the whole step.
        timeout_seconds: the time limit of an attempt.
        on_error: `abort` or `continue`.
        loop: the loop around the work.
        repeat: the repetition of the work.
        at_most_once: whether an interrupted attempt is not repeated.
        is_finally_step: whether this is the step named by `finally` (JSON key `runs_last`).
        reads: the names that templates of the step read. `steps.NAME` stands for the record of another step.
        saves: the names that the step assigns.
        live_names: the names that are read at the step or after it (JSON key `hands_on`).
        line: the line of the name in the text.
        format: the version of the format for which the step was compiled. It says what the step means.
        cache: the cache of the work, without the rule. The JSON has it only if there is one.
        concurrency: how many visits of the step are in progress at once, in all runs of the tenant.
        rate: how many attempts of the step begin in a time, in all runs of the tenant.
        priority: the priority of the step in queues, as in the header. None means that of the playbook.
    """

    name: str
    run: tuple[Work, ...] = ()
    parallel: bool = False
    cases: tuple[Case, ...] = ()
    join: Join | None = None
    runs_per_branch: bool = False
    regions: tuple[str, ...] = ()
    cyclic: bool = False
    max_visits: int | None = None
    retry: Retry = NO_RETRY
    timeout_seconds: float | None = None
    on_error: str = "abort"
    loop: Loop | None = None
    repeat: Repeat | None = None
    at_most_once: bool = False
    is_finally_step: bool = False
    reads: tuple[str, ...] = ()
    saves: tuple[str, ...] = ()
    live_names: frozenset[str] = frozenset()
    line: int = 0
    format: int = FORMAT
    cache: Cache | None = None
    concurrency: tuple[Limit, ...] = ()
    rate: tuple[Limit, ...] = ()
    priority: float | str | None = None

    @property
    def has_limits(self) -> bool:
        """True if the step has `concurrency` or `rate`."""
        return bool(self.concurrency or self.rate)

    @property
    def has_ordered_visits(self) -> bool:
        """True if there may be many visits, and their ids are in the order of their clocks.

        Several branches may make the same visit at a join, so the ids there have no clock.
        """
        return self.format > 2 and self.cyclic and self.join is None

    def to_json(self) -> dict[str, Any]:
        return {
            "run": [work.to_json() for work in self.run],
            "parallel": self.parallel,
            "cases": [case.to_json() for case in self.cases],
            "join": self.join and self.join.to_json(),
            "each": self.runs_per_branch,
            "regions": list(self.regions),
            "cyclic": self.cyclic,
            "max_visits": self.max_visits,
            "retry": self.retry.to_json(),
            "timeout_seconds": self.timeout_seconds,
            "on_error": self.on_error,
            "loop": self.loop and self.loop.to_json(),
            "repeat": self.repeat and self.repeat.to_json(),
            "at_most_once": self.at_most_once,
            "runs_last": self.is_finally_step,
            "reads": list(self.reads),
            "saves": list(self.saves),
            "hands_on": sorted(self.live_names),
            "line": self.line,
            "format": self.format,
            **({} if self.cache is None else {"cache": self.cache.to_json()}),
            **({"concurrency": [limit.to_json() for limit in self.concurrency]} if self.concurrency else {}),
            **({"rate": [limit.to_json() for limit in self.rate]} if self.rate else {}),
            **({} if self.priority is None else {"priority": self.priority}),
        }

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> Step:
        return cls(
            name=name,
            run=tuple(map(_work_from_json, data["run"])),
            parallel=data["parallel"],
            cases=tuple(map(Case.from_json, data["cases"])),
            join=Join.from_json(data["join"]),
            runs_per_branch=data["each"],
            regions=tuple(data["regions"]),
            cyclic=data["cyclic"],
            max_visits=data["max_visits"],
            retry=Retry.from_json(data["retry"]),
            timeout_seconds=data["timeout_seconds"],
            on_error=data["on_error"],
            loop=Loop.from_json(data["loop"]),
            repeat=Repeat.from_json(data["repeat"]),
            at_most_once=data["at_most_once"],
            is_finally_step=data["runs_last"],
            reads=tuple(data["reads"]),
            saves=tuple(data["saves"]),
            live_names=frozenset(data["hands_on"]),
            line=data["line"],
            # Plans of format 1 do not have this key.
            format=data.get("format", 1),
            cache=Cache.from_json(data.get("cache")),
            concurrency=tuple(Limit.from_json(limit) for limit in data.get("concurrency", ())),
            rate=tuple(Limit.from_json(limit) for limit in data.get("rate", ())),
            priority=data.get("priority"),
        )


@frozen
class Input:
    """An input of a run. `line` is the line of its declaration; for an inferred input, of its first read."""

    type: str = "any"
    required: bool = True
    default: Any = None
    enum: tuple[Any, ...] | None = None
    description: str | None = None
    inferred: bool = False
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "type": self.type,
            "required": self.required,
            "default": self.default,
            "enum": None if self.enum is None else list(self.enum),
            "description": self.description,
            "inferred": self.inferred,
            "line": self.line,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Input:
        enum = data["enum"]
        return cls(
            data["type"],
            data["required"],
            data["default"],
            None if enum is None else tuple(enum),
            data["description"],
            data["inferred"],
            data["line"],
        )


TriggerSource = Schedule | Webhook | RunEnd | Folder | Queue | BucketObjects | BusEvents

_SOURCES: Mapping[str, type[TriggerSource]] = {
    "schedule": Schedule,
    "webhook": Webhook,
    "run": RunEnd,
    "folder": Folder,
    "queue": Queue,
    "s3": BucketObjects,
    "event": BusEvents,
}
"""What triggers fire at, by their type."""


@frozen
class Trigger:
    """A trigger of a playbook: what starts runs of it by itself.

    Attributes:
        name: its name, which is unique in the playbook.
        type: `schedule`, `webhook`, `run`, `folder`, `queue`, `s3` or `event`.
        source: what it fires at.
        input: the inputs of its runs, with templates that read `trigger`.
        condition: the expression under `if`, or None. If it is false, a firing starts no run.
        key: the expression whose value tells a firing from others, or None for that of the source.
        line: the line of its declaration.
    """

    name: str
    type: str
    source: TriggerSource
    input: Mapping[str, Any] = field(default_factory=dict)
    condition: str | bool | None = None
    key: str | None = None
    line: int = 0

    @property
    def schedule(self) -> Schedule:
        """The times at which it fires. Only for a trigger of type `schedule`."""
        assert isinstance(self.source, Schedule)
        return self.source

    @property
    def webhook(self) -> Webhook:
        """The requests at which it fires. Only for a trigger of type `webhook`."""
        assert isinstance(self.source, Webhook)
        return self.source

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "input": self.input,
            "if": self.condition,
            **({} if self.key is None else {"key": self.key}),
            self.type: self.source.to_json(),
            "line": self.line,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trigger:
        return cls(
            data["name"],
            data["type"],
            _SOURCES[data["type"]].from_json(data[data["type"]]),
            data["input"],
            data["if"],
            data.get("key"),
            data["line"],
        )


@frozen
class Header:
    """The plan without its steps and tasks, which the executor reads one at a time.

    Attributes:
        name: the name of the playbook.
        start: the first step.
        version: the version of the playbook.
        description: the description of the playbook.
        inputs: the declared or inferred inputs.
        accepts_other_inputs: whether inputs that are not in `inputs` are allowed.
        environment: the section `environment`.
        variables: the section `variables`.
        output: the section `output`; None if all names are the output.
        reads: the saved names and `steps.NAME` that `output` reads; None if all names are the output.
        timeout_seconds: the time limit of a run.
        finally_step: the step named by `finally`.
        sequential: whether there are forks whose branches are performed one at a time. Each branch sees the
            names that the branches before it have saved.
        statistics: numbers of steps, edges, actions and so on.
        triggers: what starts runs of the playbook by itself.
        concurrency: how many runs of the playbook are in progress at once.
        rate: how many runs of the playbook begin in a time.
        debounce: how starts that follow each other soon share a run.
        priority: the priority of runs in queues of limits: a number, or a template.
        format: the version of the format for which the plan was compiled.
    """

    name: str
    start: str
    version: str | None = None
    description: str | None = None
    inputs: Mapping[str, Input] = field(default_factory=dict)
    accepts_other_inputs: bool = False
    environment: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] | None = None
    reads: tuple[str, ...] | None = None
    timeout_seconds: float | None = None
    finally_step: str | None = None
    sequential: bool = False
    statistics: Mapping[str, Any] = field(default_factory=dict)
    triggers: tuple[Trigger, ...] = ()
    notify: Notify | None = None
    concurrency: tuple[Limit, ...] = ()
    debounce: Debounce | None = None
    rate: tuple[Limit, ...] = ()
    priority: float | str | None = None
    format: int = FORMAT

    @property
    def has_limits(self) -> bool:
        """True if the playbook or one of its steps has `concurrency` or `rate`."""
        return bool(self.concurrency or self.rate) or "limited_steps" in self.statistics

    @property
    def is_superseded(self) -> bool:
        """True if runs of the plan cannot continue: the order of branches in sequential mode has changed."""
        return self.sequential and self.format == 1

    def find_trigger(self, name: str) -> Trigger | None:
        """Return the trigger of a name, or None if the playbook declares none."""
        return next((trigger for trigger in self.triggers if trigger.name == name), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "start": self.start,
            "inputs": {name: declared.to_json() for name, declared in self.inputs.items()},
            "takes_other_inputs": self.accepts_other_inputs,
            "environment": self.environment,
            "variables": self.variables,
            "output": self.output,
            "reads": None if self.reads is None else list(self.reads),
            "timeout_seconds": self.timeout_seconds,
            "finally": self.finally_step,
            "sequential": self.sequential,
            "statistics": self.statistics,
            # The hash of a plan without triggers stays that of earlier versions.
            **({"triggers": [trigger.to_json() for trigger in self.triggers]} if self.triggers else {}),
            **({} if self.notify is None else {"notify": self.notify.to_json()}),
            **({"concurrency": [limit.to_json() for limit in self.concurrency]} if self.concurrency else {}),
            **({} if self.debounce is None else {"debounce": self.debounce.to_json()}),
            **({"rate": [limit.to_json() for limit in self.rate]} if self.rate else {}),
            **({} if self.priority is None else {"priority": self.priority}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Header:
        """Return the header that `to_json` describes.

        Raises:
            ValueError: the format of the plan is unknown.
        """
        if data["format"] not in READABLE_FORMATS:
            formats = " and ".join(map(str, READABLE_FORMATS))
            raise ValueError(f"unknown plan format {data['format']}: this version reads formats {formats}")
        return cls(
            name=data["name"],
            start=data["start"],
            version=data["version"],
            description=data["description"],
            inputs={name: Input.from_json(declared) for name, declared in data["inputs"].items()},
            accepts_other_inputs=data["takes_other_inputs"],
            environment=data["environment"],
            variables=data["variables"],
            output=data["output"],
            # Plans of earlier versions do not have this key.
            reads=None if data.get("reads") is None else tuple(data["reads"]),
            timeout_seconds=data["timeout_seconds"],
            finally_step=data["finally"],
            # Plans of format 1 do not say whether they fork.
            sequential=data["sequential"] and data["statistics"].get("forks", 1) > 0,
            statistics=data["statistics"],
            triggers=tuple(Trigger.from_json(trigger) for trigger in data.get("triggers", ())),
            notify=Notify.from_json(data["notify"]) if "notify" in data else None,
            concurrency=tuple(Limit.from_json(limit) for limit in data.get("concurrency", ())),
            debounce=Debounce.from_json(data["debounce"]) if "debounce" in data else None,
            rate=tuple(Limit.from_json(limit) for limit in data.get("rate", ())),
            priority=data.get("priority"),
            format=data["format"],
        )


@dataclass(frozen=True)
class Plan:
    """A compiled playbook. `steps` are in the order of the text; `source` is the text."""

    header: Header
    steps: Mapping[str, Step]
    tasks: Mapping[str, Task]
    source: str = ""

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the canonical JSON of all that affects a run, as 64 hexadecimal digits."""
        content = {
            "header": self.header.to_json(),
            "steps": [[name, step.to_json()] for name, step in self.steps.items()],
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
        }
        return hashlib.sha256(canonical_json(content).encode("utf-8", "surrogatepass")).hexdigest()

    def edges(self) -> Iterator[dict[str, Any]]:
        """Yield every edge of the graph: source, target, guard as written, and index of the case from 0."""
        for name, step in self.steps.items():
            for index, case in enumerate(step.cases):
                for target in case.targets:
                    yield {
                        "source": name,
                        "target": target,
                        "guard": "default" if case.guard is None else case.guard,
                        "case": index,
                    }

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object. Every machine compiles a playbook to the same object."""
        return {
            **self.header.to_json(),
            "hash": self.hash,
            "steps": {name: step.to_json() for name, step in self.steps.items()},
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
            "edges": list(self.edges()),
        }


def canonical_json(value: Any) -> str:
    """Return JSON text that is equal for equal values.

    >>> canonical_json({"b": 1, "a": [None]})
    '{"a":[null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
