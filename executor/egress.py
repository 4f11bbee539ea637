"""The way out: HTTP connections that go to vetted addresses only.

A host is resolved once, all its addresses are vetted, and the connection goes to one of exactly these: a second
answer of the resolver is never asked for. Nothing is taken from the environment, proxies included.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from executor.errors import ActionError
from planner.addresses import Address, is_never, is_never_allowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

SETTING = "NOETL_ALLOW_NETWORKS"

Resolver = Callable[[str, int], list[str]]
"""The addresses of a host, for a port."""

DENIED = tuple(
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
    """Whether `http` may connect to an address, given the ranges (CIDR) that the operator allows besides."""
    if is_never(address):
        return False
    if any(address in ipaddress.ip_network(network) for network in networks):
        return True
    is_routed = address.version == 4 or address in GLOBAL_IPV6
    return is_routed and not any(address in network for network in DENIED)


def vet(host: str, addresses: Iterable[str], networks: Iterable[str]) -> list[str]:
    """The addresses of a host, in order, when all of them are allowed.

    Raises:
        ActionError: `ForbiddenAddress`.
    """
    vetted = []
    networks = tuple(networks)
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not is_allowed(address, networks):
            raise forbidden(f"`{host}` is at {address}, which `http` may not reach", allowable=not is_never(address))
        vetted.append(str(address))
    return vetted


def forbidden(message: str, *, allowable: bool = False) -> ActionError:
    """The error of an address that is out of bounds, which says so where an operator can change that."""
    hint = f"; {SETTING} lists the networks that are allowed besides public ones" if allowable else ""
    return ActionError("ForbiddenAddress", message + hint, retryable=False)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host by the system's resolver.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


_deadline: ContextVar[float] = ContextVar("deadline")


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Within it, all reading, writing and connecting together ends by `deadline` (of `time.monotonic`)."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def _left() -> float:
    # Zero would make a socket non-blocking instead of late.
    return max(_deadline.get() - time.monotonic(), 0.001)


@cache
def transport(networks: tuple[str, ...], resolver: Resolver = resolve) -> httpx.HTTPTransport:
    """The transport, with its pool of connections, of everyone who may reach the same networks. Use it inside `until`."""
    import httpcore
    import httpx

    class Stream(httpcore.NetworkStream):
        """A connection none of whose operations outlasts the deadline of the request it is used for."""

        def __init__(self, inner: httpcore.NetworkStream) -> None:
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self._inner.read(max_bytes, _left())

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self._inner.write(buffer, _left())

        def close(self) -> None:
            self._inner.close()

        def start_tls(
            self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            return Stream(self._inner.start_tls(ssl_context, server_hostname, _left()))

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
            if is_never_allowed(host):
                raise forbidden(f"`{host}` is out of bounds for `http`")
            failure: Exception = httpcore.ConnectError(f"`{host}` has no address")
            for address in vet(host, _resolve_in_time(resolver, host, port), networks):
                try:
                    return Stream(self._sockets.connect_tcp(address, port, _left(), None, socket_options))
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
    return made


def _resolve_in_time(resolver: Resolver, host: str, port: int) -> list[str]:
    """What the resolver says, unless it takes too long: it cannot be interrupted, so it is left behind."""
    import httpcore

    answer: list[list[str] | OSError] = []

    def ask() -> None:
        try:
            answer.append(resolver(host, port))
        except (OSError, UnicodeError) as error:
            answer.append(OSError(str(error)))

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(_left())
    if not answer:
        raise httpcore.ConnectTimeout(f"`{host}` was not resolved in time")
    if isinstance(answer[0], OSError):
        raise httpcore.ConnectError(f"`{host}` cannot be resolved: {answer[0]}")
    return answer[0]
