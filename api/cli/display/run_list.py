"""The table of `noetl runs list`, and the time of its option `--since`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.display.run_board import format_duration, parse_time
from noetl.planner.syntax.durations import parse_duration

_HEADER = ("ID", "STATUS", "CREATED", "DURATION", "PLAYBOOK", "TAGS", "WHAT")
_DURATION = re.compile(r"\d+(\.\d+)?\s*[a-z]+", re.IGNORECASE)


def parse_since(text: str, now: float) -> float:
    """Return the time that `--since` names, in seconds since the epoch: a time, or a duration before `now`.

    A time without a zone is in UTC.

    >>> parse_since("1970-01-01T00:01", 500.0), parse_since("2m", 500.0)
    (60.0, 380.0)

    Raises:
        CommandError: the text is neither.
    """
    try:
        if _DURATION.fullmatch(text.strip()):
            return now - parse_duration(text.strip())
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        example = "a time such as 2026-01-31T09:00Z, or a duration such as 30m, 2h or 1d"
        raise CommandError(f"--since is `{text}`; it must be {example}") from None


def format_runs(
    runs: Sequence[Mapping[str, Any]], headlines: Mapping[str, str], *, with_header: bool
) -> list[tuple[str, ...]]:
    """Return the rows of runs, which are JSON objects of `GET /workflows`. `headlines` are by id.

    The header is for persons: programs read the first column.
    """
    rows = [_format_run(run, headlines.get(run["workflow_id"], "")) for run in runs]
    return [_HEADER, *rows] if with_header and rows else rows


def _format_run(run: Mapping[str, Any], headline: str) -> tuple[str, ...]:
    started, finished = parse_time(run["started_at"]), parse_time(run["finished_at"])
    duration = "" if started is None or finished is None else format_duration(finished - started)
    title = run["playbook"] if run["version"] is None else f"{run['playbook']} {run['version']}"
    parent = f"of {run['parent'][:8]}  " if run.get("parent") else ""
    return (
        run["workflow_id"],
        run["status"],
        run["created_at"][:19],
        duration,
        title,
        ",".join(run["tags"]),
        f"{parent}{headline}",
    )
