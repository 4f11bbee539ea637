"""What must hold of every run, whatever went wrong in it.

| | |
| --- | --- |
| I1 | the history is only added to, and its ids grow |
| I2 | a run is started once, an attempt begins once and ends once, a visit is finished once |
| I3 | branches are conserved: the counters of the run and of its joins are at nothing when all have ended |
| I4 | a join fires once a wave |
| I5 | an end is an end: nothing that comes later changes anything |
| I6 | no run is stuck: one that has not ended has something that goes on with it |
| I7 | the history and the state say the same |
| I8 | every store says the same, and so does a run without faults |
| I9 | a claim that was lost writes nothing |
| I10 | work is done at least once and repeated at most once a fault; at most once an attempt where that is asked; under one key |
| I11 | of every action is told that it begins and how it ends, once and in order; a fault may have that told twice, and loses none of it |
| I13 | a fault costs a bounded number of calls |
| I15 | nothing happens before its time |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.run import Lease, RunStatus

from tests.run_harness import LEASE_SECONDS
from tests.simulation.corpus import Scene
from tests.simulation.faults import Fault
from tests.simulation.world import Played, Violation, World

CALLS_A_FAULT = 400
"""How many more calls a run may need that has met a fault."""


def holds(condition: object, invariant: str, message: str) -> None:
    if not condition:
        raise Violation(invariant, message)


@dataclass(frozen=True)
class End:
    """How a run ended, as far as it must not depend on faults or on the store."""

    status: RunStatus
    result: Any
    errors: tuple[str, ...]
    visits: tuple[tuple[str, int, str, int], ...]
    children: tuple[tuple[str, str], ...]
    keys: Counter[tuple[bool, str, int, str]]
    """How many keys the performances at a (run or child, step, visit, type) had."""


def end_of(played: Played) -> End:
    run = played.run
    keys: Counter[tuple[bool, str, int, str]] = Counter()
    for whose, step, number, type, _ in played.deeds.performed:
        keys[whose == run.id, step, number, type] += 1
    visits = [visit for visit in played.visits if not visit.step.startswith("@")]
    return End(
        run.status,
        run.result,
        tuple(sorted(error["type"] for error in run.errors)),
        tuple(sorted((v.step, v.number, v.status.value, v.attempt) for v in visits)),
        tuple(sorted((child.playbook, child.status.value) for child in played.children)),
        keys,
    )


def history_of(played: Played) -> list[tuple[Any, ...]]:
    """The history, without ids and times."""
    return [
        (e.type, e.step, e.visit, e.attempt, e.payload.get("case"), e.payload.get("targets"))
        for e in played.events
    ]


class Watch:
    """What must hold at every moment."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, world: World) -> None:
        events = world.real.events(world.run_id, limit=10_000)
        holds(events[: len(self.events)] == self.events, "I1", "an event has been changed or taken away")
        ids = [tuple(map(int, event.id.split("-"))) for event in events[max(len(self.events) - 1, 0) :]]
        holds(ids == sorted(set(ids)), "I1", "ids of events do not grow")
        self.events = events


def check(world: World, scene: Scene, played: Played, expected: Played | None) -> None:
    """What must hold of a run that has ended. `expected` is one without faults."""
    _check_history(played)
    _check_told(scene, played, expected)
    _check_state(world, scene, played)
    _check_times(played)
    _check_work(scene, played, expected)
    if expected is not None:
        _check_same(scene, end_of(played), end_of(expected), played)
        bound = len(expected.points) + CALLS_A_FAULT * len(played.fired)
        holds(
            not played.fired or len(played.points) <= bound,
            "I13",
            f"{len(played.points)} calls instead of {len(expected.points)}",
        )
    _check_absorbed(world, played)


