"""Routes of the playbook registry: register, read, list and remove playbooks, and their aliases.

A name may contain slashes, written as they are or as `%2F`. `register` refuses names that would be
ambiguous in a path.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response

from noetl.api.access import caller_name
from noetl.api.http.openapi import playbook_body, problems, required_body, response_body
from noetl.api.http.parameters import PlaybookCount, PlaybookQuery
from noetl.api.http.requests import read_alias_version, read_playbook
from noetl.api.http.responses import JsonResponse, PlaybookDocument, PlaybookLinks
from noetl.api.routes.dependencies import (
    AdminServices,
    Cursor,
    ReadServices,
    compile_long,
    opened_services,
    waiting_elsewhere,
)
from noetl.api.routes.switching import compile_change, judge_elsewhere, switch_on_thread
from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.playbooks import PlaybookText
from noetl.api.service.services import TenantServices
from noetl.api.service.switches import PlaybookChange
from noetl.api.service.views import AliasEntry, AliasPage, BulkReport, PlaybookEntry, PlaybookPage
from noetl.executor.model.run_filter import RunFilter

T = TypeVar("T")

router = APIRouter(prefix="/playbooks", tags=["playbooks"], default_response_class=JsonResponse)


class _PlaybookNameConvertor(PathConvertor):
    """The part of a path that names a playbook: no segment is one that other routes have."""

    regex = (
        r"(?!(?:versions|check-runs|aliases)(?:/|$))"
        r"(?:(?!/(?:versions|check-runs|aliases)(?:/|$)).)*"
    )


register_url_convertor("playbook", _PlaybookNameConvertor())

_REMOVED: dict[int | str, dict[str, Any]] = {204: {"description": "It is not in the registry any more."}}
_PAGE: dict[int | str, dict[str, Any]] = {
    200: response_body(PlaybookPage, description="A page of playbooks.")
}
_ALIAS: dict[int | str, dict[str, Any]] = {200: response_body(AliasEntry, description="The alias.")}
_DOCUMENT: dict[int | str, dict[str, Any]] = {
    200: response_body(PlaybookDocument, description="The playbook.")
}

Name = Annotated[
    str, Path(description="The name of a playbook. A slash may stand as it is.", examples=["greet"])
]
Alias = Annotated[str, Path(description="An alias of the playbook.", examples=["live"])]
Version = Annotated[str, Path(description="The version of a playbook.", examples=["1"])]
Limit = Annotated[PlaybookCount, Query(description="The most playbooks of the page.")]

MAX_SUMMARIES = 50
"""The most playbooks of a page with statistics, for each of which runs are read."""

Newest = Annotated[
    str | None,
    Query(
        description="The newest version that the caller knows. 409 if another is newer. Empty: none exists."
    ),
]

Force = Annotated[
    bool,
    Query(description="Register it although it does not fit registered playbooks, channels and limits."),
]


@router.post(
    "",
    status_code=201,
    responses={
        201: response_body(PlaybookEntry, description="It was registered.", headers=("Location",)),
        200: response_body(PlaybookEntry, description="It was registered before.", headers=("Location",)),
    },
    openapi_extra={
        **playbook_body("PlaybookBody"),
        **problems(
            "version-exists",
            "path-taken",
            "playbook-changed",
            "alias-exists",
            "invalid-name",
            "invalid-playbook",
            "too-much-work",
            "tenant-busy",
            "service-busy",
        ),
    },
)
async def register_playbook(
    request: Request, services: AdminServices, newest: Newest = None, force: Force = False
) -> Response:
    """Register the playbook in the body under its name and version. 200 if it is registered already.

    422 if it does not fit the registered playbooks that it uses, or those that use it.
    """
    playbook = await compile_long(request, services, await read_playbook(request))
    register = partial(
        services.playbooks.register, playbook, caller_name(request), newest=newest, is_forced=force
    )
    entry, is_new = await _change_registry(request, services, register)
    location = PlaybookLinks.of_entry(request, entry).self
    return JsonResponse(entry, 201 if is_new else 200, headers={"Location": location})


@router.get("", responses=_PAGE, openapi_extra=problems("invalid-cursor"))
def list_playbooks(services: ReadServices, query: Annotated[PlaybookQuery, Query()]) -> Response:
    """Return the newest version of each playbook, by name."""
    has_statistics = query.include == "statistics"
    limit = min(query.limit, MAX_SUMMARIES) if has_statistics else query.limit
    if query.q:
        page = services.playbooks.search(query.q, limit=limit, cursor=query.cursor)
    else:
        page = services.playbooks.find(limit=limit, cursor=query.cursor)
    return JsonResponse(services.statistics.summarize(page) if has_statistics else page)


@router.post(
    "/{name:path}/check-runs",
    responses={200: response_body(BulkReport, description="The runs that could continue, and the others.")},
    openapi_extra={
        **required_body("PlaybookBody"),
        **problems(
            "not-found",
            "invalid-playbook",
            "other-playbook",
            "invalid-cursor",
            "too-much-work",
            "tenant-busy",
            "service-busy",
        ),
    },
)
async def check_runs(name: Name, request: Request, services: ReadServices, cursor: Cursor = None) -> Response:
    """Return how many of up to 100 open runs could continue in a version, and why the others could not.

    Nothing is registered or changed. The next request goes on at the cursor.
    """
    text = await read_playbook(request)
    await run_in_threadpool(services.playbooks.get, name)
    change = await compile_change(request, services, PlaybookChange(InlinePlaybook(text)))
    judge = judge_elsewhere(request, services)

    def check() -> BulkReport:
        selection = RunFilter(playbook=name, cursor=cursor)
        return services.bulk.migrate(selection, change, judge, is_dry_run=True)

    return JsonResponse(await switch_on_thread(request, services, check))


@router.get("/{name:path}/versions/{version:path}", responses=_DOCUMENT, openapi_extra=problems("not-found"))
def get_playbook_version(name: Name, version: Version, request: Request, services: ReadServices) -> Response:
    """Return a version of a playbook, or the one that an alias names, with its text."""
    return _with_links(request, services.playbooks.get(name, version))


@router.delete(
    "/{name:path}/versions/{version:path}",
    status_code=204,
    responses=_REMOVED,
    openapi_extra=problems("not-found", "playbook-in-use", "alias-in-use", "path-taken"),
)
def remove_playbook_version(name: Name, version: Version, services: AdminServices) -> Response:
    """Remove a version from the registry. 409 if it has runs that have not ended, or an alias."""
    services.playbooks.unregister(name, version)
    return Response(status_code=204)


@router.get(
    "/{name:path}/aliases",
    responses={200: response_body(AliasPage, description="The aliases.")},
    openapi_extra=problems("not-found"),
)
def list_aliases(name: Name, services: ReadServices) -> Response:
    """Return the aliases of a playbook: `live`, and the others in the order of their names."""
    return JsonResponse(services.aliases.find(name))


@router.get("/{name:path}/aliases/{alias}", responses=_ALIAS, openapi_extra=problems("not-found"))
def get_alias(name: Name, alias: Alias, services: ReadServices) -> Response:
    """Return the version that an alias of a playbook names."""
    return JsonResponse(services.aliases.get(name, alias))


@router.put(
    "/{name:path}/aliases/{alias}",
    responses={
        **_ALIAS,
        201: response_body(AliasEntry, description="The alias was added."),
    },
    openapi_extra={
        **required_body("AliasBody"),
        **problems(
            "not-found",
            "version-exists",
            "too-many-aliases",
            "path-taken",
            "invalid-name",
            "invalid-playbook",
            "tenant-busy",
            "service-busy",
        ),
    },
)
async def put_alias(
    name: Name, alias: Alias, request: Request, services: AdminServices, force: Force = False
) -> Response:
    """Let an alias name a version. `live` stays at it until it is removed. A repetition changes nothing.

    422 if the version does not fit the registered playbooks that it uses, or those that use the alias.
    """
    version = await read_alias_version(request)
    put = partial(services.aliases.put, name, alias, version, caller_name(request), is_forced=force)
    entry, is_new = await _change_registry(request, services, put)
    return JsonResponse(entry, 201 if is_new else 200)


@router.delete(
    "/{name:path}/aliases/{alias}",
    status_code=204,
    responses={204: {"description": "The alias was removed."}},
    openapi_extra=problems(
        "not-found", "alias-in-use", "path-taken", "invalid-playbook", "tenant-busy", "service-busy"
    ),
)
async def remove_alias(
    name: Name, alias: Alias, request: Request, services: AdminServices, force: Force = False
) -> Response:
    """Remove an alias of a playbook, unless playbooks call it. `live` then follows the newest version."""
    remove = partial(services.aliases.remove, name, alias, is_forced=force)
    await _change_registry(request, services, remove)
    return Response(status_code=204)


@router.get("/{name:path}/versions", responses=_PAGE, openapi_extra=problems("not-found", "invalid-cursor"))
def list_playbook_versions(
    name: Name, services: ReadServices, limit: Limit = 100, cursor: Cursor = None
) -> Response:
    """Return all versions of a playbook, the newest first."""
    return JsonResponse(services.playbooks.find(name, limit=limit, cursor=cursor))


@router.get("/{name:playbook}", responses=_DOCUMENT, openapi_extra=problems("not-found"))
def get_playbook(name: Name, request: Request, services: ReadServices) -> Response:
    """Return the newest version of a playbook, with its text."""
    return _with_links(request, services.playbooks.get(name))


@router.delete(
    "/{name:playbook}",
    status_code=204,
    responses=_REMOVED,
    openapi_extra=problems("not-found", "playbook-in-use"),
)
def remove_playbook(name: Name, services: AdminServices) -> Response:
    """Remove all versions of a playbook. 409 if they have runs that have not ended."""
    services.playbooks.unregister(name)
    return Response(status_code=204)


async def _change_registry(request: Request, services: TenantServices, change: Callable[[], T]) -> T:
    """Return change(). Its checks among the registered playbooks read and examine many plans."""
    async with waiting_elsewhere(request):
        return await opened_services(request).compute.read(change, services.tenant)


def _with_links(request: Request, playbook: PlaybookText) -> Response:
    links = PlaybookLinks.of_entry(request, playbook.entry)
    return JsonResponse(PlaybookDocument.from_playbook(playbook, links))
