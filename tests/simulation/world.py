"""One run in a world of one thread: a clock that stands still, workers that die or come too late, and operators.

The driver does what workers and those who start runs do after a fault: after a crash a new process claims what is due when
the lease is over; after an error the same one goes on; operators ask again until they have an answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from unittest import mock

from noetl.executor.actions import handler
from noetl.executor.actions.action import Call
from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import correct_input, new_run
from noetl.executor.errors import ActionError, RejectedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import NEVER, Claim, Lease, Run, RunStatus, Visit
from noetl.executor.runtime.lease_keeper import renew_claim
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.security.redaction import CallbackTokens

from tests.run_harness import LEASE_SECONDS, FakeClock, compile_text
from tests.simulation.corpus import CHILD, NOTE, Act, Scene
from tests.simulation.faults import Crash, Fault, WatchedStore
from tests.simulation.grounds import Ground

MOST_ROUNDS = 400
LONGEST_WAIT_SECONDS = 4 * 3600
SUSPENDING = frozenset({"wait", "callback", "workflow"})
_CHILD = compile_text(CHILD.replace("NOTE", NOTE))


class Violation(AssertionError):
    """Something that must hold of every run does not. `invariant` is its number in `tests/simulation/invariants.py`."""

    def __init__(self, invariant: str, message: str) -> None:
        super().__init__(invariant, message)
        self.invariant = invariant
        self.message = message

    def __str__(self) -> str:
        return f"{self.invariant}: {self.message}"


@dataclass
class Deeds:
    """What was seen to happen: performances of actions, claims and commits, from outside of the store."""

    performed: Counter[tuple[str, str, int, str, str]] = field(default_factory=Counter)
    """How often each (playbook, step, visit, type, key) was performed, where it does not wait."""
    attempts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How often each (step, key, attempt) was, of work that says which attempt it is."""
    tokens: list[str] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    claimed: dict[tuple[str, str], list[Visit]] = field(default_factory=dict)
    """The claims of each (run, visit), the newest last."""
    committed: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """How often each (run, visit) was finished, by how often its run had been resumed until then."""


@dataclass(frozen=True)
class Played:
    """A run that has ended, and how it came to that."""

    run: Run
    visits: list[Visit]
    events: list[Event]
    children: list[Run]
    deeds: Deeds
    points: list[tuple[str, str]]
    fired: list[tuple[str, Fault]]


