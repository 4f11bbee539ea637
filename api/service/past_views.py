"""Views of a run as it was at an event of its history: its branches, its joins, and its names with values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from noetl.api.service.views import EventEntry, StepState, View

MAX_PAST_CHARACTERS = 2048
"""How much a view shows of a value that a name had, in characters of JSON."""


class PastBranch(View, schema_name="PastBranch"):
    """Branch of a run as it was: at a visit of a step, `arrived` at a join, or `queued` in sequential mode.

    `visit` is the number of the visit, and `status` its status. Both are null if the branch had none.
    """

    step: str
    kind: Literal["visit", "arrived", "queued"]
    visit: int | None
    status: StepState | None


class PastName(View, schema_name="PastName"):
    """Value that a name had, and the visit of the step that had saved it. First values have no step.

    `branches` are the places of the branches that had it, in the list of branches. It is empty after the end
    of the run. `cut` is the length of a value of which only the beginning is shown. `problem` says why a
    value is not kept; it is null then.
    """

    name: str
    value: Any
    step: str | None
    visit: int | None
    branches: Sequence[int]
    cut: int | None = None
    problem: str | None = None


class PastJoin(View, schema_name="PastJoin"):
    """Join as it was.

    `arrived` counts the branches that waited there, `expected` those that could still reach it, and `fired`
    how often it had fired.
    """

    arrived: int
    expected: int
    fired: int


class PastState(View, schema_name="PastState"):
    """State of a run as it was after an event.

    `number` is the place of the event in the history, from 1, and `events` how many the history has now.
    """

    number: int
    events: int
    event: EventEntry
    branches: Sequence[PastBranch]
    joins: Mapping[str, PastJoin]
    names: Sequence[PastName]
