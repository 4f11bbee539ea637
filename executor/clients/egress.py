"""The way out: connections that go to vetted addresses only.

A host is resolved once, all its addresses are vetted, and the connection goes to one of exactly these: a second
answer of the resolver is never asked for. Nothing is taken from the environment, proxies included.
"""

from __future__ import annotations

import atexit
import ipaddress
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from noetl.executor.errors import ActionError
from noetl.planner.syntax.addresses import Address, is_forbidden_address, is_forbidden_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

NETWORKS_SETTING = "NOETL_ALLOW_NETWORKS"

CONNECT_SECONDS = 10.0
"""How long the way to one address may take: to find the address, to connect, and to shake hands."""
MAX_IDLE_SECONDS = 60.0
"""How long a server may say nothing, where nobody says how long the whole may take."""

_PIECE = 64 * 1024

Resolver = Callable[[str, int], list[str]]
"""The addresses of a host, for a port."""

DENIED_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
"""The special ranges of IPv4, and those inside `GLOBAL_IPV6`: this list is our own, so that no Python release moves it."""

GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is routed; loopback, mapped, NAT64, unique-local, link-local and multicast lie outside."""


def is_allowed(address: Address, networks: Iterable[str]) -> bool:
    """Whether an action may connect to an address, given the ranges (CIDR) that the operator allows besides."""
    if is_forbidden_address(address):
        return False
    if any(address in ipaddress.ip_network(network) for network in networks):
        return True
    is_routed = address.version == 4 or address in GLOBAL_IPV6
    return is_routed and not any(address in network for network in DENIED_NETWORKS)


def vet(host: str, addresses: Iterable[str], networks: Iterable[str], action: str = "http") -> list[str]:
    """The addresses of a host, in order, when all of them are allowed.

    Raises:
        ActionError: `ForbiddenAddress`.
    """
    vetted = []
    networks = tuple(networks)
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not is_allowed(address, networks):
            raise forbidden_address(
                f"`{host}` is at {address}, which `{action}` may not reach",
                allowable=not is_forbidden_address(address),
            )
        vetted.append(str(address))
    return vetted


def forbidden_address(message: str, *, allowable: bool = False) -> ActionError:
    """The error of an address that is out of bounds, which says so where an operator can change that."""
    hint = (
        f"; {NETWORKS_SETTING} lists the networks that are allowed besides public ones" if allowable else ""
    )
    return ActionError("ForbiddenAddress", message + hint, retryable=False)


def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of a host by the system's resolver.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve_and_vet(
    host: str, port: int, networks: Iterable[str], resolver: Resolver = resolve_host, action: str = "http"
) -> list[str]:
    """The addresses of a host, asked for once and vetted. Use it inside `until`.

    Raises:
        ActionError: `ForbiddenAddress`.
        OSError: it has none; a TimeoutError where that was not known in time.
    """
    if is_forbidden_host(host):
        raise forbidden_address(f"`{host}` is out of bounds for `{action}`")
    return vet(host, _resolve_in_time(resolver, host, port), networks, action)


_bounds: ContextVar[tuple[float, float]] = ContextVar("bounds")


@contextmanager
def time_limit(deadline: float, silence: float = math.inf) -> Iterator[None]:
    """Within it, all reading, writing and connecting together ends by `deadline` (of `time.monotonic`), and nothing of it
    waits longer than `silence` seconds.
    """
    token = _bounds.set((deadline, silence))
    try:
        yield
    finally:
        _bounds.reset(token)


def _left(most: float = math.inf) -> float:
    deadline, silence = _bounds.get()
    # Zero would make a socket non-blocking instead of late.
    return max(min(deadline - time.monotonic(), silence, most), 0.001)


@cache
def vetted_transport(networks: tuple[str, ...], resolver: Resolver = resolve_host) -> httpx.HTTPTransport:
    """The transport, with its pool of connections, of everyone who may reach the same networks. Use it inside `until`. It is
    there until the process ends.
    """
    import httpcore
    import httpx

    class Stream(httpcore.NetworkStream):
        """A connection none of whose operations outlasts the deadline of the request it is used for."""

        def __init__(self, inner: httpcore.NetworkStream) -> None:
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self._inner.read(max_bytes, _left())

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            # The time is that of each sending, of which a reader who takes little at a time makes many.
            for start in range(0, len(buffer), _PIECE):
                self._inner.write(buffer[start : start + _PIECE], _left())

        def close(self) -> None:
            self._inner.close()

        def start_tls(
            self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Stream(self._inner.start_tls(ssl_context, server_hostname, _left(CONNECT_SECONDS)))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    class Backend(httpcore.NetworkBackend):
        """Connects to vetted addresses. The name stays with the request, for its Host header and for TLS."""

        def __init__(self) -> None:
            self._sockets = httpcore.SyncBackend()

        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Any = None,
        ) -> httpcore.NetworkStream:
            failure: Exception = httpcore.ConnectError(f"`{host}` has no address")
            try:
                vetted = resolve_and_vet(host, port, networks, resolver)
            except TimeoutError as error:
                raise httpcore.ConnectTimeout(str(error)) from None
            except OSError as error:
                raise httpcore.ConnectError(str(error)) from None
            for address in vetted:
                try:
                    left = _left(CONNECT_SECONDS)
                    return Stream(self._sockets.connect_tcp(address, port, left, None, socket_options))
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                    failure = error
            raise failure

    context = httpx.create_ssl_context()
    made = httpx.HTTPTransport(verify=context)
    # httpx has no public way to give its pool a network backend.
    made._pool = httpcore.ConnectionPool(  # noqa: SLF001
        ssl_context=context,
        max_connections=1000,
        max_keepalive_connections=20,
        keepalive_expiry=5.0,
        network_backend=Backend(),
    )
    atexit.register(made.close)
    return made


def _resolve_in_time(resolver: Resolver, host: str, port: int) -> list[str]:
    """What the resolver says, unless it takes too long: it cannot be interrupted, so it is left behind."""
    answer: list[list[str] | str] = []

    def ask() -> None:
        try:
            answer.append(resolver(host, port))
        except (OSError, UnicodeError) as error:
            answer.append(str(error))

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(_left(CONNECT_SECONDS))
    if not answer:
        raise TimeoutError(f"`{host}` was not resolved in time")
    if isinstance(answer[0], str):
        raise OSError(f"`{host}` cannot be resolved: {answer[0]}")
    return answer[0]
