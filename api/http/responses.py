"""JSON responses: their rendering, and those views of which only HTTP knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from fastapi import Request
from starlette.responses import JSONResponse

from noetl.api.service.playbooks import PlaybookText
from noetl.api.service.views import PlaybookEntry, Timestamp, View, members, starts_of
from noetl.executor.model.large_json import write_large_json
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_summary import ResultText
from noetl.executor.model.triggers import FiringOutcome


class JsonResponse(JSONResponse):
    """A response with a JSON body: a view, or a JSON value.

    A lone surrogate has no UTF-8 encoding, so it is written as an escape.
    """

    def render(self, content: Any) -> bytes:
        return _write(content).encode("utf-8", "backslashreplace")


def _write(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=members)


class LargeJsonResponse(JsonResponse):
    """A response with a view whose values may be large. Other threads run while it is written."""

    def render(self, content: Any) -> bytes:
        return write_large_json(_to_objects(content), _write).encode("utf-8", "backslashreplace")


def _to_objects(value: Any) -> Any:
    """Return a value whose views, and containers of views, are objects."""
    if isinstance(value, View):
        return {name: _to_objects(member) for name, member in members(value).items()}
    if isinstance(value, dict) and isinstance(next(iter(value.values()), None), View):
        return {name: _to_objects(member) for name, member in value.items()}
    if isinstance(value, list | tuple) and value and isinstance(value[0], View):
        return [_to_objects(element) for element in value]
    return value


class JsonTextResponse(JSONResponse):
    """A response whose body is JSON text that a store has written."""

    def render(self, content: str) -> bytes:
        return content.encode("utf-8", "backslashreplace")


def result_response(
    result: ResultText, status: int, headers: Mapping[str, str] | None = None
) -> JsonTextResponse:
    """Return a response with the result of a run, a `RunResult`. Its text is not decoded."""
    begin = _write({"workflow_id": result.run_id, "status": result.status})
    end = _write({"errors": result.errors})
    return JsonTextResponse(f'{begin[:-1]},"result":{result.text},{end[1:]}', status, headers)


class HealthReport(View, schema_name="Health"):
    status: Literal["ok", "ready"]


class CallbackReceipt(View, schema_name="Taken"):
    """Confirmation that a callback was accepted."""

    status: Literal["accepted"]


class EventTicket(View, schema_name="EventTicket"):
    """Ticket for the event stream of a run: the value of its query parameter `ticket`."""

    ticket: str
    expires_at: Timestamp


class RunLinks(View, schema_name="Links"):
    run: str
    status: str
    result: str
    events: str
    graph: str
    cancel: str
    pause: str
    unpause: str
    resume: str
    tags: str

    @classmethod
    def of_run(cls, request: Request, run_id: str) -> RunLinks:
        """Return the paths of the routes of a run."""
        root = f"{quote(request.scope.get('root_path', ''))}/workflows"
        return cls(
            run=f"{root}/{run_id}",
            status=f"{root}/status/{run_id}",
            result=f"{root}/result/{run_id}",
            events=f"{root}/{run_id}/events",
            graph=f"{root}/{run_id}/graph",
            cancel=f"{root}/{run_id}/cancel",
            pause=f"{root}/{run_id}/pause",
            unpause=f"{root}/{run_id}/unpause",
            resume=f"{root}/{run_id}/resume",
            tags=f"{root}/{run_id}/tags",
        )


class AcceptedRun(View, schema_name="Accepted"):
    """Run that a request has started. `starts` is present if several starts share it: how many."""

    workflow_id: str
    status: RunStatus
    playbook: str
    plan_hash: str
    starts: int | None = None
    links: RunLinks

    @classmethod
    def from_run(cls, run: Run, links: RunLinks) -> AcceptedRun:
        return cls(
            workflow_id=run.id,
            status=run.status,
            playbook=run.playbook,
            plan_hash=run.plan_hash,
            starts=starts_of(run),
            links=links,
        )

    def with_status(self, status: RunStatus) -> AcceptedRun:
        """Return the run with a later status."""
        return AcceptedRun(**{**vars(self), "status": status})


class WebhookReceipt(View, schema_name="WebhookReceipt"):
    """Answer to a request of another system.

    `outcome` is `started`, or `filtered` if the condition of the trigger is false. It is `skipped` if a limit
    of the playbook has skipped the run. `workflow_id` is the run.
    """

    outcome: FiringOutcome
    workflow_id: str | None


class PlaybookLinks(View, schema_name="PlaybookLinks"):
    self: str
    versions: str

    @classmethod
    def of_entry(cls, request: Request, entry: PlaybookEntry) -> PlaybookLinks:
        """Return the paths of a version of a playbook, and of all versions of it."""
        versions = f"{quote(request.scope.get('root_path', ''))}/playbooks/{quote(entry.name)}/versions"
        return cls(self=f"{versions}/{quote(entry.version)}", versions=versions)


class PlaybookDocument(View, schema_name="RegisteredText"):
    name: str
    version: str
    plan_hash: str
    registered_at: Timestamp
    registered_by: str | None
    live_version: str
    pinned: bool
    aliases: Mapping[str, str]
    source: str
    links: PlaybookLinks

    @classmethod
    def from_playbook(cls, playbook: PlaybookText, links: PlaybookLinks) -> PlaybookDocument:
        return cls(**members(playbook.entry), source=playbook.text, links=links)
