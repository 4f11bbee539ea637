"""Views of the inbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noetl.api.service.views import Timestamp, View


class CaseEntry(View, schema_name="Case"):
    """Case of a rule: its guard, which is null for the default, and the steps to which it leads."""

    case: int
    guard: str | None
    targets: Sequence[str]


class AnswerChoice(View, schema_name="AnswerChoice"):
    """Possible answer, or value of one field of it, and the case and the steps to which it leads."""

    field: str | None
    value: Any
    case: int
    targets: Sequence[str]


class CallbackQuestion(View, schema_name="CallbackQuestion"):
    """Question behind the address of a callback.

    `answer` has the declared fields of the answer. `choices` says where possible answers lead, if the rule
    of the step depends on nothing else.
    """

    title: str | None = None
    details: Any = None
    answer: Mapping[str, Any] | None = None
    expires_at: Timestamp | None
    choices: Sequence[AnswerChoice]


class InboxEntry(View, schema_name="InboxEntry"):
    """Question that a waiting step asks a person.

    `position` is the place of the action in the step. `answer` has the declared fields of the answer.
    `cases` is the rule of the step, which says where an answer leads.
    """

    workflow_id: str
    playbook: str
    step: str
    visit: int
    position: str
    opened_at: Timestamp
    expires_at: Timestamp | None
    title: str | None = None
    details: Any = None
    answer: Mapping[str, Any] | None = None
    cases: Sequence[CaseEntry]


class InboxPage(View, schema_name="InboxPage"):
    items: Sequence[InboxEntry]
    next_cursor: str | None
