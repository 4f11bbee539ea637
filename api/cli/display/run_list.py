"""The tables of `noetl runs list` and `noetl runs histogram`, and the times of their options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.display.run_board import format_duration, parse_time
from noetl.planner.syntax.durations import parse_duration
from noetl.planner.syntax.instants import check_instant, parse_instant

_HEADER = ("ID", "STATUS", "CREATED", "DURATION", "STEPS", "PLAYBOOK", "TAGS", "WHAT")
_BAR_LENGTH = 20
_DURATION = re.compile(r"\d+(\.\d+)?\s*[a-z]+", re.IGNORECASE)


def parse_run_time(option: str, text: str, now: float) -> float:
    """Return the time that an option names, in seconds since the epoch: a time, or a duration before `now`.

    A time without a zone is in UTC. Its year is from 1970 to 2999.

    >>> parse_run_time("--since", "1970-01-01T00:01", 500.0), parse_run_time("--since", "2m", 500.0)
    (60.0, 380.0)

    Raises:
        CommandError: the text is neither.
    """
    try:
        if _DURATION.fullmatch(text.strip()):
            return now - parse_duration(text.strip())
        return parse_instant(check_instant(text.strip()), UTC)
    except ValueError:
        example = "a time such as 2026-01-31T09:00Z, or a duration such as 30m, 2h or 1d"
        raise CommandError(f"{option} is `{text}`; it must be {example}") from None


def format_runs(runs: Sequence[Mapping[str, Any]], *, with_header: bool) -> list[tuple[str, ...]]:
    """Return the rows of runs, which are JSON objects of `GET /workflows`.

    The header is for persons: programs read the first column.
    """
    rows = [_format_run(run) for run in runs]
    return [_HEADER, *rows] if with_header and rows else rows


def _format_run(run: Mapping[str, Any]) -> tuple[str, ...]:
    started, finished = parse_time(run["started_at"]), parse_time(run["finished_at"])
    duration = "" if started is None or finished is None else format_duration(finished - started)
    steps, step_count = run.get("steps"), run.get("step_count")
    title = run["playbook"] if run["version"] is None else f"{run['playbook']} {run['version']}"
    parent = f"of {run['parent'][:8]}  " if run.get("parent") else ""
    return (
        run["workflow_id"],
        run["status"],
        f"{run['created_at'][:19]}Z",
        duration,
        f"{step_count or ''}" if steps is None else f"{steps['done']}/{steps['total']}",
        title,
        ",".join(run["tags"]),
        f"{parent}{run.get('headline', '')}",
    )


def format_counts(counts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the counts of `GET /workflows/counts`: each status that a run has, and the total.

    >>> format_counts({"total": 3, "more": True, "statuses": {"failed": 3, "queued": 0}})
    [('failed', '3'), ('total', 'more than 3')]
    """
    rows = [(status, f"{number:,}") for status, number in counts["statuses"].items() if number]
    return [*rows, ("total", f"{'more than ' * counts['more']}{counts['total']:,}")]


def format_histogram(histogram: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of `GET /workflows/histogram`: time, number of runs, a bar, and the statuses.

    >>> bucket = {"start": "2026-01-31T09:30:00.000000Z", "statuses": {"failed": 1, "succeeded": 2}}
    >>> format_histogram({"buckets": [bucket]})
    [('2026-01-31T09:30:00Z', '3', '████████████████████', 'failed 1, succeeded 2')]
    """
    totals = [sum(bucket["statuses"].values()) for bucket in histogram["buckets"]]
    largest = max(totals, default=0) or 1
    return [
        (
            f"{bucket['start'][:19]}Z",
            f"{total:,}",
            "█" * math.ceil(total * _BAR_LENGTH / largest),
            ", ".join(f"{status} {number:,}" for status, number in bucket["statuses"].items() if number),
        )
        for bucket, total in zip(histogram["buckets"], totals, strict=True)
    ]
