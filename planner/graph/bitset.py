"""Ints used as bit sets."""

from __future__ import annotations

from collections.abc import Iterator


def bit_indexes(mask: int) -> Iterator[int]:
    """Yield the indexes of the bits that are set, in ascending order.

    >>> list(bit_indexes(0b1101))
    [0, 2, 3]
    """
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
