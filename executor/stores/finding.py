"""Findings of a consistency check, their messages, and the rules for one run, which stores share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import Slot
from noetl.executor.model.run import RunStatus, Visit
from noetl.executor.model.visit_states import FINISHED

MAX_FINDINGS = 100
"""Number of findings of one check that are reported."""

MESSAGES = {
    "set aside": "run {run_id} is damaged and was set aside; repair it, then run with --fix: {reason}",
    "stuck": "run {run_id} has not ended, but no active visit is left",
    "waits in vain": "run {run_id} waits, but no answer can arrive any more",
    "goes on after its end": "run {run_id} has ended, but step `{step}` is still active",
    "counters of joins": "run {run_id} counts {live} branches on the way to join `{step}`",
    "counters of runs": "run {run_id} counts {live} active branches",
    "arrivals": "run {run_id} has ended, but branches still wait at join `{step}`",
    "endings of runs": "run {run_id} has status `{status}`, which contradicts its end time",
    "endings of visits": (
        "a visit of step `{step}` in run {run_id} has status `{status}`, which contradicts its end time"
    ),
    "counters of gates": (
        "limit `{limit}` counts {held} held units and {waiting} waiting slots, and has {units} and {queued}"
    ),
    "counters of flows": "flow `{flow}` of limit `{limit}` counts {waiting} waiting slots, and has {queued}",
    "slots of ended runs": "run {run_id} has ended, but has a slot at limit `{limit}`",
    "slots of visits": "run {run_id} has a slot at limit `{limit}` for a visit that is not active",
    "unknown gates": "run {run_id} has a slot at unknown gate `{gate}`",
    "unknown runs": "`{table}` has rows of unknown run {run_id}",
    "unknown parents": "run {run_id} has unknown parent run {parent_run}",
    "lost payloads": (
        "run {run_id} has not ended, and object {key} is not in its bucket any more"
        " ({checked:,} of {count:,} values of open runs were checked)"
    ),
    "lost data": "run {run_id} has lost its input, environment and variables; restore a copy of the store",
    "unknown plans": "run {run_id} of `{playbook}` has an unknown plan",
}
"""Message of each check of a run, with the values that it needs in braces."""

UNKNOWN_PLAN_OF_VERSION = "version {version} of playbook `{name}` has an unknown plan"
"""Message of the check `unknown plans` for a registered playbook."""

LOST_TRIGGER = "trigger `{name}` belongs to version {version} of playbook `{playbook}`, which is not live"
"""Message of the check `lost triggers`."""

LOST_LOOKUP = (
    "trigger `{name}` of playbook `{playbook}` is not found by its path, or by the ends that it awaits"
)
"""Message of the check `lookups of triggers` for a trigger."""

WRONG_LOOKUP = "`{lookup}` leads to trigger `{name}` of playbook `{playbook}`, which is not so"
"""Message of the check `lookups of triggers` for a path, or for a playbook whose ends are awaited."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An inconsistency of a store: the check that found it, a sentence, and the run that it concerns."""

    check: str
    message: str
    run_id: str | None = None


def finding_of_run(check: str, run_id: str, **values: object) -> Finding:
    """Return a finding with the message of its check.

    >>> finding_of_run("stuck", "r").message
    'run r has not ended, but no active visit is left'
    """
    return Finding(check, MESSAGES[check].format(run_id=run_id, **values), run_id)


def finding_of_gate(limit: str, **numbers: int) -> Finding:
    """Return the finding about a gate whose numbers are not those of its slots."""
    return Finding("counters of gates", MESSAGES["counters of gates"].format(limit=limit, **numbers))


def find_wrong_flows(limit: str, flows: Iterable[Flow], slots: Iterable[Slot]) -> list[Finding]:
    """Return findings about flows of a gate whose numbers are not those of the slots that wait."""
    counted = {flow.name: flow.waiting for flow in flows}
    queued = Counter(slot.flow for slot in slots if not slot.is_held)
    names = sorted(name for name in {*counted, *queued} if counted.get(name, 0) != queued[name])
    message = MESSAGES["counters of flows"]
    values = [
        {"flow": name, "limit": limit, "waiting": counted.get(name, 0), "queued": queued[name]}
        for name in names
    ]
    return [Finding("counters of flows", message.format(**numbers)) for numbers in values]


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run as a consistency check compares it.

    `active` are its active visits, without that of its deadline. `live` is the number of its branches, and
    `joins` the number of branches that can reach each join. `arrivals` are the joins where branches wait.
    """

    id: str
    status: RunStatus
    is_ended: bool
    visits: Collection[Visit]
    active: Collection[Visit]
    live: int
    joins: Mapping[str, int]
    arrivals: Collection[str]


def find_contradictions(run: CheckedRun, can_continue: Callable[[Visit], bool]) -> Iterator[Finding]:
    """Yield the findings about one run. `can_continue` says whether an active visit is ever due."""
    if run.is_ended != run.status.is_final:
        yield finding_of_run("endings of runs", run.id, status=run.status)
    is_idle = run.is_ended or (run.status is RunStatus.PAUSED and not run.active)
    if not is_idle and not run.active:
        yield finding_of_run("stuck", run.id)
    elif not is_idle and not any(map(can_continue, run.active)):
        yield finding_of_run("waits in vain", run.id)
    for visit in run.active if run.is_ended else ():
        yield finding_of_run("goes on after its end", run.id, step=visit.step)
    for visit in run.visits:
        if (visit.finished_at is not None) != (visit.status in FINISHED):
            yield finding_of_run("endings of visits", run.id, step=visit.step, status=visit.status)
    yield from _find_wrong_counters(run)


def _find_wrong_counters(run: CheckedRun) -> Iterator[Finding]:
    is_complete = run.status in (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS)
    for join, live in sorted(run.joins.items()):
        if live < 0 or (live > 0 and is_complete):
            yield finding_of_run("counters of joins", run.id, step=join, live=live)
    if run.live < 0 or (run.live > 0 and is_complete):
        yield finding_of_run("counters of runs", run.id, live=run.live)
    for join in sorted(run.arrivals) if is_complete else ():
        yield finding_of_run("arrivals", run.id, step=join)


def limit_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return the first MAX_FINDINGS of each check, and a last finding that says if there are more."""
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    return [finding for check, group in by_check.items() for finding in limit_group(check, group)]


def limit_group(check: str, findings: list[Finding]) -> list[Finding]:
    """Return the first MAX_FINDINGS of one check, and a last finding that says if there are more."""
    if len(findings) <= MAX_FINDINGS:
        return findings
    return [*findings[:MAX_FINDINGS], Finding(check, f"more than {MAX_FINDINGS} such findings")]
