"""The rule while no authentication is configured: serve this machine only, and no page of another site.

Problem: without credentials, a connection from a loopback address is the only evidence that a client may be
served. A web page in a browser on this machine, or a proxy, can send requests from that address too.

Algorithm: refuse a peer whose address is not a loopback address. Refuse a header of a forwarding proxy (RFC
7239). Refuse a `Host` that is not a loopback name: after DNS rebinding, a foreign name resolves to this
machine. Refuse a foreign `Origin` (RFC 6454), because browsers send simple requests to any address. For the
same reason, refuse a cross-site `Sec-Fetch-Site` (W3C Fetch Metadata) on methods that change something. A
page whose policy is `no-referrer` sends its own forms with the Origin `null`. They are served if
`Sec-Fetch-Site`, which no page can set, is `same-origin`.

Cost: a scan of the headers of each request.

Limits: a proxy that adds no header is not detected. Other users of this machine are served.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from noetl.api.http.problems import Problem

_RULE = (
    "No authentication is configured, so only clients on this machine are served, under a loopback name such"
    " as localhost and not from pages of other sites."
)
_FORWARDING_HEADER = re.compile(
    r"forwarded|via|x-forwarded(-.*)?|x-real-ip|x-client-ip|x-cluster-client-ip"
    r"|x-original-(forwarded-for|host)|x-envoy-.*|true-client-ip|cf-.*|cdn-loop"
    r"|fastly-client-ip|fly-client-ip"
)
"""Headers with which proxies and tunnels name their client or themselves."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::\d{1,5})?")


def loopback_problem(scope: Scope) -> Problem | None:
    """Return the problem of a request that the rule refuses, or None if it is served."""
    reason = _reason_to_refuse(scope)
    if reason is None:
        return None
    return Problem(403, f"{reason} {_RULE}", slug="loopback-only")


def _reason_to_refuse(scope: Scope) -> str | None:
    client = scope.get("client")
    if not client or not is_loopback(client[0]):
        return "The request comes from another machine."
    headers = Headers(scope=scope)
    for name in headers:
        if _FORWARDING_HEADER.fullmatch(name.lower()):
            return f"The request has the header `{name}`: a proxy forwarded it, so its client is unknown."
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(_host_name(hosts[0])):
        return "The Host of the request is not a loopback name."
    sites = headers.getlist("sec-fetch-site")
    for origin in headers.getlist("origin"):
        is_own_form = origin == "null" and sites == ["same-origin"]
        if not is_own_form and _origin_host(origin) != hosts[0].lower():
            return "The Origin of the request is another site."
    is_safe = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
    if not is_safe and any(site in ("cross-site", "same-site") for site in sites):
        return "The request comes from a page of another site, according to its Sec-Fetch-Site."
    return None


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address without brackets, is a loopback address.

    >>> is_loopback("::ffff:127.0.0.1"), is_loopback("127.0.0.1.example.com")
    (True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _host_name(host: str) -> str:
    match = _HOST.fullmatch(host)
    return (match["address"] or match["name"]) if match else ""


def _origin_host(origin: str) -> str:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""
