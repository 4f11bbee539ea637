"""Random playbooks in a store, with random actions of workers, operators and the clock, chosen by Hypothesis.

Workers claim and execute visits, are late, repeat work, and crash. The clock advances, callbacks are
answered, runs are cancelled, paused, unpaused and resumed. The invariants are checked after each action.
Finally every run is executed to its end, which must be the end that one worker reaches without interference.
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

from noetl.executor.actions import catalogue, handler
from noetl.executor.actions.action import Call
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import correct_input, new_run
from noetl.executor.errors import ActionError, RejectedError, StoreError
from noetl.executor.model.branch_stack import BranchStack, ForkFrame, JoinFrame
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
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import merge_arrivals
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.state import MemoryState
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sql import queue as sql_queue
from noetl.executor.stores.sql.branches import BranchTransaction
from noetl.executor.stores.sqlite.file import SqliteFile
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.plan import Plan
from noetl.testing.run_harness import LEASE_SECONDS, FakeClock
from tests.simulation.faults import Fault, FaultInjectingStore, FaultPoints, SimulatedCrash
from tests.strategies import Chances, any_flows, chances, mixed_modes

MAX_RUNS = 3
MAX_HELD_CLAIMS = 4
MAX_VISITS = 3
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
FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.ERROR, Fault.LOST_RESPONSE)
OPEN_STATUSES = (
    VisitStatus.READY,
    VisitStatus.RUNNING,
    VisitStatus.RETRYING,
    VisitStatus.WAITING,
    VisitStatus.PARKED,
)

NOTIFY = """{action: file, append: "{{ run.id }}.tokens", content: "token: {{ callback.token }}\\n"}"""
WORK = {
    "plain": "",
    "wait": ", {action: wait, seconds: 20}",
    "callback": f", {{action: callback, notify: {NOTIFY}}}",
    "fail": ", {action: fail, message: no}",
    "abort": ', {action: fail, message: stop, if: "{{ not input.ok }}"}',
    "retry": ', {action: python, function: "fragile:work", args: ["{{ step.attempt > 1 }}"]}',
    "retry of an action": (
        ', {action: python, function: "fragile:work", args: [false],'
        " retry: {attempts: 2, delay: 30s}, on_error: continue}"
    ),
    "loop": ", {action: wait, seconds: 5, loop: {items: [1, 2, 3], concurrency: 2}}",
    "batch": ", {action: wait, seconds: 0, loop: {items: [1, 2, 3], batch: 2}}",
}
"""Work of a step of each kind, after the action that saves a name."""

OPTIONS = {"abort": ["on_error: abort"], "retry": ["retry: {attempts: 2, delay: 15s}"]}


@dataclass(frozen=True)
class RandomScript:
    """A random playbook whose decisions depend on the input `chances`.

    With `races`, the end of a run also depends on the order of its branches.
    """

    plan: Plan
    chances: Chances
    races: bool


@st.composite
def scripts(draw: st.DrawFn) -> RandomScript:
    """Draw a playbook of a random flow with random work."""
    flow = draw(any_flows())
    modes = draw(mixed_modes(flow) if draw(st.integers(0, 3)) == 0 else st.just({}))
    assume(not find_joins(flow, modes).overlapping_cycles)
    lines = ["name: random", "on_error: continue", "input: {chances: object, ok: boolean}", "steps:"]
    for step, cases in flow.targets.items():
        number = f"input.chances[step.name][(step.visit - 1) % {MAX_VISITS}]"
        rule = ", ".join(
            f'{{case: "{{{{ {number} < 11 and {number} % {len(cases)} == {index} }}}}",'
            f" run: [{', '.join(targets)}]}}"
            for index, targets in enumerate(cases)
        )
        kind = draw(st.sampled_from(["plain", "plain", *sorted(WORK)]))
        saves = (
            "{action: log, level: debug, message: x}"
            if modes
            else f'{{action: set, set: {{n_{step}: "{{{{ step.visit }}}}"}}}}'
        )
        keys = [f"name: {step}", f"run: [{saves}{WORK[kind]}]", f"rule: [{rule}]", *OPTIONS.get(kind, [])]
        keys += [f"max_visits: {MAX_VISITS}"] * flow.is_cyclic(step) + [f"join: {modes.get(step)}"] * (
            step in modes
        )
        lines.append(f"- {{{', '.join(keys)}}}")
    if draw(st.booleans()):
        lines += ['- {name: last, run: [{action: set, set: {ending: "{{ run.status }}"}}]}', "finally: last"]
    lines += ["timeout: 30m"] * draw(st.booleans())
    if not modes and draw(st.integers(0, 3)) == 0:
        lines.append("mode: sequential")
    compilation = compile_playbook("\n".join(lines), catalogue())
    has_errors = any(d.severity is Severity.ERROR for d in compilation.diagnostics)
    assume(compilation.plan is not None and not has_errors)
    assert compilation.plan is not None
    numbers = {step: (list(n) * MAX_VISITS)[:MAX_VISITS] for step, n in draw(chances(flow)).items()}
    return RandomScript(compilation.plan, numbers, bool(modes))


@dataclass
class KnownRun:
    """The contents of a run since its end, and whether it was ever stopped."""

    key: str
    final_contents: Any = None
    was_stopped: bool = False


@dataclass(frozen=True)
class MachineRunEnd:
    """The end of a run, which does not depend on what happened before."""

    status: str
    result: Any
    visits: Counter[tuple[str, int, str, int]] = field(hash=False)
    errors: Counter[str] = field(hash=False)


MAX_RESUMES = 20
"""How often a run is resumed at the end, with inputs that succeed, before it counts as broken."""


class StoreMachine(RuleBasedStateMachine):
    """A store with some runs of one random playbook."""

    script: RandomScript
    plan: Plan
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.folder = Path(self.directory.name)
        self.store = self.open_store()
        self.clock = FakeClock()
        self.capabilities = local_run_capabilities(self.folder)
        self.runs: dict[str, KnownRun] = {}
        self.held_claims: list[Claim] = []
        self.executed_claims: list[Claim] = []

    def open_store(self) -> Store:
        store = SqliteStore(str(self.folder / "noetl.db"))
        store.file.flushes_commits = False
        return store

    @initialize(script=scripts(), ok=st.booleans())
    def begin(self, script: RandomScript, ok: bool) -> None:
        self.script = script
        self.plan = script.plan
        self.store.plans.save(script.plan)
        self.start(ok)

    # Actions.

    @precondition(lambda self: len(self.runs) < MAX_RUNS)
    @rule(ok=st.booleans())
    def start(self, ok: bool) -> None:
        key = f"key {len(self.runs)}"
        id = self.create(key, QUEUE, ok=ok).id  # not random, so that Hypothesis can repeat it
        self.runs[id] = KnownRun(key)
        self.assert_unchanged(lambda: self.create(key, QUEUE, ok=ok))

    @precondition(lambda self: self.runs and len(self.held_claims) < MAX_HELD_CLAIMS)
    @rule()
    def claim_and_hold(self) -> None:
        claim = self.claim()
        if claim is None:
            return
        if claim.visit.claims >= MAX_CLAIMS - 1:
            self.execute(claim)  # one more claim, and the visit would fail as WorkerLost
        else:
            self.held_claims.append(claim)

    @precondition(lambda self: self.runs)
    @rule(most=st.integers(1, 8))
    def work(self, most: int) -> None:
        """Execute what is due, serially."""
        for _ in range(most):
            if (claim := self.claim()) is not None:
                self.execute(claim)

    @precondition(lambda self: self.held_claims)
    @rule(data=st.data(), is_abandoned=st.booleans())
    def deliver(self, data: st.DataObject, is_abandoned: bool) -> None:
        """Finish the execution of a held claim, which may be lost by then."""
        claim = self.pop_claim(data, self.held_claims)
        run, visit = self.run_of(claim.run.id), self.visit_of(claim)
        is_lost = (visit.fence, visit.status) != (claim.visit.fence, VisitStatus.RUNNING)
        cancelled = threading.Event()
        if is_abandoned and run.stop is RunStatus.CANCELLED and not visit.step.startswith(("@", "last")):
            cancelled.set()
        if is_lost:
            self.assert_unchanged(lambda: self.execute(claim, cancelled))
        else:
            self.execute(claim, cancelled)

    @precondition(lambda self: self.held_claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        """Renew a held claim and write an event. With a lost claim, nothing is written."""
        claim = data.draw(st.sampled_from(self.held_claims))
        stored_visit, visit = self.visit_of(claim), claim.visit
        is_held = (stored_visit.fence, stored_visit.status) == (visit.fence, VisitStatus.RUNNING)
        event = Event(
            "action.started", self.clock(), visit.step, visit.number, visit.attempt, payload={"renewal": True}
        )
        until = self.clock() + LEASE_SECONDS

        def renew() -> None:
            assert self.store.queue.renew(visit, until, [event]) == is_held

        if is_held:
            renew()
            assert replace(self.store.runs.events(claim.run.id, limit=10_000)[-1], id="") == event
        else:
            self.assert_unchanged(renew)

    @precondition(lambda self: self.executed_claims)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        """Execute a finished claim again, as a worker does that does not know of its end."""
        claim = data.draw(st.sampled_from(self.executed_claims))
        self.assert_unchanged(lambda: self.execute(claim))

    @precondition(lambda self: self.held_claims)
    @rule(data=st.data(), fault=st.sampled_from(FAULTS), call_number=st.integers(1, 8))
    def crash(self, data: st.DataObject, fault: Fault, call_number: int) -> None:
        """Inject a crash or an error at a call of the store."""
        claim = self.pop_claim(data, self.held_claims)
        points = FaultPoints()
        points.restart({call_number: fault}, lambda **_: None, lambda **_: None)
        store: Any = FaultInjectingStore(self.store, points, lambda _: None, lambda *_: None)
        with suppress(SimulatedCrash, StoreError):
            VisitExecutor(
                store, Lease("crashing worker", LEASE_SECONDS), self.capabilities, self.clock
            ).execute(claim)

    @precondition(lambda self: self.held_claims)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.pop_claim(data, self.held_claims)

    @rule(seconds=st.sampled_from([1, 10, LEASE_SECONDS + 1, 300]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.tokens())
    @rule(data=st.data())
    def callback(self, data: st.DataObject) -> None:
        token = hash_secret(data.draw(st.sampled_from(self.tokens())))
        try:
            key = self.store.waits.answer(token, "yes", self.clock())
        except RejectedError as error:
            assert error.reason == "closed"
            self.assert_unchanged(
                lambda: self.assert_rejected(lambda: self.store.waits.answer(token, "yes", self.clock()))
            )
            return
        assert key.run_id in self.runs
        self.assert_unchanged(lambda: self.store.waits.answer(token, "yes", self.clock()))
        self.assert_unchanged(
            lambda: self.assert_rejected(lambda: self.store.waits.answer(token, "no", self.clock()))
        )

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.runs)))
        if self.run_of(id).status.is_final:
            self.assert_unchanged(
                lambda: self.assert_rejected(lambda: self.stop(id), allowed=RunStatus.CANCELLED, id=id)
            )
        else:
            self.stop(id)
            self.assert_unchanged(lambda: self.stop(id))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), ok=st.booleans())
    def resume(self, data: st.DataObject, ok: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.runs)))
        run = self.run_of(id)
        if run.is_paused:
            self.assert_unchanged(lambda: self.assert_rejected(lambda: self.resume_run(id, ok=ok)))
        elif not run.status.is_final:
            self.assert_unchanged(lambda: self.resume_run(id, ok=ok))
        elif run.status is RunStatus.SUCCEEDED:
            self.assert_unchanged(lambda: self.assert_rejected(lambda: self.resume_run(id, ok=ok)))
        else:
            self.runs[id].final_contents = None
            self.runs[id].was_stopped = True
            resumed = self.resume_run(id, ok=ok)
            assert (resumed.status, resumed.resumes) == (RunStatus.QUEUED, run.resumes + 1)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.runs)))
        run = self.run_of(id)
        is_ending = any(visit.step in ("last", "@end") for visit in self.store.runs.visits(id))
        if run.status.is_final or run.ending is not None or is_ending:
            self.assert_unchanged(lambda: self.assert_rejected(lambda: self.change_pause(id, "pause")))
            return
        self.change_pause(id, "pause")
        assert self.run_of(id).status is RunStatus.PAUSED
        self.assert_unchanged(lambda: self.change_pause(id, "pause"))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def unpause(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.runs)))
        if self.run_of(id).status.is_final:
            self.assert_unchanged(lambda: self.assert_rejected(lambda: self.change_pause(id, "unpause")))
            return
        self.change_pause(id, "unpause")
        assert not self.run_of(id).is_paused
        self.assert_unchanged(lambda: self.change_pause(id, "unpause"))

    # Invariants.

    @invariant()
    def nothing_is_due_in_a_paused_run(self) -> None:
        """Check that only running visits and the deadline of a paused run may be claimed."""
        for id in self.runs:
            active = [visit for visit in self.store.runs.visits(id) if visit.status in ACTIVE]
            if self.run_of(id).is_paused:
                steps = {visit.step for visit in active if visit.status is not VisitStatus.RUNNING}
                assert steps <= {"@deadline"}

    @invariant()
    def branches_are_conserved(self) -> None:
        """Check the counters of open branches, and of those that may reach each join."""
        for id in self.runs:
            run = self.run_of(id)
            open_steps = [
                v.step for v in self.visits(id) if v.status in OPEN_STATUSES or v.failure is FailureState.OPEN
            ]
            open_steps = [step for step in open_steps if step != "last"]
            stack = self.stack_of(id)
            if stack is not None:
                self.check_stack(id, stack, open_steps)
                continue
            open_steps += [row["step"] for row in self.rows("arrivals", id)]
            assert run.live == len(open_steps)
            branches_of_join = Counter(join for step in open_steps for join in self.plan.steps[step].regions)
            assert {r["step"]: r["live"] for r in self.rows("joins", id) if r["live"]} == dict(
                branches_of_join
            )

    def check_stack(self, id: str, stack: BranchStack, open_steps: list[str]) -> None:
        """Check the counters of a run in sequential mode, and that one visit is active at a time."""
        visits = {visit.id: visit for visit in self.visits(id)}
        assert sum(v.status in ACTIVE and v.step != "last" for v in visits.values()) <= 1
        steps: list[str] = [*open_steps, *stack.arrived]
        pending: list[str] = []
        for frame in stack.frames:
            if isinstance(frame, ForkFrame):
                pending += self.plan.steps[frame.step].cases[frame.case].targets[frame.index :]
            elif isinstance(frame, JoinFrame) or visits[frame.visit_id].failure is FailureState.ENDED:
                steps.append(frame.step)
        assert self.run_of(id).live == stack.branches == len(steps) + len(pending)
        waited_for = Counter(join for step in steps + pending for join in self.plan.steps[step].regions)
        joins = (self.plan.steps[step] for step in pending)
        waited_for += Counter(
            step.name for step in joins if step.join is not None and step.join.mode == "all"
        )
        assert dict(stack.waited_for) == waited_for

    @invariant()
    def joins_fire_once(self) -> None:
        """Check that an acyclic step is visited once, and that no join fires before its branches arrive."""
        for id in self.runs:
            visits = self.visits(id)
            assert len({(visit.step, visit.number) for visit in visits}) == len(visits)
            for step, times in Counter(visit.step for visit in visits).items():
                assert times == 1 or self.plan.steps[step].cyclic or step == "last" or self.script.races
            live = {row["step"]: row["live"] for row in self.rows("joins", id)}
            for row in self.rows("arrivals", id):
                assert live[row["step"]] > 0, "a join without missing branches has not fired"

    @invariant()
    def finished_runs_do_not_change(self) -> None:
        for id, known in self.runs.items():
            run = self.run_of(id)
            known.was_stopped |= run.ending is not None
            if run.status.is_final:
                known.final_contents = known.final_contents or self.contents_of(id)
                assert self.contents_of(id) == known.final_contents

    @invariant()
    def no_run_is_stuck(self) -> None:
        """Check that a run that has not ended has a due or a waiting visit."""
        for id in self.runs:
            run = self.run_of(id)
            if not run.status.is_final and not run.is_paused:
                assert any(v.status in OPEN_STATUSES[:4] for v in self.store.runs.visits(id))

    @invariant()
    def events_are_written_once(self) -> None:
        for id in self.runs:
            events = self.store.runs.events(id, limit=10_000)
            types = Counter(event.type for event in events)
            assert types["workflow.started"] == 1
            run, pauses = self.run_of(id), (types["workflow.paused"], types["workflow.unpaused"])
            endings = sum(times for type, times in types.items() if type.startswith("workflow.")) - 1
            endings -= sum(pauses)
            assert pauses[0] - pauses[1] >= run.is_paused
            assert endings == 2 * run.resumes + run.status.is_final
            ended = Counter((e.step, e.visit) for e in events if e.type == "step.completed")
            assert all(
                times == 1 or (step == "last" and times <= run.resumes + 1)
                for (step, _), times in ended.items()
            )

    def teardown(self) -> None:
        try:
            if self.runs:
                self.finish_all()
        finally:
            self.store.close()
            self.directory.cleanup()

    def finish_all(self) -> None:
        undisturbed = self.create("plain", "plain", ok=True)
        self.finish(undisturbed.id, "plain")
        for id in self.runs:
            if self.run_of(id).is_paused:
                self.change_pause(id, "unpause")
        for id, known in self.runs.items():
            self.finish(id, QUEUE)
            resumes = 0
            while self.run_of(id).status in (RunStatus.CANCELLED, RunStatus.TIMED_OUT, RunStatus.FAILED):
                resumes += 1
                assert resumes <= MAX_RESUMES, f"the run does not succeed: {self.contents_of(id)}"
                known.was_stopped = True
                self.resume_run(id, ok=True)
                self.finish(id, QUEUE)
            if self.script.races:
                continue
            assert self.end_of(id) == self.end_of(undisturbed.id)
            if not known.was_stopped:
                assert self.history_of(id) == self.history_of(undisturbed.id)

    def finish(self, id: str, queue: str) -> None:
        for _ in range(1000):
            if self.run_of(id).status.is_final:
                return
            claim = self.claim(queue)
            if claim is not None:
                self.execute(claim)
                continue
            for token in self.tokens():
                with suppress(RejectedError):
                    self.store.waits.answer(hash_secret(token), "yes", self.clock())
            due = self.store.queue.next_due(queue)
            assert due is not None and due < NEVER, f"the run is stuck: {self.contents_of(id)}"
            self.clock.now = max(self.clock(), due)
        raise AssertionError("the run does not end")

    # Helpers.

    def create(self, key: str, queue: str, *, ok: bool) -> Run:
        inputs = {"chances": self.script.chances, "ok": ok}
        run, first = new_run(
            self.plan.header,
            self.plan.hash,
            StartRequest(inputs, run_id=key.replace(" ", "-"), origin="local", queue=queue),
            now=self.clock(),
        )
        return self.store.runs.create(run, first, (key, str(ok)))

    def claim(self, queue: str = QUEUE) -> Claim | None:
        return self.store.queue.claim(queue, Lease("worker", LEASE_SECONDS), self.clock())

    def execute(self, claim: Claim, cancelled: threading.Event | None = None) -> None:
        VisitExecutor(
            self.store, Lease("worker", LEASE_SECONDS), self.capabilities, self.clock, continues=lambda: False
        ).execute(claim, cancelled)
        self.executed_claims.append(claim)

    def pop_claim(self, data: st.DataObject, claims: list[Claim]) -> Claim:
        return claims.pop(data.draw(st.integers(0, len(claims) - 1)))

    def stop(self, id: str) -> None:
        self.store.runs.stop(id, RunStatus.CANCELLED, self.clock())

    def change_pause(self, id: str, command: str) -> None:
        getattr(self.store.pauses, command)(id, self.clock())

    def resume_run(self, id: str, *, ok: bool) -> Run:
        header, now = self.plan.header, self.clock()
        deadline = None if header.timeout_seconds is None else now + header.timeout_seconds
        return self.store.runs.resume(
            id, now, deadline_at=deadline, values=correct_input(header, self.run_of(id), {"ok": ok})
        )

    def assert_rejected(
        self, call: Callable[[], object], allowed: RunStatus | None = None, id: str = ""
    ) -> None:
        if allowed is not None and self.run_of(id).status is allowed:
            call()
            return
        with pytest.raises(RejectedError):
            call()

    def assert_unchanged(self, call: Callable[[], object]) -> None:
        """Call a function that must not change the store."""
        before = self.contents()
        call()
        assert self.contents() == before

    def contents(self) -> Any:
        """Return the data of all runs."""
        return [self.rows(table) for table in TABLES]

    def tokens(self) -> list[str]:
        return [
            token for path in sorted(self.folder.glob("*.tokens")) for token in path.read_text().split()[1::2]
        ]

    def run_of(self, id: str) -> Run:
        run = self.store.runs.get("default", id)
        assert run is not None
        return run

    def visit_of(self, claim: Claim) -> Visit:
        found = [visit for visit in self.store.runs.visits(claim.run.id) if visit.id == claim.visit.id]
        return found[0] if found else claim.visit

    def visits(self, id: str) -> list[Visit]:
        return [visit for visit in self.store.runs.visits(id) if not visit.step.startswith("@")]

    @property
    def file(self) -> SqliteFile:
        assert isinstance(self.store, SqliteStore)
        return self.store.file

    def rows(self, table: str, run_id: str | None = None) -> list[dict[str, Any]]:
        where, values = ("", {}) if run_id is None else (" where run_id = :id", {"id": run_id})
        return [dict(row) for row in self.file.fetch_all(f"select * from {table}{where}", **values)]

    def stack_of(self, id: str) -> BranchStack | None:
        """Return the branch stack of a run in sequential mode."""
        (row,) = self.file.fetch_all("select stack from runs where id = :id", id=id)
        return None if row["stack"] is None else BranchStack.from_json(json.loads(row["stack"]))

    def contents_of(self, id: str) -> str:
        rows = [self.file.fetch_all("select * from runs where id = :id", id=id)]
        rows += [
            self.file.fetch_all(f"select * from {table} where run_id = :id", id=id) for table in TABLES[1:-1]
        ]
        return json.dumps([[dict(row) for row in found] for found in rows])

    def end_of(self, id: str) -> MachineRunEnd:
        run = self.run_of(id)
        return MachineRunEnd(
            run.status.value,
            run.result,
            Counter((v.step, v.number, v.status.value, v.attempt) for v in self.visits(id)),
            Counter(error["type"] for error in run.errors),
        )

    def history_of(self, id: str) -> Counter[str]:
        """Return the events without time, order, worker and the id of the run.

        The number of suspensions is left out, because it depends on time. So are pauses, and the events that
        the rule `renew` has written.
        """
        history: Counter[str] = Counter()
        for event in self.store.runs.events(id, limit=10_000):
            if event.type == "step.waiting" or event.type.endswith("paused") or "renewal" in event.payload:
                continue
            payload = {
                n: v
                for n, v in event.payload.items()
                if n not in ("worker", "next_attempt_at", "wait_seconds")
            }
            entry = json.dumps([event.type, event.step, event.visit, event.attempt, payload])
            history[entry.replace(id, "ID")] += 1
        return history


class MemoryStoreMachine(StoreMachine):
    """The same with a store in memory."""

    def open_store(self) -> Store:
        return MemoryStore()

    @property
    def state(self) -> MemoryState:
        assert isinstance(self.store, MemoryStore)
        return self.store.state

    def contents(self) -> Any:
        state = self.state
        return str((state.tokens, state.idempotency_keys)), [self.contents_of(id) for id in state.runs]

    def stack_of(self, id: str) -> BranchStack | None:
        return self.state.runs[id].stack

    def contents_of(self, id: str) -> str:
        return str(vars(self.state.runs[id]))

    def rows(self, table: str, run_id: str | None = None) -> list[dict[str, Any]]:
        assert run_id is not None
        record = self.state.runs[run_id]
        if table == "joins":
            return [{"step": step, "live": live} for step, live in record.live.items()]
        return [{"step": step} for step, branches in record.arrivals.items() for _ in branches]


def fragile_function(call: Call) -> None:
    """Fail if the argument is false. This replaces a function that would need a process."""
    if not call.parameters["args"][0]:
        raise ActionError("FunctionFailed", "the argument is false")


@pytest.fixture(autouse=True)
def fragile_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "noetl.executor.engine.attempts.handler",
        lambda name: fragile_function if name == "python" else handler(name),
    )


def run_machine(
    examples: int = settings().max_examples // 2,
    machine: type[StoreMachine] = StoreMachine,
    **options: Any,
) -> None:
    machine_settings = settings(
        max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck), **options
    )
    run_state_machine_as_test(machine, settings=machine_settings)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [StoreMachine, MemoryStoreMachine])
def test_invariants_hold_for_random_actions(machine: type[StoreMachine]) -> None:
    run_machine(machine=machine)


def count_merged_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count merged branches as several."""

    def mutant(*args: Any) -> tuple[Branch, dict[str, int], int]:
        branch, _, _ = merge_arrivals(*args)
        return branch, {}, 0

    monkeypatch.setattr("noetl.executor.stores.sql.branches.merge_arrivals", mutant)


def accept_any_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept an outcome with any fence."""
    write = sql_queue.write_outcome

    def mutant(db: Any, visit: Visit, *rest: Any, **options: Any) -> Any:
        query = "update visits set fence = :fence, status = 'running' where run_id = :run_id and id = :id"
        db.execute(query, fence=visit.fence, run_id=visit.run_id, id=visit.id)
        return write(db, visit, *rest, **options)

    monkeypatch.setattr(sql_queue, "write_outcome", mutant)


def forget_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a cancelled run open if no visit of it is executed."""
    monkeypatch.setattr(BranchTransaction, "stop_run", lambda _: None)


@pytest.mark.parametrize("mutate", [count_merged_branches, accept_any_fence, forget_to_end])
def test_a_mutant_violates_an_invariant(
    monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """The machine itself is tested by deliberate bugs."""
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        run_machine(examples=1_000, derandomize=True, phases=[Phase.generate])
