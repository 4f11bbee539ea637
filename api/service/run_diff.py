"""The difference between two runs: playbook, inputs, and the visits of steps.

Problem: "it worked yesterday" needs the first place at which today's run went another way.

Algorithm: visits are aligned by step and number. They are in the order of the first run, then of the second.
Of each pair, state, case, error and attempts are compared, and outputs where they are known.

Cost: linear in the visits. Values are compared as JSON and shown up to MAX_VALUE characters.

Limits: MAX_VISITS visits of each run are read. Durations always differ, so they are shown and not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, NamedTuple

from noetl.api.service.views import View
from noetl.executor.model.events import Event
from noetl.executor.model.large_json import is_large
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_summary import VisitPlace
from noetl.planner.plan import canonical_json

MAX_VISITS = 20_000
MAX_VALUE = 2000
MAX_COMPARED_LINES = 2000
"""Lines of a playbook beyond which the changed lines are not counted, because that takes quadratic time."""

COMPARED_EVENTS = (
    "step.started",
    "step.transition",
    "step.retrying",
    "step.waiting",
    "step.completed",
    "step.failed",
    "workflow.migrated",
)
"""The types of the events that say how visits went."""

_ENDS = {"step.completed": "succeeded", "step.failed": "failed", "step.waiting": "waiting"}
_MISSING = object()


@dataclass
class ComparedVisit:
    """A visit as the events of its run show it. Its outputs are known only if they were read."""

    state: str = "running"
    attempts: int = 1
    case: int | None = None
    targets: tuple[str, ...] = ()
    error: str | None = None
    duration_ms: float | None = None
    outputs: Mapping[str, Any] | None = None

    def facts(self) -> dict[str, Any]:
        """Return what is compared, by the words for it."""
        return {
            "state": self.state,
            "attempts": self.attempts,
            "case": self.case,
            "targets": list(self.targets),
            "error": self.error,
        }


@dataclass
class ComparedRun:
    """A run with all that is compared of it."""

    workflow_id: str
    playbook: str
    version: str | None
    plan_hash: str
    status: str
    duration_ms: float | None
    source: str
    input: Mapping[str, Any]
    visits: dict[VisitPlace, ComparedVisit]
    result: Any = None
    last_event: str | None = None
    is_cut: bool = False


class ComparedPair(NamedTuple):
    """Two runs that are compared, and of how many common visits the outputs were not read."""

    a: ComparedRun
    b: ComparedRun
    outputs_not_compared: int = 0

    @property
    def size(self) -> int:
        """A number to which the work of a comparison is about proportional."""
        return len(self.a.source) + len(self.b.source) + 100 * (len(self.a.visits) + len(self.b.visits))

    @property
    def has_large_values(self) -> bool:
        """True if an input, a result or the outputs of a visit are large."""
        runs = (self.a, self.b)
        outputs = [visit.outputs for run in runs for visit in run.visits.values()]
        return is_large([*((run.input, run.result) for run in runs), *outputs])


class ValueDifference(View, schema_name="ValueDifference"):
    """A name with its values in both runs. `only` is the run that has it, if the other one does not."""

    name: str
    only: Literal["a", "b"] | None = None
    values: Sequence[Any]


class ComparedHead(View, schema_name="ComparedHead"):
    workflow_id: str
    playbook: str
    version: str | None
    status: RunStatus
    duration_ms: float | None


class PlanDifference(View, schema_name="PlanDifference"):
    """The number of changed lines of a playbook. It is null for long texts."""

    changed_lines: int | None


class VisitDifference(View, schema_name="VisitDifference"):
    """A visit of a step that differs between two runs. Durations differ always, and are only shown."""

    step: str
    visit: int
    changes: Sequence[ValueDifference]
    duration_ms: Sequence[float | None]


class RunDifference(View, schema_name="RunDifference"):
    """The differences of two runs. A list is empty where nothing differs.

    `plan` is null if both have the same plan. `equal_visits` counts the visits that do not differ. `cut` is
    whether the runs have more visits than were compared. `outputs_not_compared` counts visits without their
    outputs.
    """

    runs: Sequence[ComparedHead]
    run: Sequence[ValueDifference]
    plan: PlanDifference | None
    input: Sequence[ValueDifference]
    steps: Sequence[VisitDifference]
    equal_visits: int
    cut: bool
    outputs_not_compared: int


def read_visits(events: Iterable[Event]) -> dict[VisitPlace, ComparedVisit]:
    """Return the visits of a history, in the order of their start; at most MAX_VISITS.

    Steps have the names of the version in which the run has ended.

    >>> read_visits([Event("step.started", 0.0, "a", 1, attempt=2)])["a", 1].attempts
    2
    """
    visits: dict[VisitPlace, ComparedVisit] = {}
    for event in events:
        if event.type == "workflow.migrated":
            renamed = event.payload.get("renamed", {})
            visits = {(renamed.get(name, name), number): visit for (name, number), visit in visits.items()}
        if event.step is None or event.step.startswith("@"):
            continue
        place = (event.step, event.visit or 1)
        if place not in visits and len(visits) == MAX_VISITS:
            break
        _apply(visits.setdefault(place, ComparedVisit()), event)
    return visits


def _apply(visit: ComparedVisit, event: Event) -> None:
    payload = event.payload
    match event.type:
        case "step.started":
            visit.state, visit.attempts, visit.error = "running", event.attempt or 1, None
        case "step.transition":
            targets = payload.get("targets")
            visit.case = payload.get("case")
            visit.targets = tuple(map(str, targets)) if isinstance(targets, list) else ()
        case "step.retrying":
            visit.state, visit.error = "retrying", _describe_error(payload.get("error"))
        case "step.completed" | "step.failed" | "step.waiting" as type:
            visit.state, visit.duration_ms = _ENDS[type], to_milliseconds(event.duration_seconds)
            visit.error = _describe_error(payload.get("error"))


def to_milliseconds(seconds: float | None) -> float | None:
    """Return a duration in milliseconds, with three decimal places."""
    return None if seconds is None else round(seconds * 1000, 3)


def _describe_error(error: Any) -> str | None:
    if not isinstance(error, Mapping):
        return None
    return f"{error.get('type')}: {error.get('message')}"


def compare_runs(pair: ComparedPair) -> dict[str, Any]:
    """Return the differences of two runs as the JSON object of `RunDifference`."""
    a, b, outputs_not_compared = pair
    return {
        "runs": [_describe_run(run) for run in (a, b)],
        "run": _changes(
            {"playbook": a.playbook, "version": a.version, "status": a.status, "result": a.result},
            {"playbook": b.playbook, "version": b.version, "status": b.status, "result": b.result},
        ),
        "plan": None
        if a.plan_hash == b.plan_hash
        else {"changed_lines": _count_changed_lines(a.source, b.source)},
        "input": _changes(a.input, b.input),
        "steps": list(_compare_visits(a.visits, b.visits)),
        "equal_visits": sum(_differences(visit, b.visits.get(key)) == [] for key, visit in a.visits.items()),
        "cut": a.is_cut or b.is_cut or MAX_VISITS in (len(a.visits), len(b.visits)),
        "outputs_not_compared": outputs_not_compared,
    }


def _describe_run(run: ComparedRun) -> dict[str, Any]:
    return {
        "workflow_id": run.workflow_id,
        "playbook": run.playbook,
        "version": run.version,
        "status": run.status,
        "duration_ms": run.duration_ms,
    }


def _compare_visits(
    a: Mapping[VisitPlace, ComparedVisit], b: Mapping[VisitPlace, ComparedVisit]
) -> Iterable[dict[str, Any]]:
    for step, number in dict.fromkeys([*a, *b]):
        visit_a, visit_b = a.get((step, number)), b.get((step, number))
        changes = _differences(visit_a, visit_b)
        if changes:
            durations = [None if visit is None else visit.duration_ms for visit in (visit_a, visit_b)]
            yield {"step": step, "visit": number, "changes": changes, "duration_ms": durations}


def _differences(a: ComparedVisit | None, b: ComparedVisit | None) -> list[dict[str, Any]]:
    if a is None or b is None:
        states = [None if visit is None else visit.state for visit in (a, b)]
        return [{"name": "state", "values": states}]
    changes = _changes(a.facts(), b.facts())
    if a.outputs is not None and b.outputs is not None:
        changes += _changes(a.outputs, b.outputs)
    return changes


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each name whose values differ. A name that one side lacks has only the other value.

    >>> _changes({"n": 1, "m": 2}, {"n": True, "m": 2})
    [{'name': 'n', 'values': [1, True]}]
    >>> _changes({"n": 1}, {})
    [{'name': 'n', 'only': 'a', 'values': [1, None]}]
    """
    changes = []
    for name in dict.fromkeys([*a, *b]):
        left, right = a.get(name, _MISSING), b.get(name, _MISSING)
        if left is _MISSING:
            changes.append({"name": name, "only": "b", "values": [None, _shorten(right)]})
        elif right is _MISSING:
            changes.append({"name": name, "only": "a", "values": [_shorten(left), None]})
        elif canonical_json(left) != canonical_json(right):
            changes.append({"name": name, "values": [_shorten(left), _shorten(right)]})
    return changes


def _shorten(value: Any) -> Any:
    """Return a value, or the beginning of the text of a long one."""
    text = canonical_json(value)
    return value if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text):,} characters)"


def _count_changed_lines(a: str, b: str) -> int | None:
    """Return how many lines were added, removed or replaced, or None for long texts."""
    lines_a, lines_b = a.splitlines(), b.splitlines()
    if max(len(lines_a), len(lines_b)) > MAX_COMPARED_LINES:
        return None
    matcher = SequenceMatcher(None, lines_a, lines_b, autojunk=True)
    return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal")
