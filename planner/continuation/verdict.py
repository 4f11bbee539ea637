"""The verdict on a switch: yes, yes with values, or no with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from noetl.planner.frozen import frozen

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "NC101": "a step of the run is being performed",
        "NC102": "a step of the run is missing in the new version",
        "NC103": "the mode or the order of several branches changes",
        "NC104": "a join at which a branch waits is none in the new version",
        "NC105": "a step would be done twice",
        "NC106": "a first-come join would not know its branches",
        "NC107": "branches would meet in another way",
        "NC108": "a branch stands in a cycle with several entries",
        "NC109": "work that is suspended has changed",
        "NC110": "a loop or repetition in the middle has changed",
        "NC111": "the run has begun to end",
        "NC112": "an input does not fit",
        "NC113": "a name may be undefined",
        "NC114": "two branches save one name",
        "NC115": "the result of a step that the run has not visited is read",
        "NC116": "a step has had all of its visits",
        "NC117": "a map of steps is wrong",
        "NC118": "a given value is not used",
        "NC119": "the new version cannot be analysed",
        "NC151": "an action is done again",
        "NC152": "a step is not made up for",
        "NC153": "the next visit of a step exceeds its bound",
        "NC154": "finished items of a loop are done again",
    }
)
"""The codes of reasons (NC101 to NC119) and of notices (from NC151), with their titles."""

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "NC101": "wait until it has ended, or pause the run",
        "NC102": "keep the step, or map it to its new name",
        "NC103": "wait until one branch is left",
        "NC104": "keep `join: all`",
        "NC105": "give the second place a step of its own",
        "NC106": "keep its mode, its name and where its branches part",
        "NC107": "keep the fork, or wait until the join has been passed",
        "NC108": "let the cycle begin at one step",
        "NC109": "change only what follows the place",
        "NC110": "keep its items and its work",
        "NC111": "start a new run",
        "NC112": "give a value of the type",
        "NC113": "save it on every path, or use `default`",
        "NC114": "save a different name in each",
        "NC115": "test its `status` first",
        "NC116": "raise `max_visits`",
        "NC117": "map each old step to one new step",
        "NC118": "leave it out",
        "NC119": "check the new version",
    }
)
"""What a person may do about each reason."""


def explain_code(code: str) -> str:
    """Return an explanation of a code of `TITLES`, in Markdown.

    >>> print(explain_code("NC104").splitlines()[-1])
    **How to fix it.** Keep `join: all`.
    """
    is_reason = code in ADVICE
    severity = "error. The run does not continue" if is_reason else "note. The run continues"
    advice = f"\n**How to fix it.** {ADVICE[code][0].upper()}{ADVICE[code][1:]}.\n" if is_reason else ""
    where = (
        "A verdict says whether a run may continue in another version of its playbook, or at another step."
    )
    return f"# {code}: {TITLES[code]}\n\n{where}\n\n**Severity:** {severity}.\n{advice}"


@frozen
class Reason:
    """A reason against a switch, or a notice. `step` and `line` are those of the new version, if known."""

    code: str
    message: str
    step: str | None = None
    line: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "step": self.step, "line": self.line}


@frozen
class Required:
    """A name that the new version reads and the run does not have. `line` is the line of the read."""

    name: str
    type: str = "any"
    line: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "line": self.line}


@frozen
class SwitchVerdict:
    """The answer to the question whether a run may continue in another plan.

    With `reasons`, the answer is no. With `required`, it is yes as soon as these values are given. `notices`
    refuse nothing. `more_required` counts values that are needed, too, and not listed.
    """

    reasons: tuple[Reason, ...] = ()
    required: tuple[Required, ...] = ()
    notices: tuple[Reason, ...] = ()
    more_required: int = 0

    @property
    def is_yes(self) -> bool:
        """True if the run may continue now."""
        return not self.reasons and not self.required

    def to_json(self) -> dict[str, Any]:
        return {
            "may_continue": self.is_yes,
            "reasons": [reason.to_json() for reason in self.reasons],
            "required": [required.to_json() for required in self.required],
            **({"more_required": self.more_required} if self.more_required else {}),
            "notices": [notice.to_json() for notice in self.notices],
        }
