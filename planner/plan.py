"""The compiled playbook: plain data that the executor walks, identified by the hash of its content.

Standard library only: the executor imports this at start-up. Templates are kept as text; who needs their
value parses them with `noetl.planner.templates.template`, which caches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from noetl.planner.frozen import record

FORMAT = 1

MOST_COUNTED = 10**15
"""The most visits that statistics tell apart: the number stands for itself and all above it."""


@record
class Retry:
    """How often and how soon failed work is tried again. Delays are in seconds.

    The wait before attempt `n + 1` is `delay_seconds * backoff ** (n - 1)`, at most `max_delay_seconds`; with
    `jitter` it is shortened by up to a half. `condition` is a guard over `error`, or None.
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


ONCE = Retry()


@record
class Loop:
    """Work done once for each of `items` (a template, or a list with templates in it), known as `name` meanwhile.

    `batch` spreads the items over invocations of at most that many; `forgiving` is true of `on_error: continue`.
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


@record
class Repeat:
    """A step's work done again, `every_seconds`, until a guard is true; at most `max_rounds` times."""

    until: str
    every_seconds: float
    max_rounds: int

    def to_json(self) -> dict[str, Any]:
        return {"until": self.until, "every_seconds": self.every_seconds, "max_rounds": self.max_rounds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Repeat | None:
        return None if data is None else cls(data["until"], data["every_seconds"], data["max_rounds"])


@record
class Action:
    """One action of a step's work. `parameters` hold templates as text, wherever they are nested; one that is itself an action
    is as `to_json` describes it.

    `condition` is the guard written as `if`; `save_as` the name written as `as`; `forgiven` is true of
    `on_error: continue`.
    """

    type: str
    parameters: Mapping[str, Any]
    save_as: str | None = None
    condition: str | None = None
    retry: Retry = ONCE
    timeout_seconds: float | None = None
    forgiven: bool = False
    loop: Loop | None = None

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
        }


@record
class TaskCall:
    """A call of a task of the plan, with the templates of its `args`."""

    task: str
    args: Mapping[str, Any]
    save_as: str | None = None
    condition: str | None = None
    forgiven: bool = False
    loop: Loop | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "args": self.args,
            "as": self.save_as,
            "if": self.condition,
            "forgiven": self.forgiven,
            "loop": self.loop and self.loop.to_json(),
        }


Work = Action | TaskCall


def _work_from_json(data: Mapping[str, Any]) -> Work:
    if "task" in data:
        loop = Loop.from_json(data["loop"])
        return TaskCall(data["task"], data["args"], data["as"], data["if"], data["forgiven"], loop)
    return action_from_json(data)


def action_from_json(data: Mapping[str, Any]) -> Action:
    """The action that `Action.to_json` described."""
    return Action(
        data["action"],
        data["parameters"],
        data["as"],
        data["if"],
        Retry.from_json(data["retry"]),
        data["timeout_seconds"],
        data["forgiven"],
        Loop.from_json(data["loop"]),
    )


@record
class Task:
    """A named list of work."""

    run: tuple[Work, ...]
    parallel: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"run": [w.to_json() for w in self.run], "parallel": self.parallel}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        return cls(tuple(map(_work_from_json, data["run"])), data["parallel"])


@record
class Case:
    """One case of a rule.

    `guard` is a template over the branch's names, or None for `default`. A case has `targets`, or in-place
    `work`, or neither (the branch ends). `live` is what taking it adds to the live counter of each join whose
    region the branch enters, leaves or multiplies in. `leads_back` is true when the step can be reached again
    from a target, so that a visit refused for `max_visits` must not take it.
    """

    guard: str | None
    error_aware: bool = False
    targets: tuple[str, ...] = ()
    work: tuple[Work, ...] = ()
    live: Mapping[str, int] = field(default_factory=dict)
    leads_back: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "guard": self.guard,
            "error_aware": self.error_aware,
            "targets": list(self.targets),
            "work": [w.to_json() for w in self.work],
            "live": dict(self.live),
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


@record
class Join:
    """What becomes of branches that parted behind `dominator` (None: since the run began) and arrive at a step.

    In mode `all` they wait for those that are still on the way and go on as one. In mode `any` the first goes on, and the
    others of its wave end: of those that left the same visit of `dominator`.
    """

    dominator: str | None
    mode: str = "all"

    def to_json(self) -> dict[str, Any]:
        return {"mode": self.mode, "dominator": self.dominator}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Join | None:
        return None if data is None else cls(data["dominator"], data["mode"])


