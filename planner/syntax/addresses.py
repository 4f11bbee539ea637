"""Hosts and IP addresses that no playbook may reach, whatever an operator allows. Standard library only."""

from __future__ import annotations

import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FORBIDDEN_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "fd00:ec2::/32",
        "fd00:c1::a9fe:a9fe/128",
        "fd20:ce::254/128",
        "fe80::/10",
        "ff00::/8",
    )
)
"""Unspecified, link-local, cloud metadata, multicast and reserved addresses."""

FORBIDDEN_HOSTS = frozenset(
    {"metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
"""Names of cloud metadata services."""

_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)


def is_forbidden_host(host: str) -> bool:
    """Return whether the host of a URL is forbidden, by its name or by the IP address that it spells out.

    >>> [is_forbidden_host(host) for host in ("169.254.169.254", "0xA9FEA9FE", "example.com")]
    [True, True, False]
    """
    name = host.rstrip(".").lower()
    if name in FORBIDDEN_HOSTS:
        return True
    address = parse_literal_address(name)
    return address is not None and is_forbidden_address(address)


def is_forbidden_address(address: Address) -> bool:
    """Return whether an address, or the IPv4 address embedded in it, is in `FORBIDDEN_NETWORKS`."""
    embedded = embedded_ipv4(address)
    return any(address in network for network in FORBIDDEN_NETWORKS) or (
        embedded is not None and is_forbidden_address(embedded)
    )


def embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address embedded in an IPv6 address: mapped, compatible, NAT64 or 6to4.

    >>> embedded_ipv4(ipaddress.ip_address("::ffff:10.0.0.1"))
    IPv4Address('10.0.0.1')
    """
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    number = int(address)
    compatible, *other_networks = _IPV4_IN_LOW_32_BITS
    if (address in compatible and number > 1) or any(address in network for network in other_networks):
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address.sixtofour


_IPV4_IN_LOW_32_BITS = tuple(
    ipaddress.IPv6Network(network) for network in ("::/96", "::ffff:0:0/96", "64:ff9b::/96")
)
"""IPv4-compatible (RFC 4291), IPv4-mapped (RFC 4291) and NAT64 (RFC 6052) addresses."""


def parse_literal_address(host: str) -> Address | None:
    """Return the IP address that a host spells out in any form that resolvers accept, or None.

    >>> parse_literal_address("127.1"), parse_literal_address("0x7f000001"), parse_literal_address("[::1]")
    (IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), IPv6Address('::1'))
    """
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        *heads, last = (_parse_number(part) for part in parts)
    except ValueError:
        return None
    if any(head > 255 for head in heads) or last >= 256 ** (4 - len(heads)):
        return None
    return ipaddress.IPv4Address(sum(head << 8 * (3 - index) for index, head in enumerate(heads)) + last)


def _parse_number(part: str) -> int:
    """Return the value of a part of an IPv4 address in the syntax of `inet_aton`: hexadecimal, octal or
    decimal.
    """
    if part[:2] in ("0x", "0X"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)
