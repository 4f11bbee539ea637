"""Calls of AWS that are made again when they failed for a reason that passes: a bounded number of times, after pauses
whose length is left to chance.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from noetl.executor.clients.aws import translated
from noetl.executor.errors import ActionError, StoreError

MAX_TRIES = 9
FIRST_PAUSE_SECONDS = 0.025
LONGEST_PAUSE_SECONDS = 2.0

_PASSING = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ReplicatedWriteConflictException",
        "RequestThrottled",
        "TransactionConflictException",
        "TransactionInProgressException",
        "ThrottlingError",
    }
)
_CONFLICTS = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "None"})


class ConditionFailed(Exception):
    """A condition did not hold; nothing was written. `found` are the items as they are, one for each write where there were
    several: None where that one was not why, or where there is no item.
    """

    def __init__(self, found: list[dict[str, Any] | None], failed: list[bool]) -> None:
        super().__init__("a condition did not hold")
        self.found = found
        self.failed = failed


class ItemTooLarge(Exception):
    """An item would have been larger than DynamoDB takes; nothing was written."""


def pause_seconds(tries: int) -> float:
    """How long to wait after so many tries (Brooker, "Exponential backoff and jitter")."""
    return random.uniform(0.0, min(FIRST_PAUSE_SECONDS * 2**tries, LONGEST_PAUSE_SECONDS))


def call_with_retries(what: str, call: Callable[[], Any]) -> tuple[Any, bool]:
    """What a call gave, and whether an earlier try of it may have been heard: its answer was lost.

    Raises:
        ConditionFailed: a condition did not hold.
        ItemTooLarge: an item would have been too large.
        StoreError: it failed for good, or so often that it is given up.
    """
    from botocore.exceptions import ClientError

    was_heard = False
    problem: Exception
    for tries in range(MAX_TRIES):
        if tries:
            time.sleep(pause_seconds(tries - 1))
        try:
            return call(), was_heard
        except ClientError as error:
            problem = error
            code = error.response.get("Error", {}).get("Code", "")
            refused = refusal_of(error)
            if refused is not None:
                refused.args = ("a condition did not hold", was_heard)
                raise refused from None
            if _is_too_large(error):
                raise ItemTooLarge(str(error)) from None
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            was_heard = was_heard or status >= 500
            told = translated(error, what)
            passes = code in _PASSING or status >= 500 or code == "TransactionCanceledException"
            if not (passes or (isinstance(told, ActionError) and told.type == "Throttled")):
                raise _failure(told, what) from error
        except Exception as error:
            problem = error
            told = translated(error, what)
            if not (isinstance(told, ActionError) and told.type == "ConnectionFailed"):
                if isinstance(told, ActionError):
                    raise _failure(told, what) from error
                raise
            was_heard = True
    raise StoreError(f"{_subject(what)} failed {MAX_TRIES} times: {translated(problem, what)}") from problem


def _failure(told: Exception, what: str) -> StoreError:
    """A failure that trying again does not help, and what does."""
    if isinstance(told, ActionError) and told.type == "NotFound":
        advice = "`noetl db upgrade` makes a table" if what.startswith("table") else "it must be there"
        return StoreError(
            f"{_subject(what)} failed: there is no {what} in this account and region; {advice}."
        )
    if isinstance(told, ActionError) and told.type == "AccessDenied":
        advice = "The credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID or a role) must be valid and allow it"
        return StoreError(f"{_subject(what)} refused: {told}. {advice}.")
    return StoreError(f"{_subject(what)} failed: {told}")


def _subject(what: str) -> str:
    return "The queue of the store" if what.startswith("queue") else "The store in DynamoDB"


def was_heard_before(refused: ConditionFailed) -> bool:
    """Whether a refused call had been made before and its answer lost: what it found may be its own work."""
    return len(refused.args) > 1 and bool(refused.args[1])


def refusal_of(error: Any) -> ConditionFailed | None:
    """The refusal that an error of the client stands for, if a condition did not hold."""
    code = error.response.get("Error", {}).get("Code", "")
    if code == "ConditionalCheckFailedException":
        return ConditionFailed([error.response.get("Item")], [True])
    if code != "TransactionCanceledException":
        return None
    reasons = error.response.get("CancellationReasons", [])
    failed = [reason.get("Code") == "ConditionalCheckFailed" for reason in reasons]
    return ConditionFailed([reason.get("Item") for reason in reasons], failed) if any(failed) else None


def _is_too_large(error: Any) -> bool:
    found = error.response.get("Error", {})
    reasons = error.response.get("CancellationReasons", [])
    told = " ".join([found.get("Message") or "", *(reason.get("Message") or "" for reason in reasons)])
    is_invalid = found.get("Code") in ("ValidationException", "TransactionCanceledException")
    return is_invalid and ("Item size" in told or "exceeded the maximum allowed size" in told)
