"""`fail`: end the step with a failure that the author defines."""

from __future__ import annotations

from typing import NoReturn

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import begin_json, to_text
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="fail",
    description="Ends the step with a failure. It is not retried.",
    parameters={
        "message": Parameter((Kind.ANY,), "The error message.", required=True),
        "type": Parameter((Kind.STRING,), "The type of the error. Default: `Failed`."),
    },
    never_succeeds=True,
    reads_only=True,
    error_type="type",
)


_MAX_JSON = 1024 * 1024
"""How many characters of JSON are written at least, of a message that is no text."""


def perform(call: Call) -> NoReturn:
    message = call.parameters["message"]
    message = to_text(message) if isinstance(message, str | None) else begin_json(message, _MAX_JSON)
    raise ActionError(call.parameters.get("type", "Failed"), message, retryable=False)