def _check_history(played: Played) -> None:
    resumes = [event.type for event in played.events].count("workflow.resumed")
    place: Callable[[Event], Any] = lambda e: (e.step, e.visit, e.attempt)  # noqa: E731
    done = Counter(place(e) for e in played.events if e.type in ("step.completed", "step.failed"))
    begun = Counter(place(e) for e in played.events if e.type == "step.started")
    holds(max(done.values(), default=1) <= 1 + resumes, "I2", f"an attempt has two ends: {done}")
    holds(max(begun.values(), default=1) <= 1 + resumes, "I2", f"an attempt begins twice: {begun}")
    holds(done.keys() <= begun.keys(), "I7", "a step has ended that has not begun")
    types = [event.type for event in played.events]
    holds(
        types.count("workflow.started") == 1 and types[0] == "workflow.started",
        "I7",
        "the history has one beginning",
    )
    name = played.run.status if played.run.status in ("failed", "cancelled", "timed_out") else "completed"
    holds(
        types[-1] == f"workflow.{name}",
        "I7",
        f"the run is {played.run.status}, and the history ends with {types[-1]}",
    )


Place = tuple[str | None, int | None, str]
_SIGNS = {"action.started": "b", "action.retrying": "r", "action.completed": "e", "action.failed": "e"}
_ONE_LIFE = re.compile("b?(rb)*(r|e)?")
"""What is told of an action from one beginning of an attempt to the next: what waits then has begun before."""


def _lives(played: Played) -> dict[Place, list[str]]:
    """What is told of the action at each place, in signs, since the beginnings of attempts at its step."""
    found: dict[Place, list[str]] = {}
    attempts: Counter[tuple[str | None, int | None]] = Counter()
    for event in played.events:
        visit = (event.step, event.visit)
        attempts[visit] += event.type == "step.started"
        if event.type in _SIGNS:
            lives = found.setdefault((*visit, event.payload["position"]), [])
            lives += [""] * (attempts[visit] - len(lives))
            lives[-1] += _SIGNS[event.type]
    return found


def _check_told(scene: Scene, played: Played, expected: Played | None) -> None:
    told = _lives(played)
    if not played.fired:
        over = {(visit.step, visit.number) for visit in played.visits if visit.finished_at is not None}
        for place, lives in told.items():
            holds(
                all(map(_ONE_LIFE.fullmatch, lives)), "I11", f"what is told of {place} has no order: {lives}"
            )
            has_end = place[:2] not in over or lives[-1].endswith("e")
            holds("".join(lives).startswith("b") and has_end, "I11", f"not all is told of {place}: {lives}")
    if expected is not None and not (scene.interrupts or _is_outside(played)):
        for place, lives in _lives(expected).items():
            signs = iter("".join(told.get(place, ())))
            is_there = all(sign in signs for sign in "".join(lives))
            holds(is_there, "I11", f"of {place} is told {told.get(place)}, and not {lives}")


def _is_outside(played: Played) -> bool:
    """Whether an action itself has failed: then the run goes as its playbook says for that."""
    return any(port == "action" and fault in (Fault.ERROR, Fault.LOST_ANSWER) for port, fault in played.fired)


def _check_state(world: World, scene: Scene, played: Played) -> None:
    run = played.run
    same = [child for child in played.children if child.playbook == run.playbook]
    holds(not same, "I2", "the run was started twice")
    with world.points.quiet():
        findings = world.ground.examine()
    for finding in findings:
        about = {"stuck": "I6", "waits in vain": "I6", "goes on after its end": "I5"}
        counted = finding.check.startswith("counters") or finding.check == "arrivals"
        raise Violation(about.get(finding.check, "I3" if counted else "I7"), finding.message)
    if run.stop is None:
        holds(run.live == 0, "I3", f"the run counts {run.live} branches")
    visits = [visit for visit in played.visits if not visit.step.startswith("@")]
    numbers = Counter((visit.step, visit.number) for visit in visits if scene.plan.steps[visit.step].cyclic)
    holds(max(numbers.values(), default=1) == 1, "I4", f"a visit has the number of another: {numbers}")
    joins = Counter(
        v.step for v in visits if (j := scene.plan.steps[v.step].join) is not None and j.mode != "each"
    )
    once = [step for step in joins if not scene.plan.steps[step].cyclic]
    holds(all(joins[step] == 1 for step in once), "I4", f"a join has fired more than once: {joins}")
    ended = {(e.step, e.visit): e for e in played.events if e.type in ("step.completed", "step.failed")}
    for visit in visits:
        event = ended.get((visit.step, visit.number))
        if visit.finished_at is not None and not scene.plan.steps[visit.step].join:
            said = {"step.completed": "succeeded", "step.failed": "failed"}.get(event.type if event else "")
            holds(
                said == visit.status, "I7", f"`{visit.step}` is {visit.status}, and its history says {said}"
            )


