"""A worker: threads that claim and execute due visits, one that renews claims, and those of triggers."""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import field

from noetl.executor.channels.sender import Sender
from noetl.executor.engine.delivery import Courier
from noetl.executor.engine.evaluation import Evaluator, evaluated_by
from noetl.executor.engine.external import FindPlaybook, read_public_url
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.item_threads import read_item_threads
from noetl.executor.engine.kept_data import keeps_inputs
from noetl.executor.engine.quotas import check_quota_settings
from noetl.executor.engine.run_log import log_run_end
from noetl.executor.errors import DamagedRunError, SettingError, StoreError
from noetl.executor.model.run import SERVICE_QUEUE, Claim, Lease, Run
from noetl.executor.model.worker_identity import process_name
from noetl.executor.precedence import working_for
from noetl.executor.runtime.folder_loop import FolderLoop
from noetl.executor.runtime.lease_keeper import LeaseKeeper, read_lease_seconds
from noetl.executor.runtime.limit_loop import LimitLoop
from noetl.executor.runtime.notification_loop import NotificationLoop
from noetl.executor.runtime.persistent_store import make_persistent
from noetl.executor.runtime.queue_loop import QueueLoop
from noetl.executor.runtime.store_failures import CLAIM, EXECUTE, StoreFailures
from noetl.executor.runtime.tenant_shares import TenantShares
from noetl.executor.runtime.trigger_loop import TriggerLoop
from noetl.executor.security.capabilities import Capabilities, service_capabilities
from noetl.executor.security.process_privacy import hide_process
from noetl.executor.security.secret_sources import register_local_secrets
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen

IDLE_SECONDS = 0.5
"""How long a thread waits for a change signal before it polls the store, which other processes write as well.
"""

POLL_PAUSE_SECONDS = 0.005
"""How long a thread that waits for a run leaves the store to the workers before it polls again."""

MAX_DAMAGED_RUNS = 1000
"""How many damaged runs a worker remembers, so that a caller that waits for one learns of it."""

MAX_OUTAGE_SECONDS = 10.0
"""How long the store may fail before the threads that wait for a run get the error."""

TURN_SECONDS = 0.25
"""How long a thread of a service continues with the visits of one run. Then it claims the next visit in turn.
"""

RETENTION_PAUSE_SECONDS = 5.0
"""How often, on average, a worker deletes runs that are older than the retention."""

DELETION_PAUSE_SECONDS = 0.01
"""The pause between two deletions while more runs are too old."""

LOG_PAUSE_SECONDS = 0.25
"""How often a worker lets the store write its log back."""

SWEEP_SECONDS = 60.0
"""How often, on average, a worker searches for runs that no worker would continue."""

logger = logging.getLogger("noetl.executor")


