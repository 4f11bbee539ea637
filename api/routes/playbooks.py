"""Routes of the playbook registry: register, read, list and remove playbooks.

A name may contain slashes, written as they are or as `%2F`. `Service.register` refuses names that would be
ambiguous in a path.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.requests import check_query_names, read_playbook
from noetl.api.http.responses import JsonResponse, body_schema
from noetl.api.routes.dependencies import PROBLEMS, AdminService, ReadService

router = APIRouter(
    prefix="/playbooks", tags=["playbooks"], responses=PROBLEMS, default_response_class=JsonResponse
)

_PLAYBOOK_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/yaml": {"schema": {"type": "string", "description": "The playbook."}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["playbook"],
                    "additionalProperties": False,
                    "properties": {
                        "playbook": {
                            "oneOf": [{"type": "string"}, {"type": "object"}],
                            "description": "The playbook, as text or as JSON.",
                        }
                    },
                }
            },
        },
    }
}
_REMOVED: dict[int | str, dict[str, Any]] = {204: {"description": "It is not in the registry any more"}}

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post(
    "",
    status_code=201,
    responses={201: body_schema("Registered"), 200: body_schema("Registered")},
    openapi_extra=_PLAYBOOK_BODY,
)
async def register(request: Request, service: AdminService) -> Response:
    """Register the playbook in the body under its name and version. 200 if it is registered already."""
    body, is_new = await run_in_threadpool(service.register, await read_playbook(request))
    return JsonResponse(
        body, 201 if is_new else 200, headers={"Location": _playbook_links(request, body)["self"]}
    )


@router.get("", responses={200: body_schema("PlaybookPage")})
def playbooks(
    request: Request, service: ReadService, limit: Limit = 100, cursor: str | None = None
) -> Response:
    """Return the newest version of each playbook, by name."""
    check_query_names(request, ("limit", "cursor"))
    return JsonResponse(service.playbooks(limit=limit, cursor=cursor))


@router.get("/{name:path}/versions/{version:path}", responses={200: body_schema("RegisteredText")})
def version(name: str, version: str, request: Request, service: ReadService) -> Response:
    """Return a version of a playbook, with its text."""
    return _with_links(request, service.playbook(name, version))


@router.delete("/{name:path}/versions/{version:path}", status_code=204, responses=_REMOVED)
def remove_version(name: str, version: str, service: AdminService) -> Response:
    """Remove a version from the registry. Runs of it continue."""
    service.unregister(name, version)
    return Response(status_code=204)


@router.get("/{name:path}/versions", responses={200: body_schema("PlaybookPage")})
def versions(
    name: str, request: Request, service: ReadService, limit: Limit = 100, cursor: str | None = None
) -> Response:
    """Return all versions of a playbook, the newest first."""
    check_query_names(request, ("limit", "cursor"))
    return JsonResponse(service.playbooks(name, limit=limit, cursor=cursor))


@router.get("/{name:path}", responses={200: body_schema("RegisteredText")})
def playbook(name: str, request: Request, service: ReadService) -> Response:
    """Return the newest version of a playbook, with its text."""
    return _with_links(request, service.playbook(name))


@router.delete("/{name:path}", status_code=204, responses=_REMOVED)
def remove(name: str, service: AdminService) -> Response:
    """Remove all versions of a playbook from the registry. Runs of them continue."""
    service.unregister(name)
    return Response(status_code=204)


def _with_links(request: Request, body: dict[str, Any]) -> Response:
    return JsonResponse(body | {"links": _playbook_links(request, body)})


def _playbook_links(request: Request, body: dict[str, Any]) -> dict[str, str]:
    """Return the paths of this version and of all versions of its playbook."""
    versions = f"{request.scope.get('root_path', '')}/playbooks/{quote(body['name'])}/versions"
    return {"self": f"{versions}/{quote(body['version'])}", "versions": versions}
