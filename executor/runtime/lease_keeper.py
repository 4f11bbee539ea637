"""The claims that a process has at work: kept alive while they are, and given up when their run is cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import StoreError
from noetl.executor.model.run import Claim
from noetl.executor.model.special_visits import finally_visit_id
from noetl.executor.stores.interface import Store

CANCEL_POLL_SECONDS = 0.5
"""How often a process with work at hand looks whether the runs it is for have been cancelled."""

logger = logging.getLogger("noetl.executor")


@dataclass(slots=True, eq=False, repr=False)
class HeldClaim:
    """A claim that a thread walks, since when on the monotonic clock, how its work is given up, and what it has to tell."""

    claim: Claim
    since: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: EventBuffer = field(default_factory=EventBuffer)

    def is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self.since >= seconds


class LeaseKeeper:
    """The claims that threads of this process walk; each holds for `lease_seconds` unless it is renewed, which is done every third
    of that. Work that has gone on for a third is told of with the renewal; of what is done sooner the commit tells.
    """

    def __init__(self, store: Store, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._held: dict[tuple[str, str], HeldClaim] = {}
        self._lock = threading.Lock()

    def execute(self, walker: VisitExecutor, claim: Claim) -> Claim | None:
        """What the walker returns for the claim, which is at work until then."""
        held = HeldClaim(claim, time.monotonic())
        with self._lock:
            self._held[claim.run.id, claim.visit.id] = held
        try:
            return walker.execute(claim, held.cancelled, held.events)
        finally:
            with self._lock:
                self._held.pop((claim.run.id, claim.visit.id), None)

    def renew_until(
        self, finished: threading.Event, every_third: Callable[[], object] = lambda: None
    ) -> None:
        """Look after the claims at work until it is all finished. `every_third` is called whenever they have been renewed."""
        third = self._lease_seconds / 3
        renew_at = time.monotonic() + third
        while not finished.wait(min(CANCEL_POLL_SECONDS, third)):
            try:
                self._notice_cancelled()
                if time.monotonic() < renew_at:
                    continue
                renew_at = time.monotonic() + third
                for held in self._at_work():
                    self._renew(held, held.events if held.is_older_than(third) else None)
                every_third()
            except StoreError:
                # Of a process that has stopped the store may be closed.
                if not finished.is_set():
                    logger.exception("the store failed; claims are renewed when it is back")
            except Exception:
                logger.exception("claims could not be looked after; they are again at the next look")

    def _renew(self, held: HeldClaim, telling: EventBuffer | None) -> None:
        """Renew a claim. One that cannot be renewed for a bug keeps none of the others from it."""
        try:
            renew_claim(self._store, held.claim, self._clock() + self._lease_seconds, telling)
        except StoreError:
            raise
        except Exception:
            logger.exception("a claim of run %s could not be renewed; it is tried again", held.claim.run.id)

    def release_all(self) -> None:
        """Let the visits at work be due at once for others, and give up their work here."""
        for held in self._at_work():
            run, visit = held.claim.run, held.claim.visit
            # What may be done once only has been begun, and that must not be forgotten.
            with suppress(StoreError):
                counts = (
                    not visit.step.startswith("@")
                    and self._store.plan_step(run.plan_hash, visit.step).at_most_once
                )
                self._store.release(run.id, visit.id, visit.fence, self._clock(), counts=counts)
            held.cancelled.set()

    def _at_work(self) -> list[HeldClaim]:
        with self._lock:
            return list(self._held.values())

    def _notice_cancelled(self) -> None:
        at_work = self._at_work()
        cancelled = (
            self._store.cancelled_runs(sorted({held.claim.run.id for held in at_work})) if at_work else ()
        )
        for held in at_work:
            run, visit = held.claim.run, held.claim.visit
            if run.id in cancelled and visit.id != finally_visit_id(run.resumes):
                held.cancelled.set()


def renew_claim(store: Store, claim: Claim, until: float, telling: EventBuffer | None = None) -> None:
    """Renew a claim, and tell what its work has to tell so far."""
    run, visit = claim.run, claim.visit
    if telling is None:
        store.renew(run.id, visit.id, visit.fence, until)
    else:
        telling.flush_batch(
            lambda events, told: store.renew(run.id, visit.id, visit.fence, until, events, told)
        )
