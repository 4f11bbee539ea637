"""The servers that a connection string of Postgres names, for runs that came in from outside.

libpq looks up what a string leaves out in the environment and in files of this machine, and takes sockets for hosts. So
here a string may say only what is harmless, every keyword that would be looked up has a value, and each host is replaced
by its vetted addresses.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from noetl.executor.actions.action import Call
from noetl.executor.clients import egress
from noetl.executor.errors import ActionError

Server = str
"""A connection string that leads to one address."""

_ALLOWED = frozenset(
    {
        "application_name", "channel_binding", "connect_timeout", "dbname", "fallback_application_name", "gssencmode", "host",
        "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "options", "password", "port",
        "ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode", "sslnegotiation", "sslrootcert", "sslsni",
        "target_session_attrs", "tcp_user_timeout", "user",
    }
)  # fmt: skip
"""What may be said. `options` are the server's business; the rest is about the connection itself."""

_ONLY = {"gssencmode": "disable", "sslrootcert": "system"}
"""Keywords that may be given with one value only: others use files of this machine."""

_NOWHERE = "/dev/null/none"
"""A path at which nothing can be. An empty one would mean that in the home folder."""

_FIXED = {
    "channel_binding": "prefer",
    "client_encoding": "UTF8",
    "gssdelegation": "0",
    "gssencmode": "disable",
    "krbsrvname": "postgres",
    "load_balance_hosts": "disable",
    "max_protocol_version": "3.0",
    "min_protocol_version": "3.0",
    "passfile": _NOWHERE,
    "require_auth": "password,md5,scram-sha-256,none",
    "ssl_min_protocol_version": "TLSv1.2",
    "sslcert": _NOWHERE,
    "sslcertmode": "disable",
    "sslcompression": "0",
    "sslkey": _NOWHERE,
    "sslmode": "prefer",
    "sslnegotiation": "postgres",
    "sslrootcert": _NOWHERE,
    "sslsni": "1",
    "target_session_attrs": "any",
}
"""What a keyword has for a value where the string gives none. Kerberos tickets and certificates of this machine stay here."""

_MOST_HOSTS = 16
_USUAL_PORT = "5432"


def parsed(text: str) -> dict[str, str]:
    """What a connection string says by itself.

    Raises:
        ActionError: `ParameterError`.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return {keyword: str(value) for keyword, value in conninfo_to_dict(text).items()}
    except (psycopg.Error, UnicodeError):
        raise _wrong("cannot be read: write `postgresql://user:password@host/database`") from None


def vetted(text: str, call: Call, resolver: egress.Resolver | None = None) -> tuple[Server, ...]:
    """The servers that a connection string leads to, in the order in which they are to be tried.

    Raises:
        ActionError: `ForbiddenAddress` or `ParameterError`; `ConnectionFailed` where no host has an address.
    """
    said = parsed(text)
    for keyword, value in said.items():
        if keyword not in _ALLOWED or value != _ONLY.get(keyword, value):
            raise egress.forbidden(
                f"`connection` has `{keyword}`, which only runs of local files may say like this"
            )
    places = _places(said)
    if not said.get("user"):
        raise _wrong("names no user")
    addresses = [
        {"host": host, "hostaddr": address, "port": port}
        for host, port in places
        for address in _addresses(host, int(port), call, resolver or egress.resolve)
    ]
    if not addresses:
        raise unreachable()
    wanted = said.get("target_session_attrs", "any")
    # As libpq reads it: a standby if there is one, anything else in a second round.
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    common = {**_defaults(said), "dbname": said["user"], **said}
    return tuple(
        _written({**common, **address, "target_session_attrs": attributes})
        for attributes in rounds
        for address in addresses
    )


def unreachable() -> ActionError:
    """The error of a server that there is no connection to, which does not tell closed ports from silent ones."""
    return ActionError("ConnectionFailed", "there is no connection to the server that `connection` names")


def _places(said: Mapping[str, str]) -> list[tuple[str, str]]:
    """The hosts, each with its port."""
    hosts = said.get("host", "").split(",")
    if any(not host or host.startswith(("/", "@")) for host in hosts):
        message = "`connection` must name a host: sockets of this machine are for runs of local files only"
        raise egress.forbidden(message)
    ports = [port or _USUAL_PORT for port in said.get("port", "").split(",")]
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts) or len(hosts) > _MOST_HOSTS:
        raise _wrong(f"must have one port, or one for each host, and {_MOST_HOSTS} hosts at most")
    for port in ports:
        if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
            raise _wrong("has a port that is no number from 1 to 65535")
    return list(zip(hosts, ports, strict=True))


def _addresses(host: str, port: int, call: Call, resolver: egress.Resolver) -> list[str]:
    call.remaining_seconds()
    try:
        with egress.until(call.deadline):
            return egress.addresses(host, port, call.capabilities.networks, resolver, "postgres")
    except ActionError:
        # Without the address, which would tell what names inside stand for.
        message = "`connection` leads to an address that `postgres` may not reach"
        raise egress.forbidden(message, allowable=True) from None
    except OSError:
        return []


def _defaults(said: Mapping[str, str]) -> dict[str, str]:
    """A value for every keyword that libpq would take from the environment."""
    from psycopg import pq

    found = {}
    for option in pq.Conninfo.get_defaults():
        keyword = option.keyword.decode()
        if option.envvar is not None and keyword != "service":
            found[keyword] = _FIXED.get(keyword, "")
    found["application_name"] = said.get("fallback_application_name", "noetl")
    if "sslrootcert" in said:
        found["sslmode"] = "verify-full"
    elif said.get("sslmode", "").startswith("verify-"):
        # Whom to trust is for whoever runs the service to say.
        found["sslrootcert"] = os.environ.get("PGSSLROOTCERT", "")
    return found


def _written(said: Mapping[str, str]) -> Server:
    from psycopg.conninfo import make_conninfo

    server = make_conninfo("", **said)
    if parsed(server) != said:
        raise _wrong("cannot be read")
    return server


def _wrong(message: str) -> ActionError:
    return ActionError("ParameterError", f"`connection` {message}", retryable=False)
