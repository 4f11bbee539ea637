"""The rules of external waits, as pure functions: which answers and heartbeats a wait accepts.

Problem: an answer may arrive twice, late, or with a token that no step has ever created.

Algorithm: the first answer that has the declared fields is kept. The same answer again is accepted and
changes nothing. Every other answer is refused with a reason that programs can read, and the wait stays open.

Cost: constant; a comparison of answers is linear in their size.

Limits: a store reads the wait, its visit and its run, and writes under the condition that they are unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.declared_values import DeclaredFields
from noetl.planner.kinds import describe_kind_of
from noetl.planner.plan import canonical_json

AnswerDeclaration: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The declared fields of an answer, as `expand_declarations` returns them."""


def wait_claim_lost() -> FencedError:
    """Return the error of a step that opens a wait, but has lost its claim."""
    return FencedError("the claim of the waiting step is lost")


def unknown_token() -> RejectedError:
    """Return the refusal of an answer whose token no step has created."""
    return RejectedError("unknown_token", "no step has ever waited for this answer")


def wait_closed() -> RejectedError:
    """Return the refusal of an answer for which no step waits any more."""
    return RejectedError("closed", "the step does not wait for an answer any more")


def check_wait_open(*, is_closed: bool, is_answered: bool, is_active: bool) -> None:
    """Check that a wait accepts an answer or a heartbeat.

    `is_active` is true if its visit and its run exist and have not ended.

    Raises:
        RejectedError: `closed`.
    """
    if is_closed or is_answered or not is_active:
        raise wait_closed()


def complete_answer(declared: AnswerDeclaration | None, body: Any) -> Any:
    """Return an answer with the defaults of the declared fields that it leaves out.

    >>> declared = {"approved": {"type": "boolean"}, "note": {"type": "any", "default": 0}}
    >>> complete_answer(declared, {"approved": True})
    {'approved': True, 'note': 0}

    Raises:
        RejectedError: `invalid_answer`, with every field that is missing, unknown or invalid.
    """
    if declared is None:
        return body
    answer = DeclaredFields.of_answer(declared)
    if not isinstance(body, dict):
        names = ", ".join(f"`{name}`" for name in declared)
        message = f"the answer must be an object with {names}, not {describe_kind_of(body)}"
        raise RejectedError("invalid_answer", message, fields=[])
    problems = answer.find_problems(body)
    if problems:
        message = "; ".join(str(problem["message"]) for problem in problems)
        fields = [{"name": problem["name"], "message": problem["message"]} for problem in problems]
        raise RejectedError("invalid_answer", message, fields=fields)
    return answer.with_defaults(body)


def check_same_answer(
    earlier: Any, answered_at: float, body: Any, declared: AnswerDeclaration | None = None
) -> None:
    """Check that a wait that has an answer since `answered_at` is given the same one again.

    The answers are compared as JSON, because `1 == True` in Python. Defaults of declared fields count as
    given. The refusal has the beginning of the earlier answer, which was stored without secrets.

    >>> check_same_answer({"b": 1, "a": 2}, 5.0, {"a": 2, "b": 1})
    >>> check_same_answer(1, 5.0, True)
    Traceback (most recent call last):
    noetl.executor.errors.RejectedError: another answer arrived before, at 1970-01-01T00:00:05Z: 1

    Raises:
        RejectedError: `answered_otherwise`.
    """
    if declared is not None and isinstance(body, dict):
        body = DeclaredFields.of_answer(declared).with_defaults(body)
    written = canonical_json(earlier)
    if written != canonical_json(body):
        from noetl.planner.diagnostics.wording import abbreviate

        arrived = datetime.fromtimestamp(answered_at, UTC)
        message = f"another answer arrived before, at {arrived:%Y-%m-%dT%H:%M:%SZ}: {abbreviate(written)}"
        raise RejectedError("answered_otherwise", message)
