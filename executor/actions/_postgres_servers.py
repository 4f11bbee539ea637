"""Resolve and vet the servers that a Postgres connection string names.

Problem: a run of a service must reach only vetted addresses. But libpq takes what a connection string leaves
out from the environment and from files of this machine, and it accepts Unix sockets as hosts.

Algorithm: complete mediation. A string may contain only the keywords of an allow-list. Every keyword that
libpq would look up elsewhere gets a fixed value. Each host is resolved once and replaced by its vetted
addresses (`hostaddr`), so that DNS rebinding has no effect. Source: PostgreSQL documentation, "Parameter Key
Words" and "Environment Variables" of libpq.

Cost: one resolution of each host for each call; at most 16 hosts.

Limits: keywords that a newer libpq adds are refused until they are added here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from noetl.executor.actions.action import Call
from noetl.executor.clients import egress
from noetl.executor.clients.time_limit import time_limit
from noetl.executor.errors import ActionError

ConnectionString = str
"""A connection string that leads to one address."""

_ALLOWED_KEYWORDS = frozenset(
    {
        "application_name", "channel_binding", "connect_timeout", "dbname", "fallback_application_name",
        "gssencmode", "host", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
        "options", "password", "port", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode",
        "sslnegotiation", "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout", "user",
    }
)  # fmt: skip
"""Keywords that a connection string may contain. The server interprets `options`; the rest is harmless."""

_ALLOWED_VALUES = {"gssencmode": "disable", "sslrootcert": "system"}
"""Keywords with only one allowed value. Other values use files of this machine."""

_MISSING_FILE = "/dev/null/none"
"""Path of a file that cannot exist. An empty path would mean the default in the home folder."""

_FIXED_VALUES = {
    "channel_binding": "prefer",
    "client_encoding": "UTF8",
    "gssdelegation": "0",
    "gssencmode": "disable",
    "krbsrvname": "postgres",
    "load_balance_hosts": "disable",
    "max_protocol_version": "3.0",
    "min_protocol_version": "3.0",
    "passfile": _MISSING_FILE,
    "require_auth": "password,md5,scram-sha-256,none",
    "ssl_min_protocol_version": "TLSv1.2",
    "sslcert": _MISSING_FILE,
    "sslcertmode": "disable",
    "sslcompression": "0",
    "sslkey": _MISSING_FILE,
    "sslmode": "prefer",
    "sslnegotiation": "postgres",
    "sslrootcert": _MISSING_FILE,
    "sslsni": "1",
    "target_session_attrs": "any",
}
"""Values of missing keywords. They keep Kerberos tickets and certificates of this machine private."""

_MAX_HOSTS = 16
_DEFAULT_PORT = "5432"


def parse(connection_string: str) -> dict[str, str]:
    """Return the keywords of a connection string, without defaults.

    Raises:
        ActionError: `ParameterError`.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return {keyword: str(value) for keyword, value in conninfo_to_dict(connection_string).items()}
    except (psycopg.Error, UnicodeError):
        raise _parameter_error("is invalid: write `postgresql://user:password@host/database`") from None


def vet_servers(
    connection_string: str, call: Call, resolver: egress.Resolver | None = None
) -> tuple[ConnectionString, ...]:
    """Return a connection string for each address, in the order in which libpq would try them.

    Raises:
        ActionError: `ForbiddenAddress` or `ParameterError`; `ConnectionFailed` if no host has an address.
    """
    keywords = parse(connection_string)
    for keyword, value in keywords.items():
        if keyword not in _ALLOWED_KEYWORDS or value != _ALLOWED_VALUES.get(keyword, value):
            message = f"`connection` contains a value of `{keyword}` that only runs of local files may use"
            raise egress.forbidden_address(message)
    hosts = _hosts_and_ports(keywords)
    if not keywords.get("user"):
        raise _parameter_error("must name a user")
    addresses = [
        {"host": host, "hostaddr": address, "port": port}
        for host, port in hosts
        for address in _resolve_host(host, int(port), call, resolver or egress.resolve_host)
    ]
    if not addresses:
        raise connection_error()
    target = keywords.get("target_session_attrs", "any")
    # Like libpq: the first pass accepts only a standby, the second any server.
    passes = ("standby", "any") if target == "prefer-standby" else (target,)
    common = {**_default_values(keywords), "dbname": keywords["user"], **keywords}
    return tuple(
        _format({**common, **address, "target_session_attrs": target_of_pass})
        for target_of_pass in passes
        for address in addresses
    )


def connection_error() -> ActionError:
    """Return the error for a server without a connection. It hides whether a port is closed or silent."""
    return ActionError("ConnectionFailed", "cannot connect to the server in `connection`")


def _hosts_and_ports(keywords: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each host with its port."""
    hosts = keywords.get("host", "").split(",")
    if any(not host or host.startswith(("/", "@")) for host in hosts):
        message = "`connection` must name a host: only runs of local files may use sockets of this machine"
        raise egress.forbidden_address(message)
    ports = [port or _DEFAULT_PORT for port in keywords.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts) or len(hosts) > _MAX_HOSTS:
        raise _parameter_error(f"must have one port, or one for each host, and at most {_MAX_HOSTS} hosts")
    for port in ports:
        if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
            raise _parameter_error("has an invalid port: write a number from 1 to 65535")
    return list(zip(hosts, ports, strict=True))


def _resolve_host(host: str, port: int, call: Call, resolver: egress.Resolver) -> list[str]:
    """Return the vetted addresses of a host; none if it cannot be resolved."""
    call.remaining_seconds()
    try:
        with time_limit(call.deadline, cancelled=call.cancelled):
            return egress.resolve_and_vet(host, port, call.capabilities.networks, "postgres", resolver)
    except ActionError:
        # The message leaves the address out, which would reveal how internal names are resolved.
        message = "`connection` leads to an address that `postgres` must not reach"
        raise egress.forbidden_address(message, allowable=True) from None
    except OSError:
        return []


def _default_values(keywords: Mapping[str, str]) -> dict[str, str]:
    """Return a value for every keyword that libpq would take from the environment."""
    from psycopg import pq

    values = {}
    for option in pq.Conninfo.get_defaults():
        keyword = option.keyword.decode()
        if option.envvar is not None and keyword != "service":
            values[keyword] = _FIXED_VALUES.get(keyword, "")
    values["application_name"] = keywords.get("fallback_application_name", "noetl")
    if "sslrootcert" in keywords:
        values["sslmode"] = "verify-full"
    elif keywords.get("sslmode", "").startswith("verify-"):
        # The operator of the service decides which certificates are trusted.
        values["sslrootcert"] = os.environ.get("PGSSLROOTCERT", "")
    return values


def _format(keywords: Mapping[str, str]) -> ConnectionString:
    from psycopg.conninfo import make_conninfo

    connection_string = make_conninfo("", **keywords)
    if parse(connection_string) != keywords:
        raise _parameter_error("is invalid")
    return connection_string


def _parameter_error(problem: str) -> ActionError:
    return ActionError("ParameterError", f"`connection` {problem}", retryable=False)
