"""Egress vetting: outgoing connections that reach only addresses the operator allows.

Problem: a playbook chooses the URL of a request, so it could reach services inside the network of the
executor (server-side request forgery, SSRF). A check of the host name is not enough. A name server can
return another address for the second lookup (DNS rebinding), and a redirect can name another host.

Algorithm: resolve a host once, check every address of the answer, and connect to one of exactly these
addresses. The host name is kept only for the Host header and for TLS. Redirects are requests of their own, so
they are vetted as well. Proxy settings of the environment are ignored. Source: OWASP, "Server-Side Request
Forgery Prevention Cheat Sheet"; the denied ranges are from the IANA special-purpose address registries.

Cost: one lookup for each new connection, in a thread, because the system's resolver cannot be interrupted.
Connections are pooled for each tuple of allowed networks.

Limits: all operations of a request end by the deadline that `time_limit` sets. A resolver that does not
answer in time keeps its thread until it returns.
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

    import httpcore
    import httpx

NETWORKS_SETTING = "NOETL_ALLOW_NETWORKS"

CONNECT_SECONDS = 10.0
"""The longest time to resolve a host, to connect to one address, or to complete a TLS handshake."""
MAX_IDLE_SECONDS = 60.0
"""How long a server may send nothing, if the playbook sets no `timeout`."""

_CHUNK_BYTES = 64 * 1024

Resolver = Callable[[str, int], list[str]]
"""A function (host, port) -> addresses."""

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
"""Special-purpose ranges of IPv4, and those inside `GLOBAL_IPV6`.

The list is a copy, because the ranges that `ipaddress` knows differ between Python releases.
"""

GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
"""The routed part of IPv6. Loopback, mapped, NAT64, unique-local, link-local and multicast lie outside."""


def is_allowed(address: Address, networks: Iterable[str]) -> bool:
    """Return whether an action may connect to an address. `networks` are allowed in addition (CIDR).

    >>> is_allowed(ipaddress.ip_address("10.1.2.3"), [])
    False
    >>> is_allowed(ipaddress.ip_address("10.1.2.3"), ["10.1.0.0/16"])
    True
    """
    if is_forbidden_address(address):
        return False
    if any(address in ipaddress.ip_network(network) for network in networks):
        return True
    is_routed = address.version == 4 or address in GLOBAL_IPV6
    return is_routed and not any(address in network for network in DENIED_NETWORKS)


def vet(host: str, addresses: Iterable[str], networks: Iterable[str], action: str) -> list[str]:
    """Return the addresses of a host, in order, if all of them are allowed.

    Raises:
        ActionError: `ForbiddenAddress`, if one of them is denied.
    """
    vetted = []
    networks = tuple(networks)
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not is_allowed(address, networks):
            message = f"`{host}` resolves to {address}, which `{action}` must not reach"
            raise forbidden_address(message, allowable=not is_forbidden_address(address))
        vetted.append(str(address))
    return vetted


def forbidden_address(message: str, *, allowable: bool = False) -> ActionError:
    """Return the error for a denied address. If an operator can allow it, the message names the setting."""
    hint = f"; add its network to {NETWORKS_SETTING} to allow it" if allowable else ""
    return ActionError("ForbiddenAddress", message + hint, retryable=False)


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host, from the resolver of the system.

    Raises:
        OSError: the host has no address.
    """
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def resolve_and_vet(
    host: str, port: int, networks: Iterable[str], action: str, resolver: Resolver = resolve_host
) -> list[str]:
    """Resolve a host once and vet its addresses. Call it inside `time_limit`.

    Raises:
        ActionError: `ForbiddenAddress`.
        OSError: the host has no address; TimeoutError if the resolver does not answer in time.
    """
    if is_forbidden_host(host):
        raise forbidden_address(f"`{action}` must not reach `{host}`")
    return vet(host, _resolve_in_time(resolver, host, port), networks, action)


_time_bounds: ContextVar[tuple[float, float]] = ContextVar("time_bounds")
"""The deadline on the clock of `time.monotonic`, and the longest idle time in seconds."""


