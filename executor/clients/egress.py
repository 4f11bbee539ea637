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
answer in time keeps its thread until it returns; at most `MAX_LOOKUPS` threads of the process do so.
"""

from __future__ import annotations

import atexit
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

from noetl.executor.clients.time_limit import wait_in_slices
from noetl.executor.errors import ActionError
from noetl.planner.syntax.addresses import (
    Address,
    is_forbidden_address,
    is_forbidden_host,
    parse_literal_address,
)

if TYPE_CHECKING:
    import httpx

NETWORKS_SETTING = "NOETL_ALLOW_NETWORKS"

CONNECT_SECONDS = 10.0
"""The longest time to resolve a host, to connect to one address, or to complete a TLS handshake."""
MAX_IDLE_SECONDS = 60.0
"""How long a server may send nothing, if the playbook sets no `timeout`."""

MAX_PORT = 65_535

MAX_LOOKUPS = 64
"""How many lookups of names run at once in this process."""

_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)
_log = logging.getLogger("noetl.executor")

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

    The error leaves out the address of a name, which would reveal how internal names are resolved. The log
    has it for the operator.

    Raises:
        ActionError: `ForbiddenAddress`, if one of them is denied.
    """
    vetted = []
    networks = tuple(networks)
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if not is_allowed(address, networks):
            is_literal = parse_literal_address(host) is not None
            if not is_literal:
                _log.warning("`%s` resolves to %s, which `%s` must not reach", host, address, action)
            message = f"`{host}` leads to an address that `{action}` must not reach"
            raise forbidden_address(message, allowable=not (is_literal and is_forbidden_address(address)))
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
        OSError: the host has no address, or no host has the port; TimeoutError if the resolver does not
            answer in time.
    """
    if not 0 < port <= MAX_PORT:
        raise OSError(f"there is no port {port}")
    if is_forbidden_host(host):
        raise forbidden_address(f"`{action}` must not reach `{host}`")
    return vet(host, _resolve_in_time(resolver, host, port), networks, action)


@cache
def vetted_transport(
    networks: tuple[str, ...], action: str, resolver: Resolver = resolve_host
) -> httpx.BaseTransport:
    """Return the transport that connects to vetted addresses only. Use it inside `time_limit`.

    Errors name the type `action`. It has one connection pool for each value of `networks`, which lives until
    the process ends.
    """
    import httpcore
    import httpx

    from noetl.executor.clients.connection_pool import HttpConnectionPool
    from noetl.executor.clients.deadline_stream import DeadlineStream, connect

    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])

    def open_stream(origin: httpcore.Origin) -> DeadlineStream:
        host = origin.host.decode("ascii")
        try:
            vetted = resolve_and_vet(host, origin.port, networks, action, resolver)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        failure: Exception = httpcore.ConnectError(f"`{host}` has no address")
        for address in vetted:
            try:
                stream = connect(address, origin.port, CONNECT_SECONDS)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                # The certificate is that of the name, not of the address.
                return stream.start_tls(context, host) if origin.scheme == b"https" else stream
        raise failure

    transport = HttpConnectionPool(open_stream)
    atexit.register(transport.close)
    return transport


def _resolve_in_time(resolver: Resolver, host: str, port: int) -> list[str]:
    """Return resolver(host, port). A lookup that takes too long cannot be interrupted; its thread is
    abandoned.

    Raises:
        OSError: the resolver fails; TimeoutError if it does not answer in time, or `MAX_LOOKUPS` run.
        CancelledError: the run was cancelled.
    """
    replies: list[list[str] | str] = []
    is_done = threading.Event()

    def call_resolver() -> None:
        try:
            replies.append(resolver(host, port))
        except (OSError, UnicodeError) as error:
            replies.append(str(error))
        finally:
            _lookups.release()
            is_done.set()

    def wait_for(event: Callable[[float], bool]) -> Callable[[float], None]:
        def attempt(seconds: float) -> None:
            if not event(seconds):
                raise TimeoutError

        return attempt

    try:
        wait_in_slices(wait_for(lambda seconds: _lookups.acquire(timeout=seconds)), CONNECT_SECONDS)
        threading.Thread(target=call_resolver, name="resolve", daemon=True).start()
        wait_in_slices(wait_for(is_done.wait), CONNECT_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"`{host}` was not resolved in time") from None
    if not replies:
        raise OSError(f"`{host}` cannot be resolved")
    if isinstance(replies[0], str):
        raise OSError(f"`{host}` cannot be resolved: {replies[0]}")
    return replies[0]
