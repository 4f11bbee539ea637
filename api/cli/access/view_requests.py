"""Requests of commands to a service, whose responses are views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from noetl.api.cli.access.received_views import receive_view
from noetl.api.cli.access.service_client import ServiceClient, UnknownResourceError
from noetl.api.cli.service_requests import ServiceResponse
from noetl.api.service.errors import NotFoundError
from noetl.api.service.views import View

V = TypeVar("V", bound=View)


class ViewRequests:
    """Requests to one service."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    def get(self, view: type[V], path: str, **params: Any) -> V:
        """Return the response to a GET request. A parameter that is None is not sent.

        Raises:
            NotFoundError, CommandError: as `send` does.
        """
        return self._receive(view, lambda: self._client.request("GET", path, None, params))

    def send(self, view: type[V], method: str, path: str, body: Any = None) -> V:
        """Send a request, and return the response.

        Raises:
            NotFoundError: the service does not have what the request names.
            CommandError: the request fails, or the server is not a NoETL service.
        """
        return self._receive(view, lambda: self._client.request(method, path, body))

    def send_start(self, view: type[V], path: str, body: Any) -> tuple[V, bool]:
        """Send a POST request that starts a run.

        Return the response, and whether an earlier request has started the run.

        Raises:
            NotFoundError, CommandError: as `send` does.
        """
        with _translate_unknown():
            response = self._client.request("POST", path, body)
        return _read(view, response), response.is_replay

    def delete(self, view: type[V], path: str, params: Mapping[str, Any]) -> V:
        """Send a DELETE request, and return the response.

        Raises:
            NotFoundError, CommandError: as `send` does.
        """
        return self._receive(view, lambda: self._client.request("DELETE", path, None, params))

    def remove(self, path: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a DELETE request whose response has no body.

        Raises:
            NotFoundError, CommandError: as `send` does.
        """
        with _translate_unknown():
            self._client.request("DELETE", path, None, params)

    def _receive(self, view: type[V], request: Callable[[], ServiceResponse]) -> V:
        with _translate_unknown():
            response = request()
        return _read(view, response)


def _read(view: type[V], response: ServiceResponse) -> V:
    """Return the value of a response.

    Raises:
        CommandError: the server is not a NoETL service.
    """
    try:
        return receive_view(view, response.body)
    except (ValueError, TypeError, AttributeError) as error:
        raise response.unexpected("check --url") from error


@contextmanager
def _translate_unknown() -> Iterator[None]:
    """Raise NotFoundError, as a store does, if the service does not have what a request names."""
    try:
        yield
    except UnknownResourceError as error:
        raise NotFoundError(str(error)) from error
