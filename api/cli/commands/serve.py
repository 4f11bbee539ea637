"""The command `noetl serve`."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from typing import Annotated

import typer

from noetl.api.cli.display.console import CommandError, print_message
from noetl.api.cli.store_option import StoreOption, read_environment
from noetl.executor.runtime.json_logs import log_as_json_lines

app = typer.Typer()

SWITCH_SECONDS = 0.0001
"""After which time a thread that computes lets another thread run, such as that of a request.

A request waits for this time again and again, some twenty times.
"""

_LOOPBACK_ONLY = "for this machine only, because no authentication is configured"


@app.command(epilog="Example: noetl serve --port 8080")
def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 8000,
    root_path: Annotated[
        str,
        typer.Option("--root-path", metavar="PATH", help="The prefix that a proxy removes from paths."),
    ] = "",
    store: StoreOption = None,
) -> None:
    """Serve HTTP, and execute the runs that are started over it.

    While there is no API key and no issuer of tokens (NOETL_JWT_ISSUER), only this machine is served.
    Callback URLs start with NOETL_PUBLIC_URL, or with the address of this service.
    """
    from noetl.api.auth.loopback import is_loopback
    from noetl.executor.security.process_privacy import hide_process

    hide_process()
    environ = read_environment(store)
    if not is_loopback(host) and not _has_authentication(environ):
        raise CommandError(
            f"cannot serve on {host}: no authentication is configured, so only this machine may be served"
            " (127.0.0.1); `noetl keys create` creates an API key, and NOETL_JWT_ISSUER names an issuer"
            " of tokens"
        )
    listener = _create_listener(host, port)
    with listener:
        url = os.environ.get("NOETL_PUBLIC_URL") or _address(listener)
        _serve(listener, {**environ, "NOETL_PUBLIC_URL": url}, _check_root_path(root_path))


def _check_root_path(text: str) -> str:
    """Return the option `--root-path` without a slash at its end."""
    path = text.rstrip("/")
    if path and (not path.startswith("/") or not path.isprintable() or set(path) & set(" ?#%")):
        raise CommandError(f"--root-path is {text!r}; it must be a path such as /noetl")
    return path


def _has_authentication(environ: dict[str, str]) -> bool:
    """Return whether the service will require credentials. Do not create a store for that.

    A store of an earlier version is upgraded, as by the service itself.
    """
    from noetl.api.auth.jwt import read_issuer
    from noetl.executor.errors import SchemaError, StoreError
    from noetl.executor.stores import DEFAULT_URL, open_store

    if read_issuer(environ) is not None:
        return True
    url = environ.get("NOETL_STORE") or DEFAULT_URL
    try:
        store = open_store(url, create=False)
    except SchemaError:
        store = open_store(url)
    except StoreError:
        if not url.startswith("sqlite:"):
            raise
        return False
    try:
        return store.keys.any_exist()
    finally:
        store.close()


def _create_listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError(f"cannot serve on {host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise CommandError(f"cannot serve on {host} port {port}: {error.strerror or error}") from error
    return listener


def _serve(listener: socket.socket, environ: dict[str, str], root_path: str) -> None:
    import uvicorn

    from noetl.api.app import create_app
    from noetl.api.connections import (
        ConnectionTable,
        allow_connections,
        read_max_connections,
        read_send_seconds,
        timed_protocol,
    )
    from noetl.api.http.access_log import ACCESS_LOGGER, read_access_log

    _check_settings(environ)
    max_connections = allow_connections(read_max_connections(environ))
    environ = {**environ, "NOETL_MAX_CONNECTIONS": str(max_connections)}
    clients = "to clients with an API key or a token" if _has_authentication(environ) else _LOOPBACK_ONLY

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _exempt_from_collection()
                print_message(f"serving {_address(listener)} {clients}")

    log_as_json_lines()
    logging.getLogger(ACCESS_LOGGER).disabled = not read_access_log(environ)
    sys.setswitchinterval(SWITCH_SECONDS)
    connections = ConnectionTable(max_connections, send_seconds=read_send_seconds(environ))
    config = uvicorn.Config(
        create_app(environ),
        http=timed_protocol(connections),
        loop="asyncio",  # uvloop, which uvicorn would take if it is installed, is not tested.
        ws="none",
        log_level="warning",
        log_config=None,
        root_path=root_path,
    )
    server = AnnouncingServer(config)
    server.run(sockets=[listener])
    if not server.started:
        raise CommandError("the service did not start")


def _check_settings(environ: dict[str, str]) -> None:
    """Raise the error of a setting or a store that the app would find only after its start."""
    from noetl.api.auth.jwt import read_issuer
    from noetl.api.auth.rate_limits import read_rate_settings
    from noetl.api.compute.pool import read_compute_processes
    from noetl.api.http.cors import read_cors_origins
    from noetl.api.http.open_limit import OPEN_KINDS, read_open_limit
    from noetl.api.http.request_shares import read_tenant_requests
    from noetl.api.service.compiler import allowed_catalogue
    from noetl.executor.engine.external import read_public_url
    from noetl.executor.security.capabilities import service_capabilities
    from noetl.executor.stores import open_store

    service_capabilities(environ)
    read_issuer(environ)
    allowed_catalogue(environ)
    for kind in OPEN_KINDS:
        read_open_limit(environ, kind)
    read_tenant_requests(environ)
    read_public_url(environ)
    read_cors_origins(environ)
    read_compute_processes(environ)
    read_rate_settings(environ)
    open_store(environ.get("NOETL_STORE")).close()


def _exempt_from_collection() -> None:
    """Let the garbage collector ignore the objects of the start, such as modules, and leave requests alone.

    Otherwise it examines all objects again and again. No thread runs meanwhile, for a tenth of a second.
    """
    from noetl.executor.runtime.quiet_collections import QuietCollections

    gc.collect()
    gc.freeze()
    QuietCollections().start()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
