"""Deterministic simulation of one run: one thread, a simulated clock, workers that fail or are late, and
operators.

After a fault the simulation acts as workers and operators do. After a crash, a new process claims what is due
once the lease has expired. After an error, the same process continues. Operators repeat a request until they
get a response.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

from noetl.executor.actions import handler
from noetl.executor.actions.action import Call
from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.item_threads import HelperCount
from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.engine.start import correct_input, new_run
from noetl.executor.errors import ActionError, RejectedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import NEVER, Claim, Lease, Run, RunEnding, RunStatus, Visit
from noetl.executor.model.run_entries import ended_entry
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.runtime.lease_keeper import renew_claim
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.security.redaction import CallbackTokens
from noetl.testing.run_harness import LEASE_SECONDS, FakeClock, compile_text
from tests.simulation.backends import StoreBackend
from tests.simulation.faults import Fault, FaultInjectingStore, SimulatedCrash
from tests.simulation.scenarios import CHILD, WORK, OperatorAct, Scenario

MAX_ROUNDS = 400
MAX_WAIT_SECONDS = 4 * 3600
LATE_AT = 1e12
"""When a run is late that has entries of the outbox."""

SUSPENDING_ACTIONS = frozenset({"wait", "callback", "workflow"})
_CHILD_PLAN = compile_text(CHILD.replace("WORK", WORK))


class InvariantViolation(AssertionError):
    """A violated invariant. `invariant` is its number in `tests/simulation/invariants.py`."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(invariant, message)
        self.invariant = invariant
        self.message = message

    def __str__(self) -> str:
        return f"{self.invariant}: {self.message}"


