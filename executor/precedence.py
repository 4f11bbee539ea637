"""The precedence of requests and of short steps over long work of the same process.

Problem: Python runs one thread at a time. Ten threads that evaluate expressions make a request wait for ten
intervals of the interpreter whenever it has waited for the store, some twenty times.

Algorithm: a multilevel feedback queue (Corbató 1962) with two levels. A tenant has CPU time to spend, which
refills at its fair share. The tenants that work now share half of a processor, and requests have the rest.
While a tenant has any, and one thread, its visits are in the foreground, as are requests. Otherwise
its threads are in the background, where one at a time has a slice of SLICE_SECONDS. Tenants get slices by
start-time fair queueing (Goyal, Vin and Cheng 1996), whatever the number of their threads. A slice begins
when the foreground has nothing to do, and ends early for it. A thread ends its slice before it
blocks. Otherwise it ends after MAX_SLICE_SECONDS, so no thread waits for ever. Threads wait for slices at
points that they pass often: before each action, and when an expression checks its limits.

Cost: one look at the clock at each point. The threads of one tenant lose nothing, because they could not
compute at the same time anyway.

Limits: work between two points is not interrupted. A slice waits at most MAX_PAUSE_SECONDS for the
foreground, and then does not end early for it. So a flood of requests does not stop the work. Only the
threads of one process are counted.

Store operations have no slices, because they block. While requests come, tenants without credit have one
operation at a time. The code around it runs between two points.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from noetl.planner.frozen import frozen

SLICE_SECONDS = 0.003
"""How long a thread runs before it gives way to others of the background.

A request may wait for a whole slice some times, when the background has waited for MAX_PAUSE_SECONDS.
"""

MAX_SLICE_SECONDS = 0.1
"""After which time a slice ends without such a point: the thread may block."""

MAX_CREDIT_SECONDS = 0.05
"""CPU time that a tenant with one thread may use before its visits are in the background."""

SHARED_RATE = 0.5
"""CPU seconds in a second that the tenants which work share."""

MIN_CREDIT_RATE = 0.1
"""CPU seconds that a tenant gains in a second, however many tenants work."""

MAX_PAUSE_SECONDS = 0.03
"""How long a slice waits for the foreground at most."""

REQUEST_MEMORY_SECONDS = 0.5
"""How long after a request the background has one store operation at a time."""

MAX_OPERATION_WAIT_SECONDS = 0.05
"""How long a store operation of the background waits for the one before it at most."""

RECHECK_SECONDS = 1.0
"""After which time a thread that waits for a slice checks whether it is next, if no other thread wakes it."""

MAX_ACCOUNTS = 10_000
"""How many tenants have an account at most."""

FOREGROUND_SHARE = 8
"""How many write transactions of the foreground may pass one of the background that waits."""


class CreditAccount:
    """The CPU time that a tenant may spend in the foreground. A debt is bounded as well."""

    def __init__(self, tenant: str, now: float) -> None:
        self.tenant = tenant
        self.balance = MAX_CREDIT_SECONDS
        self.threads = 0
        """How many chains of visits, reads and switches the process executes for the tenant."""
        self._updated_at = now

    @property
    def is_spent(self) -> bool:
        """True if threads of the tenant are in the background, as it has no credit or several threads."""
        return self.balance <= 0.0 or self.threads > 1

    def charge(self, seconds: float, now: float, rate: float = MIN_CREDIT_RATE) -> None:
        """Subtract CPU time, and add what the tenant has gained until now, at a rate.

        >>> account = CreditAccount("a", now=0.0)
        >>> account.charge(0.06, now=0.0)
        >>> account.is_spent
        True
        >>> account.charge(0.0, now=60.0)
        >>> account.balance == MAX_CREDIT_SECONDS
        True
        """
        gained = (now - self._updated_at) * rate
        self._updated_at = now
        balance = min(self.balance + gained, MAX_CREDIT_SECONDS) - seconds
        self.balance = max(balance, -MAX_CREDIT_SECONDS)


class CreditAccounts:
    """The accounts of the tenants of a process. It forgets the tenant that was served least recently."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: OrderedDict[str, CreditAccount] = OrderedDict()
        self._working = 0
        """How many tenants have threads."""
        self._lock = threading.Lock()

    def find(self, tenant: str) -> CreditAccount:
        """Return the account of a tenant, which may be new."""
        with self._lock:
            account = self._accounts.pop(tenant, None) or CreditAccount(tenant, self._clock())
            self._accounts[tenant] = account
            if len(self._accounts) > MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
            return account

    def add_thread(self, account: CreditAccount, change: int) -> None:
        """Count a thread that begins or ends to work for a tenant."""
        with self._lock:
            had_threads = account.threads > 0
            account.threads += change
            self._working += (account.threads > 0) - had_threads

    def charge(self, account: CreditAccount, seconds: float) -> bool:
        """Subtract CPU time from an account, and return whether its threads are in the background."""
        with self._lock:
            rate = max(SHARED_RATE / max(self._working, 1), MIN_CREDIT_RATE)
            account.charge(seconds, self._clock(), rate)
            return account.is_spent


