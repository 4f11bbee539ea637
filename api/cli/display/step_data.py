"""The data of a visit of a step as lines of text: what `noetl runs show ID --step NAME` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from noetl.api.cli.display.failure import fact_lines
from noetl.api.cli.display.run_board import describe_left_out, format_duration, format_error
from noetl.executor.model.json_values import write_json
from noetl.executor.model.worker_identity import describe_worker
from noetl.planner.diagnostics.terminal_text import to_printable

_SYMBOLS = {"succeeded": "✓", "failed": "✗", "retrying": "↻", "waiting": "◷", "running": "▶"}
_MAX_VALUE_LENGTH = 2000
"""How many characters of a value are printed. `--json` has all that the service shows."""


def format_step(data: Mapping[str, Any]) -> str:
    """Return the lines about a visit. `data` is the JSON object that `GET /workflows/{id}/step` returns."""
    return "".join(f"{line}\n" for line in _step_lines(data))


def format_log_line(line: Mapping[str, Any]) -> str:
    """Return a line of the log: time, step, place of the action, and the text.

    Each further line of its text is indented.
    """
    item = f" item {line['item']:,}" if line.get("item") else ""
    source = line["level"] if line["stream"] == "line" else line["stream"]
    step = f"{to_printable(line['step'])}  " if line.get("step") else ""
    head = f"{line['logged_at'][11:23]}  {step}{line['action']}{item}  {source}  "
    first, *rest = line["text"].rstrip("\n").split("\n")
    fields = f"  {_shorten(write_json(line['fields']))}" if line.get("fields") else ""
    cut = [f"(the first of {line['cut']:,} characters)"] if line.get("cut") else []
    indent = " " * 14
    return "\n".join(
        [f"{head}{to_printable(first)}{fields}", *(indent + to_printable(text) for text in (*rest, *cut))]
    )


def format_split(data: Mapping[str, Any]) -> str:
    """Return work, waiting and queued time as words, or "" if it is not known or there was only work.

    >>> format_split({"work_ms": 1500.0, "waiting_ms": 60000.0, "queued_ms": 2.0})
    'work 1.5 s, waiting 1 m 0 s, queued 2 ms'
    """
    if data["work_ms"] is None or not (data["waiting_ms"] or data["queued_ms"] > 100):
        return ""
    return ", ".join(
        f"{name} {format_duration(data[f'{name}_ms'] / 1000)}" for name in ("work", "waiting", "queued")
    )


def _step_lines(data: Mapping[str, Any]) -> Iterator[str]:
    duration = "" if data["duration_ms"] is None else f"  {format_duration(data['duration_ms'] / 1000)}"
    yield (
        f"{to_printable(data['step'])}  visit {data['visit']} of {data['visits']}  {data['status']}{duration}"
        f"  (line {data['line']})"
    )
    if split := format_split(data):
        yield f"  {split}"
    if data.get("left_out") is not None:
        yield f"  {describe_left_out(data['left_out'])}"
    if data["error"]:
        yield from _error_lines(data["error"], "  ")
    for attempt in data["attempts"]:
        yield from _attempt_lines(attempt)
    yield from _section("saved", _saved_lines(data["saved"]))
    if data["result"] is not None:
        yield from _section("result", [_shorten(write_json(data["result"]))])
    yield from _section("rule", _rule_lines(data))
    yield from _section("failed items", _failure_lines(data["failures"]))
    yield from _section("lines", (format_log_line({**line, "step": None}) for line in data["lines"]))


def _section(title: str, lines: Any) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        yield title
        yield from (f"  {line}".replace("\n", "\n  ") for line in found)


def _attempt_lines(attempt: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    worker = f"  by {to_printable(describe_worker(attempt['worker']))}" if attempt["worker"] else ""
    started = f"  {attempt['started_at'][:19]}Z" if attempt["started_at"] else ""
    yield f"attempt {attempt['attempt']}{started}{worker}{_describe_cached(attempt.get('cached'))}"
    for action in attempt["actions"]:
        symbol = _SYMBOLS.get(action["status"], "·")
        duration = (
            "" if action["duration_ms"] is None else f"  {format_duration(action['duration_ms'] / 1000)}"
        )
        cached = _describe_cached(action.get("cached"))
        yield f"  {symbol} {action['position']}  {action['action']}{duration}{cached}"
        for name, value in (action.get("input") or {}).items():
            cut = (action.get("cut") or {}).get(name)
            text = value if isinstance(value, str) else write_json(value)
            yield f"      {to_printable(name)}: {_shorten(text)}" + _describe_cut(cut)
        if action.get("error"):
            yield from _error_lines(action["error"], "      ")
    for loop in attempt.get("loops") or ():
        failed = f", {loop['failed']:,} failed" if loop["failed"] else ""
        yield f"  {loop['position']}  {loop['done']:,} of {loop['total']:,} items{failed}"
    if attempt["error"]:
        yield f"  {format_error(attempt['error'])}"


def _describe_cached(origin: Mapping[str, Any] | None) -> str:
    """Return the origin of a result of the cache as words, or "" for work that was performed.

    >>> _describe_cached({"run": "r1", "age_seconds": 90.0, "key": "abc"})
    '  from the cache: run r1, 1 m 30 s ago'
    """
    if origin is None:
        return ""
    return f"  from the cache: run {origin['run']}, {format_duration(origin['age_seconds'])} ago"


def _error_lines(error: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}{format_error(error)}"
    yield from (f"{indent}{line}" for line in fact_lines(error))


def _saved_lines(saved: list[Mapping[str, Any]]) -> Iterator[str]:
    for entry in saved:
        cut = entry.get("cut") or {}
        yield f"{to_printable(entry['name'])}: {_shorten(write_json(entry['value']))}" + _describe_cut(
            cut.get("value")
        )
        if "before" in entry:
            yield f"  before: {_shorten(write_json(entry['before']))}" + _describe_cut(cut.get("before"))


def _rule_lines(data: Mapping[str, Any]) -> Iterator[str]:
    for guard in data["guards"]:
        value = {True: "true", False: "false", None: "no value"}[guard["value"]]
        yield f"case {guard['case'] + 1}  {_shorten(guard['guard'] or '')}  {value}"
    if data["case"] is not None:
        yield f"case {data['case'] + 1} → {', '.join(map(to_printable, data['targets'])) or 'end'}"


def _failure_lines(failures: list[Mapping[str, Any]]) -> Iterator[str]:
    for failure in failures:
        item = _shorten(write_json(failure["item"]))
        yield f"{failure['index']:,}  {item}  {format_error(failure['error'])}"
        yield from fact_lines(failure["error"])


def _describe_cut(length: int | None) -> str:
    return "" if length is None else f" (the beginning of {length:,} characters)"


def _shorten(text: str) -> str:
    printable = to_printable(text)
    return printable if len(printable) <= _MAX_VALUE_LENGTH else f"{printable[:_MAX_VALUE_LENGTH]}…"
