"""Who is served while nobody can be told apart: this machine, and no page of another site in its browsers."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from noetl.api.http.problems import Problem
from starlette.datastructures import Headers
from starlette.types import Scope

_RULE = (
    "No authentication is configured, so only clients on this machine are served, under a loopback name such as "
    "localhost and not from pages of other sites."
)
_FORWARDING = re.compile(
    r"forwarded|via|x-forwarded(-.*)?|x-real-ip|x-client-ip|x-cluster-client-ip|x-original-(forwarded-for|host)"
    r"|x-envoy-.*|true-client-ip|cf-.*|cdn-loop|fastly-client-ip|fly-client-ip"
)
"""The headers by which proxies and tunnels tell whom they speak for, or that they are there."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::\d{1,5})?")


def refusal(scope: Scope) -> Problem | None:
    """Why a request does not come from this machine, or not from a page of this service; None where it does.

    The `Host` is looked at because a foreign name that resolves to 127.0.0.1 would let any web page in, and the
    `Origin` and `Sec-Fetch-Site` because browsers send simple requests to any address. A forwarded request hides who its
    client is.
    """
    reason = _reason(scope)
    if reason is None:
        return None
    return Problem(403, f"{reason} {_RULE}", slug="loopback-only", title="Only this machine is served")


def _reason(scope: Scope) -> str | None:
    client = scope.get("client")
    if not client or not is_loopback(client[0]):
        return "The request comes from another machine."
    headers = Headers(scope=scope)
    for name in headers:
        if _FORWARDING.fullmatch(name.lower()):
            return f"The request has the header `{name}`: a proxy forwarded it, and who is behind that cannot be told."
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(_host_name(hosts[0])):
        return "The request's Host is not a loopback name."
    for origin in headers.getlist("origin"):
        if _netloc(origin) != hosts[0].lower():
            return "The request's Origin is another site."
    is_safe = scope["type"] == "http" and scope["method"] in _SAFE_METHODS
    if not is_safe and any(site in ("cross-site", "same-site") for site in headers.getlist("sec-fetch-site")):
        return "The request comes from a page of another site in a browser, as its Sec-Fetch-Site says."
    return None


def is_loopback(host: str) -> bool:
    """Whether a host (a name, or an address without brackets) is this machine as seen from itself."""
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


def _netloc(origin: str) -> str:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""