@frozen
class Slice:
    """The right of a thread of the background to run: until when without a check, and until when at all.

    It ends early for the foreground if `yields`.
    """

    checked_at: float
    ends_at: float
    yields: bool


class TimeSlices:
    """The time slices of threads in the background.

    `foreground` counts what the foreground does now: requests, visits and store operations.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, threading.Lock]] = []
        """A heap of (tag of the slice, number of the request, lock that wakes its thread)."""
        self._numbers = itertools.count()
        self._tag = 0
        self._last_tags: dict[str, int] = {}
        self._slice: Slice | None = None
        self._paused_since: float | None = None
        self.foreground = 0

    def enter_foreground(self) -> None:
        """Begin work of the foreground."""
        with self._lock:
            self.foreground += 1

    def leave_foreground(self) -> None:
        """End work of the foreground."""
        with self._lock:
            self.foreground -= 1
            if not self.foreground:
                self._wake_first()

    def take(self, tenant: str) -> Slice:
        """Wait for a slice of this thread, and return it."""
        at_once = self._take_at_once(tenant)
        if at_once is not None:
            return at_once
        wakening = threading.Lock()
        wakening.acquire()
        try:
            with self._lock:
                tag = self._last_tags[tenant] = max(self._tag, self._last_tags.get(tenant, 0)) + 1
                heapq.heappush(self._waiting, (tag, next(self._numbers), wakening))
            while True:
                with self._lock:
                    seconds = RECHECK_SECONDS
                    if self._waiting[0][2] is wakening:
                        now = self._clock()
                        seconds = self._seconds_until_free(now)
                        if seconds <= 0.0:
                            heapq.heappop(self._waiting)
                            return self._begin(now, tag)
                wakening.acquire(timeout=seconds)
        except BaseException:
            # The watchdog of expressions may interrupt this thread anywhere.
            self._withdraw(wakening)
            raise

    def _take_at_once(self, tenant: str) -> Slice | None:
        """Return a slice if no thread waits or has one, else None. This is what a busy thread alone does."""
        with self._lock:
            if self._waiting:
                return None
            now = self._clock()
            if self._seconds_until_free(now) > 0.0:
                return None
            return self._begin(now, max(self._tag, self._last_tags.get(tenant, 0)) + 1)

    def _withdraw(self, wakening: threading.Lock) -> None:
        with self._lock:
            self._waiting = [entry for entry in self._waiting if entry[2] is not wakening]
            heapq.heapify(self._waiting)
            self._wake_first()

    def end(self, ended: Slice) -> None:
        """End a slice, unless it has ended and a later one has begun."""
        with self._lock:
            if self._slice is ended:
                self._slice = None
                self._wake_first()

    def _begin(self, now: float, tag: int) -> Slice:
        """Give a slice to the thread whose turn it is."""
        self._tag = tag
        # A slice that has waited for the foreground long enough must not end for it at once.
        self._slice = Slice(now + SLICE_SECONDS, now + MAX_SLICE_SECONDS, yields=not self.foreground)
        self._paused_since = None
        if not self._waiting:
            self._last_tags.clear()
        self._wake_first()
        return self._slice

    def _seconds_until_free(self, now: float) -> float:
        if self._slice is not None and self._slice.ends_at > now:
            return self._slice.ends_at - now
        if not self.foreground:
            return 0.0
        if self._paused_since is None:
            self._paused_since = now
        return self._paused_since + MAX_PAUSE_SECONDS - now

    def _wake_first(self) -> None:
        if self._waiting and self._waiting[0][2].locked():
            self._waiting[0][2].release()


class BackgroundOperations:
    """The store operations of the background. While requests come, one runs at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requested_at = float("-inf")
        self._running = threading.Lock()

    @property
    def has_requests(self) -> bool:
        """True if a request has come within REQUEST_MEMORY_SECONDS."""
        return self._clock() - self._requested_at <= REQUEST_MEMORY_SECONDS

    def note_request(self) -> None:
        """Remember that there is a request now."""
        self._requested_at = self._clock()

    def begin(self) -> bool:
        """Wait for the operation before this one if requests come, and return whether to call `end`.

        No operation waits longer than MAX_OPERATION_WAIT_SECONDS: the one before may wait for a lock of the
        store that this thread holds.
        """
        if not self.has_requests:
            return False
        return self._running.acquire(timeout=MAX_OPERATION_WAIT_SECONDS)

    def end(self) -> None:
        """Let the next operation begin."""
        self._running.release()


class _ThreadState(threading.local):
    """Until when the thread runs without a check, its CPU time at the last check, and its slice, if any.

    `executes_visits` within `working_for`. `counts` while the thread is counted in the foreground.
    `has_precedence` except within `without_precedence`. `operations` is how many store operations contain it.
    """

    until = 0.0
    cpu_seconds = 0.0
    slice: Slice | None = None
    executes_visits = False
    counts = False
    has_precedence = True
    operations = 0


ACCOUNTS = CreditAccounts()
SLICES = TimeSlices()
OPERATIONS = BackgroundOperations()
_ACCOUNT: ContextVar[CreditAccount | None] = ContextVar("noetl_credit_account", default=None)
_state = _ThreadState()


