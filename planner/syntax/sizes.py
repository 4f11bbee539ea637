"""Sizes as playbooks write them. Standard library only."""

from __future__ import annotations

import re

from noetl.planner.trigger_sources import MAX_WEBHOOK_BYTES

_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(B|kB|KB|MB|KiB|MiB)")
_UNIT_BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


def parse_body_size(value: object) -> int:
    """Return the bytes of a text such as `512KiB` or `1MiB`, or of a whole number.

    >>> parse_body_size("1MiB"), parse_body_size("0.5kB"), parse_body_size(10)
    (1048576, 500, 10)

    Raises:
        ValueError: the value is not a size, or the body of no request may be so large.
    """
    size = -1
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = int(float(match[1]) * _UNIT_BYTES[match[2]])
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    if not 1 <= size <= MAX_WEBHOOK_BYTES:
        raise ValueError("a size must be `512KiB`, `1MiB` or a number of bytes, at most `5MiB`")
    return size
