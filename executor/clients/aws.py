"""AWS by botocore: clients that are shared, calls that end in time, and errors that a playbook can react to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeVar

from noetl.executor.errors import ActionError

Result = TypeVar("Result")

_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_READ_ONCE_SECONDS = 25
"""Longer than the longest poll of a queue."""
_LONGEST_INVOCATION_SECONDS = 900
_MOST_CLIENTS = 64
_BORN_SLOWLY = threading.Lock()
"""Making a client is not safe among threads; using one is."""

_DENIED = frozenset(
    {
        "403",
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
_NOT_FOUND = frozenset(
    {
        "404",
        "AWS.SimpleQueueService.NonExistentQueue",
        "NoSuchBucket",
        "NoSuchKey",
        "NotFound",
        "NotFoundException",
        "ParameterNotFound",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    }
)
_THROTTLED = frozenset(
    {
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttled",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_PASSING = frozenset(
    {"InternalError", "InternalFailure", "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable"}
)


def call_with_timeout(seconds: float, what: str, work: Callable[[], Result]) -> Result:
    """What `work` returns. It cannot be interrupted, so it is left behind when it takes longer.

    Raises:
        ActionError: `Timeout`, or what became of an error of AWS.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001  It is raised where it is waited for.
            future.set_exception(error)

    threading.Thread(target=run, name="aws", daemon=True).start()
    try:
        return future.result(seconds)
    except Exception as error:
        if not future.done():
            raise ActionError("Timeout", f"{what} did not answer in time") from error
        raise translate_error(error, what) from error


@lru_cache(_MOST_CLIENTS)
def client(service: str, region: str | None = None, *, once: bool = False) -> Any:
    """The client of a service, in a region or in the one of the environment. Threads may share it. With `once` it never
    repeats a call by itself, and gives up sooner: for callers that must know whether a call was repeated.

    Raises:
        ActionError: `ActionDisabled`, where boto3 or a setting is missing; the message names it.
    """
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        message = "AWS needs the package boto3, which the extra `aws` of this installation brings"
        raise ActionError("ActionDisabled", message, retryable=False) from None
    # An invocation that was not heard of again may be under way: it is not begun anew.
    acts = service == "lambda"
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_LONGEST_INVOCATION_SECONDS if acts else _READ_ONCE_SECONDS if once else _READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1 if acts or once else 3},
        max_pool_connections=50,
        user_agent_extra="noetl",
    )
    try:
        with _BORN_SLOWLY:
            return _session().create_client(service, region or os.environ.get("AWS_REGION"), config=config)
    except (BotoCoreError, ValueError) as error:
        raise translate_error(error, "AWS") from error


@lru_cache(1)
def _session() -> Any:
    """What all clients of the process are made from: reading the descriptions of services takes its time, and so does what
    boto3 has on top of them.
    """
    import botocore.session

    return botocore.session.get_session()


def reset_clients() -> None:
    """Let clients be made anew, of the environment as it is now."""
    client.cache_clear()
    _session.cache_clear()


def region_of_arn(arn: str) -> str | None:
    """The region that an ARN names, if it is one and does."""
    parts = arn.split(":", 5)
    return parts[3] or None if parts[0] == "arn" and len(parts) == 6 else None


def error_from_code(code: str, message: str, status: int | None = None) -> ActionError:
    """The error that an error code of AWS stands for."""
    details = {"code": code}
    if code in _DENIED:
        return ActionError("AccessDenied", message, retryable=False, status=status, details=details)
    if code in _NOT_FOUND:
        return ActionError("NotFound", message, retryable=False, status=status, details=details)
    if code in _THROTTLED or status == 429:
        return ActionError("Throttled", message, status=status, details=details)
    retryable = code in _PASSING or (status or 0) >= 500
    return ActionError("AWSError", f"{message} ({code})", retryable=retryable, status=status, details=details)


def translate_error(error: Exception, what: str) -> Exception:
    """What a playbook is told of an error of boto3; any other error as it is."""
    from botocore import exceptions

    match error:
        case exceptions.ClientError():
            found = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return error_from_code(
                str(found.get("Code", "")), f"{what}: {found.get('Message') or 'refused'}", status
            )
        case exceptions.NoRegionError():
            return _unset("no region is known: set AWS_REGION")
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return _unset(
                "no credentials are known: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the"
                " machine a role"
            )
        case exceptions.ParamValidationError():
            return ActionError("ParameterError", f"{what}: {error}".replace("\n", " "), retryable=False)
        case exceptions.HTTPClientError() | exceptions.ConnectionError() | exceptions.IncompleteReadError():
            return ActionError("ConnectionFailed", f"no answer from {what}: {error}")
        case exceptions.BotoCoreError():
            return _unset(str(error))
        case ValueError() if not isinstance(error, ActionError):
            return _unset(f"AWS_ENDPOINT_URL or AWS_REGION cannot be used: {error}")
    return error


def _unset(message: str) -> ActionError:
    return ActionError("ActionDisabled", message, retryable=False)
