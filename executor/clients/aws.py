"""AWS clients (botocore): shared clients, calls with a timeout, and errors that a playbook can handle."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from noetl.executor.errors import ActionError, CancelledError

Result = TypeVar("Result")

_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_STORE_CONNECT_SECONDS = 1
_STORE_READ_SECONDS = {"dynamodb": 2}
"""The timeouts of clients that never retry. Their caller does, and DynamoDB answers in milliseconds."""
_OTHER_READ_SECONDS = 10
"""The read timeout of the others: longer than a poll of a queue, and than a pause in a long object."""
_IMPATIENT_SECONDS = 1.4
"""Timeout of a connection and of a read if a request waits for it."""
_LONGEST_INVOCATION_SECONDS = 900
_MAX_CLIENTS = 64
_POLL_SECONDS = 0.1
"""How often a thread that waits for a call checks whether its run was cancelled."""
_CLIENT_LOCK = threading.Lock()
"""Creating a client is not thread-safe; using one is."""

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
_TRANSIENT = frozenset(
    {"InternalError", "InternalFailure", "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable"}
)


def call_with_timeout(
    seconds: float, subject: str, call: Callable[[], Result], cancelled: threading.Event | None = None
) -> Result:
    """Return call(). A call that exceeds `seconds` cannot be interrupted; its thread is abandoned.

    Raises:
        ActionError: `Timeout`, or the translation of an AWS error.
        CancelledError: `cancelled` was set.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001  The waiting thread raises it.
            future.set_exception(error)

    threading.Thread(target=run, name="aws", daemon=True).start()
    until = time.monotonic() + seconds
    while not futures.wait([future], min(max(until - time.monotonic(), 0.0), _POLL_SECONDS)).done:
        if cancelled is not None and cancelled.is_set():
            raise CancelledError
        if time.monotonic() >= until:
            raise ActionError("Timeout", f"{subject} did not answer in time")
    try:
        return future.result()
    except Exception as error:
        raise translate_error(error, subject) from error


@lru_cache(_MAX_CLIENTS)
def client(
    service: str, region: str | None = None, *, without_retries: bool = False, is_patient: bool = True
) -> Any:
    """Return the client of an AWS service, for a region or for the region of the environment. It is
    thread-safe.

    With `without_retries`, the client never retries and has a shorter timeout, for callers that must know
    whether a request was sent twice. Unless it is patient, its timeouts are those of a request that must be
    answered within two seconds.

    Raises:
        ActionError: `ActionDisabled`, if boto3 or a setting is missing; the message names it.
    """
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        from noetl.executor.extras import install_command

        message = f"AWS needs the package boto3; install it with `{install_command('aws')}`"
        raise ActionError("ActionDisabled", message, retryable=False) from None
    # An invocation without a response may still be running, so it is not sent again.
    tries_once = without_retries or service == "lambda"
    connect_seconds, read_seconds = _timeouts(service, without_retries=without_retries)
    config = Config(
        connect_timeout=connect_seconds if is_patient else _IMPATIENT_SECONDS,
        read_timeout=read_seconds if is_patient else _IMPATIENT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1 if tries_once else 3},
        max_pool_connections=50,
        user_agent_extra="noetl",
    )
    try:
        with _CLIENT_LOCK:
            return _session().create_client(service, region or os.environ.get("AWS_REGION"), config=config)
    except (BotoCoreError, ValueError) as error:
        raise translate_error(error, "AWS") from error


def _timeouts(service: str, *, without_retries: bool) -> tuple[int, int]:
    """Return the timeouts of a connection and of a read, in seconds."""
    if service == "lambda":
        return _CONNECT_SECONDS, _LONGEST_INVOCATION_SECONDS
    if without_retries:
        return _STORE_CONNECT_SECONDS, _STORE_READ_SECONDS.get(service, _OTHER_READ_SECONDS)
    return _CONNECT_SECONDS, _READ_SECONDS


def endpoint_host(service: str, region: str | None = None) -> str:
    """Return the host to which the client of a service sends its requests. Raises as `client` does."""
    return urlsplit(client(service, region).meta.endpoint_url).hostname or ""


@lru_cache(1)
def _session() -> Any:
    """Return the botocore session that all clients share.

    Loading service descriptions is slow, and boto3 would load more on top of botocore.
    """
    import botocore.session

    session = botocore.session.get_session()
    session.register_component("data_loader", _description_loader(session.get_config_variable("data_path")))
    return session


@lru_cache(1)
def _description_loader(data_path: str | None) -> Any:
    """Return what loads service descriptions and remembers them, also after `reset_clients`."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def reset_clients() -> None:
    """Discard all clients, so that new ones are created from the current environment."""
    client.cache_clear()
    _session.cache_clear()


def region_of_arn(arn: str) -> str | None:
    """Return the region of an ARN, or None if the text is no ARN or names no region.

    >>> region_of_arn("arn:aws:lambda:eu-west-1:123456789012:function:x")
    'eu-west-1'
    >>> region_of_arn("arn:aws:s3:::bucket") is None
    True
    """
    parts = arn.split(":", 5)
    return parts[3] or None if parts[0] == "arn" and len(parts) == 6 else None


def error_from_code(code: str, message: str, status: int | None = None) -> ActionError:
    """Return the ActionError for an AWS error code."""
    details = {"code": code}
    if code in _DENIED:
        return ActionError("AccessDenied", message, retryable=False, status=status, details=details)
    if code in _NOT_FOUND:
        return ActionError("NotFound", message, retryable=False, status=status, details=details)
    if code in _THROTTLED or status == 429:
        return ActionError("Throttled", message, status=status, details=details)
    retryable = code in _TRANSIENT or (status or 0) >= 500
    return ActionError("AWSError", f"{message} ({code})", retryable=retryable, status=status, details=details)


def translate_error(error: Exception, subject: str) -> Exception:
    """Return the ActionError for a botocore error about `subject`. Return any other error unchanged."""
    from botocore import exceptions

    match error:
        case exceptions.ClientError():
            reply = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return error_from_code(
                str(reply.get("Code", "")), f"{subject}: {reply.get('Message') or 'refused'}", status
            )
        case exceptions.NoRegionError():
            return _disabled("the AWS region is missing: set AWS_REGION")
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return _disabled(
                "AWS credentials are missing: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
                " or AWS_PROFILE, or assign a role to the machine"
            )
        case exceptions.ParamValidationError():
            return ActionError("ParameterError", f"{subject}: {error}".replace("\n", " "), retryable=False)
        case exceptions.HTTPClientError() | exceptions.ConnectionError() | exceptions.IncompleteReadError():
            return ActionError("ConnectionFailed", f"no response from {subject}: {error}")
        case exceptions.BotoCoreError():
            return _disabled(str(error))
        case UnicodeEncodeError():
            message = f"{subject}: a text has half of a surrogate pair, which UTF-8 cannot hold"
            return ActionError("ParameterError", message, retryable=False)
        case ValueError() if not isinstance(error, ActionError):
            return _disabled(f"AWS_ENDPOINT_URL or AWS_REGION is invalid: {error}")
    return error


def _disabled(message: str) -> ActionError:
    return ActionError("ActionDisabled", message, retryable=False)
