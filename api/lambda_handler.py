"""The function of AWS Lambda behind API Gateway: the app of `api.app`, which walks nothing here and serves nobody without
credentials.

Importing this needs no settings; what is missing is named when it is first needed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from executor.logs import log_as_json_lines

if TYPE_CHECKING:
    from mangum import Mangum
    from mangum.types import LambdaContext


def handle(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer a request as API Gateway hands it over (payload format 2.0)."""
    log_as_json_lines()
    return _app()(event, context)


@cache
def _app() -> Mangum:
    from mangum import Mangum

    from api.app import create_app

    return Mangum(create_app(behind_gateway=True), lifespan="off")
