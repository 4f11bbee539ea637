"""A worker of this process: threads that claim what is due and walk it, and one that keeps their claims alive."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from noetl.executor.engine.external import FindPlaybook
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import SettingError, StoreError
from noetl.executor.model.run import SERVICE_QUEUE, Lease, Run
from noetl.executor.model.worker_identity import process_name
from noetl.executor.runtime.lease_keeper import LeaseKeeper
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.interface import Store

IDLE_SECONDS = 0.5
"""How long a thread waits for news before it asks the store, where another process may have written."""

LOOK_SECONDS = 0.005
"""How long whoever waits for a run leaves the store to those who walk it, before another look."""

PATIENCE_SECONDS = 10.0
"""How long the store may fail before those who wait for a run are told."""

CLAIM, WALK = "claim", "walk"
"""What a worker asks of the store."""

SWEEP_SECONDS = 60.0
"""How often a worker looks for runs that nothing would go on with."""

logger = logging.getLogger("noetl.executor")


def lease_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """How long a claim holds: `NOETL_LEASE_SECONDS`, or 30.

    Raises:
        SettingError: it is not a number of at least 1.
    """
    text = environ.get("NOETL_LEASE_SECONDS", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise SettingError(f"NOETL_LEASE_SECONDS is {text!r}; it must be a number of seconds from 1 to 3600.")
    return seconds


def thread_count(environ: Mapping[str, str] = os.environ) -> int:
    """How many threads walk: `NOETL_WORKERS`, or four for each core, since steps mostly wait for others.

    Raises:
        SettingError: it is not a whole number from 1 to 1,000.
    """
    text = environ.get("NOETL_WORKERS", str(4 * (os.cpu_count() or 1)))
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= 1000:
        raise SettingError(f"NOETL_WORKERS is {text!r}; it must be a whole number from 1 to 1000.")
    return int(text)


def public_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """How callbacks reach this service from outside: `NOETL_PUBLIC_URL`, or None.

    Raises:
        SettingError: it is not the http or https URL of a place that more can be appended to.
    """
    text = environ.get("NOETL_PUBLIC_URL", "").strip()
    if not text:
        return None
    try:
        parts = urlsplit(text)
        is_place = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_place = False
    if not is_place or not text.isprintable() or any(sign in text for sign in " ?#@"):
        example = "https://noetl.example.com"
        raise SettingError(
            f"NOETL_PUBLIC_URL is {text!r}; it must be an http or https URL such as {example}."
        )
    return text


class Worker:
    """Claims visits of one queue and walks them: those of the service, or those of a local run and the runs it starts.

    `find_playbook` finds the playbooks that runs start, in the registry unless given; `public_url` is how callbacks are
    reached. `repaired` is how many runs this worker has found that nothing would have gone on with.
    """

    def __init__(
        self,
        store: Store,
        *,
        capabilities: Capabilities,
        threads: int | None = None,
        queue: str = SERVICE_QUEUE,
        lease: float | None = None,
        clock: Callable[[], float] = time.time,
        find_playbook: FindPlaybook | None = None,
        public_url: str | None = None,
    ) -> None:
        self._store = store
        self._capabilities = capabilities
        self._queue = queue
        self._find_playbook = find_playbook
        self._public_url = public_url
        self._lease_seconds = lease_seconds() if lease is None else lease
        self._clock = clock
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._keeper = LeaseKeeper(store, self._lease_seconds, clock)
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[float, StoreError]] = {}
        """Since when claims, and walks of what was claimed, have come to nothing because the store failed."""
        self.repaired = 0
        count = thread_count() if threads is None else threads
        names = [f"noetl-walk-{index}" for index in range(count)]
        self._threads = [
            threading.Thread(target=self._work, args=(name,), name=name, daemon=True) for name in names
        ]
        self._keeping = threading.Thread(target=self._keep, name="noetl-keep", daemon=True)

    def start(self) -> None:
        """Begin to work. What dead workers of this machine held is taken over at once."""
        self._store.release_dead(self._queue, self._clock())
        for thread in (*self._threads, self._keeping):
            thread.start()

    def stop(self, *, drain: bool = True, timeout_seconds: float | None = None) -> None:
        """Claim nothing more. With `drain`, wait until the steps at work are committed or the time is over. The claims of
        those that are not are given back, so that whoever comes next begins them anew at once, and their work is given up.
        """
        self._stopping.set()
        self._store.work.notify()
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        for thread in self._threads if drain else ():
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        self._finished.set()
        self._keeper.release_all()
        if drain and self._keeping.is_alive():
            self._keeping.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def wait_until_finished(self, tenant: str, run_id: str, timeout_seconds: float | None = None) -> Run:
        """The run once it has ended, or as it is when the time is over."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            seen = self._store.changes.count
            self._lose_patience()
            run = self._store.run(tenant, run_id)
            if run is None:
                raise StoreError(f"There is no run {run_id} in the store.")
            left = IDLE_SECONDS if deadline is None else min(deadline - time.monotonic(), IDLE_SECONDS)
            if run.status.is_final or left <= 0:
                return run
            self._store.changes.wait(seen, left)
            time.sleep(min(left, LOOK_SECONDS))

    def _work(self, name: str) -> None:
        worker = f"{process_name()}/{name}"
        lease = Lease(worker, self._lease_seconds)
        walker = VisitExecutor(
            self._store,
            lease,
            self._capabilities,
            self._clock,
            continues=lambda: not self._stopping.is_set(),
            find_playbook=self._find_playbook,
            public_url=self._public_url,
        )
        while not self._stopping.is_set():
            seen = self._store.work.count
            is_idle = True
            act = CLAIM
            try:
                claim = self._store.claim(self._queue, lease, self._clock())
                self._failures.pop(CLAIM, None)
                act = WALK
                while claim is not None:
                    claim = self._keeper.execute(walker, claim)
                    self._failures.pop(WALK, None)
                    is_idle = False
            except StoreError as error:
                self._note_failure(act, error)
            except Exception:
                logger.exception(
                    "a step could not be walked; its claim will run out and it will be tried again"
                )
            if is_idle and not self._stopping.is_set():
                self._store.work.wait(seen, self._idle_seconds())

    def _note_failure(self, act: str, error: StoreError) -> None:
        """Say it once, and remember since when it has been so. Of a worker that is stopping the store may be closed."""
        with self._lock:
            if act not in self._failures and not self._stopping.is_set():
                self._failures[act] = (time.monotonic(), error)
                logger.warning("the store failed; trying again: %s", error)

    def _lose_patience(self) -> None:
        """Raise what the store has said, when that has been so for long. What was walked in vain is claimed again after a lease."""
        for act, patience in ((CLAIM, PATIENCE_SECONDS), (WALK, PATIENCE_SECONDS + self._lease_seconds)):
            failure = self._failures.get(act)
            if failure is not None and time.monotonic() - failure[0] > patience:
                raise failure[1]

    def _idle_seconds(self) -> float:
        try:
            due = self._store.next_due(self._queue)
        except StoreError:
            return IDLE_SECONDS
        return IDLE_SECONDS if due is None else min(max(due - self._clock(), 0.001), IDLE_SECONDS)

    def _keep(self) -> None:
        """Keep the claims at work alive, take over those of workers that have died, and look for what was left behind."""
        sweep_at = time.monotonic()

        def look() -> None:
            nonlocal sweep_at
            self._store.release_dead(self._queue, self._clock())
            if time.monotonic() >= sweep_at:
                self.repaired += self._store.sweep(self._clock()).repaired
                # By chance, so that workers that were started together do not all look at once.
                sweep_at = time.monotonic() + random.uniform(SWEEP_SECONDS / 2, SWEEP_SECONDS * 3 / 2)

        self._keeper.renew_until(self._finished, look)
