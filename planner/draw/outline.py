"""The outline that all drawings of a plan share: the order of steps, and texts for work and guards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.debounce import Debounce
from noetl.planner.diagnostics.terminal_text import character_width, display_width, to_printable
from noetl.planner.limits import Limit, format_rate
from noetl.planner.plan import Action, Case, Plan, Step, TaskCall, Work

STATE_SIGNS = {
    "pending": "·",
    "running": "▶",
    "waiting": "◷",
    "retrying": "↻",
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "⊘",
}
"""The sign of each state of a step in a terminal."""

FINALLY = "finally"
"""The note on the step that runs last."""

STATE_COLOURS = {
    "pending": ("#f6f8fa", "#57606a"),
    "running": ("#ddf4ff", "#0969da"),
    "waiting": ("#fff8c5", "#9a6700"),
    "retrying": ("#fff1e5", "#bc4c00"),
    "succeeded": ("#dafbe1", "#1a7f37"),
    "failed": ("#ffebe9", "#cf222e"),
    "cancelled": ("#eaeef2", "#57606a"),
}
"""The fill colour and the border colour of each state of a step."""

_ALWAYS_TRUE = frozenset({"default", "True", "true"})
_SUCCESS = frozenset({"result.success", "not error", "error is none", "error is None"})
_FAILURE = frozenset({"error", "not result.success", "result.error"})


@dataclass(frozen=True)
class Outline:
    """The steps of a plan in reading order: from the start, each before its successors, one branch after the
    other.

    `position` is the place of a step in the order, from 1. `unreachable` are the steps that no path from the
    start leads to. `action_types` says how to summarise actions.
    """

    order: tuple[str, ...]
    position: dict[str, int] = field(repr=False)
    unreachable: frozenset[str]
    action_types: Mapping[str, ActionDeclaration] = field(repr=False)

    def leads_back(self, source: str, target: str) -> bool:
        """Return whether an edge closes a cycle."""
        return source not in self.unreachable and self.position[target] <= self.position[source]

    def summarise_run(self, run: tuple[Work, ...], *, parallel: bool = False, limit: int = 48) -> str:
        """Return a summary of all work of a `run` in at most `limit` characters.

        >>> run = TaskCall("load", {}), TaskCall("check", {}), TaskCall("report", {})
        >>> Outline((), {}, frozenset(), {}).summarise_run(run, limit=25)
        'task load, task check +1'
        """
        summaries = [summarise_work(work, self.action_types) for work in run]
        separator = " & " if parallel else ", "
        text = separator.join(summaries)
        kept = len(summaries)
        while kept > 1 and len(text) > limit:
            kept -= 1
            text = separator.join(summaries[:kept]) + f" +{len(summaries) - kept}"
        return truncate(text, limit)


def make_outline(plan: Plan, action_types: Mapping[str, ActionDeclaration]) -> Outline:
    """Return the outline of a plan, in time linear in its size."""
    reachable = _reverse_postorder(plan, plan.header.start)
    seen = set(reachable)
    unreachable = [name for name in plan.steps if name not in seen]
    order = (*reachable, *unreachable)
    position = {name: index for index, name in enumerate(order, 1)}
    return Outline(order, position, frozenset(unreachable), action_types)


def _reverse_postorder(plan: Plan, start: str) -> list[str]:
    """Return the reachable steps in an order in which only edges that close a cycle lead backward."""
    finished: list[str] = []
    seen = {start}
    stack = [(start, iter(_targets(plan.steps[start])))]
    while stack:
        name, targets = stack[-1]
        for target in targets:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(_targets(plan.steps[target]))))
                break
        else:
            finished.append(name)
            stack.pop()
    return finished[::-1]


def _targets(step: Step) -> list[str]:
    """Return the targets in reverse: the step that a depth-first search finishes last is the first in the
    order.
    """
    return [target for case in reversed(step.cases) for target in reversed(case.targets)]


def guard_text(case: Case) -> str:
    """Return the expression of a guard without braces, on one line; `default` if the case has no guard.

    >>> guard_text(Case("{{ x >  3 }}")), guard_text(Case(None))
    ('x > 3', 'default')
    """
    return "default" if case.guard is None else expression_text(case.guard)


def expression_text(template: str) -> str:
    """Return a template on one line, without the braces of a single expression."""
    text = template.strip()
    if text.startswith("{{") and text.endswith("}}") and text.count("{{") == 1:
        text = text[2:-2].strip()
    return to_printable(" ".join(text.split()))


def is_error_path(case: Case) -> bool:
    """Return whether the case handles failures."""
    return case.error_aware and guard_text(case) not in _SUCCESS


def may_match_no_case(step: Step) -> bool:
    """Return whether no case of the step may match, as far as the text of the guards shows."""
    guards = {guard_text(case) for case in step.cases}
    return not (guards & _ALWAYS_TRUE or (guards & _SUCCESS and guards & _FAILURE))


def join_mode(step: Step) -> str:
    """Return how branches join at the step, such as `join: any`; an empty string if at most one arrives."""
    if step.join is not None:
        return f"join: {step.join.mode}"
    return "join: each" if step.runs_per_branch else ""


def repetition_notes(step: Step) -> Iterator[str]:
    """Yield notes on how often the step is executed, and `finally` for the step that runs last."""
    if step.max_visits is not None:
        yield f"at most {step.max_visits} visits"
    if step.loop is not None:
        items = step.loop.items
        text = (
            items.strip().removeprefix("{{").removesuffix("}}").strip()
            if isinstance(items, str)
            else f"{len(items)} items"
        )
        yield f"for {truncate(text, 30)}" + (f", {step.loop.batch} at a time" if step.loop.batch else "")
    if step.repeat is not None:
        yield f"up to {step.repeat.max_rounds} rounds"
    if step.is_finally_step:
        yield FINALLY


_WHEN_FULL = {"queue": "", "skip": ", skipped if full", "cancel_oldest": ", cancels the oldest if full"}


def limit_notes(limits: Iterable[Limit]) -> Iterator[str]:
    """Yield a note on each limit of how many runs or visits are in progress at once, or begin in a time.

    >>> [*limit_notes([Limit(units=3, key="{{ input.team }}"), Limit(use="crm", when_full="skip")])]
    ['limit 3 for each input.team', 'limit crm, skipped if full']
    >>> [*limit_notes([Limit(units=100, is_rate=True, per_seconds=60.0), Limit(use="api", is_rate=True)])]
    ['100 per 1m', 'rate api']
    """
    for limit in limits:
        size = str(limit.units) if limit.use is None else to_printable(limit.use)
        note = f"rate {size}" if limit.is_rate else f"limit {size}"
        if limit.units is not None and limit.per_seconds is not None:
            note = format_rate(limit.units, limit.per_seconds)
        if limit.key is not None:
            note += f" for each {truncate(expression_text(limit.key), 30)}"
        yield note + _WHEN_FULL[limit.when_full]


def debounce_notes(debounce: Debounce | None) -> Iterator[str]:
    """Yield a note on the time for which a run waits for further starts.

    >>> [*debounce_notes(Debounce(30.0, 300.0, "{{ input.order }}"))]
    ['debounce 30 s, at most 300 s, for each input.order']
    """
    if debounce is not None:
        note = f"debounce {debounce.wait_seconds:g} s, at most {debounce.max_seconds:g} s"
        key = debounce.key
        yield note if key is None else f"{note}, for each {truncate(expression_text(key), 30)}"


def _attempts(work: Work) -> int:
    return work.retry.attempts if isinstance(work, Action) else 1


def step_notes(step: Step) -> Iterator[str]:
    """Yield all notes on a step: joins, repetitions, loops, attempts and survived errors."""
    if mode := join_mode(step):
        yield mode
    yield from repetition_notes(step)
    yield from limit_notes((*step.concurrency, *step.rate))
    loops = [*([step.loop] if step.loop else []), *(work.loop for work in step.run if work.loop)]
    for loop in loops:
        if loop is not step.loop:
            yield "loop"
        if loop.concurrency > 1:
            yield f"{loop.concurrency} at the same time"
        if loop.forgiving:
            yield "continues after failed items"
    attempts = max(step.retry.attempts, *(_attempts(work) for work in step.run), 1)
    if attempts > 1:
        yield f"up to {attempts} attempts"
    if step.on_error == "continue":
        yield "on_error: continue"


def summarise_work(work: Work, action_types: Mapping[str, ActionDeclaration]) -> str:
    """Return the type of an action, or the name of a task, with what its declaration wants to be shown."""
    if isinstance(work, TaskCall):
        words = f"task {work.task}"
    else:
        declaration = action_types.get(work.type)
        shown = "" if declaration is None else declaration.summarise(work.parameters)
        words = f"{work.type} {shown}" if shown else work.type
    return to_printable(words)


def truncate(text: str, limit: int) -> str:
    """Return the text, cut to at most `limit` characters.

    >>> truncate("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_to_width(text: str, width: int) -> str:
    """Return a printable text, cut to at most `width` cells of a terminal.

    >>> cut_to_width("日本語", 5)
    '日本…'
    """
    if display_width(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += character_width(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…"
