"""The JSON objects of a verdict on a switch, as clients see them."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.api.service.views import View
from noetl.planner.continuation.verdict import SwitchVerdict


class VerdictReason(View, schema_name="VerdictReason"):
    """A reason against a switch, or a notice. Step and line are those of the new version, if known."""

    code: str
    message: str
    step: str | None
    line: int | None


class RequiredValue(View, schema_name="RequiredValue"):
    """A name that the new version reads and the run lacks, with its type and the line of the read."""

    name: str
    type: str
    line: int | None


class VerdictEntry(View, schema_name="Verdict"):
    """The answer to the question whether a run may continue in another version.

    With reasons, it is no. With required values, it is yes as soon as they are given. Notices refuse nothing.
    `more_required` is present if more values are required than are listed. It counts the others.
    """

    may_continue: bool
    reasons: Sequence[VerdictReason]
    required: Sequence[RequiredValue]
    notices: Sequence[VerdictReason]
    more_required: int | None = None

    @classmethod
    def from_verdict(cls, verdict: SwitchVerdict) -> VerdictEntry:
        """Return the JSON object of a verdict."""
        data = verdict.to_json()
        return cls(
            may_continue=data["may_continue"],
            reasons=[VerdictReason(**reason) for reason in data["reasons"]],
            required=[RequiredValue(**required) for required in data["required"]],
            notices=[VerdictReason(**notice) for notice in data["notices"]],
            more_required=verdict.more_required or None,
        )
