"""`log`: write a structured log line."""

from __future__ import annotations

from noetl.executor.actions.action import Call
from noetl.executor.model.json_values import to_text
from noetl.executor.security.redaction import redact
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="log",
    description="Writes a structured log line.",
    parameters={
        "message": Parameter((Kind.ANY,), "The text of the line.", required=True),
        "level": Parameter(
            (Kind.STRING,), "The log level. Default: `info`.", choices=("debug", "info", "warning", "error")
        ),
        "fields": Parameter((Kind.OBJECT,), "Additional fields of the line, for programs that read it."),
    },
    cannot_fail=True,
)


def perform(call: Call) -> None:
    level = call.parameters.get("level", "info").lower()
    call.log(level, redact(to_text(call.parameters["message"])), redact(call.parameters.get("fields", {})))