def read_thread_count(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many threads execute visits: `NOETL_WORKERS`, or four for each core, because steps mostly
    wait.

    Raises:
        SettingError: the setting is not a whole number from 1 to 1,000.
    """
    text = environ.get("NOETL_WORKERS", str(4 * (os.cpu_count() or 1)))
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1000:
        raise SettingError(f"NOETL_WORKERS is {text!r}; it must be a whole number from 1 to 1000.")
    return int(text)


def read_spare_thread_count(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many more threads serve tenants that occupy fewer threads than `NOETL_WORKERS`.

    Raises:
        SettingError: the setting `NOETL_SPARE_WORKERS` is not a whole number from 0 to 1,000.
    """
    text = environ.get("NOETL_SPARE_WORKERS", "1")
    if not text.isdecimal() or len(text) > 4 or int(text) > 1000:
        raise SettingError(f"NOETL_SPARE_WORKERS is {text!r}; it must be a whole number from 0 to 1000.")
    return int(text)


@frozen
class WorkerSettings:
    """The settings of a worker.

    It executes the visits of one `queue`: that of the service, or of a local run and its child runs. One
    tenant occupies at most `threads` threads, and `spare_threads` more serve the other tenants. A claim is
    valid for `lease_seconds` unless it is renewed. `find_playbook` finds the playbooks of child runs, by
    default in the registry. `public_url` is the base URL of callbacks. `evaluator` evaluates what firings
    need; None is the thread that fires.
    """

    capabilities: Capabilities
    threads: int = field(default_factory=read_thread_count)
    lease_seconds: float = field(default_factory=read_lease_seconds)
    public_url: str | None = None
    queue: str = SERVICE_QUEUE
    find_playbook: FindPlaybook | None = None
    spare_threads: int = 0
    evaluator: Evaluator | None = None

    @property
    def all_threads(self) -> int:
        """Threads that execute visits, for all tenants together."""
        return self.threads + self.spare_threads


def read_worker_settings(
    environ: Mapping[str, str] = os.environ, *, threads: int | None = None
) -> WorkerSettings:
    """Return the settings of a worker of the service. `threads` replaces `NOETL_WORKERS`.

    Raises:
        SettingError: a setting is invalid.
    """
    read_item_threads(environ)
    return WorkerSettings(
        service_capabilities(environ),
        threads or read_thread_count(environ),
        read_lease_seconds(environ),
        read_public_url(environ),
        spare_threads=read_spare_thread_count(environ),
    )


class Worker:
    """A worker that claims visits and executes them.

    `repaired` counts the runs that sweeps of this worker have repaired.
    """

    def __init__(self, store: Store, settings: WorkerSettings) -> None:
        self._store = store
        self._settings = settings
        self._queue = settings.queue
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._lease_keeper = LeaseKeeper(store, settings.lease_seconds, store.clock)
        self._failures = StoreFailures(self._stopping)
        self._sweep_at = 0.0
        self._damaged: OrderedDict[str, DamagedRunError] = OrderedDict()
        self.repaired = 0
        self._shares = TenantShares(settings.threads)
        # A queue outside of the store has turns of its own, and a claim may wait for its messages.
        spare = settings.spare_threads if store.queue.claims_in_turn else 0
        names = [f"noetl-walk-{index}" for index in range(settings.threads + spare)]
        self._threads = [
            threading.Thread(target=self._execute_visits, args=(name,), name=name, daemon=True)
            for name in names
        ]
        self._renewal = threading.Thread(target=self._renew_claims, name="noetl-lease", daemon=True)
        self._retention = threading.Thread(target=self._tend_store, name="noetl-retention", daemon=True)
        limits, loop = LimitLoop(store, self._stopping), TriggerLoop(store, self._stopping)
        folders = FolderLoop(store, settings.capabilities, self._stopping)
        sender = Sender(
            settings.capabilities.networks,
            settings.capabilities.secret_hosts,
            stopping=self._stopping,
            buses=settings.capabilities.event_buses,
        )
        notifications = NotificationLoop(Courier(store, sender, settings.public_url), self._stopping)
        loops = {"noetl-triggers": loop.run, "noetl-notifications": notifications.run}
        if folders.is_needed:
            loops["noetl-folders"] = folders.run
        queues = QueueLoop(store, settings.capabilities.trigger_sources, self._stopping)
        if queues.is_needed:
            loops["noetl-queues"] = queues.run
        # A local run has a queue of its own, no triggers and no notifications.
        loops = {"noetl-limits": limits.run, **(loops if self._queue == SERVICE_QUEUE else {})}
        self._loops = [
            threading.Thread(target=_run_loop, args=(run, settings.evaluator), name=name, daemon=True)
            for name, run in loops.items()
        ]

    def start(self) -> None:
        """Start to execute visits. Take over the claims of dead workers of this machine at once.

        Raises:
            SettingError: a setting is invalid, or the store does not count what a quota limits.
        """
        hide_process()
        if self._queue == SERVICE_QUEUE:
            check_quota_settings(self._store)
        keeps_inputs()
        register_local_secrets()
        self._store.queue.release_dead(self._queue, self._store.clock())
        for thread in (*self._threads, self._renewal, self._retention, *self._loops):
            thread.start()

    def stop(self, *, drain: bool = True, timeout_seconds: float | None = None) -> None:
        """Stop claiming visits. With `drain`, wait until active steps are committed, or for the timeout.

        Release the claims that are still active, so that another worker can execute their visits, and abandon
        their work here. Visits are due at once, or when commands of this process have ended.
        """
        self._stopping.set()
        self._store.work.notify()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for thread in (*self._threads, *self._loops) if drain else ():
            if thread.ident is not None:
                thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        self._finished.set()
        self._lease_keeper.release_all()
        for thread in (self._renewal, self._retention) if drain else ():
            if thread.is_alive():
                thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def wait_until_finished(self, tenant: str, run_id: str, timeout_seconds: float | None = None) -> Run:
        """Return the run when it has ended, or as it is after the timeout.

        Raises:
            DamagedRunError: this worker has set the run aside.
            StoreError: the store has failed for too long.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            seen = self._store.changes.count
            self._raise_after_outage()
            self.check_damage(run_id)
            run = self._store.runs.get(tenant, run_id)
            if run is None:
                raise StoreError(f"The store has no run {run_id}.")
            remaining = IDLE_SECONDS if deadline is None else min(deadline - time.monotonic(), IDLE_SECONDS)
            if run.status.is_final or remaining <= 0:
                return run
            self._store.changes.wait(seen, remaining)
            time.sleep(min(remaining, POLL_PAUSE_SECONDS))

    def check_damage(self, run_id: str) -> None:
        """Check that this worker has not set a run aside.

        Raises:
            DamagedRunError: it has, for this reason.
        """
        if run_id in self._damaged:
            raise self._damaged[run_id]

    def _execute_visits(self, name: str) -> None:
        """Claim and execute visits until the worker stops."""
        settings = self._settings
        lease = Lease(f"{process_name()}/{name}", settings.lease_seconds)
        turn_ends_at = math.inf
        executor = VisitExecutor(
            make_persistent(self._store, self._failures),
            lease,
            settings.capabilities,
            self._store.clock,
            continues=lambda: not self._stopping.is_set() and time.monotonic() < turn_ends_at,
            find_playbook=settings.find_playbook,
            public_url=settings.public_url,
            on_run_end=lambda run, ending: log_run_end(run, ending, self._store.clock()),
        )
        while not self._stopping.is_set():
            if not self._lease_keeper.may_claim:
                self._stopping.wait(IDLE_SECONDS)
                continue
            seen = self._store.work.count
            is_idle = True
            kind = CLAIM
            try:
                claim = self._claim(lease)
                self._failures.clear(CLAIM)
                kind = EXECUTE
                if self._queue == SERVICE_QUEUE:
                    turn_ends_at = time.monotonic() + TURN_SECONDS
                if claim is not None:
                    self._execute_chain(executor, claim)
                    is_idle = False
            except StoreError as error:
                self._failures.record(kind, error)
                # Workers that keep an outcome try again sooner, so they come first when the store is back.
                self._stopping.wait(IDLE_SECONDS)
            except Exception:
                logger.exception("a step could not be executed; it is retried when its claim expires")
            if is_idle and not self._stopping.is_set():
                self._store.work.wait(seen, self._idle_seconds())

    def _execute_chain(self, executor: VisitExecutor, first: Claim) -> None:
        """Execute a claimed visit, and those that its commit and later ones claim."""
        tenant = first.run.tenant
        claim: Claim | None = first
        try:
            with working_for(tenant) if self._queue == SERVICE_QUEUE else nullcontext():
                while claim is not None:
                    claim = self._lease_keeper.execute(executor, claim)
                    self._failures.clear(EXECUTE)
        except DamagedRunError as error:
            if claim is not None:
                self._release_unread(claim)
            self._set_aside(error.run_id or first.run.id, error)
        finally:
            self._shares.release(tenant)

    def _release_unread(self, claim: Claim) -> None:
        """Give up the claim of a damaged run. It does not count, so the run can be put back repeatedly."""
        with suppress(StoreError):  # the release may meet the same damage
            self._store.queue.release(claim.visit, self._store.clock(), counts=False)

    def _set_aside(self, run_id: str, error: DamagedRunError) -> None:
        """Set a damaged run aside, so that the other runs continue."""
        self._damaged[run_id] = error
        while len(self._damaged) > MAX_DAMAGED_RUNS:
            self._damaged.popitem(last=False)
        self._store.maintenance.set_aside(run_id, error.message)

    def _claim(self, lease: Lease) -> Claim | None:
        """Claim a visit of a tenant that may occupy another thread."""
        queue = self._store.queue
        while True:
            try:
                if not queue.claims_in_turn:
                    return queue.claim(self._queue, lease, self._store.clock())
                return self._shares.claim(
                    lambda passed_over: queue.claim(self._queue, lease, self._store.clock(), passed_over)
                )
            except DamagedRunError as error:
                if error.run_id is None:
                    raise
                self._set_aside(error.run_id, error)

    def _raise_after_outage(self) -> None:
        """Raise the error of the store if it has failed for too long.

        An outcome that the store refuses is kept for a lease longer.
        """
        self._failures.raise_after(CLAIM, MAX_OUTAGE_SECONDS)
        self._failures.raise_after(EXECUTE, MAX_OUTAGE_SECONDS + self._settings.lease_seconds)

    def _idle_seconds(self) -> float:
        if self._shares.has_full_tenant():
            # Its due visits wait for its own threads.
            return IDLE_SECONDS
        try:
            now = self._store.clock()
            due_at = self._store.queue.next_due(self._queue, now + IDLE_SECONDS)
        except StoreError:
            return IDLE_SECONDS
        return IDLE_SECONDS if due_at is None else max(due_at - now, 0.001)

    def _renew_claims(self) -> None:
        """Renew the active claims, take over those of dead workers, and sweep the store."""
        self._sweep_at = time.monotonic()
        self._lease_keeper.renew_until(self._finished, self._take_over_and_sweep)

    def _take_over_and_sweep(self) -> None:
        self._store.queue.release_dead(self._queue, self._store.clock())
        if time.monotonic() >= self._sweep_at:
            self.repaired += self._store.maintenance.sweep(self._store.clock()).repaired
            # A random interval spreads the sweeps of workers that were started together.
            self._sweep_at = time.monotonic() + random.uniform(SWEEP_SECONDS / 2, SWEEP_SECONDS * 3 / 2)

    def _tend_store(self) -> None:
        """Write the log of the store back, and delete runs that are older than the retention.

        Runs are deleted a few at a time, so that commits wait for none.
        """
        deletes_at = time.monotonic() + self._retention_pause()
        pause = LOG_PAUSE_SECONDS
        while not self._finished.wait(pause):
            try:
                self._store.maintenance.write_log_back()
                if time.monotonic() >= deletes_at:
                    is_left = self._store.maintenance.delete_old(self._store.clock())
                    deletes_at = time.monotonic() + (
                        DELETION_PAUSE_SECONDS if is_left else self._retention_pause()
                    )
                pause = min(LOG_PAUSE_SECONDS, max(deletes_at - time.monotonic(), 0.0))
            except StoreError as error:
                pause = self._retention_pause()
                if not self._finished.is_set():
                    logger.warning(
                        "the log could not be written back, or old runs could not be deleted;"
                        " trying again: %s",
                        error,
                    )

    def _retention_pause(self) -> float:
        """Return a random pause, which spreads the deletions of workers that were started together."""
        return random.uniform(RETENTION_PAUSE_SECONDS / 2, RETENTION_PAUSE_SECONDS * 3 / 2)


def _run_loop(run: Callable[[], None], evaluator: Evaluator | None) -> None:
    """Run a loop whose expressions an evaluator evaluates."""
    with evaluated_by(evaluator):
        run()
