"""The function of AWS Lambda behind API Gateway: the app of `noetl.api.app`, which walks nothing here and serves nobody without
credentials.

Importing this needs no settings; what is missing is named when it is first needed. In Lambda what the first request needs is made
ready by then, as in `noetl.executor.lambda_handler`.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import ActionError
from noetl.executor.runtime.json_logs import ABOUT, log_as_json_lines
from noetl.executor.stores import load_store, make_clients
from noetl.planner.gc_control import never_collected

if TYPE_CHECKING:
    from mangum import Mangum
    from mangum.types import LambdaContext


MOST_ANSWERED = 6_291_556
"""How many bytes of JSON Lambda takes for the answer of a function. Of a larger one the gateway makes an internal error."""

MOST_ESCAPED = 6
"""How many bytes of JSON one byte of an answer makes at most: a control character."""


def handle(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request as API Gateway hands it over (payload format 2.0)."""
    log_as_json_lines()
    about = ABOUT.set({"request_id": context.aws_request_id})
    try:
        answer = _app()(event, context)
    finally:
        ABOUT.reset(about)
    if len(answer["body"]) * MOST_ESCAPED < MOST_ANSWERED:
        return answer
    size = len(json.dumps(answer, ensure_ascii=False).encode())
    return answer if size <= MOST_ANSWERED else _too_large(event["rawPath"], answer, size)


def _too_large(path: str, found: dict[str, Any], size: int) -> dict[str, Any]:
    """What is answered instead. Where a run was started it is still named."""
    from noetl.api.http.problems import Problem

    detail = (
        f"The answer has {size:,} bytes, and {MOST_ANSWERED:,} come through the gateway. Ask for a part of it (`limit`), or"
        " look into the store: `noetl runs`."
    )
    where = {name: value for name, value in found["headers"].items() if name == "location"}
    answer = Problem(413, detail, slug="answer-too-large", headers=where).response(path)
    body = bytes(answer.body).decode()
    return {
        "statusCode": answer.status_code,
        "headers": dict(answer.headers),
        "body": body,
        "isBase64Encoded": False,
    }


def load() -> None:
    """Create the app, and import what a start of a run takes and the store that the settings name.

    The garbage collector never visits the objects that exist by then.
    """
    with never_collected():
        import noetl.executor.engine.start  # noqa: F401

        _app()
        load_store()


def prepare() -> None:
    """Also make the clients that the store speaks with, where the settings say enough. Nobody is asked anything."""
    load()
    with never_collected(), suppress(ActionError):
        make_clients()


@cache
def _app() -> Mangum:
    from mangum import Mangum
    from noetl.api.app import create_app
    from noetl.api.http.problems import without_tokens

    logging.getLogger("mangum.http").addFilter(without_tokens)
    return Mangum(create_app(behind_gateway=True), lifespan="off")


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    prepare()
