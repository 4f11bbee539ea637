"""A run as it goes on: a line for each step that ends, and on a terminal those that are at work, all on stderr.

What a playbook logs is shown among them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from noetl.api.cli.display.console import stderr_console
from noetl.api.cli.display.run_board import (
    BAR,
    Doing,
    State,
    countdown,
    duration,
    failure,
    is_end,
    moment,
    waiting,
)
from noetl.planner.diagnostics.terminal_text import visible

if TYPE_CHECKING:
    from noetl.api.cli.display.event_follower import Followed, News
    from noetl.executor.model.events import Event
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

_OURS = "@"
_SLOW_SECONDS = 2.0
_SHOWN_AT_ONCE = 12
_NARROW = 60
_INTERRUPT = "^C"
"""What a terminal adds to the last line when a command is interrupted: a line that it breaks could not be erased."""

Visit = tuple[str, str, int]
"""A visit of one of the runs that are shown: the run, the step, and which time it is."""


class Progress:
    """Shows what is new in `followed` runs as it is handed in. A context manager: until it is left, what is logged is shown,
    and unless it stands still, a terminal's lower part is redrawn.
    """

    def __init__(
        self,
        followed: Sequence[Followed] = (),
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._followed = followed
        self._quiet = quiet
        self._clock = clock
        self._console = stderr_console()
        self._redraws = self._console.is_terminal and not self._console.is_dumb_terminal and not quiet
        self._live: Live | None = None
        self._log = _LogLines(self._console, logging.ERROR if quiet else logging.INFO)
        self._announced: set[tuple[Visit, State]] = set()
        self._told_at: dict[Visit, float] = {}
        self._taken: dict[Visit, Mapping[str, Any]] = {}
        self._retried: dict[Visit, int] = {}
        self._looped: dict[Visit, Mapping[str, Any]] = {}

    def __enter__(self) -> Self:
        self._log.attach()
        self.go_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stand_still()
        self._log.detach()

    def go_on(self) -> None:
        """Redraw the lower part of a terminal from now on."""
        if self._redraws:
            from rich.live import Live

            self._live = Live(
                console=self._console, get_renderable=self._lower_part, refresh_per_second=8, transient=True
            )
            self._live.start()

    def stand_still(self) -> None:
        """Leave the terminal to others from now on."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, news: News) -> None:
        """Show what the news, in their order, tell."""
        if self._quiet:
            return
        for followed, event in news:
            for line in self._lines(followed, event):
                self._console.print(line)
        self._announce_slow()

    def _lines(self, followed: Followed, event: Event) -> Iterator[Text]:
        if is_end(event) and followed.depth:
            yield _ending(followed, event)
        if event.step is None or event.step.startswith(_OURS):
            return
        visit = (followed.run.id, event.step, event.visit or 1)
        match event.type:
            case "step.transition":
                self._taken[visit] = event.payload
            case "action.retrying":
                self._retried[visit] = self._retried.get(visit, 0) + 1
            case "loop.progress":
                self._looped[visit] = event.payload
                yield from self._count(followed, event, visit)
            case "step.waiting":
                if not self._redraws and self._is_new(visit, State.WAITING):
                    yield _indented(followed, _waiting(event))
            case "step.completed" | "step.failed" | "step.retrying":
                taken, retried = self._taken.pop(visit, None), self._retried.pop(visit, 0)
                yield _indented(followed, describe(event, taken, retried, self._looped.pop(visit, None)))

    def _count(self, followed: Followed, event: Event, visit: Visit) -> Iterator[Text]:
        """How far a loop has come; where nothing can be redrawn, a line now and then."""
        from rich.text import Text

        now = self._clock()
        told_at = self._told_at.setdefault(visit, event.at)
        counts = followed.board.counts(event)
        if not self._redraws and counts is not None and now - told_at >= _SLOW_SECONDS:
            self._told_at[visit] = now
            yield _indented(followed, Text(f"… {visible(event.step or '')}  {counts.shown()}"))

    def _announce_slow(self) -> None:
        """Where nothing can be redrawn, a step that takes its time says so once."""
        from rich.text import Text

        if self._redraws:
            return
        for followed, doing in _everything(self._followed):
            visit = (followed.run.id, doing.step, doing.visit)
            is_slow = doing.state is State.RUNNING and self._clock() - doing.since >= _SLOW_SECONDS
            if is_slow and doing.counts is None and self._is_new(visit, State.RUNNING):
                self._console.print(_indented(followed, Text(f"… {visible(doing.step)} is running")))

    def _is_new(self, visit: Visit, state: State) -> bool:
        """Whether it has not been told yet that a visit stands so."""
        is_new = (visit, state) not in self._announced
        self._announced.add((visit, state))
        return is_new

    def _lower_part(self) -> RenderableType:
        from rich.console import Group

        size = self._console.size
        width = size.width - len(_INTERRUPT)
        return Group(*lower_part(self._followed, self._clock(), width, min(size.height - 2, _SHOWN_AT_ONCE)))


