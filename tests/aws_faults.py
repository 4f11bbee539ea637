"""Faults of DynamoDB at the level of botocore: refused, throttled and unanswered requests."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError

from noetl.executor.clients.aws import client

Fault = Callable[[str], str | None]
"""A function that returns the error code of a request to an operation, TIMEOUT, or None to send it."""

TIMEOUT = "timeout"
DENIED, THROTTLED = "AccessDeniedException", "ProvisionedThroughputExceededException"


class _InjectedBody(io.BytesIO):
    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self.read()


class Capacity:
    """A number of requests in a second, of which a table serves no more."""

    def __init__(self, requests_per_second: float) -> None:
        self._rate = requests_per_second
        self._left = 1.0
        self._updated_at = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, operation: str) -> str | None:
        with self._lock:
            now = time.monotonic()
            self._left = min(self._left + (now - self._updated_at) * self._rate, max(self._rate, 1.0))
            self._updated_at = now
            if self._left < 1:
                return THROTTLED
            self._left -= 1
            return None


@contextmanager
def faulty_table(fault: Fault) -> Iterator[list[str]]:
    """Let the requests of this process to DynamoDB fail. Yield the operations of all requests."""
    operations: list[str] = []

    def before_send(event_name: str, request: Any, **_: Any) -> AWSResponse | None:
        operation = event_name.rpartition(".")[2]
        operations.append(operation)
        code = fault(operation)
        if code is None:
            return None
        if code == TIMEOUT:
            raise ReadTimeoutError(endpoint_url=request.url)
        body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "injected"})
        headers = {"x-amzn-requestid": "injected", "content-type": "application/x-amz-json-1.0"}
        return AWSResponse(request.url, 400, headers, _InjectedBody(body.encode()))

    clients = [
        client("dynamodb", without_retries=True),
        client("dynamodb", without_retries=True, is_patient=False),
    ]
    for dynamodb in clients:
        dynamodb.meta.events.register("before-send.dynamodb", before_send)
    try:
        yield operations
    finally:
        for dynamodb in clients:
            dynamodb.meta.events.unregister("before-send.dynamodb", before_send)
