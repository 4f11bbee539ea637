"""Retries of AWS calls whose outcome must be known: applied, refused, or not known after a lost response.

Problem: DynamoDB, SQS and S3 fail for transient reasons (throttling, conflicts, lost connections). A retry
of a conditional write whose first response was lost is refused because of its own effect, and must not count
as refused.

Algorithm: capped exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015).
A failed condition is reported with the current item, and with whether an earlier try may have reached AWS.
The caller then compares the item with the token that it wrote (`executor/stores/dynamo/table.py`).

Cost: nothing while calls succeed. The pauses of MAX_TRIES tries take 2.6 seconds on average and at most 5.2.

Limits: after MAX_TRIES tries the call fails with a StoreError that leaves open whether the write was applied.
An invocation of a function tries for as long as its time allows instead (`noetl.executor.patience`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from noetl.executor.clients.aws import client, translate_error
from noetl.executor.errors import ActionError, StoreAwayError, StoreError
from noetl.executor.patience import end_of_retries, patience_seconds

MAX_TRIES = 9
FIRST_PAUSE_SECONDS = 0.025
MAX_PAUSE_SECONDS = 2.0
RETRY_SHARE = 0.4
"""Part of the patience of a request in which retries begin."""

_MAX_DOUBLINGS = 16

_RETRYABLE_CODES = frozenset(
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


class ConditionFailed(Exception):
    """A condition of a write did not hold, so nothing was written.

    `items` and `failed` have one entry for each write. `failed` says whether the condition of this write
    failed. `items` holds its current item, or None if the write did not fail or no item exists.
    `may_have_been_applied` is true if the response to an earlier try of the same call was lost, so that the
    items may be its own work.
    """

    def __init__(self, items: list[dict[str, Any] | None], failed: list[bool]) -> None:
        super().__init__("a condition did not hold")
        self.items = items
        self.failed = failed
        self.may_have_been_applied = False


class ItemTooLarge(Exception):
    """An item is larger than DynamoDB accepts, so nothing was written."""


def pause_seconds(tries: int) -> float:
    """Return the pause after a number of tries: random, between 0 and a limit that doubles."""
    doubled = FIRST_PAUSE_SECONDS * 2 ** min(tries, _MAX_DOUBLINGS)
    return random.uniform(0.0, min(doubled, MAX_PAUSE_SECONDS))


def each_try() -> Iterator[int]:
    """Yield the number of each try from 1, after the pause before it, while the caller may try again."""
    started_at, ends_at = time.monotonic(), end_of_retries()
    tries = 1
    yield tries
    while not _is_out_of_patience(started_at):
        pause = pause_seconds(tries - 1)
        if tries >= MAX_TRIES if ends_at is None else time.monotonic() + pause >= ends_at:
            return
        time.sleep(pause)
        tries += 1
        yield tries


def call_with_retries(target: str, call: Callable[[], Any]) -> Any:
    """Make a call, again if it fails for a transient reason, and return its result.

    `target` names what is called in messages, such as "table noetl (NOETL_STORE)".

    Raises:
        ConditionFailed: a condition did not hold.
        ItemTooLarge: an item is too large.
        StoreError: the call failed for a permanent reason, or in each try.
    """
    from botocore.exceptions import ClientError

    may_have_been_applied = False
    problem: Exception
    tries = 1
    for tries in each_try():  # noqa: B007  The message has their number.
        try:
            return call()
        except ClientError as error:
            problem = error
            condition_failed = condition_failed_of(error)
            if condition_failed is not None:
                condition_failed.may_have_been_applied = may_have_been_applied
                raise condition_failed from None
            if _is_too_large(error):
                raise ItemTooLarge(str(error)) from None
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            may_have_been_applied = may_have_been_applied or status >= 500
            translated_error = translate_error(error, target)
            if not (_is_retryable(error, status) or _has_type(translated_error, "Throttled")):
                raise _permanent_failure(translated_error, target) from error
        except Exception as error:
            problem = error
            translated_error = translate_error(error, target)
            if not _has_type(translated_error, "ConnectionFailed"):
                if isinstance(translated_error, ActionError):
                    raise _permanent_failure(translated_error, target) from error
                raise
            may_have_been_applied = True
    translated_error = translate_error(problem, target)
    error_type = StoreAwayError if _has_type(translated_error, "ConnectionFailed") else StoreError
    times = "" if tries == 1 else f" {tries} times"
    raise error_type(f"{_subject(target)} failed{times}: {translated_error}") from problem


def store_client(service: str) -> Any:
    """Return the client of a service for a store: without retries, and as patient as the operation.

    Raises:
        ActionError: as `client` does.
    """
    # Keyword arguments that are left out are another entry in the cache of clients.
    if patience_seconds() is None:
        return client(service, without_retries=True)
    return client(service, without_retries=True, is_patient=False)


def _is_out_of_patience(started_at: float) -> bool:
    """Return whether a request must not wait for another try, which takes as long as its client waits."""
    seconds = patience_seconds()
    return seconds is not None and time.monotonic() - started_at > seconds * RETRY_SHARE


def _is_retryable(error: Any, status: int) -> bool:
    code = error.response.get("Error", {}).get("Code", "")
    return code in _RETRYABLE_CODES or status >= 500 or code == "TransactionCanceledException"


def _has_type(error: Exception, type: str) -> bool:
    return isinstance(error, ActionError) and error.type == type


def _permanent_failure(error: Exception, target: str) -> StoreError:
    """Return a StoreError with advice for a failure that a retry does not cure."""
    if _has_type(error, "NotFound"):
        advice = "run `noetl db upgrade` to create it" if target.startswith("table") else "create it"
        return StoreError(
            f"{_subject(target)} failed: there is no {target} in this account and region; {advice}."
        )
    if _has_type(error, "AccessDenied"):
        advice = "The credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID or a role) must be valid and allow the call"
        return StoreError(f"{_subject(target)} refused the call: {error}. {advice}.")
    return StoreError(f"{_subject(target)} failed: {error}")


def _subject(target: str) -> str:
    return "The queue of the store" if target.startswith("queue") else "The store in DynamoDB"


def condition_failed_of(error: Any) -> ConditionFailed | None:
    """Return the ConditionFailed that an error of the client stands for, or None."""
    code = error.response.get("Error", {}).get("Code", "")
    if code == "ConditionalCheckFailedException":
        return ConditionFailed([error.response.get("Item")], [True])
    if code != "TransactionCanceledException":
        return None
    reasons = error.response.get("CancellationReasons", [])
    failed = [reason.get("Code") == "ConditionalCheckFailed" for reason in reasons]
    return ConditionFailed([reason.get("Item") for reason in reasons], failed) if any(failed) else None


def _is_too_large(error: Any) -> bool:
    details = error.response.get("Error", {})
    reasons = error.response.get("CancellationReasons", [])
    message = " ".join([details.get("Message") or "", *(reason.get("Message") or "" for reason in reasons)])
    is_invalid = details.get("Code") in ("ValidationException", "TransactionCanceledException")
    return is_invalid and ("Item size" in message or "exceeded the maximum allowed size" in message)
