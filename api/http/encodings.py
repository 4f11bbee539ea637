"""Negotiation of the encoding of a file that is kept compressed (RFC 9110, section 12.5.3).

Problem: a client names the encodings that it can read, with weights, and a file is kept in several of them.

Algorithm: the encoding with the highest weight is chosen, among equal ones the first of the file. The weight
of an encoding that is not named is that of `*`. The plain file is sent if it is preferred, or if nothing else
fits.

Limits: a client that refuses `identity` gets the plain file instead of a problem if it accepts no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from noetl.api.http.negotiation import read_weight

IDENTITY = "identity"
"""Name of the encoding of a plain file."""

_MAX_ENCODINGS = 100


def choose_encoding(accepted: Iterable[str], encodings: Sequence[str]) -> str:
    """Return the encoding that the values of `Accept-Encoding` prefer, among some and `identity`.

    >>> choose_encoding(["gzip, deflate, br, zstd"], ["br", "gzip"])
    'br'
    >>> choose_encoding(["br;q=0.5", "gzip"], ["br", "gzip"]), choose_encoding(["*, br;q=0"], ["br", "gzip"])
    ('gzip', 'gzip')
    >>> choose_encoding(["gzip;q=0.5, identity"], ["br", "gzip"]), choose_encoding([], ["br", "gzip"])
    ('identity', 'identity')
    """
    weights: dict[str, float] = {}
    for text in ",".join(accepted).split(",")[:_MAX_ENCODINGS]:
        name, *parameters = (part.strip().lower() for part in text.split(";"))
        weight = read_weight(parameters)
        if name and weight is not None:
            weights.setdefault(name, weight)
    best = max(encodings, key=lambda name: weights.get(name, weights.get("*", 0.0)), default=IDENTITY)
    weight = weights.get(best, weights.get("*", 0.0))
    return best if weight > 0 and weight >= weights.get(IDENTITY, 0.0) else IDENTITY
