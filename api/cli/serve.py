"""`noetl serve`"""

from __future__ import annotations

import json
import logging
import os
import socket
from typing import Annotated, Any

import typer

from api.cli.console import RefusalError, say
from api.cli.stores import StoreOption
from executor.records import timestamp


def serve(
    host: Annotated[str, typer.Option("--host", help="A loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free one.")] = 8000,
    store: StoreOption = None,
) -> None:
    """Serve HTTP on this machine, and execute the runs that are started over it."""
    from api.loopback import is_loopback

    if not is_loopback(host):
        raise RefusalError(
            f"cannot serve on {host}: no authentication is configured, so only this machine may be served (127.0.0.1)"
        )
    listener = _listener(host, port)
    with listener:
        _serve(listener, {**os.environ, **({"NOETL_STORE": store} if store else {})})


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RefusalError(f"cannot serve on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise RefusalError(f"cannot serve on {host} port {port}: {error.strerror or error}") from error
    return listener


def _serve(listener: socket.socket, environ: dict[str, str]) -> None:
    import uvicorn

    from api.app import create_app
    from executor.capabilities import for_service
    from executor.stores import open_store

    for_service(environ)
    open_store(environ.get("NOETL_STORE")).close()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(f"serving {_address(listener)} for this machine only, as no authentication is configured")

    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    server = Server(uvicorn.Config(create_app(environ), log_level="warning"))
    server.run(sockets=[listener])
    if not server.started:
        raise RefusalError("the service did not start")


class _JsonLines(logging.Formatter):
    """A record as one line of JSON, in which nothing is left that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_whose(record),
            "fields": getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _whose(record: logging.LogRecord) -> dict[str, Any]:
    """The run and step that a playbook's own line comes from."""
    labels = getattr(record, "labels", None)
    return {} if labels is None else {"workflow_id": labels["run"], "step": labels["step"], "visit": labels["visit"]}


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