class World:
    """Plays scenes on one ground, one after another."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.points = ground.points
        self.capabilities = local_run_capabilities(Path("/"))

    def play(
        self,
        scene: Scene,
        faults: Mapping[int, Fault] | None = None,
        check: Callable[[World], object] | None = None,
    ) -> Played:
        """A run of the scene with these faults. `check` is called after every round.

        Raises:
            Violation: the run does not end, or a claim that was lost has been believed.
        """
        self.scene = scene
        self.clock = FakeClock()
        self.deeds = Deeds()
        self.held: list[Claim] = []
        self.at_work: list[tuple[Claim, EventBuffer]] = []
        self.acts = list(scene.acts)
        self.asked: Act | None = None
        self.run_id = self.queue = ""
        self.is_over = False
        self.points.begin({}, self.overtaken)
        with self.doubles(), self.points.quiet():
            self.real = self.ground.empty()
            self.real.save_plan(_CHILD)
            self.real.register(RegisteredPlaybook("default", "child", None, _CHILD.hash, 0.0))
            self.store: Any = WatchedStore(self.real, self.points, self._before, self._note)
        self.points.begin(faults or {}, self.overtaken)
        with self.doubles():
            for _ in range(MOST_ROUNDS):
                if self._is_over(check):
                    return self._played()
        raise Violation("I6", "the run does not end")

    def _is_over(self, check: Callable[[World], object] | None) -> bool:
        """One round; whether there is nothing left to do."""
        try:
            if self._go_on():
                return False
        except Crash:
            with self.points.quiet():
                self.real = self.ground.again()
            self.store = WatchedStore(self.real, self.points, self._before, self._note)
            return False
        except StoreError:
            return False
        finally:
            if check is not None and self.run_id:
                with self.points.quiet():
                    check(self)
        with self.points.quiet():
            if self.answer():
                return False
            due = self.real.next_due(self.queue)
            runs = self.real.runs("default")[0]
            if self.asked is not None or any(run.id == self.run_id and self._is_time(run) for run in runs):
                return False
            if all(run.status.is_final for run in runs):
                return True
            if due is None or due >= NEVER:
                raise Violation("I6", "the run is stuck")
            if due > self.clock() + LONGEST_WAIT_SECONDS:
                raise Violation("I6", "the run is stuck for a long time")
            self.clock.now = max(self.clock(), due)
        return False

    def _go_on(self) -> bool:
        """Do one thing; False when there is nothing that can be done now."""
        if not self.run_id:
            self._start()
            return True
        if self.held:
            claim = self.held.pop()
            with self.points.quiet():
                self._walk(claim, "other")
            return True
        return self._act() or self._work()

    def _start(self) -> None:
        plan = self.scene.plan
        self.store.save_plan(plan)
        run, first = new_run(
            plan.header, plan.hash, self.scene.input, now=self.clock(), origin="local", queue="local"
        )
        found = self.store.create_run(run, first, ("key", "body"))
        self.run_id, self.queue = found.id, found.queue

    def _act(self) -> bool:
        with self.points.quiet():
            run = self.real.run("default", self.run_id)
            if self.asked is None and self._is_time(run):
                self.asked = self.acts.pop(0)
        if self.asked is None:
            return False
        try:
            if self.asked.do == "cancel":
                self.store.stop(self.run_id, RunStatus.CANCELLED, self.clock())
            else:
                header = self.scene.plan.header
                deadline = None if header.timeout_seconds is None else self.clock() + header.timeout_seconds
                values = correct_input(header, run, self.asked.input)
                self.store.resume(self.run_id, self.clock(), deadline_at=deadline, values=values)
        except RejectedError:
            pass
        self.asked = None
        return True

    def _is_time(self, run: Run) -> bool:
        """Whether the next act is due: all that can be done without it comes first, so that it finds the same every time."""
        due = self.real.next_due(self.queue)
        return bool(self.acts) and run.status is self.acts[0].when and (due is None or due > self.clock())

    def _work(self) -> bool:
        lease = Lease("worker", LEASE_SECONDS)
        claim = self.store.claim(self.queue, lease, self._now())
        if claim is None:
            return False
        self._walk(claim, "worker")
        return True

    def _walk(self, first: Claim, worker: str) -> None:
        walker = VisitExecutor(self.store, Lease(worker, LEASE_SECONDS), self.capabilities, self._now)
        claim: Claim | None = first
        while claim is not None:
            held = claim
            self.deeds.claims.append(held)
            claim = self.points.through("queue", "delivery", lambda: self._hold(walker, held))  # noqa: B023

    def _hold(self, walker: VisitExecutor, claim: Claim) -> Claim | None:
        """Walk, and be known for whoever renews claims."""
        at_work = (claim, EventBuffer())
        self.at_work.append(at_work)
        try:
            return walker.execute(claim, None, at_work[1])
        finally:
            self.at_work.remove(at_work)

    def _renew(self) -> None:
        """What another thread does when a third of a lease is over: where the store fails, the work goes on."""
        claim, telling = self.at_work[-1]
        with suppress(StoreError):
            renew_claim(self.store, claim, self.clock() + LEASE_SECONDS, telling)

    def overtaken(self, *, finish: bool) -> None:
        """The lease has run out, and another worker has come. Points are quiet."""
        self.clock.advance(LEASE_SECONDS + 1)
        if not self.queue:
            return
        lease = Lease("other", LEASE_SECONDS)
        while (claim := self.store.claim(self.queue, lease, self.clock())) is not None:
            if not finish:
                self.held.append(claim)
                return
            self._walk(claim, "other")

    def answer(self) -> bool:
        """Answer what the run has asked for, with every token that it gave; whether there was anything."""
        tokens, self.deeds.tokens = self.deeds.tokens, []
        for token in tokens:
            try:
                self.real.answer(hash_secret(token), "yes", self.clock())
                self.deeds.answered[token] = "yes"
            except RejectedError as problem:
                self.deeds.answered[token] = problem.reason
        return bool(tokens)

    def _now(self) -> float:
        return self.points.through("clock", "now", self.clock)

    def _before(self, name: str) -> None:
        if self.scene.prompt and name == "commit":
            with self.points.quiet():
                self.answer()

    def _note(self, name: str, args: tuple[Any, ...], answer: Any) -> None:
        """Watch the fences: a claim must be newer than every one before, and only the newest may commit."""
        if name == "claim" and answer is not None:
            self._issued(answer.visit)
        elif name == "renew" and answer:
            run_id, visit_id, fence, *_ = args
            if any(claim.fence > fence for claim in self.deeds.claimed.get((run_id, visit_id), [])):
                raise Violation("I9", "a claim was renewed that another worker has")
        elif name in ("commit", "finish"):
            visit: Visit = args[0].visit
            place = (visit.run_id, visit.id)
            newer = [claim for claim in self.deeds.claimed.get(place, []) if claim.fence > visit.fence]
            if newer and not _follows(newer[0], visit):
                raise Violation(
                    "I9", f"a commit of `{visit.step}` was taken, though another worker has its claim"
                )
            if visit.finished_at is not None or name == "finish":
                with self.points.quiet():
                    finish = (*place, self.real.run("default", visit.run_id).resumes)
                self.deeds.committed[finish] += 1
                if self.deeds.committed[finish] > 1:
                    raise Violation("I2", f"a visit of `{visit.step}` was finished twice")
            if name == "commit" and answer is not None:
                self._issued(answer)

    def _issued(self, visit: Visit) -> None:
        place = (visit.run_id, visit.id)
        claims = self.deeds.claimed.setdefault(place, [])
        if claims and visit.fence <= claims[-1].fence:
            raise Violation("I9", f"`{visit.step}` was claimed again, with a fence that is not newer")
        claims.append(visit)

    @contextmanager
    def doubles(self) -> Iterator[None]:
        """Actions are points; what goes together goes one after another, so that every run of a scene is the same."""

        def watched(type: str) -> Callable[[Call], Any]:
            return lambda call: self.points.through("action", type, lambda: self._perform(type, call))

        logging.disable(logging.WARNING)
        tokens = CallbackTokens()
        with (
            mock.patch("noetl.executor.security.redaction.CALLBACK_TOKENS", tokens),
            mock.patch("noetl.executor.engine.external.CALLBACK_TOKENS", tokens),
            mock.patch("noetl.executor.engine.attempts.handler", watched),
            mock.patch("noetl.executor.engine.perform.ThreadPoolExecutor", _Serial),
            mock.patch("noetl.executor.engine.loop.ThreadPoolExecutor", _Serial),
        ):
            try:
                yield
            finally:
                logging.disable(logging.NOTSET)

    def _perform(self, type: str, call: Call) -> Any:
        if self.is_over and type == "workflow":
            # What a worker does outside that has lost its claim, it does: starting a run is such a deed.
            raise ActionError("Late", "nothing is started any more")
        if self.scene.long and not self.is_over:
            self._renew()
        fields = call.parameters.get("fields") or {}
        if "token" in fields:
            self.deeds.tokens.append(fields["token"])
        elif type not in SUSPENDING:
            labels = call.labels
            place = (labels["run"], labels["step"], labels["visit"], type, call.idempotency_key)
            self.deeds.performed[place] += 1
            if "attempt" in fields:
                self.deeds.attempts[labels["step"], call.parameters["message"], fields["attempt"]] += 1
        return handler(type)(call)

    def _played(self) -> Played:
        with self.points.quiet():
            run = self.real.run("default", self.run_id)
            events = self.real.events(self.run_id, limit=10_000)
            children = [found for found in self.real.runs("default")[0] if found.id != self.run_id]
            visits = self.real.visits(self.run_id)
        self.is_over = True
        return Played(
            run, visits, events, children, self.deeds, list(self.points.seen), list(self.points.fired)
        )


def _follows(newer: Visit, commit: Visit) -> bool:
    """Whether the next claim is of what a commit has left. A commit that goes on after its write may be told of later than that: it has
    begun to count claims anew, and a claim that was taken from its holder is one more than those of the holder.
    """
    return newer.claims == newer.fence - commit.fence


class _Serial:
    """A pool of threads without threads."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [function(item) for item in items]

    def submit(self, function: Callable[[], Any]) -> Any:
        answer = function()
        return mock.Mock(result=lambda: answer)
