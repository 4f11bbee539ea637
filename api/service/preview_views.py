"""The JSON objects of a preview of a resume, as clients see them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from noetl.api.service.switch_views import VerdictEntry
from noetl.api.service.views import View


class RepetitionState(StrEnum):
    """State of an action before a resume. One that has failed, or an item of a loop, was perhaps done."""

    YES = "yes"
    NO = "no"
    PERHAPS = "perhaps"


class RepeatedAction(View, schema_name="RepeatedAction"):
    """Action that acts outside, in a step that a resume does again. `done` says whether it was done."""

    position: str
    action: str
    line: int | None
    done: RepetitionState
    idempotent: bool


class RepeatedLoop(View, schema_name="RepeatedLoop"):
    """Loop in a step that a resume does again: `done` items stay, and `again` are done again.

    `numbers` are the first of these. `lost` more items had succeeded, but their results were too large.
    """

    position: str
    total: int
    done: int
    again: int
    numbers: Sequence[int]
    lost: int


class RepeatedStep(View, schema_name="RepeatedStep"):
    """Visit of a step that a resume does again, and why: it has failed, is parked, or follows `from`.

    `loops` are its failed loops some of whose items had succeeded.
    """

    step: str
    visit: int
    reason: Literal["failed", "parked", "skipped", "from", "after"]
    actions: Sequence[RepeatedAction]
    loops: Sequence[RepeatedLoop] | None = None


class ResumePreview(View, schema_name="ResumePreview"):
    """Preview of a resume: what it would do again. Nothing was changed.

    `verdict` is that on the other version of the playbook, if the request names one.
    """

    workflow_id: str
    starts_new_run: bool
    steps: Sequence[RepeatedStep]
    verdict: VerdictEntry | None = None
