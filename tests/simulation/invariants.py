"""Invariants that hold for every run, whatever fails.

| | |
| --- | --- |
| I1 | The history is append-only, and the ids of events increase. |
| I2 | A run starts once, an attempt starts and ends once, a visit finishes once. |
| I3 | Branches are conserved: the counters of a run and of its joins are zero when all branches have ended. |
| I4 | A join fires once in a wave. |
| I5 | An end is final: nothing later changes anything. |
| I6 | No run is stuck: a run that has not ended has work that is or will be due. |
| I7 | The history and the state agree. |
| I8 | The end of a run depends neither on the store nor on faults. |
| I9 | A lost claim writes nothing. |
| I10 | Work is done at least once, repeated at most once for a fault, and always under one idempotency key. |
| I11 | An action has events for start and end, once and in order. A fault may repeat them, and loses none. |
| I13 | A fault costs a bounded number of calls. |
| I15 | Nothing happens before its time. |
| I16 | An instant of a trigger is performed once, and its record names the run. |
| I17 | An entry of the outbox exists if and only if the run has started, or has ended. |
| I18 | The visits of a step with a rate of one unit take a window each, but for the last. |
| I19 | The numbers of a gate are those of its slots, and no more units are held than its ceiling. |

With `at_most_once`, I10 requires that an attempt is done once at most.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.outbox import OutboxKind
from noetl.executor.model.run import Lease, RunStatus
from noetl.executor.model.run_entries import ended_entry, entries_of_start
from noetl.executor.stores.cursors import read_event_id
from noetl.testing.run_harness import LEASE_SECONDS
from tests.simulation.faults import Fault
from tests.simulation.scenarios import Scenario
from tests.simulation.world import (
    LATE_AT,
    FinishedPlay,
    InvariantViolation,
    SimulatedWorld,
    read_trigger,
)

MAX_EXTRA_CALLS_PER_FAULT = 400
"""Calls that a run may make more than without faults, for each fault."""


def require(condition: object, invariant: str, message: str) -> None:
    """Raise a violation of the invariant unless the condition holds."""
    if not condition:
        raise InvariantViolation(invariant, message)


@dataclass(frozen=True)
class ObservedEnd:
    """The part of a run's end that depends neither on faults nor on the store."""

    status: RunStatus
    result: Any
    errors: tuple[str, ...]
    data: tuple[Mapping[str, Any], ...]
    """Input, environment and variables of the run."""
    visits: tuple[tuple[str, int, str, int], ...]
    children: tuple[tuple[str, str], ...]
    keys: Counter[tuple[bool, str, int, str]]
    """Number of idempotency keys of the performances at each (is the run itself, step, visit, type)."""


def end_of(play: FinishedPlay) -> ObservedEnd:
    """Return the end of a simulated run."""
    run = play.run
    keys: Counter[tuple[bool, str, int, str]] = Counter()
    for run_id, step, number, type, _ in play.observations.performances:
        keys[run_id == run.id, step, number, type] += 1
    visits = [visit for visit in play.visits if not visit.step.startswith("@")]
    return ObservedEnd(
        run.status,
        run.result,
        tuple(sorted(error["type"] for error in run.errors)),
        (run.input, run.environment, run.variables),
        tuple(sorted((visit.step, visit.number, visit.status.value, visit.attempt) for visit in visits)),
        tuple(sorted((child.playbook, child.status.value) for child in play.children)),
        keys,
    )


def history_of(play: FinishedPlay) -> list[tuple[Any, ...]]:
    """Return the history without ids and times."""
    return [
        (e.type, e.step, e.visit, e.attempt, e.payload.get("case"), e.payload.get("targets"))
        for e in play.events
    ]


