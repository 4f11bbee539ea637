"""The items of a loop as a table: what `noetl runs items ID` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from noetl.api.cli.display.failure import fact_lines
from noetl.api.cli.display.run_board import format_error
from noetl.executor.model.json_values import write_json

_MAX_DETAILS = 300
"""How many characters of a cell are printed. `--json` has all of it."""


def format_counts(counts: Mapping[str, int]) -> str:
    """Return counts by state as words.

    >>> format_counts({"succeeded": 1499, "failed": 1})
    '1,499 succeeded, 1 failed'
    """
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())


def format_items(items: list[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row of cells for each item, and further rows for what is known of a failure."""
    rows: list[tuple[str, ...]] = [("item", "state", "value", "details")]
    for item in items:
        first, *further = list(_details(item)) or [""]
        value = _shorten(item.get("value") or "", 40)
        rows.append((f"{item['number']:,}", item["state"], value, first))
        rows += [("", "", "", line) for line in further]
    return rows


def _details(item: Mapping[str, Any]) -> Iterator[str]:
    if error := item.get("error"):
        attempts = item.get("attempts") or 1
        yield _shorten(format_error(error)) + (f" (attempt {attempts})" if attempts > 1 else "")
        facts = fact_lines({name: value for name, value in error.items() if name != "item"})
        yield from (_shorten(fact.strip()) for fact in facts)
    for name, value in (item.get("input") or {}).items():
        text = value if isinstance(value, str) else write_json(value)
        yield _shorten(f"{name}: {text}")
    if wait := item.get("waiting_for"):
        titles = [question["title"] for question in wait.get("questions") or () if question.get("title")]
        retried = [f"{action} is retried" for action in wait.get("retried") or ()]
        yield _shorten(", ".join([*wait["actions"], *wait["workflows"], *retried, *titles]))


def _shorten(text: str, length: int = _MAX_DETAILS) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
