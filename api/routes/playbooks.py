"""The registry: keep a playbook, find it again, list what there is, remove it.

A name may have slashes in it, written as they are or as `%2F`. `Service.register` takes none that could be read as another
address.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from noetl.api.http.requests import known_query, read_playbook
from noetl.api.http.responses import JSON, shaped
from noetl.api.routes.dependencies import PROBLEMS, ToAdminister, ToRead
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

router = APIRouter(prefix="/playbooks", tags=["playbooks"], responses=PROBLEMS, default_response_class=JSON)

_REGISTER: dict[str, Any] = {
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
_GONE: dict[int | str, dict[str, Any]] = {204: {"description": "It is not in the registry any more"}}

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post(
    "",
    status_code=201,
    responses={201: shaped("Registered"), 200: shaped("Registered")},
    openapi_extra=_REGISTER,
)
async def register(request: Request, service: ToAdminister) -> Response:
    """Keep the playbook in the body, under its name and version. 200 when it was there already."""
    body, is_new = await run_in_threadpool(service.register, await read_playbook(request))
    return JSON(body, 201 if is_new else 200, headers={"Location": _links(request, body)["self"]})


@router.get("", responses={200: shaped("PlaybookPage")})
def playbooks(request: Request, service: ToRead, limit: Limit = 100, cursor: str | None = None) -> Response:
    """The newest version of each playbook, by name."""
    known_query(request, ("limit", "cursor"))
    return JSON(service.playbooks(limit=limit, cursor=cursor))


@router.get("/{name:path}/versions/{version:path}", responses={200: shaped("RegisteredText")})
def version(name: str, version: str, request: Request, service: ToRead) -> Response:
    """A version of a playbook, with its text."""
    return _text(request, service.playbook(name, version))


@router.delete("/{name:path}/versions/{version:path}", status_code=204, responses=_GONE)
def remove_version(name: str, version: str, service: ToAdminister) -> Response:
    """Remove a version from the registry. Runs of it go on."""
    service.unregister(name, version)
    return Response(status_code=204)


@router.get("/{name:path}/versions", responses={200: shaped("PlaybookPage")})
def versions(
    name: str, request: Request, service: ToRead, limit: Limit = 100, cursor: str | None = None
) -> Response:
    """All versions of a playbook, the newest first."""
    known_query(request, ("limit", "cursor"))
    return JSON(service.playbooks(name, limit=limit, cursor=cursor))


@router.get("/{name:path}", responses={200: shaped("RegisteredText")})
def playbook(name: str, request: Request, service: ToRead) -> Response:
    """The newest version of a playbook, with its text."""
    return _text(request, service.playbook(name))


@router.delete("/{name:path}", status_code=204, responses=_GONE)
def remove(name: str, service: ToAdminister) -> Response:
    """Remove all versions of a playbook from the registry. Runs of them go on."""
    service.unregister(name)
    return Response(status_code=204)


def _text(request: Request, body: dict[str, Any]) -> Response:
    return JSON(body | {"links": _links(request, body)})


def _links(request: Request, body: dict[str, Any]) -> dict[str, str]:
    """Where this version and all versions of its playbook are asked for, relative to the origin of the service."""
    versions = f"{request.scope.get('root_path', '')}/playbooks/{quote(body['name'])}/versions"
    return {"self": f"{versions}/{quote(body['version'])}", "versions": versions}
