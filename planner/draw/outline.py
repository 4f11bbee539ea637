"""What all pictures of a plan share: the order of its steps, which edges lead back, short words for work and guards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from noetl.planner.diagnostics.terminal_text import visible
from noetl.planner.plan import Action, Case, Plan, Step, TaskCall, Work

COLOURS = {
    "pending": ("#f6f8fa", "#57606a"),
    "running": ("#ddf4ff", "#0969da"),
    "waiting": ("#fff8c5", "#9a6700"),
    "retrying": ("#fff1e5", "#bc4c00"),
    "succeeded": ("#dafbe1", "#1a7f37"),
    "failed": ("#ffebe9", "#cf222e"),
    "cancelled": ("#eaeef2", "#57606a"),
}
"""The states that a step can be drawn in, with the colours of its area and its border."""

_ALWAYS = frozenset({"default", "True", "true"})
_SUCCESS = frozenset({"result.success", "not error", "error is none", "error is None"})
_FAILURE = frozenset({"error", "not result.success", "result.error"})


@dataclass(frozen=True)
class Outline:
    """The steps of a plan in an order that reads well: from the start, each before those it leads to, one branch whole
    before the next. `position` is a step's place in it, from 1; `unreachable` holds the steps no path leads to.
    """

    order: tuple[str, ...]
    position: dict[str, int] = field(repr=False)
    unreachable: frozenset[str]

    def leads_back(self, source: str, target: str) -> bool:
        """Whether the edge closes a cycle."""
        return source not in self.unreachable and self.position[target] <= self.position[source]


def outline(plan: Plan) -> Outline:
    """The outline of the plan, in time linear in its size."""
    reachable = _reverse_postorder(plan, plan.header.start)
    seen = set(reachable)
    rest = [name for name in plan.steps if name not in seen]
    order = (*reachable, *rest)
    return Outline(order, {name: i for i, name in enumerate(order, 1)}, frozenset(rest))


def _reverse_postorder(plan: Plan, start: str) -> list[str]:
    """A depth-first order, in which only edges that close a cycle lead backwards."""
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
    """Last first, because what a depth-first search finishes last comes first in the order."""
    return [target for case in reversed(step.cases) for target in reversed(case.targets)]


def guard(case: Case) -> str:
    """The expression of the case's guard without its braces, on one line; `default` when it has none."""
    if case.guard is None:
        return "default"
    text = case.guard.strip()
    if text.startswith("{{") and text.endswith("}}"):
        text = text[2:-2].strip()
    return visible(" ".join(text.split()))


def is_error_path(case: Case) -> bool:
    """Whether the case is there for failures."""
    return case.error_aware and guard(case) not in _SUCCESS


def falls_through(step: Step) -> bool:
    """Whether it can happen, as far as its guards say, that no case of the step is true."""
    guards = {guard(case) for case in step.cases}
    return not (guards & _ALWAYS or (guards & _SUCCESS and guards & _FAILURE))


def mode(step: Step) -> str:
    """How branches come together at the step; nothing where several never arrive."""
    if step.join is not None:
        return f"join: {step.join.mode}"
    return "join: each" if step.each else ""


def bounds(step: Step) -> Iterator[str]:
    """How often a step is done, in a few words each; and whether it is the one that runs last."""
    if step.max_visits is not None:
        yield f"at most {step.max_visits} visits"
    if step.loop is not None:
        items = step.loop.items
        words = (
            items.strip().removeprefix("{{").removesuffix("}}").strip()
            if isinstance(items, str)
            else f"{len(items)} items"
        )
        yield f"for {clip(words, 30)}" + (f", {step.loop.batch} at a time" if step.loop.batch else "")
    if step.repeat is not None:
        yield f"up to {step.repeat.max_rounds} rounds"
    if step.runs_last:
        yield "finally"


def work_in_short(work: Work) -> str:
    """One item of work in a few words: what it is and what it is done to."""
    words = ("task", work.task) if isinstance(work, TaskCall) else (work.type, _object(work))
    return visible(" ".join(filter(None, words)))


def _object(action: Action) -> str:
    p = action.parameters
    match action.type:
        case "http":
            return str(p.get("method", "GET"))
        case "file" | "s3":
            return next(
                (verb for verb in ("read", "get", "write", "put", "append", "list", "delete") if verb in p),
                "",
            )
        case "postgres":
            return next((verb for verb in ("copy_from", "copy_to") if verb in p), "")
        case "set":
            names = p.get("set")
            return ", ".join(map(str, names)) if isinstance(names, dict) else ""
        case "python" | "lambda":
            return str(p.get("function", ""))
        case "workflow":
            return str(p.get("playbook", ""))
        case _:
            return ""


def run_in_short(run: tuple[Work, ...], *, parallel: bool = False, limit: int = 48) -> str:
    """All items of work in at most `limit` characters."""
    words = list(map(work_in_short, run))
    joint = " & " if parallel else ", "
    text = joint.join(words)
    kept = len(words)
    while kept > 1 and len(text) > limit:
        kept -= 1
        text = joint.join(words[:kept]) + f" +{len(words) - kept}"
    return clip(text, limit)


def clip(text: str, limit: int) -> str:
    """`text`, cut to at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