def lower_part(followed: Iterable[Followed], now: float, width: int, most: int) -> list[Text]:
    """What is at work in the runs and those that they have started, in at most `most` lines of at most `width` cells."""
    from rich.text import Text

    rows = list(_everything(followed))
    fits = rows if len(rows) <= most else rows[: max(most - 1, 0)]
    lines = [_indented(of, _at_work(doing, now, width)) for of, doing in fits]
    if len(fits) < len(rows):
        lines.append(Text(f"  and {len(rows) - len(fits)} more", style="dim"))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def _everything(followed: Iterable[Followed]) -> Iterator[tuple[Followed, Doing]]:
    for one in followed:
        yield from ((one, doing) for doing in one.board.doing())
        yield from _everything(list(one.started))


def _at_work(doing: Doing, now: float, width: int) -> Text:
    from rich.text import Text

    step = visible(doing.step)
    left = "" if doing.until is None else countdown(doing.until - now)
    match doing.state:
        case State.WAITING:
            return Text.assemble(("◷ ", "yellow"), step, (f"  {waiting(doing, left)}", "dim"))
        case State.RETRYING:
            return Text.assemble(("↻ ", "yellow"), step, (f"  attempt {doing.attempt} in {left}", "dim"))
        case State.RUNNING if doing.counts is not None:
            return Text.assemble(
                ("▶ ", "cyan"), step, f"  {doing.counts.shown(BAR if width >= _NARROW else BAR // 2)}"
            )
        case State.RUNNING:
            attempt = f"  attempt {doing.attempt}" if doing.attempt > 1 else ""
            actions = "".join(f"  {visible(type)}" for type in dict.fromkeys(doing.at_work.values()))
            return Text.assemble(
                ("▶ ", "cyan"), step, (f"  {_elapsed(now - doing.since)}{attempt}{actions}", "dim")
            )


def _elapsed(seconds: float) -> str:
    return f"{max(seconds, 0.0):.1f} s" if seconds < 60 else duration(seconds)


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
        listed = (
            "".join(f"  {name}={value}" for name, value in fields.items()) if isinstance(fields, dict) else ""
        )
        self._console.print(visible(f"│ {level}{record.getMessage()}{why}{listed}"))


def _indented(followed: Followed, line: Text) -> Text:
    """The line of a step, two further to the right for each run above its own, and with the name of its playbook."""
    from rich.text import Text

    if not followed.depth:
        return line
    sign, rest = line[:2], line[2:]
    return Text.assemble("  " * followed.depth, sign, (f"{visible(followed.run.playbook)}: ", "dim"), rest)


def _ending(followed: Followed, event: Event) -> Text:
    """The end of a run that another one has started."""
    from rich.text import Text

    status = event.payload.get("status", event.type.removeprefix("workflow."))
    sign = ("✓ ", "green") if status == "succeeded" else ("✗ ", "red")
    how = "" if status == "succeeded" else f"  {status}"
    took = f"  {duration(event.duration_seconds or 0.0)}"
    name = visible(followed.run.playbook)
    return Text.assemble("  " * followed.depth, sign, name, how, (f"{took}  run {followed.run.id}", "dim"))


def describe(
    event: Event,
    transition: Mapping[str, Any] | None = None,
    retried: int = 0,
    looped: Mapping[str, Any] | None = None,
) -> Text:
    """How a visit or an attempt ended as a line, with the case that its step took, how often its actions were tried again,
    and how the items of its loop went.
    """
    from rich.text import Text

    step = visible(event.step or "")
    attempt = f"  attempt {event.attempt}" if (event.attempt or 1) > 1 else ""
    took = f"  {duration(event.duration_seconds)}" if event.duration_seconds is not None else ""
    again = f"  {retried} {'retry' if retried == 1 else 'retries'}" if retried else ""
    details = (f"{took}{attempt}{again}{_items(looped)}", "dim")
    error = event.payload.get("error")
    match event.type:
        case "step.completed":
            return Text.assemble(("✓ ", "green"), step, details, _taken(transition))
        case "step.failed":
            return Text.assemble(
                ("✗ ", "red"), step, details, ("  " + failure(error), "red"), _taken(transition)
            )
        case "step.retrying":
            next_at = moment(event.payload.get("next_attempt_at"))
            soon = "" if next_at is None else f"; again in {duration(max(next_at - event.at, 0.0))}"
            return Text.assemble(("↻ ", "yellow"), step, details, f"  {failure(error)}{soon}")
        case _:
            return Text.assemble(("⊘ ", "dim"), step, "  is skipped")


def _items(looped: Mapping[str, Any] | None) -> str:
    if looped is None:
        return ""
    failed = f", {looped['failed']:,} failed" if looped["failed"] else ""
    done, total = looped["done"], looped["total"]
    return f"  {f'{done:,} of ' if done < total else ''}{total:,} item{'s' * (total != 1)}{failed}"


def _waiting(event: Event) -> Text:
    from rich.text import Text

    actions, retried = tuple(event.payload.get("actions", ())), tuple(event.payload.get("retried", ()))
    what = waiting(Doing(event.step or "", event.at, actions=actions, retried=retried), "")
    until = event.payload.get("until")
    when = f" {'until' if actions or not retried else 'at'} {until[:19]}Z" if until else ""
    return Text.assemble(("◷ ", "yellow"), visible(event.step or ""), f"  {what}{when}")


def _taken(transition: Mapping[str, Any] | None) -> str:
    targets = (transition or {}).get("targets") or ()
    return f"  → {', '.join(map(visible, targets))}" if targets else ""
