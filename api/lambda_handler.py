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


MAX_RESPONSE_BYTES = 6_291_556
"""Bytes of JSON that a Lambda function may return.

API Gateway replaces a larger response by an internal error.
"""

MAX_ESCAPE_FACTOR = 6
"""Bytes of JSON for one byte of a body, at most: a control character is written as `\\u0000`."""


def handle(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request in the payload format 2.0 of API Gateway."""
    log_as_json_lines()
    about = LOG_CONTEXT.set({"request_id": context.aws_request_id})
    try:
        response = _app()(event, context)
    finally:
        LOG_CONTEXT.reset(about)
    if len(response["body"]) * MAX_ESCAPE_FACTOR < MAX_RESPONSE_BYTES:
        return response
    size = len(json.dumps(response, ensure_ascii=False).encode())
    return response if size <= MAX_RESPONSE_BYTES else _too_large(event["rawPath"], response, size)


def _too_large(path: str, response: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the response that replaces one of `size` bytes. It keeps the header that names a started run."""
    from noetl.api.http.problems import Problem

    detail = (
        f"The response has {size:,} bytes; the gateway takes at most {MAX_RESPONSE_BYTES:,}."
        " Request a smaller page (`limit`), or use the command `noetl runs`."
    )
    headers = {name: value for name, value in response["headers"].items() if name == "location"}
    problem = Problem(413, detail, slug="answer-too-large", headers=headers).response(path)
    return {
        "statusCode": problem.status_code,
        "headers": dict(problem.headers),
        "body": bytes(problem.body).decode(),
        "isBase64Encoded": False,
    }


def _import_app() -> None:
    """Create the app, and import what a start of a run needs."""
    import noetl.api.http.bodies
    import noetl.executor.engine.start  # noqa: F401

    _app()


@cache
def _app() -> Mangum:
    from mangum import Mangum

    from noetl.api.app import create_app
    from noetl.api.http.problems import redact_tokens

    logging.getLogger("mangum.http").addFilter(redact_tokens)
    return Mangum(create_app(has_gateway=True), lifespan="off")


PRELOAD = Preload(_import_app)
PRELOAD.prepare_in_lambda()
