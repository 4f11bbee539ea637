"""The claims that a process has at work: kept alive while they are, and given up when their run is cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from executor.errors import StoreError
from executor.records import Claim
from executor.start import last_visit_id
from executor.stores.store import Store
from executor.walk import Walker

LOOK_SECONDS = 0.5
"""How often a process with work at hand looks whether the runs it is for have been cancelled."""

logger = logging.getLogger("noetl.executor")


class Keeper:
    """The claims that threads of this process walk; each holds for `lease_seconds` unless it is renewed."""

    def __init__(self, store: Store, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._held: dict[tuple[str, str], tuple[Claim, threading.Event]] = {}
        self._lock = threading.Lock()

    def walk(self, walker: Walker, claim: Claim) -> Claim | None:
        """What the walker returns for the claim, which is at work until then."""
        given_up = threading.Event()
        with self._lock:
            self._held[claim.run.id, claim.visit.id] = (claim, given_up)
        try:
            return walker.walk(claim, given_up)
        finally:
            with self._lock:
                self._held.pop((claim.run.id, claim.visit.id), None)

    def keep(self, finished: threading.Event, every_lease: Callable[[], object] = lambda: None) -> None:
        """Look after the claims at work until it is all finished. `every_lease` is called whenever they have been renewed."""
        renew_at = time.monotonic() + self._lease_seconds / 3
        while not finished.wait(min(LOOK_SECONDS, self._lease_seconds / 3)):
            try:
                self._notice_cancelled()
                if time.monotonic() < renew_at:
                    continue
                renew_at = time.monotonic() + self._lease_seconds / 3
                for claim, _ in self._at_work():
                    until = self._clock() + self._lease_seconds
                    self._store.renew(claim.run.id, claim.visit.id, claim.visit.fence, until)
                every_lease()
            except StoreError:
                # Of a process that has stopped the store may be closed.
                if not finished.is_set():
                    logger.exception("the store failed; claims are renewed when it is back")

    def give_back(self) -> None:
        """Let the visits at work be due at once for others, and give up their work here."""
        for claim, given_up in self._at_work():
            run, visit = claim.run, claim.visit
            # What may be done once only has been begun, and that must not be forgotten.
            with suppress(StoreError):
                counts = (
                    not visit.step.startswith("@") and self._store.plan_step(run.plan_hash, visit.step).at_most_once
                )
                self._store.release(run.id, visit.id, visit.fence, self._clock(), counts=counts)
            given_up.set()

    def _at_work(self) -> list[tuple[Claim, threading.Event]]:
        with self._lock:
            return list(self._held.values())

    def _notice_cancelled(self) -> None:
        held = self._at_work()
        cancelled = self._store.cancelled(sorted({claim.run.id for claim, _ in held})) if held else ()
        for claim, event in held:
            if claim.run.id in cancelled and claim.visit.id != last_visit_id(claim.run.resumes):
                event.set()
