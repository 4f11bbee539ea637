"""Traces as W3C Trace Context writes them: a run, what it does and the runs that it starts are one trace."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from noetl.executor.model.run import Run

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)


def parse_traceparent(text: str | None) -> str | None:
    """The header `traceparent` of whoever asks, as it is kept; None for none, and for one that makes no sense, which is to be
    passed over.
    """
    match = _TRACEPARENT.fullmatch(text.strip()) if text is not None else None
    if match is None or (match["more"] and match[0].startswith("00-")):
        return None
    return f"00-{match['trace']}-{match['span']}-01"


def trace_id(run: Run) -> str:
    """The id of the trace that the run belongs to: that of whoever started it, or one that follows from its own id."""
    return run.trace.split("-")[1] if run.trace is not None else _own_trace_id(run.id)


def make_traceparent(run: Run, *cause: object) -> str:
    """The header for what the run does because of `cause`: the same for the same cause."""
    return f"00-{trace_id(run)}-{_digits(16, run.id, *cause)}-01"


@lru_cache(maxsize=256)
def _own_trace_id(run_id: str) -> str:
    return _digits(32, run_id)


def _digits(count: int, *parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:count]