@contextmanager
def time_limit(deadline: float, max_idle_seconds: float = math.inf) -> Iterator[None]:
    """Bound all network operations in this block.

    Together they end by `deadline` (on `time.monotonic`), and each of them waits at most `max_idle_seconds`.
    """
    token = _time_bounds.set((deadline, max_idle_seconds))
    try:
        yield
    finally:
        _time_bounds.reset(token)


def _remaining_seconds(limit: float = math.inf) -> float:
    deadline, max_idle_seconds = _time_bounds.get()
    # A timeout of zero would make a socket non-blocking.
    return max(min(deadline - time.monotonic(), max_idle_seconds, limit), 0.001)


@cache
def vetted_transport(
    networks: tuple[str, ...], action: str, resolver: Resolver = resolve_host
) -> httpx.HTTPTransport:
    """Return the transport that connects to vetted addresses only. Use it inside `time_limit`.

    Errors name the type `action`. It has one connection pool for each value of `networks`, which lives until
    the process ends.
    """
    import httpcore
    import httpx

    context = httpx.create_ssl_context()
    transport = httpx.HTTPTransport(verify=context)
    # httpx has no public way to set the network backend of its pool.
    transport._pool = httpcore.ConnectionPool(  # noqa: SLF001
        ssl_context=context,
        max_connections=1000,
        max_keepalive_connections=20,
        keepalive_expiry=5.0,
        network_backend=_make_backend(networks, action, resolver),
    )
    atexit.register(transport.close)
    return transport


def _make_backend(networks: tuple[str, ...], action: str, resolver: Resolver) -> httpcore.NetworkBackend:
    """Return a network backend that connects to vetted addresses.

    The request keeps the host name for its Host header and for TLS.
    """
    import httpcore

    stream_type = _define_deadline_stream()
    sockets = httpcore.SyncBackend()

    class VettedBackend(httpcore.NetworkBackend):
        """A network backend that connects to vetted addresses."""

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
                vetted = resolve_and_vet(host, port, networks, action, resolver)
            except TimeoutError as error:
                raise httpcore.ConnectTimeout(str(error)) from None
            except OSError as error:
                raise httpcore.ConnectError(str(error)) from None
            for address in vetted:
                try:
                    seconds = _remaining_seconds(CONNECT_SECONDS)
                    return stream_type(sockets.connect_tcp(address, port, seconds, None, socket_options))
                except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                    failure = error
            raise failure

    return VettedBackend()


@cache
def _define_deadline_stream() -> Callable[[httpcore.NetworkStream], httpcore.NetworkStream]:
    """Return the class of connections with a deadline.

    It is defined here so that httpcore is imported late.
    """
    import httpcore

    class DeadlineStream(httpcore.NetworkStream):
        """A connection whose operations end by the deadline of the current request."""

        def __init__(self, inner: httpcore.NetworkStream) -> None:
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self._inner.read(max_bytes, _remaining_seconds())

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            # A timeout applies to each send call, and a slow reader causes many: recompute it for each chunk.
            for start in range(0, len(buffer), _CHUNK_BYTES):
                self._inner.write(buffer[start : start + _CHUNK_BYTES], _remaining_seconds())

        def close(self) -> None:
            self._inner.close()

        def start_tls(
            self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            seconds = _remaining_seconds(CONNECT_SECONDS)
            return DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, seconds))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    return DeadlineStream


def _resolve_in_time(resolver: Resolver, host: str, port: int) -> list[str]:
    """Return resolver(host, port). A lookup that takes too long cannot be interrupted; its thread is
    abandoned.

    Raises:
        OSError: the resolver fails; TimeoutError if it does not answer in time.
    """
    replies: list[list[str] | str] = []

    def call_resolver() -> None:
        try:
            replies.append(resolver(host, port))
        except (OSError, UnicodeError) as error:
            replies.append(str(error))

    thread = threading.Thread(target=call_resolver, name="resolve", daemon=True)
    thread.start()
    thread.join(_remaining_seconds(CONNECT_SECONDS))
    if not replies:
        raise TimeoutError(f"`{host}` was not resolved in time")
    if isinstance(replies[0], str):
        raise OSError(f"`{host}` cannot be resolved: {replies[0]}")
    return replies[0]