@dataclass
class Observations:
    """Performances of actions, claims and commits, observed outside the store."""

    performances: Counter[tuple[str, str, int, str, str]] = field(default_factory=Counter)
    """Performances of actions that do not suspend, by (playbook, step, visit, type, key)."""
    attempts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Performances of work that records its attempt, by (step, key, attempt)."""
    tokens: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    claims_of_visit: dict[tuple[str, str], list[Visit]] = field(default_factory=dict)
    """Claims of each (run, visit), the newest last."""
    finishes: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """Finishes of each (run, visit), by the number of resumes of its run."""


@dataclass(frozen=True)
class FinishedPlay:
    """A simulated run that has ended, with all that was observed."""

    run: Run
    visits: list[Visit]
    events: list[Event]
    children: list[Run]
    observations: Observations
    calls: list[tuple[str, str]]
    injected: list[tuple[str, Fault]]


def read_trigger(store: Any, scenario: Scenario) -> LiveTrigger:
    """Return the trigger of a scenario."""
    header = scenario.plan.header
    trigger: LiveTrigger = store.triggers.get("default", header.name, header.triggers[0].name)
    return trigger


class SimulatedWorld:
    """A simulation of scenarios on one backend. Each `play` starts with an empty store."""

    def __init__(self, backend: StoreBackend) -> None:
        self.backend = backend
        self.points = backend.points
        self.capabilities = local_run_capabilities(Path("/"))

    def play(
        self,
        scenario: Scenario,
        faults: Mapping[int, Fault] | None = None,
        check: Callable[[SimulatedWorld], object] | None = None,
    ) -> FinishedPlay:
        """Simulate a run of the scenario with these faults. `check` is called after every round.

        Raises:
            InvariantViolation: the run does not end, or a write with a lost claim was accepted.
        """
        self.scenario = scenario
        self.clock = FakeClock()
        self.observations = Observations()
        self.other_claims: list[Claim] = []
        self.executing: list[tuple[Claim, EventBuffer]] = []
        self.pending_acts = list(scenario.acts)
        self.current_act: OperatorAct | None = None
        self.run_id = self.queue = ""
        self.has_ended = False
        self.is_held = False
        self.points.restart({}, self.run_other_worker, self.pause_run)
        with self.test_doubles(), self.points.disabled():
            self.raw_store = self.backend.clear()
            self.raw_store.plans.save(_CHILD_PLAN)
            self.raw_store.registry.register(
                RegisteredPlaybook("default", "child", None, _CHILD_PLAN.hash, 0.0)
            )
            if self.scenario.is_fired:
                self._register_trigger()
            self.store: Any = self._wrap_store()
        self.points.restart(faults or {}, self.run_other_worker, self.pause_run)
        with self.test_doubles():
            for _ in range(MAX_ROUNDS):
                if self._play_round(check):
                    return self._finish()
        raise InvariantViolation("I6", "the run does not end")

    def _wrap_store(self) -> FaultInjectingStore:
        store = _EntryAddingPart(self.raw_store) if self.scenario.has_entries else self.raw_store
        return FaultInjectingStore(store, self.points, self._before_call, self._observe_call)

    def _play_round(self, check: Callable[[SimulatedWorld], object] | None) -> bool:
        """Perform one action, or advance the clock. Return whether nothing is left to do."""
        try:
            if self._act():
                return False
        except SimulatedCrash:
            with self.points.disabled():
                self.raw_store = self.backend.reopen()
            self.store = self._wrap_store()
            return False
        except StoreError:
            return False
        finally:
            if check is not None and self.run_id:
                with self.points.disabled():
                    check(self)
        with self.points.disabled():
            return self._advance()

    def _act(self) -> bool:
        """Perform one action. Return False if none is possible now."""
        if not self.run_id:
            self._start_run()
            return True
        if self.other_claims:
            claim = self.other_claims.pop()
            with self.points.disabled():
                self._execute(claim, "other")
            return True
        return self._act_as_operator() or self._execute_next()

    def _advance(self) -> bool:
        """Answer callbacks, or advance the clock to the next due visit.

        Return whether all runs have ended.
        """
        if self.answer_callbacks():
            return False
        for key in self.raw_store.gates.stalled(10):
            self.raw_store.gates.grant(key, self.clock())
        due = self.raw_store.queue.next_due(self.queue)
        runs = self.raw_store.runs.find(RunFilter())[0]
        is_act_due = any(run.id == self.run_id and self._is_act_due(run) for run in runs)
        if self.current_act is not None or is_act_due:
            return False
        if self.is_held:
            self.clock.advance(1.0)
            self._unpause()
            return False
        if all(run.status.is_final for run in runs):
            return True
        if due is None or due >= NEVER:
            raise InvariantViolation("I6", "the run is stuck")
        if due > self.clock() + MAX_WAIT_SECONDS:
            raise InvariantViolation("I6", "the run is stuck for a long time")
        self.clock.now = max(self.clock(), due)
        return False

    def _start_run(self) -> None:
        if self.scenario.is_fired:
            self._fire_trigger()
            return
        self.store.plans.save(self.scenario.plan)
        if self.scenario.earlier_input is not None:
            self._create_run(self.scenario.earlier_input, "earlier key", "service")
            stored_run = self._create_run(self.scenario.input, "key", "service")
        else:
            if self.scenario.has_earlier_run:
                self._create_run(self.scenario.input, "earlier key", "local")
                self.clock.advance(1.0)  # So that it is claimed first.
            stored_run = self._create_run(self.scenario.input, "key", "local")
        self.run_id, self.queue = stored_run.id, stored_run.queue

    def _create_run(self, input: Mapping[str, Any], key: str, origin: str) -> Run:
        plan = self.scenario.plan
        request = StartRequest(input, tags=("simulated=yes",), origin=origin, queue="local")
        run, first_visit = new_run(plan.header, plan.hash, request, now=self.clock())
        if self.scenario.has_entries:
            run = replace(run, late_at=LATE_AT)
        return cast("Run", self.store.runs.create(run, first_visit, (key, "body")))

    def _register_trigger(self) -> None:
        """Register the playbook of the scenario, and advance the clock until its trigger is due."""
        plan, now = self.scenario.plan, self.clock()
        self.raw_store.plans.save(plan)
        playbook = RegisteredPlaybook("default", plan.header.name, None, plan.hash, now)
        self.raw_store.registry.register(playbook, triggers=plan.header.triggers)
        due_at = read_trigger(self.raw_store, self.scenario).due_at
        assert due_at is not None
        self.clock.now = due_at

    def _fire_trigger(self) -> None:
        """Perform the trigger if it is due, as the loop of a worker does."""
        for trigger in self.store.triggers.due(self._read_clock(), 1):
            perform_due(self.store, trigger, self._read_clock())
        trigger = read_trigger(self.store, self.scenario)
        if trigger.last_run is None:
            self.clock.advance(1.0)
            return
        fired_run = self.store.runs.get("default", trigger.last_run)
        if fired_run is None:
            raise InvariantViolation("I16", "a trigger was performed, and its run does not exist")
        self.run_id, self.queue = fired_run.id, fired_run.queue

    def _act_as_operator(self) -> bool:
        with self.points.disabled():
            run = self.raw_store.runs.get("default", self.run_id)
            if self.current_act is None and self._is_act_due(run):
                self.current_act = self.pending_acts.pop(0)
        if self.current_act is None:
            return False
        # A request that is repeated after a fault may be rejected, because it had its effect before.
        with suppress(RejectedError):
            if self.current_act.command == "cancel":
                self.store.runs.stop(self.run_id, RunStatus.CANCELLED, self.clock())
            elif self.current_act.command in ("pause", "unpause"):
                getattr(self.store.pauses, self.current_act.command)(self.run_id, self.clock())
            else:
                header = self.scenario.plan.header
                deadline = None if header.timeout_seconds is None else self.clock() + header.timeout_seconds
                values = correct_input(header, run, self.current_act.input)
                self.store.runs.resume(self.run_id, self.clock(), deadline_at=deadline, values=values)
        self.current_act = None
        return True

    def _is_act_due(self, run: Run) -> bool:
        """Return whether the next act is due.

        All work that is due is done before, so that the act finds the same state in every simulation.
        """
        due = self.raw_store.queue.next_due(self.queue)
        is_idle = due is None or due > self.clock()
        return bool(self.pending_acts) and run.status is self.pending_acts[0].status and is_idle

    def _execute_next(self) -> bool:
        claim = self.store.queue.claim(self.queue, Lease("worker", LEASE_SECONDS), self._read_clock())
        if claim is None:
            return False
        self._execute(claim, "worker")
        return True

    def _execute(self, first_claim: Claim, worker: str) -> None:
        lease = Lease(worker, LEASE_SECONDS)
        executor = VisitExecutor(self.store, lease, self.capabilities, self._read_clock)
        next_claim: Claim | None = first_claim
        while next_claim is not None:
            claim = next_claim
            self.observations.claims.append(claim)
            next_claim = self.points.call(
                "queue",
                "delivery",
                lambda: self._execute_renewable(executor, claim),  # noqa: B023
            )

    def _execute_renewable(self, executor: VisitExecutor, claim: Claim) -> Claim | None:
        """Execute a visit, whose claim `_renew` can renew meanwhile."""
        execution = (claim, EventBuffer())
        self.executing.append(execution)
        try:
            return executor.execute(claim, None, execution[1])
        finally:
            self.executing.remove(execution)

    def _renew(self) -> None:
        """Renew the current claim as the lease keeper does. An error of the store does not stop the work."""
        claim, events = self.executing[-1]
        with suppress(StoreError):
            renew_claim(self.store, claim, self.clock() + LEASE_SECONDS, events)

    def run_other_worker(self, *, finish: bool) -> None:
        """Let the lease expire, and let another worker claim what is due. Fault points are disabled."""
        self.clock.advance(LEASE_SECONDS + 1)
        if not self.queue:
            return
        lease = Lease("other", LEASE_SECONDS)
        while (claim := self.store.queue.claim(self.queue, lease, self.clock())) is not None:
            if not finish:
                self.other_claims.append(claim)
                return
            self._execute(claim, "other")

    def pause_run(self, *, is_short: bool) -> None:
        """Pause the run as another operator, until nothing else is possible. Fault points are disabled.

        A short pause of a run that is paused already ends nothing: another operator may want it to stay.
        """
        if not self.run_id:
            return
        run = self.raw_store.runs.get("default", self.run_id)
        if is_short and run is not None and run.is_paused:
            return
        self._before_call("pause")
        with suppress(RejectedError):  # it is ending
            self.raw_store.pauses.pause(self.run_id, self.clock())
            self.is_held = True
            self._observe_call("pause", (), None)
        if is_short and self.is_held:
            self._unpause()

    def _unpause(self) -> None:
        with suppress(RejectedError):  # it has ended
            self.raw_store.pauses.unpause(self.run_id, self.clock())
        self.is_held = False
        self._observe_call("unpause", (), None)

    def answer_callbacks(self) -> bool:
        """Answer with every token that the run has sent. Return whether there was one."""
        tokens, self.observations.tokens = self.observations.tokens, []
        for token in tokens:
            try:
                self.raw_store.waits.answer(hash_secret(token), "yes", self.clock())
                self.observations.answers[token] = "yes"
            except RejectedError as error:
                self.observations.answers[token] = error.reason
        return bool(tokens)

    def _read_clock(self) -> float:
        return self.points.call("clock", "now", self.clock)

    def _before_call(self, name: str) -> None:
        if self.scenario.answers_before_commit and name == "commit":
            with self.points.disabled():
                self.answer_callbacks()

    def _observe_call(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Check the fences: every claim is newer than those before, and only the newest may commit."""
        if name == "claim" and result is not None:
            self._observe_claim(result.visit)
        elif name == "renew" and result:
            claimed: Visit = args[0]
            claims = self.observations.claims_of_visit.get((claimed.run_id, claimed.id), [])
            if any(claim.fence > claimed.fence for claim in claims):
                raise InvariantViolation("I9", "a claim was renewed that another worker holds")
        elif name in ("commit", "finish"):
            self._observe_commit(name, args[0].visit)
            if name == "commit" and result.following is not None:
                self._observe_claim(result.following)

    def _observe_claim(self, visit: Visit) -> None:
        claims = self.observations.claims_of_visit.setdefault((visit.run_id, visit.id), [])
        if claims and visit.fence <= claims[-1].fence:
            raise InvariantViolation(
                "I9", f"`{visit.step}` was claimed again, with a fence that is not newer"
            )
        claims.append(visit)

    def _observe_commit(self, name: str, visit: Visit) -> None:
        visit_key = (visit.run_id, visit.id)
        claims = self.observations.claims_of_visit.get(visit_key, [])
        newer_claims = [claim for claim in claims if claim.fence > visit.fence]
        if newer_claims and not _is_claim_after(newer_claims[0], visit):
            message = f"a commit of `{visit.step}` was accepted, though another worker holds its claim"
            raise InvariantViolation("I9", message)
        if visit.finished_at is not None or name == "finish":
            with self.points.disabled():
                finish_key = (*visit_key, self.raw_store.runs.get("default", visit.run_id).resumes)
            self.observations.finishes[finish_key] += 1
            if self.observations.finishes[finish_key] > 1:
                raise InvariantViolation("I2", f"a visit of `{visit.step}` was finished twice")

    @contextmanager
    def test_doubles(self) -> Iterator[None]:
        """Make actions fault points, and execute parallel work serially: a simulation is deterministic."""

        def fault_injecting_handler(type: str) -> Callable[[Call], Any]:
            return lambda call: self.points.call("action", type, lambda: self._perform(type, call))

        logging.disable(logging.WARNING)
        tokens = CallbackTokens()
        with (
            mock.patch("noetl.executor.security.redaction.CALLBACK_TOKENS", tokens),
            mock.patch("noetl.executor.engine.external.CALLBACK_TOKENS", tokens),
            mock.patch("noetl.executor.engine.attempts.handler", fault_injecting_handler),
            mock.patch("noetl.executor.engine.item_threads.process_helpers", lambda: HelperCount(0)),
        ):
            try:
                yield
            finally:
                logging.disable(logging.NOTSET)

    def _perform(self, type: str, call: Call) -> Any:
        if self.has_ended and (type == "workflow" or self.scenario.has_cache):
            # A worker that has lost its claim may still start a run or save a cached result. Both are valid,
            # and would change what is compared.
            raise ActionError("Late", "no run is started, and no result is saved after the end")
        if self.scenario.renews_claims and not self.has_ended:
            self._renew()
        fields = call.parameters.get("fields") or {}
        if "token" in fields:
            self.observations.tokens.append(fields["token"])
        elif type not in SUSPENDING_ACTIONS:
            labels = call.labels
            key = (labels["run"], labels["step"], labels["visit"], type, call.idempotency_key)
            self.observations.performances[key] += 1
            if "attempt" in fields:
                attempt_key = (labels["step"], call.parameters["message"], fields["attempt"])
                self.observations.attempts[attempt_key] += 1
        return handler(type)(call)

    def _finish(self) -> FinishedPlay:
        with self.points.disabled():
            run = self.raw_store.runs.get("default", self.run_id)
            events = self.raw_store.runs.events(self.run_id, limit=10_000)
            children = [
                child for child in self.raw_store.runs.find(RunFilter())[0] if child.id != self.run_id
            ]
            visits = self.raw_store.runs.visits(self.run_id)
        self.has_ended = True
        calls, injected = list(self.points.calls), list(self.points.injected)
        return FinishedPlay(run, visits, events, children, self.observations, calls, injected)


class _EntryAddingPart:
    """A store, or its queue, that adds an entry to the outbox at each end of a run."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._part, name)
        return _EntryAddingPart(attribute) if name == "queue" else attribute

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> Any:
        """End a run with an entry."""
        entry = ended_entry(claim.run, ending.status, now)
        return self._part.finish(claim, replace(ending, outbox=(entry,)), now)


def _is_claim_after(newer: Visit, committed: Visit) -> bool:
    """Return whether `newer` claims what the commit has left.

    A commit may be observed after the next claim, because it does more after its write. A commit resets the
    count of claims. So claims are counted from its fence, which they are not if the claim was taken from its
    holder.
    """
    return newer.claims == newer.fence - committed.fence
