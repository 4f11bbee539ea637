"""A set of partitions of a backfill, by their numbers in the order of the backfill.

Such a set is an integer, whose bits are the numbers. So it changes in some microseconds, whatever its size.
It is stored compressed, in base64. With 100,000 partitions it has at most 17 KB. A set of few numbers or of
long ranges has some hundred bytes.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from typing import NewType

PartitionNumbers = NewType("PartitionNumbers", int)

NO_NUMBERS = PartitionNumbers(0)


def add_number(numbers: PartitionNumbers, number: int) -> PartitionNumbers:
    """Return a set with one number more."""
    return PartitionNumbers(numbers | 1 << number)


def remove_number(numbers: PartitionNumbers, number: int) -> PartitionNumbers:
    """Return a set without a number."""
    return PartitionNumbers(numbers & ~(1 << number))


def has_number(numbers: PartitionNumbers, number: int) -> bool:
    """Return whether a number belongs to a set.

    >>> seven = add_number(NO_NUMBERS, 7)
    >>> has_number(seven, 7), has_number(seven, 8), remove_number(seven, 7) == NO_NUMBERS
    (True, False, True)
    """
    return bool(numbers >> number & 1)


def encode_numbers(numbers: PartitionNumbers) -> str:
    """Return a set of numbers as text.

    >>> len(encode_numbers(PartitionNumbers((1 << 100_000) - 1))) < 200
    True
    """
    bits = numbers.to_bytes((numbers.bit_length() + 7) // 8, "little")
    return b64encode(zlib.compress(bits)).decode()


def decode_numbers(text: str) -> PartitionNumbers:
    """Return the set of numbers that `encode_numbers` has returned as text.

    >>> decode_numbers(encode_numbers(PartitionNumbers(1 << 99_999))).bit_length()
    100000
    """
    return PartitionNumbers(int.from_bytes(zlib.decompress(b64decode(text)), "little"))
