"""A run as it goes on: a line for each step that ends, and on a terminal those that are running, all on stderr.

What a playbook logs is shown among them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from api.cli.console import stderr_console
from planner.report import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

Event = Mapping[str, Any]

_OURS = "@"
"""What the names of steps begin with that no playbook wrote."""

_SLOW_SECONDS = 2.0
_SHOWN_AT_ONCE = 12
_BAR = 20


class Progress:
    """Shows events as they are handed in. A context manager: until it is left, a terminal's lower part is redrawn."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = stderr_console()
        self._live: Live | None = None
        self._log = _LogLines(self._console, logging.ERROR if quiet else logging.INFO)
        self._running: dict[tuple[str, int], float] = {}
        self._announced: set[tuple[str, int]] = set()
        self._taken: dict[tuple[str, int], Event] = {}
        self._loops: dict[tuple[str, int], Counts] = {}

    def __enter__(self) -> Self:
        self._log.attach()
        if self._console.is_terminal and not self._quiet:
            from rich.live import Live

            self._live = Live(
                console=self._console, get_renderable=self._lower_part, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        self._log.detach()

    def show(self, events: Iterable[Event]) -> None:
        """Show what the events, in their order, tell."""
        if self._quiet:
            return
        events = list(events)
        for event in events:
            if (event["step"] or "").startswith(_OURS):
                continue
            match event["type"]:
                case "step.transition":
                    self._taken[_visit(event)] = event["payload"]
                    continue
                case "step.started":
                    self._running.setdefault(_visit(event), time.monotonic())
                    continue
                case "loop.progress":
                    self._count(_visit(event), event["payload"])
                    continue
                case "step.completed" | "step.failed" | "step.retrying" | "step.waiting" | "step.skipped":
                    self._running.pop(_visit(event), None)
            if event["type"] in ("step.completed", "step.failed"):
                self._loops.pop(_visit(event), None)
            if (line := describe(event, self._taken.pop(_visit(event), None))) is not None:
                self._console.print(line)
        self._announce_slow()

    def _count(self, visit: tuple[str, int], payload: Event) -> None:
        """How far a loop has come; where nothing can be redrawn, a line now and then."""
        counts = self._loops.setdefault(visit, Counts(payload["done"], time.monotonic()))
        counts.done, counts.total, counts.failed = payload["done"], payload["total"], payload["failed"]
        if self._live is None and counts.done < counts.total and time.monotonic() - counts.told_at >= _SLOW_SECONDS:
            counts.told_at = time.monotonic()
            self._console.print(f"… {visible(visit[0])}  {counts}")

    def _announce_slow(self) -> None:
        """Where nothing can be redrawn, a step that takes its time says so once."""
        if self._live is not None:
            return
        for visit, since in self._running.items():
            if visit not in self._announced | self._loops.keys() and time.monotonic() - since >= _SLOW_SECONDS:
                self._announced.add(visit)
                self._console.print(f"… {visible(visit[0])} is running")

    def _lower_part(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        now = time.monotonic()
        shown = list(self._running.items())[:_SHOWN_AT_ONCE]
        lines = [
            Text.assemble(("▶ ", "cyan"), visible(step), (f"  {now - since:.1f} s", "dim"))
            for (step, _), since in shown
        ]
        lines += [Text.assemble(("◍ ", "cyan"), visible(step), f"  {c}") for (step, _), c in self._loops.items()]
        if (more := len(self._running) - len(shown)) > 0:
            lines.append(Text(f"  and {more} more", style="dim"))
        return Group(*lines)


@dataclass
class Counts:
    """How many items of a loop are done, and how fast it goes since it was first heard of."""

    first: int
    since: float
    done: int = 0
    total: int = 0
    failed: int = 0
    told_at: float = 0.0

    def __post_init__(self) -> None:
        self.told_at = self.since

    def __str__(self) -> str:
        filled = _BAR * self.done // max(self.total, 1)
        failed = f", {self.failed:,} failed" if self.failed else ""
        elapsed = time.monotonic() - self.since
        rate = f"  {(self.done - self.first) / elapsed:,.0f}/s" if elapsed > 0 and self.done > self.first else ""
        return f"{'█' * filled}{'░' * (_BAR - filled)} {self.done:,} of {self.total:,}{failed}{rate}"


class _LogLines(logging.Handler):
    """Shows what playbooks and the executor log on a console that may be redrawing its lower part."""

    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._console = console
        self._logger = logging.getLogger("noetl")
        self._level_before = self._logger.level

    def attach(self) -> None:
        self._logger.addHandler(self)
        self._logger.setLevel(self.level)

    def detach(self) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level_before)

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        error = record.exc_info[1] if record.exc_info else None
        why = f": {type(error).__name__}: {error}" if error is not None else ""
        fields = getattr(record, "fields", None)
        listed = "".join(f"  {name}={value}" for name, value in fields.items()) if isinstance(fields, dict) else ""
        self._console.print(visible(f"│ {level}{record.getMessage()}{why}{listed}"))


def _visit(event: Event) -> tuple[str, int]:
    return event["step"] or "", event["visit"] or 1


def describe(event: Event, transition: Mapping[str, Any] | None) -> Text | None:
    """An event as a line, with the case that its step took; None for those that are not shown."""
    from rich.text import Text

    step = visible(event["step"] or "")
    attempt = f"  attempt {event['attempt']}" if (event["attempt"] or 1) > 1 else ""
    took = f"  {duration(event['duration_ms'] / 1000)}" if event["duration_ms"] is not None else ""
    payload = event["payload"]
    match event["type"]:
        case "step.completed":
            return Text.assemble(("✓ ", "green"), step, (f"{took}{attempt}", "dim"), _taken(transition))
        case "step.failed":
            why = ("  " + failure(payload.get("error")), "red")
            return Text.assemble(("✗ ", "red"), step, (f"{took}{attempt}", "dim"), why, _taken(transition))
        case "step.retrying":
            return Text.assemble(("↻ ", "yellow"), step, (attempt, "dim"), f"  {failure(payload.get('error'))}")
        case "step.waiting":
            return Text.assemble(("◷ ", "yellow"), step, "  is waiting")
        case "step.skipped":
            return Text.assemble(("⊘ ", "dim"), step, "  is skipped")
        case _:
            return None


def _taken(transition: Mapping[str, Any] | None) -> str:
    targets = (transition or {}).get("targets") or ()
    return f"  → {', '.join(map(visible, targets))}" if targets else ""


def failure(error: Mapping[str, Any] | None) -> str:
    """A failure in one line: its type and its message."""
    return visible(f"{error['type']}: {error['message']}") if error else "failed"


def duration(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `5 m 12 s` or `2 h 3 m`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} m"
