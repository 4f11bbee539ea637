"""Rate limits of callers, of failed authentication and of callbacks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from anyio import to_thread

from noetl.api import access
from noetl.api.app import create_app
from noetl.api.auth import rate_limits
from noetl.api.auth.api_keys import create_api_key
from noetl.api.auth.authentication import Authenticator, Caller
from noetl.api.auth.rate_limits import (
    AddressLimiter,
    FailureLimiter,
    FamiliarCredentials,
    RateLimiter,
    RateSettings,
    SpareChecks,
    read_rate_settings,
)
from noetl.api.http.problems import Problem
from noetl.api.service.callbacks import CallbackService
from noetl.api.service.webhooks import WebhookService
from noetl.executor.errors import SettingError, StoreAwayError
from noetl.executor.model.request_counts import SLOT_SECONDS, RequestBatch
from noetl.executor.precedence import SLICES, StoreOperation
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from tests.api.responses import assert_problem


class SlowChecks:
    """Checks of credentials, each of which takes a moment. `most` is how many were under way at once."""

    def __init__(self) -> None:
        self.most = 0
        self._active = 0
        self._authenticate = Authenticator.authenticate

    @property
    def observe(self) -> Callable[[Authenticator, list[str]], Caller]:
        """A method that replaces that of `Authenticator`."""

        def observe(authenticator: Authenticator, authorization: list[str]) -> Caller:
            self._active += 1
            self.most = max(self.most, self._active)
            time.sleep(0.02)
            self._active -= 1
            return self._authenticate(authenticator, authorization)

        return observe


def caller(name: str = "key a", tenant: str = "t") -> Caller:
    return Caller(name, tenant, frozenset())


class Time:
    def __init__(self) -> None:
        self.now = 6_000_000.0

    def __call__(self) -> float:
        return self.now


def count_allowed(limiter: RateLimiter, times: int, sender: Caller | None = None) -> int:
    return sum(is_allowed(lambda: limiter.check(sender or caller())) for _ in range(times))


def is_allowed(check: Callable[[], object]) -> bool:
    try:
        check()
    except Problem as problem:
        assert problem.status == 429
        return False
    return True


@pytest.mark.parametrize("limit", [1, 10, 63, 100, 1000, 6400])
def test_two_processes_allow_the_limit_and_a_tenth_together(limit: int, tmp_path: Path) -> None:
    stores = [SqliteStore(str(tmp_path / "noetl.db")) for _ in range(2)]
    limiters = [RateLimiter(RateSettings(limit, 0, 0, 0), store.keys.count_requests) for store in stores]
    with ThreadPoolExecutor(4) as threads:
        allowed = sum(threads.map(lambda limiter: count_allowed(limiter, limit), limiters * 2))
    for store in stores:
        store.close()
    assert limit * 0.9 <= allowed <= limit * 1.1


def test_a_caller_far_below_its_limit_writes_nothing_and_no_caller_much() -> None:
    batches: list[RequestBatch] = []
    store = MemoryStore()

    def count(batch: RequestBatch) -> bool:
        batches.append(batch)
        return store.keys.count_requests(batch)

    limiter = RateLimiter(RateSettings(6400, 0, 0, 0), count, Time())
    assert count_allowed(limiter, 100) == 100
    assert not batches
    assert count_allowed(limiter, 20_000) == 6400
    assert len(batches) <= rate_limits.BATCHES + 1


@pytest.mark.parametrize("limit", [1, 63, 64, 1000, 6400])
def test_requests_that_are_counted_at_once_belong_to_the_limit(limit: int) -> None:
    store, batches = MemoryStore(), list[RequestBatch]()

    def count(batch: RequestBatch) -> bool:
        batches.append(batch)
        return store.keys.count_requests(batch)

    limiter = RateLimiter(RateSettings(limit, 2 * limit, 0, 0), count, Time())

    def check() -> None:
        counted = len(batches)
        if not limiter.check_at_once(caller()):
            limiter.check(caller())
        else:
            assert len(batches) == counted

    allowed = sum(is_allowed(check) for _ in range(2 * limit))
    other = RateLimiter(RateSettings(limit, 2 * limit, 0, 0), MemoryStore().keys.count_requests, Time())
    assert allowed == count_allowed(other, 2 * limit)
    assert not limiter.check_at_once(caller())
    # What one limit refuses does not count for the other.
    assert limiter.check_at_once(caller("key b")) is (limit >= rate_limits.BATCHES)


def test_a_request_is_not_counted_at_once_while_another_waits_for_the_store() -> None:
    entered, may_continue = threading.Event(), threading.Event()

    def count(_: RequestBatch) -> bool:
        entered.set()
        return may_continue.wait(10.0)

    limiter = RateLimiter(RateSettings(64, 0, 0, 0), count, Time())
    assert limiter.check_at_once(caller())
    assert not limiter.check_at_once(caller())
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(limiter.check, caller())
        assert entered.wait(10.0)
        assert not limiter.check_at_once(caller())
        may_continue.set()
        waiting.result()


def test_requests_are_allowed_again_after_a_minute() -> None:
    clock = Time()
    limiter = RateLimiter(RateSettings(100, 0, 0, 0), MemoryStore().keys.count_requests, clock, clock)
    first = count_allowed(limiter, 1000)
    assert 100 <= first <= 101
    for _ in range(9):
        clock.now += SLOT_SECONDS
        assert count_allowed(limiter, 10) == 0
    clock.now += 3 * SLOT_SECONDS
    assert count_allowed(limiter, 1000) == first


def test_a_clock_that_is_set_back_refuses_no_caller() -> None:
    clock, timer = Time(), Time()
    clock.now += 3600.0
    limiter = RateLimiter(RateSettings(6400, 0, 0, 0), MemoryStore().keys.count_requests, clock, timer)
    assert count_allowed(limiter, 7000) == 6500
    clock.now -= 3600.0
    for passed in (clock, timer):
        passed.now += 2 * SLOT_SECONDS
    assert count_allowed(limiter, 6300) == 6300


def test_a_key_and_a_tenant_have_limits_of_their_own() -> None:
    limiter = RateLimiter(RateSettings(10, 15, 0, 0), MemoryStore().keys.count_requests, Time())
    assert count_allowed(limiter, 20, caller("key a")) == 10
    assert count_allowed(limiter, 20, caller("key b")) == 5
    assert count_allowed(limiter, 20, caller("key c", "other")) == 10
    assert count_allowed(limiter, 20, caller("key a", "third")) == 10
    unlimited = RateLimiter(RateSettings(0, 0, 0, 0), MemoryStore().keys.count_requests)
    assert count_allowed(unlimited, 1000) == 1000


def test_a_refusal_has_the_headers_of_rate_limits() -> None:
    limiter = RateLimiter(RateSettings(1, 0, 0, 0), MemoryStore().keys.count_requests, Time())
    limiter.check(caller())
    with pytest.raises(Problem) as raised:
        limiter.check(caller())
    assert raised.value.headers == {
        "Retry-After": "6",
        "RateLimit-Policy": '"key";q=1;w=60',
        "RateLimit": '"key";r=0;t=6',
    }


def test_an_address_gains_attempts_with_time() -> None:
    clock = Time()
    limiter = AddressLimiter("failures", 60, clock)
    assert sum(is_allowed(lambda: limiter.take("192.0.2.1")) for _ in range(100)) == 60
    assert is_allowed(lambda: limiter.take("192.0.2.2"))
    clock.now += 5
    assert sum(is_allowed(lambda: limiter.take("192.0.2.1")) for _ in range(100)) == 5
    limiter.give_back("192.0.2.1")
    assert limiter.refusal("192.0.2.1") is None


def test_an_address_far_beyond_its_failures_is_not_checked() -> None:
    clock = Time()
    limiter = FailureLimiter("failures", 60, clock)
    attempts = [limiter.begin("192.0.2.1") for _ in range(60 + 60 * rate_limits.SPARE_FACTOR)]
    assert sum(attempt.refusal is None for attempt in attempts) == 60
    assert not is_allowed(lambda: limiter.begin("192.0.2.1"))
    assert not is_allowed(lambda: limiter.refusal("192.0.2.1"))
    assert limiter.begin("192.0.2.2").refusal is None
    with attempts[-1]:
        pass
    assert limiter.begin("192.0.2.1").refusal is not None
    assert not is_allowed(lambda: limiter.begin("192.0.2.1"))
    clock.now += 6
    checked = sum(is_allowed(lambda: limiter.begin("192.0.2.1")) for _ in range(1000))
    assert checked == 6 + 6 * rate_limits.SPARE_FACTOR


def test_right_keys_are_checked_next_to_sixty_clients_with_wrong_ones() -> None:
    """Each of these clients sends a wrong key in 4 s, all from the address of a proxy."""
    clock = Time()
    limiter = FailureLimiter("failures", 60, clock)
    for _ in range(15 * 60 * 10):
        clock.now += 4 / 60
        limiter.begin("192.0.2.1")
        with limiter.begin("192.0.2.1"):
            pass


@pytest.mark.parametrize("error", [StoreAwayError("away"), asyncio.CancelledError(), None])
def test_an_attempt_counts_only_if_it_has_failed(error: BaseException | None) -> None:
    limiter = FailureLimiter("failures", 1, Time())
    for _ in range(3):
        with suppress(BaseException), limiter.begin("192.0.2.1") as attempt:
            assert attempt.refusal is None
            if error is not None:
                raise error
    with limiter.begin("192.0.2.1") as attempt:
        attempt.fail()
    assert limiter.refusal("192.0.2.1") is not None


def test_no_limit_of_failures_checks_all() -> None:
    limiter = FailureLimiter("failures", 0, Time())
    assert all(limiter.begin("192.0.2.1").refusal is None for _ in range(10_000))


@pytest.mark.anyio
async def test_an_address_has_a_part_of_the_spare_checks() -> None:
    checks, refusal, release = SpareChecks(), Problem(429, "", slug="too-many-requests"), asyncio.Event()
    active: list[str] = []

    async def check(address: str) -> None:
        async with checks.place(address, refusal):
            active.append(address)
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(rate_limits.MAX_SPARE_CHECKS // rate_limits.ADDRESS_PART):
            group.create_task(check("192.0.2.1"))
        await asyncio.sleep(0.01)
        with pytest.raises(Problem):
            await check("192.0.2.1")
        group.create_task(check("192.0.2.2"))
        await asyncio.sleep(0.01)
        held = rate_limits.SPARE_CHECKS // rate_limits.ADDRESS_PART
        assert active == ["192.0.2.1"] * held + ["192.0.2.2"]
        release.set()


def test_one_client_may_have_a_network_of_ipv6() -> None:
    limiter = AddressLimiter("failures", 1, Time())
    limiter.take("2001:db8::1")
    assert limiter.refusal("2001:db8::2") is not None
    assert limiter.refusal("2001:db8:0:1::1") is None


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"])
def test_clients_of_ipv4_at_a_socket_of_ipv6_have_addresses_of_their_own(prefix: str) -> None:
    limiter = AddressLimiter("failures", 1, Time())
    limiter.take(f"{prefix}192.0.2.1")
    assert limiter.refusal(f"{prefix}192.0.2.1") is not None
    assert limiter.refusal("192.0.2.1") is not None
    assert limiter.refusal(f"{prefix}198.51.100.2") is None


def test_few_addresses_and_credentials_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_FAMILIAR", 3)
    familiar = FamiliarCredentials()
    for number in range(5):
        familiar.add(str(number), f"tenant {number}")
    found = [familiar.tenant_of(str(number)) for number in range(5)]
    assert found == [None, None, "tenant 2", "tenant 3", "tenant 4"]


def test_credentials_in_use_stay_familiar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller with very many credentials, such as tickets, does not let those of others be forgotten."""
    monkeypatch.setattr(rate_limits, "MAX_FAMILIAR", 3)
    familiar = FamiliarCredentials()
    familiar.add("key", "a")
    for number in range(10):
        familiar.add(f"ticket {number}", "b")
        assert familiar.tenant_of("key") == "a"