@contextmanager
def working_for(tenant: str) -> Iterator[None]:
    """Let the work of this block use the credit of a tenant."""
    account = ACCOUNTS.find(tenant)
    ACCOUNTS.add_thread(account, 1)
    token = _ACCOUNT.set(account)
    _state.cpu_seconds = time.thread_time()
    _state.until = 0.0
    _state.executes_visits = True
    if not account.is_spent:
        _join_foreground()
    try:
        yield
    finally:
        _state.executes_visits = False
        end_slice()
        _charge()
        _ACCOUNT.reset(token)
        ACCOUNTS.add_thread(account, -1)


def is_background() -> bool:
    """Return whether this thread works for a tenant that has spent its credit."""
    account = _ACCOUNT.get()
    return account is not None and account.is_spent


def wait_for_slice() -> None:
    """Let other threads run first if this one is in the background. Return at once for most calls.

    A store operation does not wait, since it may hold a lock of the store.
    """
    account = _ACCOUNT.get()
    if account is None or _state.operations:
        return
    now = time.monotonic()
    must_pause = _state.slice is not None and _state.slice.yields and SLICES.foreground
    if now < _state.until and not must_pause:
        return
    end_slice()
    if _charge():
        _state.slice = SLICES.take(account.tenant)
        _state.until = _state.slice.checked_at
    else:
        _join_foreground()
        _state.until = now + SLICE_SECONDS


def _join_foreground() -> None:
    """Count this thread in the foreground until it blocks. A helper of it is not counted."""
    if _state.executes_visits and not _state.counts:
        SLICES.enter_foreground()
        _state.counts = True


def end_slice() -> None:
    """End the slice of this thread, or its work in the foreground, because it blocks."""
    if _state.counts:
        _state.counts = False
        _state.until = 0.0
        SLICES.leave_foreground()
    if _state.slice is not None:
        SLICES.end(_state.slice)
        _state.slice = None
        _state.until = 0.0


def _charge() -> bool:
    """Charge the CPU time of this thread since the last time, and return whether the account is spent."""
    account, seconds = _ACCOUNT.get(), time.thread_time()
    used, _state.cpu_seconds = seconds - _state.cpu_seconds, seconds
    return account is not None and ACCOUNTS.charge(account, used)


@contextmanager
def without_precedence() -> Iterator[None]:
    """Let the store operations of this block pause no other work: no request waits for them."""
    _state.has_precedence = False
    try:
        yield
    finally:
        _state.has_precedence = True


class ForegroundWork:
    """A block of a request, for which the background pauses. It must not block for long."""

    __slots__ = ()

    def __enter__(self) -> None:
        OPERATIONS.note_request()
        SLICES.enter_foreground()

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        SLICES.leave_foreground()


def _is_busy() -> bool:
    """Return whether an operation that begins now is one at a time: the tenant has used its CPU time.

    A tenant that only has several threads does not wait, nor does a part of another operation.
    """
    account = _ACCOUNT.get()
    has_used_all = account is not None and account.balance <= 0.0
    return has_used_all and _state.has_precedence and not _state.operations


class StoreOperation:
    """A block that uses the store.

    The background pauses for an operation of the foreground. One of the background ends the slice of its
    thread, and waits for the one before it while requests come.
    """

    __slots__ = ("_is_alone", "_is_counted")

    def __enter__(self) -> None:
        self._is_counted = _state.has_precedence and not is_background()
        if self._is_counted:
            SLICES.enter_foreground()
        else:
            end_slice()
            self._is_alone = _is_busy() and OPERATIONS.begin()
        _state.operations += 1

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _state.operations -= 1
        if self._is_counted:
            SLICES.leave_foreground()
        elif self._is_alone:
            OPERATIONS.end()


class PrecedenceLock:
    """A lock that goes to the foreground first, and within a level to the thread that has waited longest.

    After FOREGROUND_SHARE threads of the foreground, one of the background has it. Use it as
    `with lock:`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_held = False
        self._waiting: dict[bool, deque[threading.Lock]] = {False: deque(), True: deque()}
        self._passed = 0

    def __enter__(self) -> None:
        self.acquire()

    def acquire(self, timeout: float = -1) -> bool:
        """Wait for the lock, at most `timeout` seconds unless it is -1. Return whether it is held."""
        with self._lock:
            if not self._is_held:
                self._is_held = True
                return True
            wakening = threading.Lock()
            wakening.acquire()
            waiting = self._waiting[is_background()]
            waiting.append(wakening)
        if wakening.acquire(timeout=timeout):
            return True
        with self._lock:
            if wakening in waiting:
                waiting.remove(wakening)
                return False
        return True  # The thread before has given the lock to this one meanwhile.

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            following = self._next()
            if following is None:
                self._is_held = False
            else:
                following.release()

    def _next(self) -> threading.Lock | None:
        """Return the lock of the thread that is next, if any."""
        foreground, background = self._waiting[False], self._waiting[True]
        if foreground and not (background and self._passed >= FOREGROUND_SHARE):
            self._passed += bool(background)
            return foreground.popleft()
        self._passed = 0
        return background.popleft() if background else None
