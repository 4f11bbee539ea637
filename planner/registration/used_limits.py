"""The checks of the operator's limits that a playbook names in `use`: unknown ones (NP834), and limits of the
other kind (NP835). The removal of a limit looks for the playbooks that name it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.limits import Limit
from noetl.planner.plan import Plan
from noetl.planner.registration.findings import PlanPlace, RegistrationFindings
from noetl.planner.registration.registry import (
    KnownLimit,
    LinkedPlaybooks,
    OperatorRules,
    RegisteredPlan,
    UnreadablePlanError,
)
from noetl.planner.syntax.models import DocumentPath

RUNS, STEPS = "runs", "steps"
"""What a limit of an operator bounds."""

MAX_USER_STEPS = 50_000
"""How many steps the plans have together that are searched for uses of a limit."""


class _UsedLimit(NamedTuple):
    """A name in `use`, its place, and what is limited there."""

    name: str
    place: PlanPlace
    limit: KnownLimit


def check_used_limits(findings: RegistrationFindings, rules: OperatorRules) -> None:
    """Report each use of a limit that does not exist, or that bounds something else."""
    used = [*_find_used_limits(findings.plan)]
    known = rules.limits() if used else {}
    for name, place, limit in used:
        if findings.is_full():
            return
        shown = abbreviate(name)
        if name not in known:
            size = "--rate NUMBER/1m" if limit.is_rate else "NUMBER"
            command = f"noetl limits set {name} {size} --of {limit.kind}"
            hint = findings.did_you_mean(name, known) or f"make it with `{command}`"
            findings.report("NP834", f"unknown limit `{shown}`", place, hint)
        elif known[name].is_rate is not limit.is_rate:
            section = "rate" if known[name].is_rate else "concurrency"
            form = "a rate" if known[name].is_rate else "no rate"
            findings.report("NP835", f"limit `{shown}` is {form}", place, f"write it in `{section}`")
        elif known[name].kind != limit.kind:
            hint = "write it on a step" if limit.kind == RUNS else "write it on the playbook"
            message = f"`{shown}` is a limit of {known[name].kind}, not of {limit.kind}"
            findings.report("NP835", message, place, hint)


def _find_used_limits(plan: Plan) -> Iterator[_UsedLimit]:
    places: list[tuple[DocumentPath, tuple[Limit, ...], str]] = [
        (("concurrency",), plan.header.concurrency, RUNS),
        (("rate",), plan.header.rate, RUNS),
    ]
    for number, step in enumerate(plan.steps.values()):
        places.append((("steps", number, "concurrency"), step.concurrency, STEPS))
        places.append((("steps", number, "rate"), step.rate, STEPS))
    for path, limits, kind in places:
        for index, limit in enumerate(limits):
            if limit.use is not None:
                place = PlanPlace((*path, index, "use"))
                yield _UsedLimit(limit.use, place, KnownLimit(kind, limit.is_rate))


def find_limit_users(name: str, registered: LinkedPlaybooks) -> Iterator[str]:
    """Yield the live versions, and their steps, that name a limit, such as "step `load` of `user@1`"."""
    steps_left = MAX_USER_STEPS
    for version in registered.live_versions():
        if _is_named(name, (*version.header.concurrency, *version.header.rate)):
            yield f"`{version.label}`"
        statistics = version.header.statistics
        if "limited_steps" not in statistics:
            continue
        steps_left -= statistics.get("steps", 0)
        if steps_left < 0:
            return
        registered.pause()
        with suppress(UnreadablePlanError):
            yield from _find_steps_with(name, version, registered.plan(version))


def _find_steps_with(name: str, version: RegisteredPlan, plan: Plan) -> Iterator[str]:
    for step in plan.steps.values():
        if _is_named(name, (*step.concurrency, *step.rate)):
            yield f"step `{abbreviate(step.name)}` of `{version.label}`"


def _is_named(name: str, limits: tuple[Limit, ...]) -> bool:
    return any(limit.use == name for limit in limits)