class HistoryWatch:
    """A check of the invariants I1, I17 and I19 after every round."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, world: SimulatedWorld) -> None:
        events = world.raw_store.runs.events(world.run_id, limit=10_000)
        require(events[: len(self.events)] == self.events, "I1", "an event was changed or removed")
        latest = events[max(len(self.events) - 1, 0) :]
        places = [read_event_id(world.run_id, event.id) for event in latest]
        require(places == sorted(set(places)), "I1", "the ids of events do not increase")
        self.events = events
        if world.scenario.has_entries:
            _check_entries(world)
        if world.scenario.has_limits:
            _check_gates(world)


def _check_entries(world: SimulatedWorld) -> None:
    """Check that the outbox has the entry of the start of the run, and one for each of its ends."""
    store = world.raw_store
    run = store.runs.get("default", world.run_id)
    ends = [
        ended_entry(replace(run, resumes=number), run.status, 0.0).id for number in range(run.resumes + 1)
    ]
    found = [store.outbox.get("default", id) is not None for id in ends]
    ended = [True] * run.resumes + [run.finished_at is not None]
    require(found == ended, "I17", f"the ends {ended} have the entries {found}")
    late, _ = store.outbox.find("default", OutboxKind.LATE)
    require(late == list(entries_of_start(replace(run, late_at=LATE_AT))), "I17", f"late entries: {late}")


def _check_gates(world: SimulatedWorld) -> None:
    """Check each gate of the playbook's and its steps' limits against its slots."""
    gates = world.raw_store.gates
    found, _ = gates.find("default", named=False)
    for gate in found:
        slots, _ = gates.slots_at(gate.key)
        held = sum(slot.units for slot in slots if slot.is_held)
        waiting = sum(not slot.is_held for slot in slots)
        numbers = gate.held, gate.waiting
        require(numbers == (held, waiting), "I19", f"{numbers} at `{gate.limit}`, not {(held, waiting)}")
        is_bounded = gate.rate is not None or gate.held <= gate.ceiling
        require(is_bounded, "I19", f"{gate.held} units of `{gate.limit}` are held, not {gate.ceiling}")


def check_invariants(
    world: SimulatedWorld, scenario: Scenario, play: FinishedPlay, expected: FinishedPlay | None
) -> None:
    """Check a simulated run that has ended. `expected` is the run without faults."""
    _check_history(play)
    _check_action_events(scenario, play, expected)
    _check_state(world, scenario, play)
    if scenario.is_fired:
        _check_trigger(world, scenario, play)
    _check_times(play)
    _check_rates(scenario, play)
    _check_work(scenario, play, expected)
    if expected is not None:
        _check_same_end(scenario, end_of(play), end_of(expected), play)
        bound = len(expected.calls) + MAX_EXTRA_CALLS_PER_FAULT * len(play.injected)
        is_bounded = not play.injected or len(play.calls) <= bound
        require(is_bounded, "I13", f"{len(play.calls)} calls instead of {len(expected.calls)}")
    _check_end_is_final(world, play)


def _check_history(play: FinishedPlay) -> None:
    types = [event.type for event in play.events]
    max_count = 1 + types.count("workflow.resumed")
    ends = Counter(_attempt_of(event) for event in play.events if event.type in _STATUS_OF_END)
    starts = Counter(_attempt_of(event) for event in play.events if event.type == "step.started")
    require(max(ends.values(), default=1) <= max_count, "I2", f"an attempt has two ends: {ends}")
    require(max(starts.values(), default=1) <= max_count, "I2", f"an attempt starts twice: {starts}")
    require(ends.keys() <= starts.keys(), "I7", "a step has ended that has not started")
    has_one_start = types.count("workflow.started") == 1 and types[0] == "workflow.started"
    require(has_one_start, "I7", "the history has not exactly one start, at its beginning")
    status = play.run.status
    end_type = (
        f"workflow.{status if status in ('failed', 'cancelled', 'timed_out', 'skipped') else 'completed'}"
    )
    require(types[-1] == end_type, "I7", f"the run is {status}, and the history ends with {types[-1]}")


_STATUS_OF_END = {"step.completed": "succeeded", "step.failed": "failed"}


def _attempt_of(event: Event) -> tuple[str | None, int | None, int | None]:
    return event.step, event.visit, event.attempt


ActionPosition = tuple[str | None, int | None, str]
"""Step, visit number and position of an action."""

_SIGNS = {"action.started": "b", "action.retrying": "r", "action.completed": "e", "action.failed": "e"}
_SIGNS_OF_ATTEMPT = re.compile("b?(rb)*(r|e)?")
"""Signs of the events of an action in one attempt of its step.

