"""The rules of external waits, as pure functions: which answers and heartbeats a wait accepts.

Problem: an answer may arrive twice, late, or with a token that no step has ever created.

Algorithm: the first answer is kept. The same answer again is accepted and changes nothing. Every other answer
is refused with a reason that programs can read.

Cost: constant; a comparison of answers is linear in their size.

Limits: a store reads the wait, its visit and its run, and writes under the condition that they are unchanged.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.errors import FencedError, RejectedError
from noetl.planner.plan import canonical_json


def wait_claim_lost() -> FencedError:
    """Return the error of a step that opens a wait, but has lost its claim."""
    return FencedError("the claim of the waiting step is lost")


def unknown_token() -> RejectedError:
    """Return the refusal of an answer whose token no step has created."""
    return RejectedError("unknown_token", "no step has ever waited for this answer")


def check_wait_open(*, is_closed: bool, is_answered: bool, is_active: bool) -> None:
    """Check that a wait accepts an answer or a heartbeat.

    `is_active` is true if its visit and its run exist and have not ended.

    Raises:
        RejectedError: `closed`.
    """
    if is_closed or is_answered or not is_active:
        raise RejectedError("closed", "the step does not wait for an answer any more")


def check_same_answer(earlier: Any, body: Any) -> None:
    """Check that a wait that has an answer is given the same one again.

    The answers are compared as JSON, because `1 == True` in Python.

    >>> check_same_answer({"b": 1, "a": 2}, {"a": 2, "b": 1})
    >>> check_same_answer(1, True)
    Traceback (most recent call last):
    noetl.executor.errors.RejectedError: another answer arrived before

    Raises:
        RejectedError: `answered_otherwise`.
    """
    if canonical_json(earlier) != canonical_json(body):
        raise RejectedError("answered_otherwise", "another answer arrived before")