@record
class Step:
    """A step of the plan.

    `reads` are the names its templates read, `saves` those it writes, `hands_on` those still read at it or behind
    it; `steps.NAME` stands for what is known of another step. `regions` are the joins for which a branch standing
    here is still on the way. `each` is true when the step is visited for each of several branches, `cyclic` when it can be
    visited again, `at_most_once` when an attempt that was interrupted is not made again, `runs_last` of the step named by
    `finally`.
    """

    name: str
    run: tuple[Work, ...] = ()
    parallel: bool = False
    cases: tuple[Case, ...] = ()
    join: Join | None = None
    each: bool = False
    regions: tuple[str, ...] = ()
    cyclic: bool = False
    max_visits: int | None = None
    retry: Retry = ONCE
    timeout_seconds: float | None = None
    on_error: str = "abort"
    loop: Loop | None = None
    repeat: Repeat | None = None
    at_most_once: bool = False
    runs_last: bool = False
    reads: tuple[str, ...] = ()
    saves: tuple[str, ...] = ()
    hands_on: frozenset[str] = frozenset()
    line: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "run": [w.to_json() for w in self.run],
            "parallel": self.parallel,
            "cases": [c.to_json() for c in self.cases],
            "join": self.join and self.join.to_json(),
            "each": self.each,
            "regions": list(self.regions),
            "cyclic": self.cyclic,
            "max_visits": self.max_visits,
            "retry": self.retry.to_json(),
            "timeout_seconds": self.timeout_seconds,
            "on_error": self.on_error,
            "loop": self.loop and self.loop.to_json(),
            "repeat": self.repeat and self.repeat.to_json(),
            "at_most_once": self.at_most_once,
            "runs_last": self.runs_last,
            "reads": list(self.reads),
            "saves": list(self.saves),
            "hands_on": sorted(self.hands_on),
            "line": self.line,
        }

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> Step:
        return cls(
            name=name,
            run=tuple(map(_work_from_json, data["run"])),
            parallel=data["parallel"],
            cases=tuple(map(Case.from_json, data["cases"])),
            join=Join.from_json(data["join"]),
            each=data["each"],
            regions=tuple(data["regions"]),
            cyclic=data["cyclic"],
            max_visits=data["max_visits"],
            retry=Retry.from_json(data["retry"]),
            timeout_seconds=data["timeout_seconds"],
            on_error=data["on_error"],
            loop=Loop.from_json(data["loop"]),
            repeat=Repeat.from_json(data["repeat"]),
            at_most_once=data["at_most_once"],
            runs_last=data["runs_last"],
            reads=tuple(data["reads"]),
            saves=tuple(data["saves"]),
            hands_on=frozenset(data["hands_on"]),
            line=data["line"],
        )


@record
class Input:
    """What a run takes under one name. `line` is where it is declared, or first read when it is inferred."""

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


@record
class Header:
    """All of a plan but its steps and tasks, which are read one at a time. `last_step` is the one named by `finally`, `reads` are
    the saved names and `steps.NAME` that the output reads, or None when all names are the output.

    With `sequential` branches go one after another, and each sees what those before it have saved.
    """

    name: str
    start: str
    version: str | None = None
    description: str | None = None
    inputs: Mapping[str, Input] = field(default_factory=dict)
    takes_other_inputs: bool = False
    environment: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] | None = None
    reads: tuple[str, ...] | None = None
    timeout_seconds: float | None = None
    last_step: str | None = None
    sequential: bool = False
    statistics: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "start": self.start,
            "inputs": {name: i.to_json() for name, i in self.inputs.items()},
            "takes_other_inputs": self.takes_other_inputs,
            "environment": self.environment,
            "variables": self.variables,
            "output": self.output,
            "reads": None if self.reads is None else list(self.reads),
            "timeout_seconds": self.timeout_seconds,
            "finally": self.last_step,
            "sequential": self.sequential,
            "statistics": self.statistics,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Header:
        """The header that `to_json` described.

        Raises:
            ValueError: the plan was written in a format that this version does not know.
        """
        if data["format"] != FORMAT:
            raise ValueError(f"plan format {data['format']} is not the one known here, {FORMAT}")
        return cls(
            name=data["name"],
            start=data["start"],
            version=data["version"],
            description=data["description"],
            inputs={name: Input.from_json(i) for name, i in data["inputs"].items()},
            takes_other_inputs=data["takes_other_inputs"],
            environment=data["environment"],
            variables=data["variables"],
            output=data["output"],
            # Earlier plans do not say what their output reads.
            reads=None if data.get("reads") is None else tuple(data["reads"]),
            timeout_seconds=data["timeout_seconds"],
            last_step=data["finally"],
            sequential=data["sequential"],
            statistics=data["statistics"],
        )


@dataclass(frozen=True)
class Plan:
    """A compiled playbook. `steps` are in the order of the text, `source` is the text itself."""

    header: Header
    steps: Mapping[str, Step]
    tasks: Mapping[str, Task]
    source: str = ""

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the canonical JSON of everything that decides how a run goes: 64 hexadecimal digits."""
        content = {
            "header": self.header.to_json(),
            "steps": [[name, step.to_json()] for name, step in self.steps.items()],
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
        }
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    def edges(self) -> Iterator[dict[str, Any]]:
        """Every edge of the graph: source, target, the guard as written, and the index of its case, from 0."""
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
        """The plan as one JSON object, the same for the same playbook wherever it is compiled."""
        return {
            **self.header.to_json(),
            "hash": self.hash,
            "steps": {name: step.to_json() for name, step in self.steps.items()},
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
            "edges": list(self.edges()),
        }


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