def _check_times(played: Played) -> None:
    """Who waits begins not before the time, unless there was an answer or an end."""
    open_until: dict[tuple[Any, ...], float] = {}
    for event in played.events:
        place = (event.step, event.visit)
        until = open_until.pop(place, None)
        if (
            until is not None
            and event.at < until - 1e-3
            and event.type in ("step.started", "action.completed", "step.completed")
        ):
            raise Violation(
                "I15", f"`{event.step}` went on {until - event.at:.1f} s before its time: {event.type}"
            )
        if event.type == "step.retrying":
            open_until[place] = _seconds(event.payload["next_attempt_at"])
        elif event.type == "step.waiting" and event.payload["actions"] == ["wait"]:
            open_until[place] = _seconds(event.payload["until"])
        elif event.type.startswith("workflow."):
            open_until.clear()


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _check_work(scene: Scene, played: Played, expected: Played | None) -> None:
    deeds, faults = played.deeds, len(played.fired)
    if expected is not None:
        usual = max(expected.deeds.performed.values(), default=1)
        most = max(deeds.performed.values(), default=0)
        holds(most <= usual + faults, "I10", f"work was done {most} times, with {faults} faults")
    for (step, _, attempt), times in deeds.attempts.items():
        once = scene.interrupts and scene.plan.steps[step].at_most_once
        if once and all(fault is not Fault.DUPLICATE for _, fault in played.fired):
            holds(
                times <= 1,
                "I10",
                f"attempt {attempt} at `{step}` was made {times} times, and may be once at most",
            )
    for visit in played.visits:
        step = scene.plan.steps.get(visit.step)
        attempts = 1 if step is None else step.retry.attempts
        holds(visit.attempt <= attempts, "I10", f"`{visit.step}` had {visit.attempt} attempts of {attempts}")


def _check_same(scene: Scene, end: End, expected: End, played: Played) -> None:
    if scene.interrupts or _is_outside(played):
        return
    for name in ("status", "result", "errors"):
        found, wanted = getattr(end, name), getattr(expected, name)
        holds(found == wanted, "I8", f"{name}: {found} instead of {wanted}")
    holds(end.visits == expected.visits, "I8", f"visits: {end.visits} instead of {expected.visits}")
    holds(end.children == expected.children, "I8", f"runs: {end.children} instead of {expected.children}")
    missing = expected.keys - end.keys
    holds(not missing, "I10", f"work was not done, or not under its key: {missing}")
    more = end.keys - expected.keys
    holds(not more, "I10", f"work was done under another key: {more}")


def _check_absorbed(world: World, played: Played) -> None:
    """That nothing which comes after the end changes anything: what was claimed, answers, cancels, renewals."""
    with world.points.quiet(), world.doubles():
        before = world.ground.contents()
        for claim in played.deeds.claims:
            visit = claim.visit
            late = Event("action.started", world.clock(), visit.step, visit.number, visit.attempt)
            renewed = world.real.renew(visit.run_id, visit.id, visit.fence, world.clock() + 100, [late])
            holds(not renewed, "I9", f"a claim of `{visit.step}` was renewed that is over")
            VisitExecutor(world.real, Lease("late", LEASE_SECONDS), world.capabilities, world.clock).execute(
                claim
            )
        for token in played.deeds.answered:
            _rejected(
                lambda: world.real.answer(hash_secret(token), "no", world.clock()),  # noqa: B023
                "a late answer was taken",
            )
        others = set(RunStatus) - {played.run.status}
        stop = RunStatus.CANCELLED if RunStatus.CANCELLED in others else RunStatus.FAILED
        _rejected(
            lambda: world.real.stop(played.run.id, stop, world.clock()), "a run that has ended was stopped"
        )
        holds(
            world.real.claim(world.queue, Lease("late", 1.0), world.clock() + 1e6) is None,
            "I5",
            "something is due",
        )
        holds(world.ground.contents() == before, "I5", "something has changed after the end")


def _rejected(call: Callable[[], object], message: str) -> None:
    try:
        call()
    except (RejectedError, FencedError):
        return
    raise Violation("I5", message)
