"""Addresses that no playbook may ever reach, whatever an operator allows. Standard library only."""

from __future__ import annotations

import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NEVER = tuple(
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
        "fe80::/10",
        "ff00::/8",
    )
)
"""Nothing, link-local and cloud metadata, multicast, reserved."""

NEVER_NAMES = frozenset(
    {"metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)

_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.IGNORECASE)


def is_never_allowed(host: str) -> bool:
    """Whether a host, as an address spells it, is out of bounds by its name or by the address it writes out."""
    name = host.rstrip(".").lower()
    if name in NEVER_NAMES:
        return True
    address = literal_address(name)
    return address is not None and is_never(address)


def is_never(address: Address) -> bool:
    """Whether an address is in `NEVER`, by itself or by the IPv4 address it carries."""
    embedded = carried(address)
    return any(address in network for network in NEVER) or (embedded is not None and is_never(embedded))


def carried(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address is another way to write: mapped, compatible, NAT64 or 6to4."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    number = int(address)
    if (address in _LOW_32_BITS[0] and number > 1) or any(address in network for network in _LOW_32_BITS[1:]):
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address.sixtofour


_LOW_32_BITS = tuple(ipaddress.IPv6Network(network) for network in ("::/96", "::ffff:0:0/96", "64:ff9b::/96"))


def literal_address(host: str) -> Address | None:
    """The address a host writes out, in any spelling that resolvers take: `127.1`, `0x7f000001`, `[::1]`."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        *heads, last = (_number(part) for part in parts)
    except ValueError:
        return None
    if any(head > 255 for head in heads) or last >= 256 ** (4 - len(heads)):
        return None
    return ipaddress.IPv4Address(sum(head << 8 * (3 - at) for at, head in enumerate(heads)) + last)


def _number(part: str) -> int:
    if part[:2] in ("0x", "0X"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)
