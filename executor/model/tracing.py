"""Trace ids (W3C Trace Context): a run, its actions and its child runs belong to one trace."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from noetl.executor.model.run import Run

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-[0-9a-f]{2}(?P<more>-.*)?"
)


def parse_traceparent(text: str | None) -> str | None:
    """Return the `traceparent` header of a request in version 00. Return None if it is missing or invalid.

    >>> parse_traceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more")
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    """
    match = _TRACEPARENT.fullmatch(text.strip()) if text is not None else None
    if match is None or (match["more"] and match[0].startswith("00-")):
        return None
    return f"00-{match['trace']}-{match['span']}-01"


def trace_id(run: Run) -> str:
    """Return the trace id of a run: that of the request that started it, or one derived from the run id."""
    return run.trace.split("-")[1] if run.trace is not None else _derived_trace_id(run.id)


def make_traceparent(run: Run, *cause: object) -> str:
    """Return the `traceparent` header of a request that the run sends.

    It depends only on the run and `cause`.
    """
    return f"00-{trace_id(run)}-{_digest(16, run.id, *cause)}-01"


@lru_cache(maxsize=256)
def _derived_trace_id(run_id: str) -> str:
    return _digest(32, run_id)


def _digest(length: int, *parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:length]
