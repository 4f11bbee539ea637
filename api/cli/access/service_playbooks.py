"""Access of commands to the registered playbooks of a service, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from noetl.api.cli.access.service_client import (
    RefusedPlaybookError,
    ServiceClient,
    UnknownResourceError,
)
from noetl.api.cli.access.view_requests import ViewRequests
from noetl.api.cli.service_requests import ServiceResponse
from noetl.api.service.errors import NotFoundError, PlaybookError

if TYPE_CHECKING:
    from noetl.api.service.playbooks import PlaybookText
    from noetl.api.service.views import AliasEntry, PlaybookEntry, PlaybookPage
    from noetl.planner.diagnostics.diagnostic import Diagnostic
    from noetl.planner.plan import Plan

_CREATED = 201


class ServicePlaybooks:
    """The registered playbooks of a service (implements `PlaybookAccess`)."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self._requests = ViewRequests(client)

    def register(self, plan: Plan, *, is_forced: bool = False) -> tuple[PlaybookEntry, bool]:
        from noetl.api.cli.access.received_views import receive_view
        from noetl.api.service.views import PlaybookEntry

        query = {"force": "true"} if is_forced else None
        try:
            response = self._client.request("POST", "/playbooks", {"playbook": plan.source}, query)
        except RefusedPlaybookError as refusal:
            raise PlaybookError(_read_diagnostics(refusal)) from refusal
        try:
            return receive_view(PlaybookEntry, response.body), response.status == _CREATED
        except (ValueError, TypeError, AttributeError) as error:
            raise response.unexpected("check --url") from error

    def find(self, name: str | None, limit: int, cursor: str | None) -> PlaybookPage:
        from noetl.api.service.views import PlaybookPage

        path = "/playbooks" if name is None else f"{_path(name)}/versions"
        return self._requests.get(PlaybookPage, path, limit=limit, cursor=cursor)

    def get(self, name: str, version: str | None) -> PlaybookText:
        from noetl.api.http.responses import PlaybookDocument
        from noetl.api.service.playbooks import PlaybookText
        from noetl.api.service.views import PlaybookEntry, members

        document = self._requests.get(PlaybookDocument, _path(name, version))
        entry = {key: value for key, value in members(document).items() if key not in ("source", "links")}
        return PlaybookText(PlaybookEntry(**entry), document.source)

    def remove(self, name: str, version: str | None) -> None:
        self._requests.remove(_path(name, version))

    def promote(self, name: str, version: str, alias: str, *, is_forced: bool = False) -> AliasEntry:
        from noetl.api.cli.access.received_views import receive_view
        from noetl.api.service.views import AliasEntry

        response = self._change_alias("PUT", name, alias, {"version": version}, is_forced=is_forced)
        try:
            return receive_view(AliasEntry, response.body)
        except (ValueError, TypeError, AttributeError) as error:
            raise response.unexpected("check --url") from error

    def remove_alias(self, name: str, alias: str, *, is_forced: bool = False) -> None:
        self._change_alias("DELETE", name, alias, None, is_forced=is_forced)

    def _change_alias(
        self, method: str, name: str, alias: str, body: dict[str, str] | None, *, is_forced: bool
    ) -> ServiceResponse:
        query = {"force": "true"} if is_forced else None
        try:
            return self._client.request(method, f"{_path(name)}/aliases/{quote(alias, safe='')}", body, query)
        except RefusedPlaybookError as refusal:
            raise PlaybookError(_read_diagnostics(refusal)) from refusal
        except UnknownResourceError as error:
            raise NotFoundError(str(error)) from error


def _read_diagnostics(refusal: RefusedPlaybookError) -> list[Diagnostic]:
    """Return the findings of a refused playbook.

    Raises:
        RefusedPlaybookError: the refusal itself, if it has no findings in the form of this version.
    """
    from noetl.planner.diagnostics.diagnostic import Diagnostic

    received = refusal.diagnostics
    try:
        findings = list(map(Diagnostic.from_json, received)) if isinstance(received, list) else []
    except (LookupError, TypeError, ValueError):
        findings = []
    if not findings:
        raise refusal
    return findings


def _path(name: str, version: str | None = None) -> str:
    path = f"/playbooks/{quote(name, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"
