"""The lease keeper: the claims that this process executes, and the thread that renews their leases.

Problem: a claim is valid for a limited time, so that other workers can take over the visits of a worker that
died. A worker that is alive must keep its claims, although a step may run for hours.

Algorithm: leases with fencing. Each claim increments the fence of its visit. The store refuses a write with
an older fence, so two workers can never both commit a visit. One thread renews all claims every third of
the lease. The same thread polls for cancelled runs. Source: Gray and Cheriton 1989 (leases); Kleppmann 2016,
"How to do distributed locking" (fencing tokens).

A process that was stopped (by Ctrl-Z, or with its machine) finds its own leases expired. So does one whose
clock was set ahead. It claims nothing before it has renewed them. Then it waits until other processes of the
machine have renewed theirs.

Cost: one write for each active claim every third of the lease, and one read every `CANCEL_POLL_SECONDS`. A
claim that ends before the next renewal costs no write.

Limits: if the store fails for a whole lease, other workers take the claims; their commits win, and this
worker receives FencedError. Work with effects outside of the store may then run twice.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import PayloadTooLargeError, SettingError, StoreError
from noetl.executor.model.run import Claim
from noetl.executor.model.special_visits import finally_visit_id, is_pseudo_step
from noetl.executor.runtime.store_failures import FailureReasons
from noetl.executor.security.redaction import redacting_for
from noetl.executor.stores.interface import Store

CANCEL_POLL_SECONDS = 0.5
"""How often a process with active claims checks whether their runs were cancelled."""

LATE_PAUSE_SECONDS = 2 * CANCEL_POLL_SECONDS
"""How long a process claims nothing after a late renewal, because others on its machine may be late, too. For
a short lease it is two thirds of it.
"""

logger = logging.getLogger("noetl.executor")


def read_lease_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """Return how long a claim is valid: `NOETL_LEASE_SECONDS`, or 30.

    Raises:
        SettingError: the setting is not a number from 1 to 3600.
    """
    text = environ.get("NOETL_LEASE_SECONDS", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise SettingError(f"NOETL_LEASE_SECONDS is {text!r}; it must be a number of seconds from 1 to 3600.")
    return seconds


@dataclass(slots=True, eq=False, repr=False)
class HeldClaim:
    """A claim that a thread executes since `since` (on `time.monotonic`).

    Set `cancelled` to abandon its work. `events` are those that are not written yet. In these, the secrets of
    `redacted_tenant` are searched. `progress_age` is its age in seconds when the progress of its loops was
    written last.
    """

    claim: Claim
    since: float
    redacted_tenant: str | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: EventBuffer = field(default_factory=EventBuffer)
    progress_age: float = 0.5

    def takes_progress(self) -> bool:
        """Return whether the progress of a loop of a local run is to be written now, and note that it is.

        A person watches the run, so the next renewal would be too late. It is written at ages of some 1, 2,
        4 and 8 s, which costs few writes.
        """
        is_due = self.is_older_than(2 * self.progress_age)
        if self.claim.run.origin != "local" or not is_due or not self.events.has_progress:
            return False
        self.progress_age = time.monotonic() - self.since
        return True

    def is_older_than(self, seconds: float) -> bool:
        return time.monotonic() - self.since >= seconds


class LeaseKeeper:
    """The claims that threads of this process execute, each valid for `lease_seconds` unless it is renewed.

    Renewal happens every third of a lease. It also writes the events of claims that are older than that;
    those of younger claims are written by their commit.
    """

    def __init__(self, store: Store, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._held: dict[tuple[str, str], HeldClaim] = {}
        self._is_failing = False
        self._checked_at = clock()
        self._claims_from = -math.inf
        self._reasons = FailureReasons("claims are renewed when it is available again")
        self._lock = threading.Lock()

    @property
    def may_claim(self) -> bool:
        """False while active claims may seem expired: the store refuses renewals, or they are late.

        A thread must not take over a visit that another thread of its process still executes.
        """
        return not self._is_failing and time.monotonic() >= self._claims_from and not self._is_late()

    def _is_late(self) -> bool:
        """Return whether a lease may have expired since the active claims were checked last."""
        # The oldest of them was renewed a third of a lease before.
        return self._clock() - self._checked_at > self._lease_seconds * 2 / 3

    def execute(self, executor: VisitExecutor, claim: Claim) -> Claim | None:
        """Execute the claim and return the claim of the next visit, if any.

        The claim is active until then.
        """
        held = HeldClaim(
            claim,
            time.monotonic(),
            executor.capabilities.redacted_tenant(claim.run.tenant),
            events=EventBuffer(lambda events: self._spill(claim, events)),
        )
        with self._lock:
            self._held[claim.run.id, claim.visit.id] = held
        try:
            return executor.execute(claim, held.cancelled, held.events)
        finally:
            with self._lock:
                self._held.pop((claim.run.id, claim.visit.id), None)

    def renew_until(
        self, finished: threading.Event, after_renewal: Callable[[], object] = lambda: None
    ) -> None:
        """Renew the active claims until `finished` is set. Call `after_renewal` after each renewal."""
        third = self._lease_seconds / 3
        renew_at = time.monotonic() + third
        while not finished.wait(min(CANCEL_POLL_SECONDS, third)):
            try:
                if self._poll(is_due=time.monotonic() >= renew_at):
                    renew_at = time.monotonic() + third
                    after_renewal()
            except StoreError as error:
                # The store of a process that has stopped may be closed.
                if not finished.is_set():
                    self._reasons.log(error)
            except Exception:
                logger.exception(
                    "the active claims could not be checked; the next check is in %s s",
                    min(CANCEL_POLL_SECONDS, third),
                )

    def _poll(self, *, is_due: bool) -> bool:
        """Cancel claims of cancelled runs, renew claims if it is time, and return whether that was done.

        While the store refuses, each poll renews.
        """
        checked_at, is_late = self._clock(), self._is_late()
        try:
            self._cancel_claims()
            if not (is_due or is_late or self._is_failing):
                self._checked_at = checked_at
                for held in self._active():
                    if held.takes_progress():
                        self._renew(held, held.events)
                return False
            for held in self._active():
                self._renew(held, held.events if held.is_older_than(self._lease_seconds / 3) else None)
        except StoreError:
            self._is_failing = True
            raise
        if is_late:
            self._claims_from = time.monotonic() + min(LATE_PAUSE_SECONDS, self._lease_seconds * 2 / 3)
        self._checked_at = checked_at
        self._is_failing = False
        self._reasons.clear()
        return True

    def _renew(self, held: HeldClaim, events: EventBuffer | None) -> None:
        """Renew a claim. An unexpected error does not keep the other claims from being renewed."""
        try:
            with redacting_for(held.redacted_tenant):
                renew_claim(self._store, held.claim, self._clock() + self._lease_seconds, events)
        except StoreError:
            raise
        except Exception:
            logger.exception(
                "a claim of run %s could not be renewed; it is retried with the next renewal",
                held.claim.run.id,
            )

    def _spill(self, claim: Claim, events: EventBuffer) -> None:
        """Write a batch of events while the claim is executed. A failure is left to the next renewal.

        An event that is too large for the store is left to the commit, which fails then.
        """
        with suppress(StoreError, PayloadTooLargeError):
            renew_claim(self._store, claim, self._clock() + self._lease_seconds, events)

    def release_all(self) -> None:
        """Release all claims: abandon their work, and make its visits due for other workers.

        They are due at once, or when the commands of this process have ended, so that none runs twice. A
        claim must be lost before its command ends. Otherwise the step would fail.
        """
        from noetl.executor.actions._process import END_SECONDS, is_any_running

        pause = END_SECONDS if is_any_running() else 0.0
        for held in self._active():
            run, visit = held.claim.run, held.claim.visit
            # An `at_most_once` step has started, so its claim must count.
            with suppress(StoreError):
                counts = (
                    not is_pseudo_step(visit.step)
                    and self._store.plans.step(run.plan_hash, visit.step).at_most_once
                )
                self._store.queue.release(visit, self._clock() + pause, counts=counts)
            held.cancelled.set()

    def _active(self) -> list[HeldClaim]:
        with self._lock:
            return list(self._held.values())

    def _cancel_claims(self) -> None:
        """Cancel the work of cancelled runs, except for that of their finally steps."""
        active = self._active()
        run_ids = sorted({held.claim.run.id for held in active})
        cancelled = self._store.runs.cancelled_runs(run_ids) if active else ()
        for held in active:
            run, visit = held.claim.run, held.claim.visit
            if run.id in cancelled and visit.id != finally_visit_id(run.resumes):
                held.cancelled.set()


def renew_claim(store: Store, claim: Claim, until: float, events: EventBuffer | None = None) -> None:
    """Renew a claim until a time, and write the next batch of its events."""
    if events is None:
        store.queue.renew(claim.visit, until)
    else:
        events.flush_batch(
            lambda batch, already_written: store.queue.renew(claim.visit, until, batch, already_written)
        )
