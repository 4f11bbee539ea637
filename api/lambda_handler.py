"""Handler of the AWS Lambda function behind API Gateway: the app of `noetl.api.app`, without workers.

Importing this module needs no settings. A missing one is reported when it is first used. In Lambda the import
prepares what the first request needs, as in `noetl.executor.lambda_handler`.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from noetl.executor.runtime.json_logs import LOG_CONTEXT, log_as_json_lines
from noetl.executor.runtime.preload import Preload

if TYPE_CHECKING:
    from mangum import Mangum
    from mangum.types import LambdaContext

    from noetl.api.http.problems import Problem


MAX_RESPONSE_BYTES = 6_291_556
"""Bytes of JSON that a Lambda function may return.

API Gateway replaces a larger response by an internal error.
"""

MAX_BALANCER_BYTES = 1_000_000
"""Bytes of JSON that a Lambda function may return to an Application Load Balancer."""

MAX_ESCAPE_FACTOR = 6
"""Bytes of JSON for one byte of a body, at most: a control character is written as `\\u0000`."""

TEXT_TYPES = ("application/problem+json", "image/svg+xml")
"""Media types that are text, in addition to those that Mangum knows. Others are encoded in base64."""

_NOTHING_SENT = {
    "headers": {},
    "multiValueHeaders": {},
    "queryStringParameters": {},
    "multiValueQueryStringParameters": {},
    "rawQueryString": "",
    "body": "",
}
"""What a client chooses in an event, as a response to a request that cannot be read has it."""

_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The errors of an adapter that cannot read an event. The app raises none: the adapter answers with 500."""

_log = logging.getLogger("noetl.api")


def handle(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request of API Gateway, of a function URL or of an Application Load Balancer."""
    log_as_json_lines()
    about = LOG_CONTEXT.set({"request_id": context.aws_request_id})
    try:
        event = _without_nulls(event)
        response = _app()(_without_compression(event), context)
    except _UNREADABLE:
        problem = _problem_of(event, context)
        if problem is None:
            raise
        emptied = {name: empty for name, empty in _NOTHING_SENT.items() if name in event}
        return _respond({**event, **emptied}, context, problem)
    finally:
        LOG_CONTEXT.reset(about)
    limit = MAX_BALANCER_BYTES if "elb" in event["requestContext"] else MAX_RESPONSE_BYTES
    if len(response["body"]) * MAX_ESCAPE_FACTOR < limit:
        return response
    size = len(json.dumps(response, ensure_ascii=False).encode())
    return response if size <= limit else _too_large(event, context, response, (size, limit))


def _problem_of(event: dict[str, Any], context: LambdaContext) -> Problem | None:
    """Return the problem of an event that the adapter cannot read, such as one with a wrong port in its host.

    Otherwise the invocation would fail: a balancer answers with 502, and an alarm counts it.
    """
    adapter = _app()
    try:
        request = adapter.infer(event, context)
        _ = request.scope, request.body
    except _UNREADABLE as error:
        from noetl.api.http.problems import Problem

        # The message of the error has a part of the request.
        _log.warning("the adapter cannot read a request of the gateway: %s", type(error).__name__)
        detail = "The request cannot be read. Its header Host must be a name, with a port at most."
        return Problem(400, detail, slug="invalid-request")
    return None


def _without_nulls(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without members that are null, but with those that an adapter reads in each event.

    Gateways and tests of a console write null for what a request does not have.
    """
    event = {"path": "", **_drop_nulls(event)}
    if "multiValueHeaders" not in event:
        event.setdefault("headers", {})
    context = {"identity": {}, **event.get("requestContext", {})}
    with_address = {
        name: {"sourceIp": "", **member} if name == "identity" or "method" in member else member
        for name, member in context.items()
        if isinstance(member, dict)
    }
    return {**event, "requestContext": context | with_address}


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _drop_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [_drop_nulls(item) for item in value if item is not None]
    return value


def _without_compression(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event whose response is text, if it is from a gateway that may pass on base64 unchanged.

    A REST API decodes it only if the API declares binary media types.
    """
    if "resource" not in event:
        return event
    named = {key: value for key in ("headers", "multiValueHeaders") if (value := event.get(key))}
    kept = {
        key: {name: value for name, value in headers.items() if name.lower() != "accept-encoding"}
        for key, headers in named.items()
    }
    return {**event, **kept}


def _too_large(
    event: dict[str, Any], context: LambdaContext, response: dict[str, Any], sizes: tuple[int, int]
) -> dict[str, Any]:
    """Return the response that replaces one that is too large. It keeps the header that names a started run.

    `sizes` are the bytes of the response and the limit.
    """
    from noetl.api.http.problems import Problem

    detail = (
        f"The response has {sizes[0]:,} bytes; the gateway takes at most {sizes[1]:,}."
        " Request a smaller page (`limit`), or use the command `noetl runs`."
    )
    sent = response.get("headers") or {
        name: values[0] for name, values in response.get("multiValueHeaders", {}).items()
    }
    headers = {name: value for name, value in sent.items() if name.lower() == "location"}
    problem = Problem(413, detail, slug="answer-too-large", headers=headers)
    return _respond(event, context, problem)


def _respond(event: dict[str, Any], context: LambdaContext, problem: Problem) -> dict[str, Any]:
    """Return a problem as the response to an event. The adapter writes it as it does every other."""
    from mangum import Mangum

    from noetl.api.http.root_path import sent_path
    from noetl.api.http.security_headers import SecurityHeadersMiddleware

    app = SecurityHeadersMiddleware(problem.response(sent_path(event)))
    return Mangum(app, lifespan="off", text_mime_types=[*TEXT_TYPES])(event, context)


def _import_app() -> None:
    """Create the app, and import what a start of a run needs."""
    import noetl.api.http.bodies
    import noetl.executor.engine.start  # noqa: F401

    _app()


@cache
def _app() -> Mangum:
    from mangum import Mangum
    from mangum.adapter import DEFAULT_TEXT_MIME_TYPES

    from noetl.api.app import create_app
    from noetl.api.http.problems import redact_tokens

    logging.getLogger("mangum.http").addFilter(redact_tokens)
    text_types = [*DEFAULT_TEXT_MIME_TYPES, *TEXT_TYPES]
    return Mangum(create_app(has_gateway=True), lifespan="off", text_mime_types=text_types)


PRELOAD = Preload(_import_app)
PRELOAD.prepare_in_lambda()
