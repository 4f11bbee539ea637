"""Views of the data of a run: what its steps received, did, saved and wrote.

A value of more than `MAX_SHOWN_CHARACTERS` of JSON is the text of its beginning, and `cut` has its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.api.service.graph_views import RunGraph
from noetl.api.service.loop_states import ItemState
from noetl.api.service.past_views import PastState
from noetl.api.service.views import (
    ItemWait,
    LeftOutReport,
    LoopReport,
    RunEntry,
    RunProgress,
    RunTrigger,
    StepReport,
    StepState,
    Timestamp,
    View,
    WaitReport,
)
from noetl.executor.model.run import ErrorRecord, RunStatus

MAX_SHOWN_CHARACTERS = 64 * 1024
"""How much a view shows of a value, in characters of JSON."""


class CachedReport(View, schema_name="CachedData"):
    """Origin of a result that was taken from the cache: the run that computed it, its age, and its key."""

    run: str
    age_seconds: float
    key: str


class ActionReport(View, schema_name="ActionData"):
    """Attempt at an action.

    `position` is the place of the action in the step. `input` has the rendered parameters, and `cut` the
    lengths of those of which it has only the beginning. `status` is `waiting` while a step is paused. With
    `cached`, the action was not performed.
    """

    action: str
    position: str
    status: StepState
    started_at: Timestamp
    duration_ms: float | None
    input: Mapping[str, Any] | None = None
    cut: Mapping[str, int] | None = None
    error: ErrorRecord | None = None
    wait_seconds: float | None = None
    cached: CachedReport | None = None


class AttemptReport(View, schema_name="AttemptData"):
    """Attempt of a visit with its actions, and the progress of its loops. Items of loops are no actions.

    With `cached`, the work of the step was not performed.
    """

    attempt: int
    worker: str | None
    started_at: Timestamp | None
    finished_at: Timestamp | None
    error: ErrorRecord | None
    actions: Sequence[ActionReport]
    loops: Sequence[LoopReport] | None = None
    cached: CachedReport | None = None


class GuardReport(View, schema_name="GuardData"):
    """Guard that was evaluated: the index of its case, its text, and its value or null if it has none."""

    case: int
    guard: str | None
    value: bool | None


class SavedValue(View, schema_name="SavedValue"):
    """Value that a visit saved under a name. `before` is the value that the name had, if it had one."""

    name: str
    value: Any
    before: Any = None
    cut: Mapping[str, int] | None = None


class LogLine(View, schema_name="LogLine"):
    """Line of the action `log`, whose `stream` is `line`, or the output of a command.

    `item` is the number of the item of a loop, from 1. `cut` is the length of a text of which only the
    beginning was kept.
    """

    id: str
    logged_at: Timestamp
    step: str | None
    visit: int | None
    attempt: int | None
    action: str
    position: str
    item: int | None = None
    stream: str
    level: str | None = None
    text: str
    fields: Mapping[str, Any] | None = None
    cut: int | None = None


class LogPage(View, schema_name="LogPage"):
    """Page of lines. `next_cursor` is null if there are no further events yet. `last_event` is the last one
    that was read, from which a reader continues later.
    """

    items: Sequence[LogLine]
    next_cursor: str | None
    last_event: str | None


class StepData(View, schema_name="StepData"):
    """Visit of a step with its data: `visit` is its number, `visits` how often the step was visited.

    `case` is the case that was taken, and `targets` are its steps. `left_out` is present if the visit has
    succeeded without its work. `failures` are the failed items of a loop
    that continued. `cut` has the lengths of the members of which only a part is shown. `child_runs` are the
    latest runs that the visit has started and waits for, the newest first, if the step calls a playbook.
    """

    workflow_id: str
    step: str
    line: int
    visit: int
    visits: int
    status: StepState
    attempt: int
    started_at: Timestamp | None
    finished_at: Timestamp | None
    duration_ms: float | None
    work_ms: float | None
    waiting_ms: float | None
    queued_ms: float | None
    error: ErrorRecord | None
    waiting_for: WaitReport | None = None
    left_out: LeftOutReport | None = None
    case: int | None
    guards: Sequence[GuardReport]
    targets: Sequence[str]
    result: Any
    saved: Sequence[SavedValue]
    failures: Sequence[Mapping[str, Any]]
    attempts: Sequence[AttemptReport]
    lines: Sequence[LogLine]
    cut: Mapping[str, int] | None = None
    child_runs: Sequence[RunEntry] | None = None


class LoopItem(View, schema_name="LoopItem"):
    """Item of a loop: its number from 1, and its state.

    `value` is the beginning of the item as JSON. `attempts` are those of the action that failed or waits.
    `input` has the rendered parameters of the action that failed, and `cut` the lengths of those of which it
    has only the beginning. What is not recorded is left out.
    """

    number: int
    state: ItemState
    value: str | None = None
    attempts: int | None = None
    error: ErrorRecord | None = None
    input: Mapping[str, Any] | None = None
    cut: Mapping[str, int] | None = None
    waiting_for: ItemWait | None = None


class LoopItems(View, schema_name="LoopItems"):
    """Page of the items of a loop of a visit, whose status is `status`.

    `loop` is the position of the loop in the step, and null before it has begun. `loops` is present if the
    visit has several. `total` is null before the loop has reported its items. `counts` are the numbers of
    items by state. `unlisted` counts those of which is not recorded which they are. They are on no page.
    """

    workflow_id: str
    step: str
    visit: int
    status: StepState
    loop: str | None
    loops: Sequence[LoopReport] | None = None
    total: int | None
    counts: Mapping[str, int]
    unlisted: Mapping[str, int] | None = None
    items: Sequence[LoopItem]
    next_cursor: str | None


class RunInput(View, schema_name="RunInput"):
    workflow_id: str
    input: Mapping[str, Any]


class RunSource(View, schema_name="RunSource"):
    """Text of the playbook of a run. `file` is where a local run found it."""

    workflow_id: str
    playbook: str
    version: str | None
    plan_hash: str
    file: str | None = None
    source: str


class RunDetails(View, schema_name="RunDetails"):
    """Run at a glance: its status and that of its steps, its tags, and a headline.

    `headline` is at most 120 characters: the first error, what the run waits for, or the step at work.
    `graph` and `cursor` are present if the graph was requested. `cursor` is the id of the latest event that
    the rest shows: later events follow it. `graph_problem` says why a run has no graph. `moment` is present
    if the run is shown as it was at an event; then `cursor` is the id of this event. `begins_at` is present
    if the run waits for further starts, and `starts` if several starts share it: how many.
    """

    workflow_id: str
    status: RunStatus
    headline: str
    playbook: str
    version: str | None
    plan_hash: str
    tags: Sequence[str]
    parent: str | None = None
    resumed_from: str | None = None
    trigger: RunTrigger | None = None
    created_at: Timestamp
    begins_at: Timestamp | None = None
    starts: int | None = None
    started_at: Timestamp | None
    finished_at: Timestamp | None
    duration_ms: float | None
    work_ms: float | None
    waiting_ms: float | None
    queued_ms: float | None
    steps: Mapping[str, StepReport]
    progress: RunProgress
    error: ErrorRecord | None
    cursor: str | None = None
    graph: RunGraph | None = None
    graph_problem: str | None = None
    moment: PastState | None = None
