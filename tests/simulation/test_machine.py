"""Random playbooks, in a store to which anything may happen at any time: Hypothesis chooses what, and keeps what goes wrong.

Workers take what is due, are late, come again, and die; the clock goes on; callbacks are answered; runs are cancelled and
resumed. After each of these things what must always hold does. In the end every run is taken to its end, and it has come
to what it comes to when one worker does one thing after another.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import noetl.executor.engine.attempts
import pytest
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from noetl.executor.actions import catalogue
from noetl.executor.actions.action import Call
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import correct_input, new_run
from noetl.executor.errors import ActionError, RejectedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.run import (
    NEVER,
    Branch,
    Claim,
    FailureState,
    Lease,
    Run,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.transition import MAX_CLAIMS, merge_arrivals
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.sql import store as sql_store
from noetl.executor.stores.sql.branches import BranchTransaction
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.plan import Plan

from tests.run_harness import LEASE_SECONDS, FakeClock
from tests.simulation.faults import Crash, Fault, Points, WatchedStore
from tests.strategies import Chances, any_flows, chances, mixed_modes

MOST_RUNS = 3
MOST_HELD = 4
MOST_VISITS = 3
QUEUE = "machine"
TABLES = (
    "runs",
    "visits",
    "parts",
    "waits",
    "tokens",
    "joins",
    "arrivals",
    "visit_counts",
    "history",
    "idempotency_keys",
)
FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.ERROR, Fault.LOST_ANSWER)
STANDING = (
    VisitStatus.READY,
    VisitStatus.RUNNING,
    VisitStatus.RETRYING,
    VisitStatus.WAITING,
    VisitStatus.PARKED,
)

ASK = """{action: file, append: "{{ run.id }}.tokens", content: "token: {{ callback.token }}\\n"}"""
WORK = {
    "plain": "",
    "wait": ", {action: wait, seconds: 20}",
    "callback": f", {{action: callback, notify: {ASK}}}",
    "fail": ", {action: fail, message: no}",
    "abort": ', {action: fail, message: stop, if: "{{ not input.ok }}"}',
    "retry": ', {action: python, function: "moody:work", args: ["{{ step.attempt > 1 }}"]}',
    "retry of an action": ', {action: python, function: "moody:work", args: [false], retry: {attempts: 2, delay: 30s}, on_error: continue}',
    "loop": ", {action: wait, seconds: 5, loop: {items: [1, 2, 3], concurrency: 2}}",
    "batch": ", {action: wait, seconds: 0, loop: {items: [1, 2, 3], batch: 2}}",
}
"""What a step does besides saving a name."""

OPTIONS = {"abort": ["on_error: abort"], "retry": ["retry: {attempts: 2, delay: 15s}"]}


@dataclass(frozen=True)
class Script:
    """A playbook that goes by the input `chances`. With `races` chance may decide what becomes of it."""

    plan: Plan
    chances: Chances
    races: bool


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """A playbook of a random flow, whose steps do this and that."""
    flow = draw(any_flows())
    modes = draw(mixed_modes(flow) if draw(st.integers(0, 3)) == 0 else st.just({}))
    assume(not find_joins(flow, modes).overlapping_cycles)
    lines = ["name: random", "on_error: continue", "input: {chances: object, ok: boolean}", "steps:"]
    for step, cases in flow.targets.items():
        number = f"input.chances[step.name][(step.visit - 1) % {MOST_VISITS}]"
        rule = ", ".join(
            f'{{case: "{{{{ {number} < 11 and {number} % {len(cases)} == {index} }}}}", run: [{", ".join(targets)}]}}'
            for index, targets in enumerate(cases)
        )
        kind = draw(st.sampled_from(["plain", "plain", *sorted(WORK)]))
        saves = (
            "{action: log, level: debug, message: x}"
            if modes
            else f'{{action: set, set: {{n_{step}: "{{{{ step.visit }}}}"}}}}'
        )
        keys = [f"name: {step}", f"run: [{saves}{WORK[kind]}]", f"rule: [{rule}]", *OPTIONS.get(kind, [])]
        keys += [f"max_visits: {MOST_VISITS}"] * flow.is_cyclic(step) + [f"join: {modes.get(step)}"] * (
            step in modes
        )
        lines.append(f"- {{{', '.join(keys)}}}")
    if draw(st.booleans()):
        lines += ['- {name: last, run: [{action: set, set: {ending: "{{ run.status }}"}}]}', "finally: last"]
    lines += ["timeout: 30m"] * draw(st.booleans())
    if not modes and draw(st.integers(0, 3)) == 0:
        lines.append("mode: sequential")
    found = compile_playbook("\n".join(lines), catalogue())
    assume(found.plan is not None and not any(d.severity is Severity.ERROR for d in found.diagnostics))
    assert found.plan is not None
    numbers = {step: (list(n) * MOST_VISITS)[:MOST_VISITS] for step, n in draw(chances(flow)).items()}
    return Script(found.plan, numbers, bool(modes))


@dataclass
class Known:
    """What the machine knows of a run: what it must look like as long as it is over, and whether it was ever stopped."""

    key: str
    frozen: Any = None
    was_stopped: bool = False


@dataclass(frozen=True)
class End:
    """How a run has ended, whatever has happened to it on the way."""

    status: str
    result: Any
    visits: Counter[tuple[str, int, str, int]] = field(hash=False)
    errors: Counter[str] = field(hash=False)


class Machine(RuleBasedStateMachine):
    """One store and one playbook, of which some runs are under way."""

    script: Script
    plan: Plan

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name)
        self.store = SqliteStore(str(self.folder / "noetl.db"))
        self.store.file.connection().execute("pragma synchronous = off")
        self.clock = FakeClock()
        self.capabilities = local_run_capabilities(self.folder)
        self.runs: dict[str, Known] = {}
        self.held: list[Claim] = []
        self.walked: list[Claim] = []

    @initialize(script=scripts(), ok=st.booleans())
    def begin(self, script: Script, ok: bool) -> None:
        self.script = script
        self.plan = script.plan
        self.store.save_plan(script.plan)
        self.start(ok)

    # What happens.

    @precondition(lambda self: len(self.runs) < MOST_RUNS)
    @rule(ok=st.booleans())
    def start(self, ok: bool) -> None:
        key = f"key {len(self.runs)}"
        id = self.create(key, QUEUE, ok=ok).id  # not by chance, so that Hypothesis can do the same again
        self.runs[id] = Known(key)
        self.unchanged(lambda: self.create(key, QUEUE, ok=ok))

    @precondition(lambda self: self.runs and len(self.held) < MOST_HELD)
    @rule()
    def take(self) -> None:
        claim = self.claim()
        if claim is None:
            return
        if claim.visit.claims >= MAX_CLAIMS - 1:
            self.walk(claim)  # once more, and it would be given up
        else:
            self.held.append(claim)

    @precondition(lambda self: self.runs)
    @rule(most=st.integers(1, 8))
    def work(self, most: int) -> None:
        """A worker does what is due, one thing after another."""
        for _ in range(most):
            if (claim := self.claim()) is not None:
                self.walk(claim)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), gives_up=st.booleans())
    def deliver(self, data: st.DataObject, gives_up: bool) -> None:
        """What a worker holds comes to its end, which may be too late."""
        claim = self.one_of(data, self.held)
        run, visit = self.run_of(claim.run.id), self.visit_of(claim)
        is_lost = (visit.fence, visit.status) != (claim.visit.fence, VisitStatus.RUNNING)
        cancelled = threading.Event()
        if gives_up and run.stop is RunStatus.CANCELLED and not visit.step.startswith(("@", "last")):
            cancelled.set()
        if is_lost:
            self.unchanged(lambda: self.walk(claim, cancelled))
        else:
            self.walk(claim, cancelled)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """A worker renews what it holds and tells what it does; of what it has lost, nothing is written."""
        claim = data.draw(st.sampled_from(self.held))
        held, visit = self.visit_of(claim), claim.visit
        is_held = (held.fence, held.status) == (visit.fence, VisitStatus.RUNNING)
        event = Event("action.started", self.clock(), visit.step, visit.number, visit.attempt)
        until = self.clock() + LEASE_SECONDS

        def renews() -> None:
            assert self.store.renew(claim.run.id, visit.id, visit.fence, until, [event]) == is_held

        if is_held:
            renews()
            assert replace(self.store.events(claim.run.id, limit=10_000)[-1], id="") == event
        else:
            self.unchanged(renews)

    @precondition(lambda self: self.walked)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """What was done is done once more by a worker that has not heard of it."""
        claim = data.draw(st.sampled_from(self.walked))
        self.unchanged(lambda: self.walk(claim))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), fault=st.sampled_from(FAULTS), at=st.integers(1, 8))
    def crash(self, data: st.DataObject, fault: Fault, at: int) -> None:
        """A worker dies at some call of the store, or the call fails."""
        claim = self.one_of(data, self.held)
        points = Points()
        points.begin({at: fault}, lambda **_: None)
        store: Any = WatchedStore(self.store, points, lambda _: None, lambda *_: None)
        with suppress(Crash, StoreError):
            VisitExecutor(store, Lease("mortal", LEASE_SECONDS), self.capabilities, self.clock).execute(claim)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.one_of(data, self.held)

    @rule(seconds=st.sampled_from([1, 10, LEASE_SECONDS + 1, 300]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.tokens())
    @rule(data=st.data())
    def callback(self, data: st.DataObject) -> None:
        token = hash_secret(data.draw(st.sampled_from(self.tokens())))
        try:
            key = self.store.answer(token, "yes", self.clock())
        except RejectedError as refused:
            assert refused.reason == "closed"
            self.unchanged(lambda: self.refused(lambda: self.store.answer(token, "yes", self.clock())))
            return
        assert key.run_id in self.runs
        self.unchanged(lambda: self.store.answer(token, "yes", self.clock()))
        self.unchanged(lambda: self.refused(lambda: self.store.answer(token, "no", self.clock())))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.runs)))
        if self.run_of(id).status.is_final:
            self.unchanged(lambda: self.refused(lambda: self.stop(id), unless=RunStatus.CANCELLED, id=id))
        else:
            self.stop(id)
            self.unchanged(lambda: self.stop(id))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), ok=st.booleans())
    def resume(self, data: st.DataObject, ok: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.runs)))
        run = self.run_of(id)
        if not run.status.is_final:
            self.unchanged(lambda: self.go_on(id, ok=ok))
        elif run.status is RunStatus.SUCCEEDED:
            self.unchanged(lambda: self.refused(lambda: self.go_on(id, ok=ok)))
        else:
            self.runs[id].frozen = None
            self.runs[id].was_stopped = True
            resumed = self.go_on(id, ok=ok)
            assert (resumed.status, resumed.resumes) == (RunStatus.QUEUED, run.resumes + 1)

    # What always holds.

    @invariant()
    def branches_are_conserved(self) -> None:
        """The counters say how many branches there are, and how many of them are on the way to each join."""
        for id in self.runs:
            run = self.run_of(id)
            standing = [
                v.step for v in self.visits(id) if v.status in STANDING or v.failure is FailureState.OPEN
            ]
            standing = [step for step in standing if step != "last"]
            standing += [row["step"] for row in self.rows("arrivals", id)]
            assert run.live == len(standing)
            on_the_way = Counter(join for step in standing for join in self.plan.steps[step].regions)
            assert {r["step"]: r["live"] for r in self.rows("joins", id) if r["live"]} == dict(on_the_way)

    @invariant()
    def joins_fire_once(self) -> None:
        """No step is entered twice but by a cycle, and never while another branch is still on the way to it."""
        for id in self.runs:
            visits = self.visits(id)
            assert len({(visit.step, visit.number) for visit in visits}) == len(visits)
            for step, times in Counter(visit.step for visit in visits).items():
                assert times == 1 or self.plan.steps[step].cyclic or step == "last" or self.script.races
            live = {row["step"]: row["live"] for row in self.rows("joins", id)}
            for row in self.rows("arrivals", id):
                assert live[row["step"]] > 0, "a join that nobody is on the way to has not fired"

    @invariant()
    def what_is_over_does_not_change(self) -> None:
        for id, known in self.runs.items():
            run = self.run_of(id)
            known.was_stopped |= run.stop is not None
            if run.status.is_final:
                known.frozen = known.frozen or self.everything_of(id)
                assert self.everything_of(id) == known.frozen

    @invariant()
    def nothing_is_stuck(self) -> None:
        """Something is due, now or later, or waits for an answer."""
        for id in self.runs:
            if not self.run_of(id).status.is_final:
                assert any(v.status in STANDING[:4] for v in self.store.visits(id))

    @invariant()
    def history_is_told_once(self) -> None:
        for id in self.runs:
            events = self.store.events(id, limit=10_000)
            types = Counter(event.type for event in events)
            assert types["workflow.started"] == 1
            endings = sum(times for type, times in types.items() if type.startswith("workflow.")) - 1
            run = self.run_of(id)
            assert endings == 2 * run.resumes + run.status.is_final
            ended = Counter((e.step, e.visit) for e in events if e.type == "step.completed")
            assert all(
                times == 1 or (step == "last" and times <= run.resumes + 1)
                for (step, _), times in ended.items()
            )

    def teardown(self) -> None:
        try:
            if self.runs:
                self.take_to_the_end()
        finally:
            self.store.close()
            self.place.cleanup()

    def take_to_the_end(self) -> None:
        plain = self.create("plain", "plain", ok=True)
        self.finish(plain.id, "plain")
        for id, known in self.runs.items():
            self.finish(id, QUEUE)
            while self.run_of(id).status in (RunStatus.CANCELLED, RunStatus.TIMED_OUT, RunStatus.FAILED):
                known.was_stopped = True
                self.go_on(id, ok=True)
                self.finish(id, QUEUE)
            if self.script.races:
                continue
            assert self.end_of(id) == self.end_of(plain.id)
            if not known.was_stopped:
                assert self.history_of(id) == self.history_of(plain.id)

    def finish(self, id: str, queue: str) -> None:
        for _ in range(1000):
            if self.run_of(id).status.is_final:
                return
            claim = self.claim(queue)
            if claim is not None:
                self.walk(claim)
                continue
            for token in self.tokens():
                with suppress(RejectedError):
                    self.store.answer(hash_secret(token), "yes", self.clock())
            due = self.store.next_due(queue)
            assert due is not None and due < NEVER, f"the run is stuck: {self.everything_of(id)}"
            self.clock.now = max(self.clock(), due)
        raise AssertionError("the run does not end")

    # The means to that.

    def create(self, key: str, queue: str, *, ok: bool) -> Run:
        given = {"chances": self.script.chances, "ok": ok}
        run, first = new_run(
            self.plan.header,
            self.plan.hash,
            given,
            now=self.clock(),
            id=key.replace(" ", "-"),
            origin="local",
            queue=queue,
        )
        return self.store.create_run(run, first, (key, str(ok)))

    def claim(self, queue: str = QUEUE) -> Claim | None:
        return self.store.claim(queue, Lease("worker", LEASE_SECONDS), self.clock())

    def walk(self, claim: Claim, cancelled: threading.Event | None = None) -> None:
        VisitExecutor(
            self.store, Lease("worker", LEASE_SECONDS), self.capabilities, self.clock, continues=lambda: False
        ).execute(claim, cancelled)
        self.walked.append(claim)

    def one_of(self, data: st.DataObject, claims: list[Claim]) -> Claim:
        return claims.pop(data.draw(st.integers(0, len(claims) - 1)))

    def stop(self, id: str) -> None:
        self.store.stop(id, RunStatus.CANCELLED, self.clock())

    def go_on(self, id: str, *, ok: bool) -> Run:
        header, now = self.plan.header, self.clock()
        deadline = None if header.timeout_seconds is None else now + header.timeout_seconds
        return self.store.resume(
            id, now, deadline_at=deadline, values=correct_input(header, self.run_of(id), {"ok": ok})
        )

    def refused(self, call: Callable[[], object], unless: RunStatus | None = None, id: str = "") -> None:
        if unless is not None and self.run_of(id).status is unless:
            call()
            return
        with pytest.raises(RejectedError):
            call()

    def unchanged(self, call: Callable[[], object]) -> None:
        """Do what must not change anything."""
        before = [self.rows(table) for table in TABLES]
        call()
        assert [self.rows(table) for table in TABLES] == before

    def tokens(self) -> list[str]:
        return [
            token for path in sorted(self.folder.glob("*.tokens")) for token in path.read_text().split()[1::2]
        ]

    def run_of(self, id: str) -> Run:
        run = self.store.run("default", id)
        assert run is not None
        return run

    def visit_of(self, claim: Claim) -> Visit:
        found = [visit for visit in self.store.visits(claim.run.id) if visit.id == claim.visit.id]
        return found[0] if found else claim.visit

    def visits(self, id: str) -> list[Visit]:
        return [visit for visit in self.store.visits(id) if not visit.step.startswith("@")]

    def rows(self, table: str, run_id: str | None = None) -> list[dict[str, Any]]:
        where, values = ("", []) if run_id is None else (" where run_id = ?", [run_id])
        return [dict(row) for row in self.store.file.fetch_all(f"select * from {table}{where}", *values)]

    def everything_of(self, id: str) -> str:
        rows = [self.store.file.fetch_all("select * from runs where id = ?", id)]
        rows += [
            self.store.file.fetch_all(f"select * from {table} where run_id = ?", id) for table in TABLES[1:-1]
        ]
        return json.dumps([[dict(row) for row in found] for found in rows])

    def end_of(self, id: str) -> End:
        run = self.run_of(id)
        return End(
            run.status.value,
            run.result,
            Counter((v.step, v.number, v.status.value, v.attempt) for v in self.visits(id)),
            Counter(error["type"] for error in run.errors),
        )

    def history_of(self, id: str) -> Counter[str]:
        """What has happened, without when, in which order and by whom. In how many pieces is a matter of time."""
        found: Counter[str] = Counter()
        for event in self.store.events(id, limit=10_000):
            if event.type == "step.waiting":
                continue
            told = {
                n: v
                for n, v in event.payload.items()
                if n not in ("worker", "next_attempt_at", "wait_seconds")
            }
            found[json.dumps([event.type, event.step, event.visit, event.attempt, told])] += 1
        return found


def moody(call: Call) -> None:
    """Stands for a function that fails unless it is told not to, without the process that it would take."""
    if not call.parameters["args"][0]:
        raise ActionError("FunctionFailed", "not in the mood")


@pytest.fixture(autouse=True)
def moods(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = noetl.executor.engine.attempts.handler
    monkeypatch.setattr(
        "noetl.executor.engine.attempts.handler", lambda name: moody if name == "python" else handler(name)
    )


def run_machine(examples: int = settings.default.max_examples // 2, **options: Any) -> None:
    unhurried = settings(
        max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck), **options
    )
    run_state_machine_as_test(Machine, settings=unhurried)  # type: ignore[no-untyped-call]


@pytest.mark.timeout(600)
def test_whatever_happens() -> None:
    run_machine()


def counts_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """BranchTransaction that have come together are counted as many."""

    def wrong(*args: Any) -> tuple[Branch, dict[str, int], int]:
        branch, _, _ = merge_arrivals(*args)
        return branch, {}, 0

    monkeypatch.setattr("noetl.executor.stores.sql.branches.merge_arrivals", wrong)


def lets_everyone_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes with what was done is believed, however late."""
    update = sql_store._update_visit

    def wrong(db: Any, visit: Visit, *rest: Any, **options: Any) -> Any:
        query = "update visits set fence = ?, status = 'running' where run_id = ? and id = ?"
        db.execute(query, (visit.fence, visit.run_id, visit.id))
        return update(db, visit, *rest, **options)

    monkeypatch.setattr(sql_store, "_update_visit", wrong)


def forgets_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cancelled while nothing is at work has nobody to end it."""
    monkeypatch.setattr(BranchTransaction, "stop_run", lambda _: None)


@pytest.mark.parametrize("breaks", [counts_wrong, lets_everyone_in, forgets_to_end])
def test_what_is_broken_is_noticed(
    monkeypatch: pytest.MonkeyPatch, breaks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Controls of the machine."""
    breaks(monkeypatch)
    with pytest.raises(AssertionError):
        run_machine(examples=1_000, derandomize=True, phases=[Phase.generate])
