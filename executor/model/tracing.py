"""Trace ids (W3C Trace Context): a run, its actions and its child runs belong to one trace."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

from noetl.executor.model.run import Run

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)

MAX_STATE_MEMBERS = 32
MAX_STATE_LENGTH = 512
_LONG_MEMBER_LENGTH = 128
"""Length from which members are dropped first if the whole state is too long."""

_KNOWN_FLAGS = 0b11
"""The flags `sampled` and `random-trace-id`. Others have no meaning yet, and must be sent as zero."""

_DEFAULT_FLAGS = "01"
_STATE_MEMBER = re.compile(
    r"(?P<key>[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=(?P<value>[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)


def parse_trace(traceparent: str | None, tracestate: Iterable[str] = ()) -> str | None:
    """Return the trace of a request, from its headers `traceparent` and `tracestate`, as `Run.trace` has it.

    It is a `traceparent` in version 00, and behind a blank the `tracestate`, if there is one. Return None if
    `traceparent` is missing or invalid. An invalid `tracestate` is left out.

    >>> parse_trace("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more", ["a=1", "b=2"])
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00 a=1,b=2'
    """
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent is not None else None
    if match is None or (match["more"] and match[0].startswith("00-")):
        return None
    flags = int(match["flags"], 16) & _KNOWN_FLAGS
    return _join(f"00-{match['trace']}-{match['span']}-{flags:02x}", _parse_state(tracestate))


def _join(traceparent: str, tracestate: str) -> str:
    return f"{traceparent} {tracestate}" if tracestate else traceparent


def _parse_state(tracestate: Iterable[str]) -> str:
    """Return the members of a `tracestate`, at most MAX_STATE_LENGTH characters; none if one is invalid."""
    texts = [text for part in ",".join(tracestate).split(",") if (text := part.strip(" \t"))]
    matches = [_STATE_MEMBER.fullmatch(text) for text in texts]
    keys = {match["key"] for match in matches if match is not None}
    if len(keys) != len(texts) or len(texts) > MAX_STATE_MEMBERS:
        return ""
    if len(",".join(texts)) > MAX_STATE_LENGTH:
        texts = [text for text in texts if len(text) <= _LONG_MEMBER_LENGTH]
    while len(",".join(texts)) > MAX_STATE_LENGTH:
        texts.pop()
    return ",".join(texts)


def trace_id(run: Run) -> str:
    """Return the trace id of a run: that of the request that started it, or one derived from the run id."""
    return run.trace.split("-")[1] if run.trace is not None else _derived_trace_id(run.id)


def make_traceparent(run: Run, *cause: object) -> str:
    """Return the `traceparent` header of a request that the run sends.

    It depends only on the run and `cause`.
    """
    return f"00-{trace_id(run)}-{_digest(16, run.id, *cause)}-{trace_flags(run)}"


def trace_flags(run: Run) -> str:
    """Return the trace flags of a run in hexadecimal: those of the request that started it, or `01`."""
    return _DEFAULT_FLAGS if run.trace is None else run.trace.partition(" ")[0].split("-")[3]


def trace_state(run: Run) -> str:
    """Return the `tracestate` header of requests that the run sends. It is empty without one."""
    return "" if run.trace is None else run.trace.partition(" ")[2]


def child_trace(run: Run, *cause: object) -> str:
    """Return the trace of a run that the run starts."""
    return _join(make_traceparent(run, *cause), trace_state(run))


def trace_labels(run: Run) -> dict[str, str]:
    """Return the fields of log lines about a run that name its trace."""
    state = trace_state(run)
    labels = {"trace_id": trace_id(run), "trace_flags": trace_flags(run)}
    return {**labels, "trace_state": state} if state else labels


@lru_cache(maxsize=256)
def _derived_trace_id(run_id: str) -> str:
    return _digest(32, run_id)


def _digest(length: int, *parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:length]