A waiting action has started in an earlier one.
"""


def _action_signs(play: FinishedPlay) -> dict[ActionPosition, list[str]]:
    """Return the signs of the events of each action, for each attempt of its step."""
    signs: dict[ActionPosition, list[str]] = {}
    attempts: Counter[tuple[str | None, int | None]] = Counter()
    for event in play.events:
        visit_key = (event.step, event.visit)
        attempts[visit_key] += event.type == "step.started"
        if event.type in _SIGNS:
            of_attempts = signs.setdefault((*visit_key, event.payload["position"]), [])
            of_attempts += [""] * (attempts[visit_key] - len(of_attempts))
            of_attempts[-1] += _SIGNS[event.type]
    return signs


def _check_action_events(scenario: Scenario, play: FinishedPlay, expected: FinishedPlay | None) -> None:
    signs = _action_signs(play)
    if not play.injected:
        finished = {(visit.step, visit.number) for visit in play.visits if visit.finished_at is not None}
        for position, of_attempts in signs.items():
            is_ordered = all(map(_SIGNS_OF_ATTEMPT.fullmatch, of_attempts))
            require(is_ordered, "I11", f"events of {position} are not in order: {of_attempts}")
            has_start = "".join(of_attempts).startswith("b")
            has_end = position[:2] not in finished or of_attempts[-1].endswith("e")
            require(has_start and has_end, "I11", f"events of {position} are missing: {of_attempts}")
    may_lack_events = scenario.may_interrupt or scenario.has_cache or _has_action_fault(play)
    if expected is not None and not may_lack_events:
        for position, of_attempts in _action_signs(expected).items():
            remaining = iter("".join(signs.get(position, ())))
            is_subsequence = all(sign in remaining for sign in "".join(of_attempts))
            message = f"events of {position} are {signs.get(position)} instead of {of_attempts}"
            require(is_subsequence, "I11", message)


def _has_action_fault(play: FinishedPlay) -> bool:
    """Return whether an action has failed. Then the end of the run depends on its playbook."""
    action_faults = (Fault.ERROR, Fault.LOST_RESPONSE)
    return any(port == "action" and fault in action_faults for port, fault in play.injected)


_INVARIANT_OF_FINDING = {"stuck": "I6", "waits in vain": "I6", "goes on after its end": "I5"}


def _check_state(world: SimulatedWorld, scenario: Scenario, play: FinishedPlay) -> None:
    run, steps = play.run, scenario.plan.steps
    copies = [child for child in play.children if child.playbook == run.playbook]
    require(len(copies) == scenario.has_earlier_run, "I2", "a run was started twice, or not at all")
    with world.points.disabled():
        findings = world.backend.check_consistency()
    for finding in findings:
        is_count = finding.check.startswith("counters") or finding.check == "arrivals"
        default = "I3" if is_count else "I7"
        raise InvariantViolation(_INVARIANT_OF_FINDING.get(finding.check, default), finding.message)
    if run.stop is None:
        require(run.live == 0, "I3", f"the run counts {run.live} branches")
    visits = [visit for visit in play.visits if not visit.step.startswith("@")]
    numbers = Counter((visit.step, visit.number) for visit in visits if steps[visit.step].cyclic)
    require(max(numbers.values(), default=1) == 1, "I4", f"two visits have the same number: {numbers}")
    joins = Counter(
        visit.step for visit in visits if (join := steps[visit.step].join) is not None and join.mode != "each"
    )
    acyclic_joins = [step for step in joins if not steps[step].cyclic]
    require(all(joins[step] == 1 for step in acyclic_joins), "I4", f"a join has fired twice: {joins}")
    ends = {(event.step, event.visit): event for event in play.events if event.type in _STATUS_OF_END}
    for visit in visits:
        if visit.finished_at is not None and not steps[visit.step].join:
            end = ends.get((visit.step, visit.number))
            recorded_status = None if end is None else _STATUS_OF_END[end.type]
            message = f"`{visit.step}` is {visit.status}, and its history says {recorded_status}"
            require(recorded_status == visit.status, "I7", message)


def _check_trigger(world: SimulatedWorld, scenario: Scenario, play: FinishedPlay) -> None:
    """Check that the instant of the trigger was performed once, and that its record names the run."""
    with world.points.disabled():
        trigger = read_trigger(world.raw_store, scenario)
        firings, _ = world.raw_store.triggers.firings("default", trigger.playbook, trigger.name)
    started = [firing.run_id for firing in firings]
    require(started == [play.run.id], "I16", f"the runs of the firings are {started}")
    require(trigger.last_run == play.run.id, "I16", "the trigger names another run")
    is_next = trigger.next_at is not None and trigger.next_at > firings[0].fired_at
    require(is_next, "I16", f"the trigger is due again at {trigger.next_at}")


_CONTINUATIONS = ("step.started", "action.completed", "step.completed")


def _check_times(play: FinishedPlay) -> None:
    """Check that a waiting step continues at its time, unless it has an answer or the run has ended."""
    due_times: dict[tuple[Any, ...], float] = {}
    for event in play.events:
        visit_key = (event.step, event.visit)
        due_at = due_times.pop(visit_key, None)
        if due_at is not None and event.at < due_at - 1e-3 and event.type in _CONTINUATIONS:
            early_seconds = due_at - event.at
            message = f"`{event.step}` continued {early_seconds:.1f} s before its time: {event.type}"
            raise InvariantViolation("I15", message)
        if event.type == "step.retrying":
            due_times[visit_key] = _parse_time(event.payload["next_attempt_at"])
        elif event.type == "step.waiting" and _waits_for_time(event):
            due_times[visit_key] = _parse_time(event.payload["until"])
        elif event.type.startswith("workflow."):
            due_times.clear()


def _waits_for_time(event: Event) -> bool:
    """Return whether a step waits for the end of `wait`, or for its time at a rate."""
    is_rate = "limit" in event.payload and event.payload["queued_before"] is None
    return is_rate or event.payload["actions"] == ["wait"]


def _check_rates(scenario: Scenario, play: FinishedPlay) -> None:
    """Check that the visits of a step with a rate of one unit took as long as the rate demands."""
    for step in scenario.plan.steps.values():
        per = max((limit.per_seconds or 0.0 for limit in step.rate if limit.units == 1), default=0.0)
        begins = [
            event.at for event in play.events if (event.type, event.step) == ("step.started", step.name)
        ]
        ends = [
            event.at for event in play.events if (event.type, event.step) == ("step.completed", step.name)
        ]
        if per and ends:
            seconds, wanted = max(ends) - min(begins), per * (len(ends) - 1)
            message = f"{len(ends)} visits of `{step.name}` took {seconds:.1f} s instead of {wanted:.1f} s"
            require(seconds >= wanted, "I18", message)


def _parse_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _check_work(scenario: Scenario, play: FinishedPlay, expected: FinishedPlay | None) -> None:
    observations, fault_count = play.observations, len(play.injected)
    if expected is not None:
        expected_count = max(expected.observations.performances.values(), default=1)
        count = max(observations.performances.values(), default=0)
        message = f"work was done {count} times, with {fault_count} faults"
        require(count <= expected_count + fault_count, "I10", message)
    is_redelivered = any(fault is Fault.DUPLICATE for _, fault in play.injected)
    for (step, _, attempt), count in observations.attempts.items():
        if scenario.may_interrupt and scenario.plan.steps[step].at_most_once and not is_redelivered:
            message = f"attempt {attempt} at `{step}` was done {count} times instead of once at most"
            require(count <= 1, "I10", message)
    for visit in play.visits:
        planned_step = scenario.plan.steps.get(visit.step)
        max_attempts = 1 if planned_step is None else planned_step.retry.attempts
        message = f"`{visit.step}` had {visit.attempt} attempts of {max_attempts}"
        require(visit.attempt <= max_attempts, "I10", message)


def _check_same_end(scenario: Scenario, end: ObservedEnd, expected: ObservedEnd, play: FinishedPlay) -> None:
    if scenario.may_interrupt or _has_action_fault(play):
        return
    for name in ("status", "result", "errors", "data"):
        actual, wanted = getattr(end, name), getattr(expected, name)
        require(actual == wanted, "I8", f"{name}: {actual} instead of {wanted}")
    require(end.visits == expected.visits, "I8", f"visits: {end.visits} instead of {expected.visits}")
    require(end.children == expected.children, "I8", f"runs: {end.children} instead of {expected.children}")
    missing_keys = expected.keys - end.keys
    require(not missing_keys, "I10", f"work was not done, or not under its key: {missing_keys}")
    other_keys = end.keys - expected.keys
    require(not other_keys, "I10", f"work was done under another key: {other_keys}")


def _check_end_is_final(world: SimulatedWorld, play: FinishedPlay) -> None:
    """Check that nothing changes after the end: not by old claims, answers, cancels or renewals."""
    store, clock = world.raw_store, world.clock
    with world.points.disabled(), world.test_doubles():
        before = world.backend.dump()
        lease = Lease("late", LEASE_SECONDS)
        for claim in play.observations.claims:
            visit = claim.visit
            late_event = Event("action.started", clock(), visit.step, visit.number, visit.attempt)
            is_renewed = store.queue.renew(visit, clock() + 100, [late_event])
            require(not is_renewed, "I9", f"a claim of `{visit.step}` was renewed after its end")
            VisitExecutor(store, lease, world.capabilities, clock).execute(claim)
        for token in play.observations.answers:
            token_hash = hash_secret(token)
            _check_rejected(
                lambda: store.waits.answer(token_hash, "no", clock()),  # noqa: B023
                "a late answer was accepted",
            )
        other_statuses = set(RunStatus) - {play.run.status}
        stop = RunStatus.CANCELLED if RunStatus.CANCELLED in other_statuses else RunStatus.FAILED
        _check_rejected(
            lambda: store.runs.stop(play.run.id, stop, clock()), "a run was stopped after its end"
        )
        next_claim = store.queue.claim(world.queue, Lease("late", 1.0), clock() + 1e6)
        require(next_claim is None, "I5", "a visit is due after the end")
        require(world.backend.dump() == before, "I5", "the store has changed after the end")


def _check_rejected(call: Callable[[], object], message: str) -> None:
    try:
        call()
    except (RejectedError, FencedError):
        return
    raise InvariantViolation("I5", message)