def test_rates_are_checked() -> None:
    assert read_rate_settings({"NOETL_RATE_PER_KEY": "0", "NOETL_RATE_FAILURES": "7"}).failures == 7
    for text in ("-1", "1.5", "x", "1" * 30):
        with pytest.raises(SettingError, match="NOETL_RATE_PER_TENANT"):
            read_rate_settings({"NOETL_RATE_PER_TENANT": text})


@pytest.mark.parametrize("number", [1, 2])
def test_threads_share_the_attempts_of_an_address(number: int) -> None:
    """A second thread counts an attempt when the first one reads the clock for the nth time."""
    accepted: list[threading.Thread] = []
    threads: list[threading.Thread] = []
    reads = 0

    def take() -> None:
        with suppress(Problem):
            limiter.take("192.0.2.1")
            accepted.append(threading.current_thread())

    def clock() -> float:
        nonlocal reads
        reads += 1
        if reads == number:
            threads.append(threading.Thread(target=take))
            threads[0].start()
            threads[0].join(0.5)  # With a lock, it waits for this thread.
        return 1.0

    limiter = AddressLimiter("failures", 1, clock)
    take()
    for thread in threads:
        thread.join()
    take()
    assert len(accepted) == 1


@pytest.mark.anyio
class TestService:
    """A service with an API key."""

    @pytest.fixture(autouse=True)
    def undelayed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(access, "REFUSAL_SECONDS", 0.0)
        monkeypatch.setattr(rate_limits, "SPARE_FACTOR", 5)

    @pytest.fixture
    def settings(self, settings: dict[str, str]) -> dict[str, str]:
        limits = {"NOETL_RATE_PER_KEY": "50", "NOETL_RATE_FAILURES": "20", "NOETL_RATE_CALLBACKS": "250"}
        return settings | limits

    @pytest.fixture
    def key(self, settings: dict[str, str]) -> str:
        text, record = create_api_key("k", ["read"], "default", 1.0)
        store = SqliteStore(settings["NOETL_STORE"].removeprefix("sqlite:///"))
        store.keys.add(record)
        store.close()
        return text

    async def statuses(self, http: httpx.AsyncClient, key: str, times: int) -> list[int]:
        headers = {"Authorization": f"Bearer {key}"}
        return [(await http.get("/workflows", headers=headers)).status_code for _ in range(times)]

    async def test_wrong_keys_are_refused_beyond_a_number(self, key: str, http: httpx.AsyncClient) -> None:
        wrong = f"noetl_{'0' * 12}_{'0' * 64}"
        statuses = await self.statuses(http, wrong, 50)
        assert statuses[:20] == [401] * 20
        assert statuses[30:] == [429] * 20
        assert await self.statuses(http, key, 10) == [200] * 10
        assert_problem(
            await http.get("/workflows", headers={"Authorization": f"Bearer {wrong}"}),
            429,
            "too-many-requests",
        )

    async def test_nothing_is_checked_far_beyond_the_limit(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checked: list[str] = []

        def observe(kind: type, name: str) -> None:
            function = getattr(kind, name)

            def check(part: object, credentials: object) -> object:
                checked.append(name)
                return function(part, credentials)

            monkeypatch.setattr(kind, name, check)

        observe(Authenticator, "authenticate")
        observe(CallbackService, "check_token")
        assert await self.statuses(http, key, 1) == [200]
        statuses = await self.statuses(http, "noetl_wrong", 200)
        assert statuses[:20] == [401] * 20
        assert set(statuses[30:]) == {429}
        assert 121 <= checked.count("authenticate") <= 160
        assert await self.statuses(http, key, 10) == [200] * 10
        for number in range(200):
            await http.post(f"/workflows/callbacks/{number:064}")
        assert 120 <= checked.count("check_token") <= 160

    async def test_the_background_does_not_pause_for_keys_of_a_refused_address(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counts: list[int] = []

        def observe(kind: type, name: str) -> None:
            function = getattr(kind, name)

            def check(part: object, credentials: object) -> object:
                with StoreOperation():
                    counts.append(SLICES.foreground)
                return function(part, credentials)

            monkeypatch.setattr(kind, name, check)

        observe(Authenticator, "authenticate")
        observe(CallbackService, "check_token")
        await self.statuses(http, "noetl_wrong", 25)
        assert (counts[0] > 0, counts[-1]) == (True, 0)
        assert await self.statuses(http, key, 1) == [200]
        counts.clear()
        for number in range(25):
            await http.post(f"/workflows/callbacks/{number:064}")
        assert (counts[0] > 0, counts[-1]) == (True, 0)

    async def test_few_keys_of_a_refused_address_are_checked_at_a_time(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await self.statuses(http, "noetl_wrong", 25)
        monkeypatch.setattr(rate_limits, "MAX_SPARE_CHECKS", 0)
        assert await self.statuses(http, key, 1) == [429]
        monkeypatch.setattr(rate_limits, "MAX_SPARE_CHECKS", 1000)
        checks = SlowChecks()
        monkeypatch.setattr(Authenticator, "authenticate", checks.observe)
        async with asyncio.TaskGroup() as group:
            for _ in range(60):
                group.create_task(self.statuses(http, "noetl_wrong", 1))
            right = group.create_task(self.statuses(http, key, 1))
        assert right.result() == [200]
        assert 2 <= checks.most <= rate_limits.SPARE_CHECKS // rate_limits.ADDRESS_PART

    async def test_keys_that_arrive_together_are_checked_a_few_at_a_time(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The attempts that are left are counted before any of these keys waits for a thread."""
        assert await self.statuses(http, key, 1) == [200]
        await self.statuses(http, "noetl_wrong", 18)
        checks = SlowChecks()
        monkeypatch.setattr(Authenticator, "authenticate", checks.observe)
        async with asyncio.TaskGroup() as group:
            for _ in range(60):
                group.create_task(self.statuses(http, "noetl_wrong", 1))
        assert 2 <= checks.most <= 3 + rate_limits.SPARE_CHECKS // rate_limits.ADDRESS_PART

    async def test_a_public_route_needs_no_attempt(self, key: str, http: httpx.AsyncClient) -> None:
        await self.statuses(http, "noetl_wrong", 160)
        headers = {"Authorization": "Bearer of-another-service", "Host": "noetl.example"}
        assert (await http.get("/workflows", headers=headers)).status_code == 429
        assert (await http.get("/healthz", headers=headers)).status_code == 200

    async def test_a_right_token_of_a_callback_is_accepted_from_a_refused_address(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(30):
            await http.post(f"/workflows/callbacks/{number:064}")
        with monkeypatch.context() as patch:
            patch.setattr(CallbackService, "check_token", lambda *_: None)
            patch.setattr(CallbackService, "record_heartbeat", lambda *_: None)
            assert (await http.post(f"/workflows/callbacks/{1:064}/heartbeat")).status_code == 202
        assert (await http.post(f"/workflows/callbacks/{1:064}/heartbeat")).status_code == 429

    async def test_a_familiar_token_of_a_callback_is_accepted_far_beyond_the_limit(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tokens that are not looked up do not count among the callbacks of the address either."""
        monkeypatch.setattr(rate_limits, "WINDOW_SECONDS", 6000)  # No attempt is gained.

        async def send(number: int) -> int:
            return (await http.post(f"/workflows/callbacks/{number:064}/heartbeat")).status_code

        known, check = {f"{1:064}", f"{2:064}"}, CallbackService.check_token

        def check_token(service: CallbackService, token: str) -> None:
            if token not in known:
                check(service, token)

        monkeypatch.setattr(CallbackService, "check_token", check_token)
        monkeypatch.setattr(CallbackService, "record_heartbeat", lambda *_: None)
        assert await send(1) == 202
        statuses = [await send(number) for number in range(10, 350)]
        assert statuses == [404] * 20 + [429] * 320
        # A token that was not found before is not looked up, as a key that was not accepted before.
        assert (await send(2), await send(1)) == (429, 202)
        known.clear()  # Its run is deleted.
        assert (await send(1), await send(1)) == (429, 429)

    async def test_a_key_that_was_revoked_counts_as_wrong(
        self, key: str, http: httpx.AsyncClient, settings: dict[str, str]
    ) -> None:
        assert await self.statuses(http, key, 1) == [200]
        store = SqliteStore(settings["NOETL_STORE"].removeprefix("sqlite:///"))
        store.keys.revoke("default", key.split("_")[1], 2.0)
        store.close()
        statuses = await self.statuses(http, key, 40)
        assert statuses[:20] == [401] * 20
        assert statuses[30:] == [429] * 10

    async def test_a_key_that_cannot_be_checked_does_not_count(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> NoReturn:
            raise StoreAwayError("The store is away.")

        with monkeypatch.context() as patch:
            patch.setattr(Authenticator, "authenticate", fail)
            assert await self.statuses(http, key, 40) == [503] * 40
        assert await self.statuses(http, key, 1) == [200]

    async def test_requests_that_were_cancelled_while_they_waited_for_a_thread_do_not_count(
        self, key: str, http: httpx.AsyncClient
    ) -> None:
        assert await self.statuses(http, key, 1) == [200]
        threads = to_thread.current_default_thread_limiter()
        async with AsyncExitStack() as held:
            for _ in range(int(threads.total_tokens)):
                holder = object()
                await threads.acquire_on_behalf_of(holder)
                held.callback(threads.release_on_behalf_of, holder)
            waiting = [asyncio.create_task(self.statuses(http, "noetl_wrong", 1)) for _ in range(20)]
            for _ in range(100):
                await asyncio.sleep(0)
            assert threads.statistics().tasks_waiting == len(waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert (await self.statuses(http, "noetl_wrong", 1)) == [401]

    async def test_a_webhook_that_cannot_be_found_because_the_store_is_away_does_not_count(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> NoReturn:
            raise StoreAwayError("The store is away.")

        async def send() -> int:
            return (await http.post("/hooks/default/a")).status_code

        with monkeypatch.context() as patch:
            patch.setattr(WebhookService, "find", fail)
            assert [await send() for _ in range(40)] == [503] * 40
        assert await send() == 404

    async def test_a_key_has_a_limit(self, key: str, http: httpx.AsyncClient) -> None:
        statuses = await self.statuses(http, key, 80)
        assert statuses.count(200) == 50
        assert statuses[50:] == [429] * 30

    async def test_tokens_of_callbacks_cannot_be_guessed_for_long(
        self, key: str, http: httpx.AsyncClient
    ) -> None:
        paths = [f"/workflows/callbacks/{number:064}" for number in range(30)]
        statuses = [(await http.post(path)).status_code for path in paths]
        statuses += [(await http.post(f"{path}/heartbeat")).status_code for path in paths]
        assert statuses[:20] == [404] * 20
        assert statuses[25:] == [429] * 35
        assert await self.statuses(http, key, 1) == [200]

    async def test_refusals_are_delayed_up_to_a_number(
        self, key: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert await self.statuses(http, key, 1) == [200]
        await self.statuses(http, "noetl_wrong", 25)
        monkeypatch.setattr(access, "REFUSAL_SECONDS", 3600.0)
        monkeypatch.setattr(access, "MAX_DELAYED", 1)
        delayed = asyncio.create_task(self.statuses(http, "noetl_wrong", 1))
        statuses: list[int] = []
        while not statuses:
            await asyncio.sleep(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    statuses = await self.statuses(http, "noetl_wrong", 1)
        assert statuses == [429]
        assert not delayed.done()
        assert await self.statuses(http, key, 1) == [200]
        delayed.cancel()


def test_an_app_behind_a_gateway_leaves_rates_to_it(settings: dict[str, str]) -> None:
    app = create_app(settings | {"NOETL_RATE_PER_KEY": "wrong"}, has_gateway=True)
    context = app.state.context
    limits = context.services().limits
    for _ in range(100):
        limits.failures.take("192.0.2.1")
    context.close()
